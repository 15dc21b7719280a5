"""Finished KV blocks on disk, so that a prompt's state outlives memory and the process.

A file holds one block: its tokens and its pages, under the digest that `kv_cache` chains over salt, model and tokens.
Nothing else is trusted: a file of another length, checksum or tokens is removed and its block computed again.
"""

from __future__ import annotations

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
BEHIND = 256
"""Blocks that may wait to be written; with more, new ones are left out, since serving goes before keeping."""


class PrefixStore:
    """Writes behind, reads at once, removes the least recently used file beyond its budget.

    Args:
        folder: shared by all models; each has a folder of its own in it.
        fingerprint: of weights, precision and page format; nothing of another is ever read.
        block_bytes: length of a block's pages.
        budget: bytes that all files together may take.
    """

    def __init__(self, folder: Path, fingerprint: str, block_bytes: int, budget: int) -> None:
        self._root, self._block_bytes, self._budget = folder, block_bytes, budget
        self._folder = folder / hashlib.sha256(fingerprint.encode()).hexdigest()[:24]
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, int] = OrderedDict()  # every model's, least recently used first
        self._bytes = 0
        self.loaded_tokens = self.written_blocks = self.removed_blocks = self.corrupt_blocks = 0
        self._queue: queue.Queue[tuple[bytes, tuple[int, ...], bytes] | None] = queue.Queue(BEHIND)
        self._waiting: set[bytes] = set()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._scan()
        self._thread = threading.Thread(target=self._write_behind, name="prefix-store", daemon=True)
        self._thread.start()

    def _scan(self) -> None:
        found = []
        for path in self._root.rglob("*"):
            if path.suffix == ".part":  # a kill in the middle of a write
                path.unlink(missing_ok=True)
            elif path.suffix == ".kv":
                stat = path.stat()
                found.append((stat.st_mtime, path, stat.st_size))
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
            with self._lock:
                if path in self._files:
                    self._files.move_to_end(path)
            self.loaded_tokens += len(tokens)
            return body[len(ids) :]
        log.warning("a kept block is corrupt and was removed")
        self.corrupt_blocks += 1
        path.unlink(missing_ok=True)
        self._forget(path)
        return None

    def save(self, digest: bytes, tokens: tuple[int, ...], pages: bytes) -> bool:
        """Queue a block to be written; False where too many wait already."""
        try:
            self._queue.put_nowait((digest, tokens, pages))
        except queue.Full:
            return False
        self._waiting.add(digest)
        return True

    def wants(self, digest: bytes) -> bool:
        """Whether a block is neither kept nor on its way, and could be queued now."""
        return not self._queue.full() and digest not in self._waiting and not self.has(digest)

    def _write_behind(self) -> None:
        while (item := self._queue.get()) is not None:
            digest, tokens, pages = item
            try:
                self._write(digest, tokens, pages)
            except OSError as error:
                log.warning("a block could not be kept: %s", error)
            finally:
                self._waiting.discard(digest)
                self._queue.task_done()
        self._queue.task_done()

    def _write(self, digest: bytes, tokens: tuple[int, ...], pages: bytes) -> None:
        body = array("i", tokens).tobytes() + pages
        path = self._path(digest)
        path.parent.mkdir(exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_bytes(HEADER.pack(MAGIC, len(tokens), zlib.crc32(body)) + body)
        os.replace(aside, path)
        size = HEADER.size + len(body)
        with self._lock:
            self._bytes += size - self._files.pop(path, 0)
            self._files[path] = size
        self.written_blocks += 1
        self._trim()

    def _trim(self) -> None:
        while self._bytes > self._budget:
            with self._lock:
                if not self._files:
                    return
                path, size = self._files.popitem(last=False)
                self._bytes -= size
            path.unlink(missing_ok=True)
            self.removed_blocks += 1

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
