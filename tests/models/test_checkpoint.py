"""A model is known by every byte of its files, read once; and nobody is asked for what the user did not name."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backend.models import checkpoint, digests
from backend.models.checkpoint import ModelNotFoundError, fingerprint, resolve
from backend.models.digests import file_digest

BIG = bytes(range(256)) * (4 << 12)  # 4 MB


def overwrite(file: Path, at: int, byte: bytes) -> None:
    """Change one byte where it lies, and put the file's times back: the worst case."""
    stat = file.stat()
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(byte)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file had last been changed long ago."""
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(BIG)
    return folder


def test_one_byte_in_any_megabyte_makes_another_model(model: Path, tmp_path: Path, settled: None) -> None:
    seen = {fingerprint(model, tmp_path)}
    for megabyte in range(4):
        overwrite(model / "model.safetensors", (megabyte << 20) + 5000, b"!")
        seen.add(fingerprint(model, tmp_path))
    assert len(seen) == 5


def test_a_replaced_file_of_the_same_size_and_time_is_noticed(model: Path, tmp_path: Path, settled: None) -> None:
    file = model / "model.safetensors"
    before, stat = file_digest(file, tmp_path), file.stat()
    other = tmp_path / "other"
    other.write_bytes(BIG[::-1])
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, file)
    assert file_digest(file, tmp_path) == hashlib.sha256(BIG[::-1]).hexdigest() != before


def test_a_file_is_read_once(model: Path, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(model, tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("the file was read again"))
    assert fingerprint(model, tmp_path) == before


def test_what_was_changed_a_moment_ago_is_not_remembered_yet(model: Path, tmp_path: Path) -> None:
    file_digest(model / "model.safetensors", tmp_path)
    assert not (tmp_path / "digests").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"state": 1}', '{"state": {}, "sha256": "short"}'])
def test_a_corrupt_record_costs_time_and_nothing_else(
    model: Path, tmp_path: Path, settled: None, damage: str
) -> None:
    wanted = fingerprint(model, tmp_path)
    (record,) = (tmp_path / "digests").iterdir()
    state = json.loads(record.read_text())["state"]
    record.write_text(damage.replace("{}", json.dumps(state)))
    assert fingerprint(model, tmp_path) == wanted


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(model: Path, settled: None) -> None:
    assert fingerprint(model, model / "config.json") == fingerprint(model, None)


def test_another_gguf_of_the_same_name_and_size_is_converted_anew(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        gguf, folder = Path(command[-2]), Path(command[-1])
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"first": gguf.read_bytes()[0]}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(checkpoint.subprocess, "run", convert)
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(BIG)
    first = resolve(str(gguf), tmp_path / "cache")
    assert resolve(str(gguf), tmp_path / "cache") == first
    overwrite(gguf, 0, b"\x07")
    second = resolve(str(gguf), tmp_path / "cache")
    assert second != first and json.loads((second / "config.json").read_text()) == {"first": 7}


@pytest.mark.parametrize("name", ["smollm", "models/llama/8b", "owner/", "owner/na me"])
def test_a_name_that_is_no_hub_id_is_asked_of_nobody(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_from_hub", lambda _: pytest.fail("the hub was asked"))
    with pytest.raises(ModelNotFoundError, match="no hub id"):
        resolve(name, tmp_path)
