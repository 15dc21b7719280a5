"""Plain text from bytes, a piece at a time: UTF-8, or UTF-16 where its mark says so. Light to import."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

from backend.errors import DocumentError


def decoded(pieces: Iterable[bytes], name: str) -> Iterator[str]:
    """The text of a file's bytes.

    Raises:
        DocumentError: binary data, or not in the encoding it should be in.
    """
    decoder: codecs.IncrementalDecoder | None = None
    encoding = ""
    before = 0  # bytes handed to the decoder in earlier pieces
    for piece in pieces:
        if decoder is None:
            encoding = "utf-16" if piece.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
            if encoding != "utf-16" and b"\x00" in piece[:4096]:
                raise DocumentError(f"{name} is not text: it contains binary data.")
            decoder = codecs.getincrementaldecoder(encoding)()
        yield _decode(decoder, piece, before, encoding, name, last=False)
        before += len(piece)
    if decoder is not None:
        yield _decode(decoder, b"", before, encoding, name, last=True)


def _decode(
    decoder: codecs.IncrementalDecoder, piece: bytes, before: int, encoding: str, name: str, *, last: bool
) -> str:
    held = len(decoder.getstate()[0])  # of a letter that the piece before cut in two
    try:
        return decoder.decode(piece, last)
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{name} is not valid {encoding.removesuffix('-sig').upper()} (byte {before - held + error.start}). "
            "Save it as UTF-8 and upload it again."
        ) from error
