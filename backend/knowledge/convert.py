"""The parser's own process: `python -m backend.knowledge.convert FILE NAME MOST_BYTES` writes a file's text to stdout.

What comes out is one letter and UTF-8: "T" and the text, or "E" and why there is none. Whatever a crafted file does to
it, it does in here. Must stay light to import, and may not know settings or database.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from pathlib import Path

from backend.errors import DocumentError, TenfoldError
from backend.knowledge.archive import opened
from backend.knowledge.formats import MAGIC
from backend.knowledge.plain import decoded

TEXT, ERROR = b"T", b"E"
MEMORY_LIMIT = 4 << 30
UNPACKED_LIMIT = 1 << 30
MOST_PARTS = 20_000
DISK_FULL = 3
"""Exit status where the text could not be written."""
OFFICE_PART = {".docx": "word/", ".pptx": "ppt/", ".xlsx": "xl/"}


def _convert(path: Path, name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in OFFICE_PART:
        with opened(path, name, most_entries=MOST_PARTS) as archive:
            if not any(n.startswith(OFFICE_PART[suffix]) for n in archive.namelist()):
                raise DocumentError(f"{name} is not {MAGIC[suffix][1]}, although its name says so.")
            if sum(i.file_size for i in archive.infolist()) > UNPACKED_LIMIT:
                raise DocumentError(f"{name} unpacks to more than {UNPACKED_LIMIT >> 30} GB, which is refused.")
    data = path.read_bytes()
    if suffix in (".csv", ".json", ".html", ".htm"):
        text = "".join(decoded([data], name))
        if suffix == ".json":
            try:
                return json.dumps(json.loads(text), ensure_ascii=False, indent=1)
            except (ValueError, RecursionError) as error:
                raise DocumentError(f"{name} is not valid JSON: {error}.") from error
        data = text.encode()
    from markitdown import MarkItDown, StreamInfo

    converter = MarkItDown(enable_plugins=False)
    info = StreamInfo(extension=suffix, filename=name, charset="utf-8" if suffix in (".csv", ".html", ".htm") else None)
    return str(converter.convert_stream(io.BytesIO(data), stream_info=info).text_content)


def _answer(path: Path, name: str, most_bytes: int) -> bytes:
    try:
        text = _convert(path, name).encode(errors="replace")
        if len(text) > most_bytes:
            raise DocumentError(f"{name} gives more than {most_bytes >> 20} MB of text, the limit for one document.")
        return TEXT + text
    except TenfoldError as error:
        return ERROR + error.message.encode()
    except MemoryError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        if "Password" in cause or "ncrypt" in cause:
            reason = f"{name} is protected by a password. Remove the protection and upload it again."
        else:
            reason = f"{name} is damaged or not what its name says. Open it where it comes from and save it anew."
        return ERROR + reason.encode(errors="replace")


def main() -> None:
    """Convert one file."""
    import resource

    path, name, most_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    # Parsers print; what they print must not end up in the text.
    with os.fdopen(os.dup(1), "wb") as out, open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes + 4096, most_bytes + 4096))
        try:
            out.write(_answer(path, name, most_bytes))
            out.flush()
        except OSError as error:
            sys.exit(DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1)


if __name__ == "__main__":
    main()
