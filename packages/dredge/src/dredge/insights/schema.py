"""The tables, and how a database is brought to them.

An insight has a place in the order of arrival, `seq`, and a `revision`, which grows when its vector changes. Both are
drawn from one clock inside the transaction that writes them, and writers wait for each other, so that a transaction
that is seen has seen all lower revisions: whoever asks for what came after a revision misses nothing.

Full-text search lives beside: on SQLite in the FTS5 table `insights_fts`, which reads its content from `insights` and
is kept by triggers; on PostgreSQL in the column `words` with a GIN index.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    inspect,
    text,
)

from dredge.errors import StoreError

__all__ = ["SCHEMA_VERSION", "VERSION_TABLE", "clock", "deletions", "insights", "migrate", "schema_version", "signals"]

SCHEMA_VERSION: Final = "0001"
VERSION_TABLE: Final = "dredge_version"

metadata = MetaData()
# Only a column of this very type is SQLite's own row number.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

clock = Table(
    "clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="clock_has_one_row"),
)

# The text comes last: a long one fills pages of its own, which reading what stands before it does not touch.
insights = Table(
    "insights",
    metadata,
    Column("seq", _NUMBER, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("encoder", Text, nullable=False),
    Column("scale", Double, nullable=False),
    Column("codes", LargeBinary, nullable=False),
    Column("text", Text, nullable=False),
    CheckConstraint("kind IN ('text', 'signal')", name="insights_kind"),
    CheckConstraint("seen > 0", name="insights_seen"),
    Index("insights_by_id", "id", unique=True),
    Index("insights_by_revision", "revision", unique=True),
    Index("insights_by_fingerprint", "fingerprint"),
    Index("insights_by_time", "created", "seq"),
    Index("insights_by_kind", "kind", "created", "seq"),
)

signals = Table(
    "signals",
    metadata,
    Column("seq", _NUMBER, ForeignKey("insights.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)

deletions = Table(
    "deletions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Index("deletions_by_revision", "revision", unique=True),
)


def schema_version(connection: Connection) -> str | None:
    """The version of a database's tables.

    Args:
        connection: to it.

    Returns:
        The version; None for a database that holds no tables of this package.

    Raises:
        StoreError: tables of another program are in the way.
    """
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    # A file belongs to one program; a schema of PostgreSQL may hold tables of several.
    foreign = tables if connection.dialect.name == "sqlite" else tables & set(metadata.tables)
    if foreign:
        raise StoreError(
            f"a database of insights has the table {VERSION_TABLE}; this one has {', '.join(sorted(foreign)[:5])} and "
            "not that. Name another database."
        )
    return None


def migrate(connection: Connection) -> None:
    """Brings a database's tables to the version of this package.

    Args:
        connection: in a transaction that no other writer shares; it is not ended here.

    Raises:
        StoreError: the database was written by a newer version, or belongs to another program.
    """
    found = schema_version(connection)
    if found == SCHEMA_VERSION:
        return
    # Takes a while to load, and most databases that are opened are of this version.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    # The configuration takes % for the start of a name.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    if found is not None and found not in known:
        raise StoreError(
            f"a database has a version up to {SCHEMA_VERSION}; this one has {found}. A newer dredge wrote it: upgrade."
        )
    command.upgrade(config, "head")
