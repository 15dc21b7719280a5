"""A zip archive is bounded before it is believed, and a bad member is left out by name."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from backend.errors import InvalidInputError, StorageError
from backend.knowledge import archive
from backend.knowledge.archive import END, END64, LOCATOR, Member, unpacked


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def take_all(path: Path) -> tuple[dict[str, bytes], list[str]]:
    taken: dict[str, bytes] = {}

    def take(member: Member) -> None:
        taken[member.name] = b"".join(member.data)

    return taken, unpacked(path.name, path, take)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often Python read an archive's directory."""
    reads: list[int] = []
    read = zipfile.ZipFile._RealGetContents  # type: ignore[attr-defined]
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", lambda self: (reads.append(1), read(self))[1])
    return reads


def test_a_bomb_by_count_is_refused_before_its_directory_is_read(tmp_path: Path, counted: list[int]) -> None:
    path = zipped(tmp_path / "many.zip", {f"{i}.txt": b"" for i in range(archive.MOST_ENTRIES + 1)})
    counted.clear()
    with pytest.raises(InvalidInputError, match="entries"):
        take_all(path)
    assert counted == []


def test_a_directory_that_lies_about_its_count_is_bounded_by_its_size(tmp_path: Path, counted: list[int]) -> None:
    path = tmp_path / "lies.zip"
    directory = b"\0" * (archive.MOST_ENTRIES * archive.ENTRY_BYTES + 1)
    path.write_bytes(directory + END.pack(b"PK\x05\x06", 0, 0, 1, 1, len(directory), 0, 0))
    with pytest.raises(InvalidInputError, match="entries"):
        take_all(path)
    assert counted == []


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_the_count_of_a_zip64_archive_is_read_as_well(tmp_path: Path, counted: list[int], comment: bytes) -> None:
    record = END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, 2_000_000, 2_000_000, 46 * 2_000_000, 0)
    locator = LOCATOR.pack(b"PK\x06\x07", 0, 0, 1)
    end = END.pack(b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, len(comment))
    path = tmp_path / "z64.zip"
    path.write_bytes(record + locator + end + comment)
    with pytest.raises(InvalidInputError, match="entries"):
        take_all(path)
    # Small in the old record, large in the new one: the larger counts.
    path.write_bytes(record + locator + END.pack(b"PK\x05\x06", 0, 0, 1, 1, 46, 0, 0))
    with pytest.raises(InvalidInputError, match="entries"):
        take_all(path)
    assert counted == []


def test_a_bomb_by_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    with pytest.raises(InvalidInputError, match="holds more than"):
        take_all(zipped(tmp_path / "big.zip", {"a.txt": b"a" * 600, "b.txt": b"b" * 600}))


def test_a_member_that_unpacks_to_a_thousand_times_its_size_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SMALL", 100_000)
    taken, refused = take_all(zipped(tmp_path / "b.zip", {"bomb.txt": b"a" * 1_000_000, "fine.txt": b"fine"}))
    assert set(taken) == {"fine.txt"} and "bomb.txt" in refused[0] and "200 times" in refused[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damage", ["overwritten", "cut"])
def test_a_damaged_member_is_left_out_by_name(tmp_path: Path, method: int, damage: str) -> None:
    import random

    data = random.Random(1).randbytes(4000)
    path = zipped(tmp_path / "damaged.zip", {"broken.txt": data, "whole.txt": b"whole"}, method)
    with zipfile.ZipFile(path) as whole:
        size = whole.getinfo("broken.txt").compress_size
    raw = bytearray(path.read_bytes())
    start = 30 + len("broken.txt")
    raw[start + 20 : start + size - 5] = bytes(size - 25) if damage == "overwritten" else b"\xff" * (size - 25)
    if damage == "overwritten":
        raw[start : start + 12] = b"\xa5" * 12
    path.write_bytes(raw)
    taken, refused = take_all(path)
    assert set(taken) == {"whole.txt"} and refused[0].startswith("broken.txt: ")


def test_files_of_one_name_in_two_folders_are_two_documents(tmp_path: Path) -> None:
    members = {"a/readme.md": b"one", "b/readme.md": b"two", "../../up.txt": b"three", "x/only.md": b"four"}
    taken, _ = take_all(zipped(tmp_path / "z.zip", members))
    assert taken == {"a - readme.md": b"one", "b - readme.md": b"two", "up.txt": b"three", "only.md": b"four"}


def test_a_full_disk_is_not_the_archives_fault(tmp_path: Path) -> None:
    def full(_: Member) -> None:
        raise StorageError("The disk is full.")

    with pytest.raises(StorageError):
        unpacked("z.zip", zipped(tmp_path / "z.zip", {"a.txt": b"a"}), full)


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 99, b"PK\x05\x06" + b"\0" * 7])
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="not a zip archive"):
        take_all(path)


def test_an_archive_within_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as out:
        out.writestr("deep.txt", "deep")
    taken, refused = take_all(zipped(tmp_path / "outer.zip", {"inner.zip": inner.getvalue(), "a.txt": b"a"}))
    assert set(taken) == {"a.txt"} and "inner.zip" in refused[0]


def test_the_records_are_as_the_format_says() -> None:
    assert (END.size, LOCATOR.size, END64.size) == (22, 20, 56)


@pytest.mark.parametrize(("place", "value"), [(6, b"\xff\x00"), (8, b"\x00\x08")], ids=["version", "name"])
def test_an_entry_that_python_cannot_list_is_refused_by_name(tmp_path: Path, place: int, value: bytes) -> None:
    path = zipped(tmp_path / "odd.zip", {"ab.txt": b"text"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + place : entry + place + 2] = value
    if place == 8:  # said to be UTF-8, and is not
        data[entry + 46 : entry + 48] = b"\xff\xfe"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match=r"odd\.zip is not a zip archive, or is damaged"):
        take_all(path)


def test_how_far_an_archive_is_is_said_and_can_end_it(tmp_path: Path) -> None:
    path = zipped(tmp_path / "three.zip", {f"{i}.txt": b"x" for i in range(3)})
    said: list[tuple[int, int]] = []
    taken: list[str] = []

    def progress(done: int, of: int) -> None:
        said.append((done, of))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpacked(path.name, path, lambda member: taken.append(member.name), progress)
    assert said == [(0, 3), (1, 3), (2, 3)] and taken == ["0.txt", "1.txt"]
