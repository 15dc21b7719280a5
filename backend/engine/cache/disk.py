"""Finished KV blocks on disk, so that a prompt's state outlives memory and the process.

A file holds one block: its tokens and its pages, under the digest that `blocks.py` chains over salt, model and tokens.
Nothing else is trusted: a file of another length, checksum or tokens is removed and its block computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import struct
import threading
import zlib
from array import array
from collections import OrderedDict
from pathlib import Path

log = logging.getLogger(__name__)

MAGIC = b"TFKV2\0"
HEADER = struct.Struct("<6sHI")  # magic, tokens, CRC-32 of everything behind
BEHIND = 64
"""Blocks that may wait to be written; more are not taken, since they would fill memory behind a slow disk."""


class PrefixStore:
    """Writes behind, reads at once, removes the least recently used file beyond its budget.

    One for the life of the process: `use` turns it to another model without waiting for what is still being written.

    Args:
        folder: shared by all models; each has a folder of its own in it.
        fingerprint: of weights, precision and page format; nothing of another is ever read. Others may follow by `use`.
        block_bytes: length of a block's pages.
        budget: bytes that all files together may take.
    """

    def __init__(self, folder: Path, fingerprint: str, block_bytes: int, budget: int) -> None:
        self._root, self._budget = folder, budget
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, int] = OrderedDict()  # every model's, least recently used first
        self._bytes = 0
        self.loaded_tokens = 0
        self._queue: queue.Queue[tuple[Path, tuple[int, ...], bytes] | None] = queue.Queue()
        self._waiting: set[Path] = set()  # queued or being written
        self.use(fingerprint, block_bytes)
        self._scan()
        self._thread = threading.Thread(target=self._write_behind, name="prefix-store", daemon=True)
        self._thread.start()

    def use(self, fingerprint: str, block_bytes: int) -> None:
        """Keep and find blocks of these weights and this page format from now on; see the class for both."""
        self._block_bytes = block_bytes
        self._folder = self._root / hashlib.sha256(fingerprint.encode()).hexdigest()[:24]

    def _scan(self) -> None:
        found = []
        for path in self._root.rglob("*"):
            with contextlib.suppress(OSError):  # a file that cannot be had is one that is not there
                if path.suffix == ".part":  # a kill in the middle of a write
                    path.unlink(missing_ok=True)
                elif path.suffix == ".kv":
                    stat = path.stat()
                    found.append((stat.st_mtime_ns, path, stat.st_size))
        for _, path, size in sorted(found):
            self._files[path] = size
            self._bytes += size
        self._trim()

    def _path(self, digest: bytes) -> Path:
        return self._folder / digest.hex()[:2] / f"{digest.hex()}.kv"

    @property
    def size(self) -> int:
        """Bytes on disk, of all models."""
        return self._bytes

    def has(self, digest: bytes) -> bool:
        """Whether a block is kept. Its file may still turn out to be corrupt."""
        return self._path(digest) in self._files

    def wants(self, digest: bytes) -> bool:
        """Whether a block is neither kept nor on its way."""
        path = self._path(digest)
        return path not in self._waiting and path not in self._files

    @property
    def ready(self) -> bool:
        """Whether another block could be queued now."""
        return len(self._waiting) < BEHIND

    def touch(self, digest: bytes) -> None:
        """Make a block the last to go, over a restart too."""
        path = self._path(digest)
        with self._lock:
            if path not in self._files:
                return
            self._files.move_to_end(path)
        with contextlib.suppress(OSError):
            os.utime(path)

    def load(self, digest: bytes, tokens: tuple[int, ...]) -> memoryview | None:
        """A block's pages; None where the file is gone, or is not what it should be and was removed."""
        path = self._path(digest)
        try:
            data = bytearray(path.read_bytes())
        except OSError:
            self._forget(path)
            return None
        body = memoryview(data)[HEADER.size :]
        ids = array("i", tokens).tobytes()
        if (
            len(body) == len(ids) + self._block_bytes
            and HEADER.unpack_from(data) == (MAGIC, len(tokens), zlib.crc32(body))
            and body[: len(ids)] == ids
        ):
            self.touch(digest)
            self.loaded_tokens += len(tokens)
            return body[len(ids) :]
        log.warning("a kept block is corrupt and was removed")
        path.unlink(missing_ok=True)
        self._forget(path)
        return None

    def save(self, digest: bytes, tokens: tuple[int, ...], pages: bytes) -> bool:
        """Queue a block to be written; False where too many wait already."""
        if not self.ready:
            return False
        path = self._path(digest)
        self._waiting.add(path)  # before the writer can have done it, or nobody would take it out
        self._queue.put((path, tokens, pages))
        return True

    def _write_behind(self) -> None:
        while (item := self._queue.get()) is not None:
            path, tokens, pages = item
            try:
                self._write(path, tokens, pages)
            except Exception as error:  # a full disk, a folder taken away: that block is not kept, the next may be
                log.warning("a block could not be kept: %s", error)
            finally:
                self._waiting.discard(path)
                self._queue.task_done()
        self._queue.task_done()

    def _write(self, path: Path, tokens: tuple[int, ...], pages: bytes) -> None:
        body = array("i", tokens).tobytes() + pages
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        try:
            aside.write_bytes(HEADER.pack(MAGIC, len(tokens), zlib.crc32(body)) + body)
            os.replace(aside, path)
        except OSError:
            aside.unlink(missing_ok=True)  # what a full disk took of it
            raise
        size = HEADER.size + len(body)
        with self._lock:
            self._bytes += size - self._files.pop(path, 0)
            self._files[path] = size
        self._trim()

    def _trim(self) -> None:
        while self._bytes > self._budget:
            with self._lock:
                if not self._files:
                    return
                path, size = self._files.popitem(last=False)
                self._bytes -= size
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _forget(self, path: Path) -> None:
        with self._lock:
            self._bytes -= self._files.pop(path, 0)

    def flush(self) -> None:
        """Wait until everything queued is on disk."""
        self._queue.join()

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._queue.put(None)
        self._thread.join(30)
