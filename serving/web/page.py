"""The web pages' routes: the status page, its static files, signing in and out.

A browser signs in with the API key and gets a signed cookie that only these pages accept. What the page shows is
`serving.web.status`'s business; who may see it is the guard's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from millrace.db import Database
from millrace.errors import RequestError
from serving.access import COOKIE, address_of
from serving.answer import read_body
from serving.keys import SESSION, Caller, KeyRing
from serving.lockout import Lockout
from serving.online.champion import Holder
from serving.web.status import gather

_HERE = Path(__file__).parent
_STATIC = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}
_FORM_BYTES = 4_096


class Pages:
    """Renders the pages; its templates are compiled once."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip

    @cached_property
    def style(self) -> str:
        """The style sheet: linked from the status page, inside the sign-in page (which may link nothing)."""
        return (_HERE / "static" / "style.css").read_text()

    @cached_property
    def content_security_policy(self) -> str:
        """Everything from this server only; the one inline style is the sign-in page's, by its digest."""
        digest = base64.b64encode(hashlib.sha256(self.style.encode()).digest()).decode()
        return (
            f"default-src 'self'; style-src 'self' 'sha256-{digest}'; object-src 'none'; base-uri 'none'; "
            "form-action 'self'; frame-ancestors 'none'"
        )

    def render(self, template: str, **values: Any) -> str:
        """A page's HTML."""
        return self._templates.get_template(template).render(values)


class SignIn:
    """The plain ASGI callable that the guard calls for a browser without a session: the form, and its answer.

    The form takes keys of the admin scope; wrong ones count for the lock-out as they do everywhere.
    """

    def __init__(self, pages: Pages, keys: KeyRing, lockout: Lockout, clock: Callable[[], datetime]) -> None:
        self._pages, self._keys, self._lockout, self._clock = pages, keys, lockout, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        posted = scope["path"] == "/sign-in" and scope["method"] == "POST"
        caller = await self._caller(scope, receive) if posted else None
        response: Response
        if caller is not None:
            scope["caller"] = caller
            response = RedirectResponse("/", 303)
            response.set_cookie(
                COOKIE, self._keys.session(caller, self._clock()), max_age=int(SESSION.total_seconds()), path="/",
                secure=scope.get("scheme") == "https", httponly=True, samesite="strict",
            )  # fmt: skip
        else:
            wait = self._lockout.fail(address_of(scope), self._clock()) if posted else 0
            page = self._pages.render("sign_in.html", style=self._pages.style, wrong=posted)
            response = HTMLResponse(page, 429 if wait else 401, {"Retry-After": str(wait)} if wait else None)
        await response(scope, receive, send)

    async def _caller(self, scope: Scope, receive: Receive) -> Caller | None:
        """Whose key was posted, if it opens these pages."""
        caller = self._keys.caller(await _posted_key(receive), self._clock)
        if caller is None or "admin" not in caller.scopes:
            return None
        locked = caller.guessable and self._lockout.wait(address_of(scope), self._clock())
        return None if locked else caller


def web_router(pages: Pages, db: Database, holders: Mapping[str, Holder], clock: Callable[[], datetime]) -> APIRouter:
    """The routes of the web pages; the first of `holders` is shown when none is chosen."""
    router = APIRouter(include_in_schema=False)

    @router.get("/", response_class=HTMLResponse)
    def status_page(use_case: Annotated[str | None, Query(max_length=63)] = None) -> str:
        holder = holders.get(use_case or next(iter(holders)))
        if holder is None:
            raise RequestError(404, "This server serves no use case of this name.", field="use_case")
        chosen = holder.use_case
        return pages.render(
            "status.html",
            status=gather(db, chosen.name, chosen.question, chosen.request_features),
            names=list(holders),
            serving=holder.served.version if holder.served else None,
            problem=holder.problem,
            now=clock(),
        )

    @router.get("/static/{name}")
    def static_file(name: str) -> FileResponse:
        if name not in _STATIC:
            raise RequestError(404, "There is no such file.")
        return FileResponse(_HERE / "static" / name, media_type=_STATIC[name])

    @router.get("/sign-in")
    @router.post("/sign-in")
    def signed_in() -> RedirectResponse:
        return RedirectResponse("/", 303)

    @router.post("/sign-out")
    def sign_out() -> RedirectResponse:
        response = RedirectResponse("/", 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    return router


async def _posted_key(receive: Receive) -> bytes:
    """The form's key; empty when there is none or the form is malformed."""
    try:
        form = parse_qs((await read_body(receive, b"", _FORM_BYTES)).decode(), max_num_fields=4)
    except (RequestError, ValueError):
        return b""
    return form.get("key", [""])[0].strip().encode()
