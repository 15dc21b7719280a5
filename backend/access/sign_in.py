"""The sign-in form and its cookie, served by the gate itself: nothing else of the console reaches a stranger."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable
from string import Template

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from backend.access.access import Access
from backend.access.attempts import Attempts
from backend.access.sessions import LIFETIME
from backend.errors import TooManyAttemptsError

COOKIE = "tenfold_session"
SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
BODY_LIMIT = 8192
"""Bytes of a posted form."""

MARK = (
    '<svg viewBox="0 0 28 32" width="35" height="40" aria-hidden="true">'
    '<rect x="1" y="3" width="26" height="26" rx="7" fill="#0f766e"/>'
    '<path d="M8 11h12M14 11v12" stroke="#fff" stroke-width="3.2" stroke-linecap="round"/>'
    '<circle cx="21.5" cy="21.5" r="2.2" fill="#5eead4"/></svg>'
)
STYLE = """
:root{color-scheme:light dark;--back:#f4f6f8;--card:#fff;--text:#16202b;--soft:#5b6875;--line:#d5dce3;--main:#0f766e;
--wrong:#b42318}
@media(prefers-color-scheme:dark){:root{--back:#0f151c;--card:#18212b;--text:#e6edf3;--soft:#9aa7b4;--line:#2c3844;
--main:#0d9488;--wrong:#ff8a7a}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1rem;background:var(--back);color:var(--text);
font:16px/1.5 system-ui,"Segoe UI",Helvetica,Arial,sans-serif}
main{width:100%;max-width:24rem;padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:.75rem}
h1{margin:.75rem 0 .25rem;font-size:1.5rem}
p{margin:0 0 1.25rem;color:var(--soft)}
p[role=alert]{color:var(--wrong)}
label{display:block;margin-bottom:.35rem;font-weight:600}
input{width:100%;padding:.6rem .75rem;font:inherit;color:inherit;background:var(--back);border:1px solid var(--line);
border-radius:.5rem}
button{width:100%;margin-top:1rem;padding:.65rem;font:inherit;font-weight:600;color:#fff;background:var(--main);border:0;
border-radius:.5rem;cursor:pointer}
input:focus-visible,button:focus-visible{outline:3px solid var(--main);outline-offset:2px}
"""
PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">$head
<title>$title · Tenfold</title><link rel="icon" href="data:,"><style>$style</style></head>
<body><main>$mark<h1>$title</h1>$body</main></body></html>"""
)
POLICY = (
    "default-src 'none'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; style-src "
    f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)


def page(title: str, body: str, status: int, head: str = "") -> HTMLResponse:
    """One of the gate's own pages; it needs nothing but itself."""
    text = PAGE.substitute(title=title, body=body, head=head, style=STYLE, mark=MARK)
    return HTMLResponse(text, status, {"content-security-policy": POLICY, "cache-control": "no-store"})


def form(next_path: str, problem: str = "", status: int = 401, *, again: bool = False) -> HTMLResponse:
    """The sign-in form.

    Args:
        next_path: where to go on after it.
        problem: what was wrong with what was sent.
        status: HTTP status to answer with.
        again: have the browser ask once more. It leaves a strict cookie at home when a link on another site was
            followed, and brings it when this page asks.
    """
    said = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
    body = f"""<p>This server asks who you are. The first key was printed where it was started.</p>{said}
<form method="post" action="{SIGN_IN}"><input type="hidden" name="next" value="{html.escape(next_path)}">
<label for="key">Key</label><input id="key" name="key" type="password" placeholder="tf-…" required autofocus
autocomplete="current-password" spellcheck="false"><button>Sign in</button></form>"""
    return page("Sign in", body, status, '<meta http-equiv="refresh" content="0">' if again else "")


def safe_path(path: str) -> str:
    """A path on this server to go on to; the front page for anything else."""
    own = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if own and not path.startswith((SIGN_IN, SIGN_OUT)) else "/"


class SignIn:
    """The routes /sign-in and /sign-out, as an ASGI app in `app`."""

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access, self._attempts = access, Attempts()
        self.app = Starlette(
            routes=[
                Route(SIGN_IN, self._form, methods=["GET"]),
                Route(SIGN_IN, self._sign_in, methods=["POST"], max_body_size=BODY_LIMIT),
                Route(SIGN_OUT, self._ask_out, methods=["GET"]),
                Route(SIGN_OUT, self._sign_out, methods=["POST"], max_body_size=BODY_LIMIT),
            ]
        )

    async def _form(self, request: Request) -> Response:
        if not self._access().settings.require_keys:
            return RedirectResponse("/", 303)
        return form(safe_path(request.query_params.get("next", "/")), status=200)

    async def _sign_in(self, request: Request) -> Response:
        access, address = self._access(), request.client.host if request.client else ""
        sent = await request.form()
        goal = safe_path(_text(sent, "next"))
        try:
            self._attempts.check(address)
        except TooManyAttemptsError as error:
            return form(goal, error.message, error.status)
        caller = access.keys.check(_text(sent, "key").strip())
        if caller is None:
            self._attempts.wrong(address)
            return form(goal, "This key is not valid.")
        secret = await run_in_threadpool(access.sessions.open, caller)
        response = RedirectResponse(goal, 303, {"cache-control": "no-store"})
        response.set_cookie(
            COOKIE, secret, max_age=int(LIFETIME), httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    async def _ask_out(self, _: Request) -> Response:
        return page("Sign out", f'<form method="post" action="{SIGN_OUT}"><button>Sign out</button></form>', 200)

    async def _sign_out(self, request: Request) -> Response:
        await run_in_threadpool(self._access().sessions.close, request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/", 303, {"cache-control": "no-store"})
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


def _text(sent: FormData, name: str) -> str:
    value = sent.get(name, "")
    return value if isinstance(value, str) else ""
