"""Makes a call of this server's own API, over HTTP as any program would, and shows what really came back."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from backend.access.sign_in import COOKIE
from pages.drawing.figures import seconds
from pages.drawing.snippet_texts import Call
from pages.drawing.untrusted import plain, prose

PATH = "/v1/chat/completions"
PATIENCE = 300.0
"""Seconds without a byte after which an answer is given up."""
EVERYWHERE = ("", "0.0.0.0", "::", "[::]")
SENT = "call-sent"


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back.

    Attributes:
        first: seconds until the first piece of a stream; None where there was none.
        text: what the model wrote.
        body: all of it, as it came.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    seconds: float
    first: float | None
    text: str
    body: str


def sender(call: Call, *, allowed: bool) -> None:
    """A button that sends the call, and the answer below it."""
    if st.button("Send", type="primary", key="send-call", disabled=not allowed):
        st.session_state.pop(SENT, None)
        place = st.empty()
        place.caption("Sent; waiting for the answer …")
        try:
            st.session_state[SENT] = send(call.body, _credentials(call.key), lambda text: _written(place, text))
        except (OSError, http.client.HTTPException) as error:
            place.error(f"The server could not be asked: {plain(str(error))}")
            return
        place.empty()
    if not allowed:
        st.caption("Your key may look and search; asking the model needs the role “user”.")
    answered: Answered | None = st.session_state.get(SENT)
    if answered is not None:
        _draw(answered)


def send(body: dict[str, Any], credentials: Mapping[str, str], written: Callable[[str], None]) -> Answered:
    """Post a body to this server.

    Args:
        body: of the request.
        credentials: headers that say who asks.
        written: told all of a stream's text whenever some has come.

    Raises:
        OSError: the server does not answer.
    """
    connection = _connection()
    host = f"{connection.host}:{connection.port}"
    scheme = "https" if isinstance(connection, http.client.HTTPSConnection) else "http"
    headers = {"content-type": "application/json", "host": host, "origin": f"{scheme}://{host}", **credentials}
    began = time.monotonic()
    try:
        connection.request("POST", PATH, json.dumps(body), headers)
        response = connection.getresponse()
        came: list[str] = []
        text, first = "", None
        for line in response:
            came.append(line.decode(errors="replace"))
            if piece := _piece(came[-1]):
                first = first or time.monotonic() - began
                text += piece
                written(text)
        whole = "".join(came)
        return Answered(
            response.status, response.reason, tuple(response.getheaders()), time.monotonic() - began, first,
            text or _content(whole), whole,
        )  # fmt: skip
    finally:
        connection.close()  # where the page is left in the middle, this ends the request


def _connection() -> http.client.HTTPConnection:
    address, port = str(st.get_option("server.address") or "").strip("[]"), int(st.get_option("server.port"))
    if address in EVERYWHERE:
        address = "127.0.0.1"
    if st.get_option("server.sslCertFile"):
        return http.client.HTTPSConnection(address, port, timeout=PATIENCE, context=ssl._create_unverified_context())
    return http.client.HTTPConnection(address, port, timeout=PATIENCE)


def _credentials(key: str) -> dict[str, str]:
    """The reader's own: the key that was just made, else their sign-in."""
    if key.startswith("tf-"):
        return {"authorization": f"Bearer {key}"}
    cookie = st.context.cookies.get(COOKIE)
    return {"cookie": f"{COOKIE}={cookie}"} if cookie else {}


def _piece(line: str) -> str:
    """What a line of a stream adds to the answer."""
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(line.removeprefix("data: ")).get("choices") or []
    return str(choices[0].get("delta", {}).get("content") or "") if choices else ""


def _content(body: str) -> str:
    """The answer in a whole body; empty where it holds none."""
    try:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    except (ValueError, KeyError, IndexError, TypeError):
        return ""


def _written(place: Any, text: str) -> None:
    place.markdown(prose(text))


def _draw(answered: Answered) -> None:
    good = answered.status < 400
    badge = f":{'green' if good else 'red'}-badge[{answered.status} {plain(answered.reason)}]"
    times = [f"{seconds(answered.seconds)}"]
    if answered.first is not None:
        times.insert(0, f"first token after {seconds(answered.first)}")
    st.markdown(f"{badge} {' · '.join(times)}")
    if answered.text:
        with st.container(border=True):
            st.markdown(prose(answered.text))
    headers = dict(answered.headers)
    st.caption(f"x-request-id: {plain(headers.get('x-request-id', '–'))}")
    with st.expander("Headers"):
        st.code("\n".join(f"{name}: {value}" for name, value in answered.headers), language=None, wrap_lines=True)
    with st.expander("Body", expanded=not answered.text):
        st.code(_pretty(answered.body), language="json", wrap_lines=True, height=360)


def _pretty(body: str) -> str:
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body
