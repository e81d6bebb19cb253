"""Alerts, and the outbox of the messages about them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NAME = sa.String(255)
REASON = sa.String(4096)


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("use_case", NAME, nullable=False),
        sa.Column("cause", NAME, nullable=False),
        sa.Column("severity", NAME, nullable=False),
        sa.Column("title", NAME, nullable=False),
        sa.Column("body", REASON, nullable=False),
        sa.Column("raised_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("told_at", TIME, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("resolved_at", TIME, nullable=True),
        sa.Column("resolved_told_at", TIME, nullable=True),
    )
    op.create_index("alerts_by_cause", "alerts", ["use_case", "cause"])
    op.create_table(
        "alert_posts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("alert", sa.Integer, sa.ForeignKey("alerts.id"), nullable=False),
        sa.Column("destination", NAME, nullable=False),
        sa.Column("severity", NAME, nullable=False),
        sa.Column("title", NAME, nullable=False),
        sa.Column("body", REASON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("state", NAME, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("error", NAME, nullable=False),
    )
    op.create_index("alert_posts_by_state", "alert_posts", ["state", "next_at"])


def downgrade() -> None:
    for table in ("alert_posts", "alerts"):
        op.drop_table(table)
