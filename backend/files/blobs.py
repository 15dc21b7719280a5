"""Bytes by their sha256 in a folder: put, open, drop, under one lock.

Knows neither documents nor the database: who drops bytes says whether somebody still needs them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backend.errors import NotFoundError, TooLargeError
from backend.store.failures import named_failures

HEAD = 1024
ASIDE = "tmp"
"""How the names of files begin that are still being written."""
NAME = 64
"""Letters of a finished file's name."""


@dataclass(frozen=True)
class Blob:
    """What was put: its sha256, its size in bytes, and its beginning."""

    sha256: str
    size: int
    head: bytes


class Blobs:
    """The files of one room. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # put, and not yet written down by who put them
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def put(self, data: Iterable[bytes], *, name: str, limit: int) -> Iterator[Blob]:
        """Write bytes under their hash; inside the block they cannot be dropped, so note there who needs them.

        Args:
            data: the bytes in pieces, so that nothing has to fit in memory.
            name: what to call them in an error.
            limit: most bytes.

        Raises:
            TooLargeError: more than `limit`; nothing is kept.
            StorageError: the disk is full; nothing is kept.
        """
        with named_failures():
            aside, blob = self._write(data, name, limit)
            try:
                with self._lock:
                    os.replace(aside, self.path(blob.sha256))
                    self._held[blob.sha256] += 1
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
        try:
            yield blob
        finally:
            with self._lock:
                self._held[blob.sha256] -= 1
                self._held += Counter()  # forgets those at nought

    def _write(self, data: Iterable[bytes], name: str, limit: int) -> tuple[Path, Blob]:
        digest, size, head = hashlib.sha256(), 0, b""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=ASIDE, delete=False) as aside:
            try:
                for piece in data:
                    size += len(piece)
                    if size > limit:
                        raise TooLargeError(f"{name} is larger than {limit >> 20} MB, the limit for one file.")
                    if len(head) < HEAD:
                        head += piece[: HEAD - len(head)]
                    digest.update(piece)
                    aside.write(piece)
                aside.flush()
                os.fsync(aside.fileno())
            except BaseException:
                Path(aside.name).unlink(missing_ok=True)
                raise
        return Path(aside.name), Blob(digest.hexdigest(), size, head)

    def path(self, sha256: str) -> Path:
        """Where bytes are, or would be."""
        return self._folder / sha256

    def open(self, sha256: str) -> BinaryIO:
        """The bytes, to be read.

        Raises:
            NotFoundError: they are not there (any more).
        """
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError:
            raise NotFoundError("The file's bytes are not kept any more; upload it again.") from None

    def drop(self, sha256: str, needed: Callable[[], bool]) -> None:
        """Delete bytes, unless they were just put or `needed` (asked while nothing can be put) says they are needed."""
        with self._lock:
            if not self._held[sha256] and not needed():
                self.path(sha256).unlink(missing_ok=True)

    def unfinished(self) -> list[Path]:
        """Files that are being written, or that a killed process was writing."""
        return list(self._folder.glob(f"{ASIDE}*"))

    def names(self) -> set[str]:
        """The hashes of everything that is there."""
        return {path.name for path in self._folder.iterdir() if len(path.name) == NAME}

    def sweep(self) -> None:
        """Delete what a killed process left half written; to be called before anything is put."""
        for path in self.unfinished():
            path.unlink(missing_ok=True)
