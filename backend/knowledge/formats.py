"""Which kinds of file can be read, and what can be said against one from its name and first bytes. Light to import."""

from __future__ import annotations

from pathlib import Path

from backend.errors import DocumentError

PLAIN = {".md", ".markdown", ".txt", ".text", ".rst", ".log"}
RICH = {".pdf", ".docx", ".pptx", ".xlsx", ".html", ".htm", ".csv", ".json"}
SUPPORTED = sorted(PLAIN | RICH)

MAGIC: dict[str, tuple[bytes, str]] = {
    ".pdf": (b"%PDF-", "a PDF"),
    ".docx": (b"PK\x03\x04", "a Word document"),
    ".pptx": (b"PK\x03\x04", "a PowerPoint presentation"),
    ".xlsx": (b"PK\x03\x04", "an Excel workbook"),
}


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
