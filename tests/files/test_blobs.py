"""Bytes are kept whole or not at all, and none that somebody has just put is dropped."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from backend.errors import NotFoundError, StorageError, TooLargeError
from backend.files.blobs import Blobs

DATA = [b"some ", b"bytes"]
SHA = hashlib.sha256(b"".join(DATA)).hexdigest()


def put(blobs: Blobs) -> None:
    with blobs.put(DATA, name="a.txt", limit=100):
        pass


def test_what_is_put_can_be_opened(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with blobs.put(DATA, name="a.txt", limit=100) as blob:
        assert (blob.sha256, blob.size, blob.head) == (SHA, 10, b"some bytes")
    with blobs.open(SHA) as file:
        assert file.read() == b"some bytes"
    with pytest.raises(NotFoundError):
        blobs.open("0" * 64)


def test_what_is_too_large_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TooLargeError, match=r"a\.txt"), Blobs(tmp_path).put(DATA, name="a.txt", limit=9):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        put(Blobs(tmp_path))
    assert not list(tmp_path.iterdir())


def test_bytes_that_were_just_put_are_not_dropped(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    put(blobs)
    with blobs.put(DATA, name="a.txt", limit=100):
        blobs.drop(SHA, lambda: False)  # a deletion, while the row that needs them is not committed yet
        assert blobs.path(SHA).exists()
    blobs.drop(SHA, lambda: True)
    assert blobs.path(SHA).exists()
    blobs.drop(SHA, lambda: False)
    assert not blobs.path(SHA).exists()


def test_nothing_is_put_between_the_question_and_the_deletion(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    put(blobs)
    thread = threading.Thread(target=put, args=(blobs,))

    def needed() -> bool:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive(), "it was put before the deletion was done"
        return False

    blobs.drop(SHA, needed)
    thread.join(60)
    assert blobs.path(SHA).exists()


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / "tmpxyz").write_bytes(b"half")
    blobs = Blobs(tmp_path)
    put(blobs)
    blobs.sweep()
    assert [path.name for path in tmp_path.iterdir()] == [SHA]
