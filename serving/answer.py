"""Reading a body and sending an answer over plain ASGI, for the callables that run ahead of the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.types import Receive, Send

from millrace.errors import RequestError

MANY = "score many at once: POST /v1/{use_case}/jobs, or `millrace score`."
"""What to do instead of a request that is too large."""
_TYPE = (b"content-type", b"application/json")


async def send_json(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """One whole answer, JSON unless `headers` have another content type."""
    own = [(b"content-length", str(len(body)).encode()), *headers]
    if not headers or all(name != b"content-type" for name, _ in headers):
        own.insert(0, _TYPE)
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})


def check_type(headers: Mapping[bytes, bytes]) -> None:
    """Raise `RequestError` (415) unless the body is said to be plain JSON."""
    kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise RequestError(415, "The body must be JSON.", field="Content-Type", todo="Send it as application/json.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RequestError(415, "The body must not be compressed.", field="Content-Encoding")


async def read_json(request: Request, limit: int) -> bytes:
    """The body of an ordinary route's request, which must be plain JSON of at most `limit` bytes; raises what
    `check_type` and `read_body` raise."""
    headers = dict(request.scope["headers"])
    check_type(headers)
    return await read_body(request.receive, headers.get(b"content-length", b""), limit)


async def read_body(receive: Receive, declared: bytes, limit: int) -> bytes:
    """The request's body, at most `limit` bytes; `declared` is its Content-Length header or empty.

    Raises `RequestError`: 413 as soon as the limit is passed (at once when the header says so), 400 for a client that
    went away.
    """
    if declared and (not declared.isdigit() or int(declared[:18]) > limit or len(declared) > 18):
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts = bytearray()
    while message["type"] == "http.request":
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(parts)
        message = await receive()
    raise RequestError(400, "The request ended before its body did.")


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        f"The body is larger than {limit // 1_000_000} MB.",
        field="body",
        todo=f"Send fewer rows a request, or {MANY}",
    )
