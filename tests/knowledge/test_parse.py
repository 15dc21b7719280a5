"""What a parser may do is bounded: its time, its output, and what it knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from backend.errors import DocumentError
from backend.knowledge import parse as parsing
from backend.knowledge.chunk import Chunker
from backend.knowledge.parse import parse
from backend.knowledge.plain import decoded
from backend.knowledge.signals import CancelledError, CancelToken


def written(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def read(path: Path, **more: Any) -> str:
    return parse(path, path.name, **{"timeout": 60, "most_bytes": 1 << 20, **more})


def test_a_document_that_gives_too_much_text_is_refused(tmp_path: Path) -> None:
    deep = written(tmp_path, "deep.json", json.dumps([[[[1] * 500] * 20]]).encode())  # indented, 4 times as long
    assert len(read(deep)) > 2 * deep.stat().st_size
    with pytest.raises(DocumentError, match="the limit for one document"):
        read(deep, most_bytes=2 * deep.stat().st_size)
    with pytest.raises(DocumentError, match="the limit for one document"):
        read(written(tmp_path, "long.txt", b"a " * 1000), most_bytes=1000)


def test_a_parser_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = sleeping(monkeypatch)
    with pytest.raises(DocumentError, match="could not be read within"):
        read(written(tmp_path, "slow.csv", b"a,b\n"), timeout=0.5)
    assert processes[0].poll() is not None


def test_a_parser_of_what_is_not_wanted_any_more_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = sleeping(monkeypatch)
    token = CancelToken("d")
    token.cancel()
    with pytest.raises(CancelledError):
        read(written(tmp_path, "slow.csv", b"a,b\n"), wanted=token.check)
    assert processes[0].poll() is not None


def sleeping(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Parsers that sleep instead; the list gets them."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(_: list[str], **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return processes[-1]

    monkeypatch.setattr(parsing.subprocess, "Popen", start)
    return processes


def test_a_parser_knows_nothing_of_its_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@host/db")
    popen = subprocess.Popen

    def start(_: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", "import os; print('T', dict(os.environ))"], **options)

    monkeypatch.setattr(parsing.subprocess, "Popen", start)
    known = read(written(tmp_path, "a.csv", b"a,b\n"))
    assert "secret" not in known and "PATH" not in known and "PYTHONUTF8" in known


def test_cutting_ends_when_it_is_not_wanted_any_more(tokenizer: Tokenizer) -> None:
    token, asked = CancelToken("d"), []

    def wanted() -> None:
        asked.append(1)
        if len(asked) == 20:
            token.cancel()
        token.check()

    with pytest.raises(CancelledError):
        Chunker(tokenizer, 64).split("A sentence of some length. " * 20_000, "a.txt", wanted)
    assert len(asked) == 20, "nothing was cut after it"


def test_what_has_no_spaces_is_cut_as_well(tokenizer: Tokenizer) -> None:
    pieces = Chunker(tokenizer, 64).split("x" * 20_000, "a.txt")
    assert len(pieces) > 20 and max(len(piece.text) for piece in pieces) < 1000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_the_same_however_it_is_cut_into_pieces(encoding: str) -> None:
    text = "Käse für 5 €, 木 und 🌲."
    data = text.encode(encoding)
    for size in (2, 3, 5, 100):
        pieces = [data[:4], *(data[i : i + size] for i in range(4, len(data), size))]
        assert "".join(decoded(pieces, "a.txt")) == text


def test_the_place_of_a_wrong_byte_is_that_in_the_file() -> None:
    with pytest.raises(DocumentError, match=r"not valid UTF-8 \(byte 12\)"):
        "".join(decoded([b"12345678", "ä".encode()[:1], "ä".encode()[1:], b"90\xff"], "a.txt"))
