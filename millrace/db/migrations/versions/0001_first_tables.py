"""First tables: models, decisions, windows, runs, leases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NAME = sa.String(255)
TEXT = sa.String(4096)


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("use_case", NAME, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("candidate", NAME, nullable=False),
        sa.Column("run_id", NAME, nullable=False),
        sa.Column("bundle", sa.String(1024), nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("status", NAME, nullable=False),
        sa.Column("quality", sa.JSON, nullable=False),
        sa.Column("cost", sa.JSON, nullable=False),
        sa.Column("verdict", sa.JSON, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("use_case", NAME, nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("action", NAME, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("version", sa.Integer, nullable=True),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["use_case", "version"], ["models.use_case", "models.version"]),
    )
    op.create_index("decisions_by_time", "decisions", ["use_case", "as_of"])
    op.create_table(
        "windows",
        sa.Column("use_case", NAME, primary_key=True),
        sa.Column("start", TIME, primary_key=True),
        sa.Column("end", TIME, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("labelled", sa.Integer, nullable=False),
        sa.Column("action", NAME, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("drifted", sa.JSON, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("use_case", NAME, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("state", NAME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("detail", sa.JSON, nullable=False),
    )
    op.create_index("runs_by_kind", "runs", ["use_case", "kind", "started_at"])
    op.create_table(
        "leases",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("holder", NAME, nullable=False),
        sa.Column("host", NAME, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
    )


def downgrade() -> None:
    for table in ("leases", "runs", "windows", "decisions", "models"):
        op.drop_table(table)
