"""Zip archives, opened within bounds: of what is in a stranger's file nothing is believed before it is counted.

Python reads a zip's whole directory into memory before one can ask how much it holds, so the record at its end is read
first. A member that is damaged, encrypted or too large is left out by name; the others are taken in.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from backend.errors import InvalidInputError, StorageError, TenfoldError
from backend.knowledge.formats import SUPPORTED

MOST_FILES = 2000
MOST_BYTES = 2 << 30
"""Of all files of an archive, unpacked."""
MOST_ENTRIES = 3 * MOST_FILES
"""Folders and hidden files are in a zip's directory too."""
ENTRY_BYTES = 512
"""Most of an entry, on the average."""
MOST_RATIO, SMALL = 200, 10 << 20
"""How many times smaller than itself a file of more than `SMALL` bytes may have been packed."""

END = struct.Struct("<4s4H2LH")
END_SIGNATURE = b"PK\x05\x06"
LOCATOR = struct.Struct("<4sLQL")
LOCATOR_SIGNATURE = b"PK\x06\x07"
END64 = struct.Struct("<4sQ2H2L4Q")
END64_SIGNATURE = b"PK\x06\x06"
LONGEST_COMMENT = 0xFFFF

DAMAGED = (RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, struct.error)
"""What Python raises for a member that is damaged, encrypted, or packed in a way it does not know."""


@dataclass(frozen=True)
class Member:
    """A file of an archive: what to call it, and its bytes in pieces."""

    name: str
    data: Iterator[bytes]


@contextmanager
def opened(path: Path, name: str, *, most_entries: int = MOST_ENTRIES) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose directory is small enough to be read.

    Raises:
        InvalidInputError: no zip archive, damaged, or of more entries than `most_entries`.
    """
    with path.open("rb") as file:
        try:
            entries, size = _directory(file)
            if entries > most_entries or size > most_entries * ENTRY_BYTES:
                raise InvalidInputError(f"{name} holds more than {most_entries:,} entries. Split it.", param="files")
            try:
                archive = zipfile.ZipFile(file)
            except (NotImplementedError, ValueError) as error:  # a version or a name that there is not
                raise zipfile.BadZipFile(str(error)) from error
            with archive:
                yield archive
        except (zipfile.BadZipFile, struct.error) as error:
            raise InvalidInputError(f"{name} is not a zip archive, or is damaged: {error}.", param="files") from error


def _directory(file: BinaryIO) -> tuple[int, int]:
    """Entries and bytes of the directory, as the records at the end say: the larger of old and zip64 format."""
    size = file.seek(0, 2)
    file.seek(max(0, size - END.size - LONGEST_COMMENT - LOCATOR.size - END64.size))
    start = file.tell()
    tail = file.read()
    # As `zipfile` looks for it: at the very end first, else the last one before a comment.
    last = len(tail) - END.size
    at = last if tail[last : last + 4] == END_SIGNATURE and tail.endswith(b"\0\0") else tail.rfind(END_SIGNATURE)
    if at < 0 or at + END.size > len(tail):
        raise zipfile.BadZipFile("File is not a zip file")
    _, _, _, _, entries, directory, _, _ = END.unpack_from(tail, at)
    if at >= LOCATOR.size and tail[at - LOCATOR.size : at - LOCATOR.size + 4] == LOCATOR_SIGNATURE:
        _, _, offset, _ = LOCATOR.unpack_from(tail, at - LOCATOR.size)
        for place in (offset - start, at - LOCATOR.size - END64.size):
            if place >= 0 and tail[place : place + 4] == END64_SIGNATURE:
                record = END64.unpack_from(tail, place)
                entries, directory = max(entries, record[7]), max(directory, record[8])
                break
        else:  # the record lies elsewhere in the file
            file.seek(min(offset, size))
            record = END64.unpack(file.read(END64.size))
            entries, directory = max(entries, record[7]), max(directory, record[8])
    return entries, directory


def unpacked(
    name: str, file: Path, take: Callable[[Member], None], progress: Callable[[int, int], None] = lambda done, of: None
) -> list[str]:
    """Hand every file of an archive to `take`; returns what was left out and why, by name.

    Before each, `progress` is told how many were, and how many there are; what it raises ends this.

    Raises:
        InvalidInputError: not a zip archive, or more in it than it may hold.
        StorageError: raised by `take`; the members before were taken.
    """
    refused: list[str] = []
    with opened(file, name) as archive:
        members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
        if len(members) > MOST_FILES or sum(m.file_size for m in members) > MOST_BYTES:
            raise InvalidInputError(
                f"{name} holds more than {MOST_FILES:,} files or {MOST_BYTES >> 30} GB. Split it.", param="files"
            )
        alike = Counter(PurePosixPath(m.filename).name for m in members)
        for number, member in enumerate(members):
            progress(number, len(members))
            if reason := _against(member):
                refused.append(f"{member.filename}: {reason}")
                continue
            path = PurePosixPath(member.filename)
            # Two files of one name would be two versions of one document: their folders tell them apart.
            own = path.name if alike[path.name] == 1 else " - ".join(p for p in path.parts if p not in ("..", "/"))
            try:
                take(Member(own, _pieces(archive, member)))
            except StorageError:
                raise
            except TenfoldError as error:
                refused.append(f"{member.filename}: {error.message}")
            except DAMAGED as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the disk's, not the archive's
                refused.append(f"{member.filename}: damaged, encrypted or packed in an unknown way ({error}).")
    return refused


def _against(member: zipfile.ZipInfo) -> str:
    if Path(member.filename).suffix.lower() not in SUPPORTED:
        return "this type is not supported."
    if member.file_size > SMALL and member.file_size > MOST_RATIO * max(member.compress_size, 1):
        return f"it unpacks to more than {MOST_RATIO} times its size, which is refused."
    return ""


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in Path(name).parts)


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as stream:
        while piece := stream.read(1 << 20):
            yield piece
