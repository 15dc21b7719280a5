"""What a server keeps on disk, part by part: how much it is, and which of it can be forgotten because it is made again.

Knows folders, not what is in them; who keeps rows in the database tells of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import text

from backend.settings import Settings
from backend.store.database import Database
from backend.store.folder import sqlite_file


class Part(StrEnum):
    """A part of what is kept."""

    DATABASE = "database"
    FILES = "files"
    INDEX = "index"
    PREFIXES = "prefixes"
    """Prompt states: a prompt that begins alike is read from here."""
    WEIGHTS = "weights"
    """Weights in few bits, as they were made from the model's."""
    MODELS = "models"
    """Models as they were converted, with kernels that were built."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How much a part is: files, and their bytes; None where there is no file that could be counted."""

    files: int | None
    bytes: int


class DataFolder:
    """The data folder of one server, and its database.

    Args:
        settings: say where everything is.
        database: may be elsewhere.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        cache = settings.cache_dir
        self._folders = {
            Part.FILES: (settings.files_dir, settings.api_files_dir),
            Part.INDEX: (settings.index_dir,),
            Part.PREFIXES: (settings.data_dir / "prefix",),
            Part.WEIGHTS: (cache / "quantized",),
            Part.MODELS: (cache / "models", cache / "kernels", cache / "digests"),
        }

    def kept(self) -> dict[str, Kept]:
        """Every `Part` and how much it is now."""
        found: dict[str, Kept] = {part: _sum(folders) for part, folders in self._folders.items()}
        return {Part.DATABASE: self._of_database(), **found}

    def forget_prefixes(self) -> None:
        """Delete every prompt state; a running engine finds that they are gone, and computes them again."""
        self._empty(Part.PREFIXES, ".kv")

    def forget_weights(self) -> None:
        """Delete weights in few bits; those that serve stay in memory, and they are made again when next loaded."""
        self._empty(Part.WEIGHTS, "")

    def _empty(self, part: Part, ending: str) -> None:
        for folder in self._folders[part]:
            for path in _files(folder):
                if path.name.endswith(ending):
                    path.unlink(missing_ok=True)

    def _of_database(self) -> Kept:
        path = sqlite_file(self._settings.sql_url)
        if path is not None:
            return _total([path, *path.parent.glob(f"{path.name}-*")])
        with self._database.session() as session:
            size = session.connection().execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        return Kept(None, int(size))


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)


def _sum(folders: tuple[Path, ...]) -> Kept:
    return _total([path for folder in folders for path in _files(folder)])


def _total(paths: list[Path]) -> Kept:
    count = size = 0
    for path in paths:
        with suppress(OSError):  # gone meanwhile
            size += path.stat().st_size
            count += 1
    return Kept(count, size)
