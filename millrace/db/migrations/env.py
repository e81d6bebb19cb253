"""Alembic's entry: migrates over the connection that `millrace.db.session` hands in, in one transaction."""

from alembic import context

from millrace.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
