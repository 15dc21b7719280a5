"""Documents over the API, with the real parser, model, Chroma and SQLite: every format, and everything that is none."""

from __future__ import annotations

import http.client
import io
import json
import time
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import pytest

FACT = "The beacon of Marrow Point flashes every nine seconds"


def pdf(password: str | None = None) -> bytes:
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen import canvas

    out = io.BytesIO()
    page = canvas.Canvas(out, encrypt=StandardEncryption(password, canPrint=0) if password else None)
    page.drawString(72, 720, FACT + ".")
    page.save()
    return out.getvalue()


def docx() -> bytes:
    from docx import Document

    document, out = Document(), io.BytesIO()
    document.add_paragraph(FACT + ".")
    document.save(out)
    return out.getvalue()


def pptx() -> bytes:
    from pptx import Presentation

    deck, out = Presentation(), io.BytesIO()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = FACT
    deck.save(out)
    return out.getvalue()


def xlsx() -> bytes:
    from openpyxl import Workbook

    book, out = Workbook(), io.BytesIO()
    book.active.append(["Fact", FACT])
    book.save(out)
    return out.getvalue()


FORMATS: dict[str, Callable[[], bytes]] = {
    "a.pdf": pdf,
    "a.docx": docx,
    "a.pptx": pptx,
    "a.xlsx": xlsx,
    "a.html": lambda: f"<html><body><h1>Beacon</h1><p>{FACT}.</p><script>x</script></body></html>".encode(),
    "a.md": lambda: f"# Beacon\n\n{FACT}.".encode(),
    "a.txt": lambda: f"{FACT}.".encode(),
    "a.csv": lambda: f"name,fact\nbeacon,{FACT}\n".encode(),
    "a.json": lambda: json.dumps({"beacon": FACT}).encode(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(server: Any, name: str) -> None:
    document = server.wait_document(server.upload(name, FORMATS[name]())["id"])
    assert document["state"] == "ready", document["reason"]
    assert FACT in " ".join(" ".join(chunk["text"].split()) for chunk in document["chunks"])


def not_an_office_file() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return out.getvalue()


BROKEN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "zip named pdf": ("zip.pdf", not_an_office_file, "not a PDF"),
    "zip named docx": ("zip.docx", not_an_office_file, "not a Word document"),
    "empty": ("empty.txt", lambda: b"", "empty"),
    "encrypted": ("secret.pdf", lambda: pdf("sesame"), "password"),
    "binary junk": ("junk.txt", lambda: bytes(range(256)) * 40, "binary"),
    "invalid UTF-8": ("latin.txt", lambda: "caf\xe9 ol\xe9".encode("latin-1"), "UTF-8"),
    "cut off": ("cut.pdf", lambda: pdf()[:300], "damaged"),
    "unsupported": ("movie.mp4", lambda: b"\x00\x01\x02", "not supported"),
    "blank": ("blank.txt", lambda: b"   \n\n ", "No text"),
    "broken json": ("bad.json", lambda: b'{"a": ', "not valid JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_fails_with_its_reason(server: Any, case: str) -> None:
    name, make, reason = BROKEN[case]
    document = server.upload(name, make())
    if document["state"] != "failed":
        document = server.wait_document(document["id"])
    assert document["state"] == "failed"
    assert reason in document["reason"], document["reason"]


def test_300_mb_are_refused_at_once(server: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/api/documents")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(300 << 20))
    connection.endheaders()
    connection.send(b"x" * 1024)  # the first kilobyte of 300 MB
    answer = connection.getresponse()
    assert answer.status == 413 and "MB" in json.loads(answer.read())["error"]["message"]
    connection.close()
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_the_same_file_is_one_document_and_its_text_is_embedded_once(server: Any) -> None:
    text = ("The quarry closed in 1931 and filled with rain. " * 3).encode()
    first = server.wait_document(server.upload("quarry.txt", text)["id"])
    again = server.wait_document(server.upload("quarry.txt", text)["id"])
    assert again["id"] == first["id"]
    other = server.wait_document(server.upload("copy-of-quarry.txt", text)["id"])
    assert other["id"] != first["id"]
    assert (other["embedded"], other["reused"]) == (0, first["chunk_count"])


def test_answers_from_documents_carry_citations(server: Any) -> None:
    server.wait_document(server.upload("pelican.md", b"# Pelican inn\n\nThe Pelican inn has 14 rooms.")["id"])
    body = {
        "model": "smollm2-135m-instruct", "temperature": 0, "max_tokens": 24, "documents": True,
        "messages": [{"role": "user", "content": "How many rooms does the Pelican inn have?"}],
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    citations = answer["choices"][0]["message"]["citations"]
    assert "14 rooms" in next(c["text"] for c in citations if c["document"] == "pelican.md")
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json={**body, "stream": True}, timeout=60) as s:
        first = next(line for line in s.iter_lines() if line)
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["citations"] == citations


def test_a_collection_is_searched_alone(server: Any) -> None:
    for collection, fact in (("north", b"The north gate is green."), ("south", b"The south gate is red.")):
        answer = httpx.post(
            f"{server.url}/api/documents", files={"files": (f"{collection}.txt", fact)},
            data={"collection": collection}, timeout=30,
        )
        server.wait_document(answer.json()["data"][0]["id"])
    body = {
        "model": "smollm2-135m-instruct", "temperature": 0, "max_tokens": 4, "documents": "south",
        "messages": [{"role": "user", "content": "What colour is the gate?"}],
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    assert {c["document"] for c in answer["choices"][0]["message"]["citations"]} == {"south.txt"}


def test_a_deleted_document_is_gone(server: Any) -> None:
    document = server.wait_document(server.upload("fleeting.txt", b"The password of the day is marmalade.")["id"])
    assert httpx.delete(f"{server.url}/api/documents/{document['id']}").status_code == 204
    assert httpx.get(f"{server.url}/api/documents/{document['id']}").status_code == 404
    time.sleep(0.5)
    body = {
        "model": "smollm2-135m-instruct", "temperature": 0, "max_tokens": 4, "documents": True,
        "messages": [{"role": "user", "content": "What is the password of the day?"}],
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    assert all("marmalade" not in c["text"] for c in answer["choices"][0]["message"].get("citations", []))


def test_a_failed_document_can_be_retried(server: Any) -> None:
    document = server.upload("latin2.txt", "d\xe9j\xe0".encode("latin-1"))
    document = server.wait_document(document["id"])
    assert httpx.post(f"{server.url}/api/documents/{document['id']}/retry").status_code == 202
    assert server.wait_document(document["id"])["state"] == "failed"
