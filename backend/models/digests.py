"""SHA-256 of whole model files, computed once and remembered by what the file system says of the file.

A record that is missing, corrupt or of another file is no error: the file is read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)

SETTLED_NS = 2_000_000_000
"""A file changed less than this ago may change again within one tick of its file system's clock: not remembered yet."""


def file_digest(file: Path, cache_dir: Path | None) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Args:
        file: to read.
        cache_dir: where the digest is remembered; None remembers nothing.

    Raises:
        OSError: the file cannot be read.
    """
    file = file.resolve()
    before = _state(file)
    name = hashlib.sha256(bytes(file)).hexdigest()[:32]
    record = None if cache_dir is None else cache_dir / "digests" / f"{name}.json"
    if record is not None and (known := _recall(record, before)):
        return known
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    settled = time.time_ns() - max(before["mtime_ns"], before["ctime_ns"]) > SETTLED_NS
    if record is not None and settled and _state(file) == before:
        _remember(record, before, digest)
    return digest


def _state(file: Path) -> dict[str, int]:
    """Whatever changes when a file is replaced or written, even where its size and time of change are put back."""
    stat = file.stat()
    return {
        "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns, "inode": stat.st_ino,
        "device": stat.st_dev,
    }  # fmt: skip


def _recall(record: Path, state: dict[str, int]) -> str | None:
    try:
        held = json.loads(record.read_text())
        digest = held["sha256"] if held["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) and len(digest) == 64 else None


def _remember(record: Path, state: dict[str, int], digest: str) -> None:
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=record.parent, suffix=".part", delete=False) as aside:
            json.dump({"state": state, "sha256": digest}, aside)
        os.replace(aside.name, record)
    except OSError as error:  # a full or read-only folder costs time at the next start, nothing else
        log.warning("the digest of a model file could not be kept: %s", error)
