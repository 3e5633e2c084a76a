"""The first tables: insights, signals, deletions, a clock, and a full-text index."""

import sqlalchemy as sa
from alembic import op

__all__ = ["upgrade"]

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables in an empty database."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    clock = op.create_table(
        "clock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="clock_has_one_row"),
    )
    op.bulk_insert(clock, [{"id": 1, "position": 0}])
    op.create_table(
        "insights",
        sa.Column("seq", number, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("encoder", sa.Text, nullable=False),
        sa.Column("scale", sa.Double, nullable=False),
        sa.Column("codes", sa.LargeBinary, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.CheckConstraint("kind IN ('text', 'signal')", name="insights_kind"),
        sa.CheckConstraint("seen > 0", name="insights_seen"),
    )
    op.create_index("insights_by_id", "insights", ["id"], unique=True)
    op.create_index("insights_by_revision", "insights", ["revision"], unique=True)
    op.create_index("insights_by_fingerprint", "insights", ["fingerprint"])
    op.create_index("insights_by_time", "insights", ["created", "seq"])
    op.create_index("insights_by_kind", "insights", ["kind", "created", "seq"])
    op.create_table(
        "signals",
        sa.Column("seq", number, sa.ForeignKey("insights.seq", ondelete="CASCADE"), primary_key=True,
                  autoincrement=False),
        sa.Column("document", sa.Text, nullable=False),
    )  # fmt: skip
    op.create_table(
        "deletions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("deletions_by_revision", "deletions", ["revision"], unique=True)
    if op.get_bind().dialect.name == "sqlite":
        _full_text_of_sqlite()
    else:
        op.execute("ALTER TABLE insights ADD COLUMN words tsvector NOT NULL")
        op.execute("CREATE INDEX insights_by_words ON insights USING gin (words)")


def _full_text_of_sqlite() -> None:
    op.execute(
        "CREATE VIRTUAL TABLE insights_fts USING fts5(text, content='insights', content_rowid='seq', "
        "tokenize='unicode61 remove_diacritics 2')"
    )
    added = "INSERT INTO insights_fts(rowid, text) VALUES (new.seq, new.text);"
    removed = "INSERT INTO insights_fts(insights_fts, rowid, text) VALUES ('delete', old.seq, old.text);"
    op.execute(f"CREATE TRIGGER insights_fts_added AFTER INSERT ON insights BEGIN {added} END")
    op.execute(f"CREATE TRIGGER insights_fts_removed AFTER DELETE ON insights BEGIN {removed} END")
    op.execute(f"CREATE TRIGGER insights_fts_changed AFTER UPDATE OF text ON insights BEGIN {removed} {added} END")
