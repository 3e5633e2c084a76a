"""What Alembic runs around the steps: they use the connection, and the transaction, of whoever asked for them."""

from alembic import context
from alembic.config import Config

__all__: list[str] = []

# Only while Alembic runs this file there is a configuration.
_config: Config | None = getattr(context, "config", None)
if _config is not None:
    from dredge.insights.schema import VERSION_TABLE, metadata

    context.configure(
        connection=_config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
    )
    context.run_migrations()
