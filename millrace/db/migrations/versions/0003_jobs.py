"""Batch scoring jobs and their chunks."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NAME = sa.String(255)


def upgrade() -> None:
    op.create_table(
        "score_jobs",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("identity", NAME, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("use_case", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("state", NAME, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("engine", sa.JSON, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("scored", sa.BigInteger, nullable=False),
        sa.Column("rejected", sa.BigInteger, nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("error", sa.String(4096), nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
    )
    op.create_index("score_jobs_by_identity", "score_jobs", ["identity", "attempt"], unique=True)
    op.create_index("score_jobs_by_use_case", "score_jobs", ["use_case", "created_at"])
    op.create_table(
        "score_chunks",
        sa.Column("job", NAME, sa.ForeignKey("score_jobs.id"), primary_key=True),
        sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("scored", sa.Integer, nullable=False),
        sa.Column("rejected", sa.Integer, nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("score_chunks", "score_jobs"):
        op.drop_table(table)
