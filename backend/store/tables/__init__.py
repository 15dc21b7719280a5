"""Every table, a file a room. Times are UTC seconds since the epoch; ids are opaque strings or row numbers.

All are loaded together, since what the database has is compared with all of them.
"""

from backend.store.tables import (
    access,
    answers,
    batches,
    chats,
    documents,
    embeddings,
    files,
    happenings,
    jobs,
    settings,
    usage,
    webhooks,
)  # fmt: skip

__all__ = [
    "access", "answers", "batches", "chats", "documents", "embeddings", "files", "happenings", "jobs", "settings",
    "usage", "webhooks",
]  # fmt: skip
