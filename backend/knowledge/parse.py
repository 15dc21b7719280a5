"""Turns an uploaded file into text: plain formats here, the others by MarkItDown in a process of their own.

A parser that hangs, eats memory or crashes on a crafted file takes only that process with it. Run as a module, this
file is that process: `python -m backend.knowledge.parse FILE NAME` prints JSON.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from backend.errors import DocumentError
from backend.settings import ROOT

PLAIN = {".md", ".markdown", ".txt", ".text", ".rst", ".log"}
RICH = {".pdf", ".docx", ".pptx", ".xlsx", ".html", ".htm", ".csv", ".json"}
SUPPORTED = sorted(PLAIN | RICH)
MEMORY_LIMIT = 4 << 30
UNPACKED_LIMIT = 1 << 30

MAGIC: dict[str, tuple[bytes, str]] = {
    ".pdf": (b"%PDF-", "a PDF"),
    ".docx": (b"PK\x03\x04", "a Word document"),
    ".pptx": (b"PK\x03\x04", "a PowerPoint presentation"),
    ".xlsx": (b"PK\x03\x04", "an Excel workbook"),
}
OFFICE_PART = {".docx": "word/", ".pptx": "ppt/", ".xlsx": "xl/"}


def check(name: str, head: bytes, size: int) -> None:
    """Refuse at once what no parser could read.

    Raises:
        DocumentError: empty, of an unsupported type, or not what its name says.
    """
    suffix = Path(name).suffix.lower()
    if size == 0:
        raise DocumentError(f"{name} is empty (0 bytes).")
    if suffix not in SUPPORTED:
        kind = f"Files of type {suffix}" if suffix else "Files without an extension"
        raise DocumentError(f"{kind} are not supported. Supported: {', '.join(SUPPORTED)}.")
    if suffix in MAGIC:
        magic, what = MAGIC[suffix]
        if magic not in head[:1024]:
            actual = " It looks like a zip archive." if head.startswith(b"PK\x03\x04") else ""
            raise DocumentError(f"{name} is not {what}, although its name says so.{actual}")


def parse(path: Path, name: str, timeout: float, cancelled: Callable[[], bool] = lambda: False) -> str:
    """Return the text of a file.

    Args:
        path: where its bytes are.
        name: what the user called it; the suffix decides the format.
        timeout: seconds a parser may take.
        cancelled: asked several times a second; True ends the parser.

    Raises:
        DocumentError: unreadable, encrypted, without text, or too slow.
    """
    with path.open("rb") as stream:
        check(name, stream.read(1024), path.stat().st_size)
    suffix = Path(name).suffix.lower()
    text = _decode(path.read_bytes(), name) if suffix in PLAIN else _in_a_process(path, name, timeout, cancelled)
    text = text.replace("\x00", "").strip()
    if not text:
        raise DocumentError(
            f"No text was found in {name}. If it is a scan, run it through text recognition (OCR) first."
        )
    return text


def _decode(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\x00" in data[:4096]:
        raise DocumentError(f"{name} is not text: it contains binary data.")
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{name} is not valid {encoding.removesuffix('-sig').upper()} (byte {error.start}). "
            "Save it as UTF-8 and upload it again."
        ) from error


def _in_a_process(path: Path, name: str, timeout: float, cancelled: Callable[[], bool]) -> str:
    process = subprocess.Popen(
        [sys.executable, "-m", "backend.knowledge.parse", str(path), name],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    waited = 0.0
    try:
        while True:
            try:
                out, _ = process.communicate(timeout=0.25)
                break
            except subprocess.TimeoutExpired:
                waited += 0.25
                if cancelled():
                    raise DocumentError("Cancelled.") from None
                if waited >= timeout:
                    raise DocumentError(f"{name} could not be read within {timeout:g} s.") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise DocumentError(f"{name} could not be read: its parser ran out of memory or crashed.")
    answer = json.loads(out.decode().splitlines()[-1])
    if "error" in answer:
        raise DocumentError(answer["error"])
    return str(answer["text"])


def _convert(path: Path, name: str) -> str:
    """Runs in the child."""
    suffix = Path(name).suffix.lower()
    data = path.read_bytes()
    if suffix in OFFICE_PART:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if not any(n.startswith(OFFICE_PART[suffix]) for n in archive.namelist()):
                    raise DocumentError(f"{name} is not {MAGIC[suffix][1]}, although its name says so.")
                if sum(i.file_size for i in archive.infolist()) > UNPACKED_LIMIT:
                    raise DocumentError(f"{name} unpacks to more than {UNPACKED_LIMIT >> 30} GB, which is refused.")
        except zipfile.BadZipFile as error:
            raise DocumentError(f"{name} is damaged: {error}.") from error
    if suffix in (".csv", ".json", ".html", ".htm"):
        text = _decode(data, name)
        if suffix == ".json":
            try:
                return json.dumps(json.loads(text), ensure_ascii=False, indent=1)
            except ValueError as error:
                raise DocumentError(f"{name} is not valid JSON: {error}.") from error
        data = text.encode()
    from markitdown import MarkItDown, StreamInfo

    converter = MarkItDown(enable_plugins=False)
    info = StreamInfo(extension=suffix, filename=name, charset="utf-8" if suffix in (".csv", ".html", ".htm") else None)
    return str(converter.convert_stream(io.BytesIO(data), stream_info=info).text_content)


def _main() -> None:
    import contextlib
    import resource

    path, name = Path(sys.argv[1]), sys.argv[2]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    try:
        answer = {"text": _convert(path, name)}
    except DocumentError as error:
        answer = {"error": error.message}
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        if "Password" in cause or "ncrypt" in cause:
            answer = {"error": f"{name} is protected by a password. Remove the protection and upload it again."}
        else:
            last = cause.strip().splitlines()[-1][:200]
            answer = {"error": f"{name} is damaged or not what its name says ({last})."}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main()
