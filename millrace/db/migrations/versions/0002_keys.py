"""Issued API keys, and the audit of what they and commands changed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NAME = sa.String(255)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("old_digest", NAME, nullable=True),
        sa.Column("old_until", TIME, nullable=True),
        sa.Column("requests_per_second", sa.Integer, nullable=True),
        sa.Column("rows_per_second", sa.Integer, nullable=True),
        sa.Column("concurrency", sa.Integer, nullable=True),
    )
    op.create_index("api_keys_by_name", "api_keys", ["name"], unique=True)
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("key_id", NAME, nullable=False),
        sa.Column("key_name", NAME, nullable=False),
        sa.Column("method", NAME, nullable=False),
        sa.Column("route", NAME, nullable=False),
        sa.Column("remote", NAME, nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("request_id", NAME, nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["at"])


def downgrade() -> None:
    for table in ("audit", "api_keys"):
        op.drop_table(table)
