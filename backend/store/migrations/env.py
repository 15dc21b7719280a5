"""Alembic's entry point; `backend.store.database` calls it with a live connection."""

from alembic import context
from sqlmodel import SQLModel

import backend.store.tables  # noqa: F401 - registers the tables

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
