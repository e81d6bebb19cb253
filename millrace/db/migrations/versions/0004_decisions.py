"""What a decision was about and what came of it; as of when a window was measured; which process does a run."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NAME = sa.String(255)

COLUMNS = (
    ("decisions", "severity", NAME, ""),
    ("decisions", "window_start", TIME, None),
    ("decisions", "window_end", TIME, None),
    ("decisions", "outcome", sa.JSON, "{}"),
    ("windows", "as_of", TIME, None),
    ("runs", "host", NAME, ""),
    ("runs", "pid", sa.Integer, None),
    ("runs", "heard_at", TIME, None),
)
"""Table, column, type, and the value of the rows that are there; None: they know nothing of it."""


def upgrade() -> None:
    for table, name, kind, before in COLUMNS:
        op.add_column(table, sa.Column(name, kind, nullable=before is None, server_default=before))


def downgrade() -> None:
    for table, name, *_ in COLUMNS:
        op.drop_column(table, name)
