"""The server's one JSON error shape, and how each error of the tree becomes a status.

`{"error": {"status", "what", "field", "todo"}, "request_id"}`: `field` names the offending input or is empty, and no
value that a client sent is ever echoed. Under `/v2` the protocol reserves `error` for a text (its clients fail on
anything else), so the same object stands in `detail` there. Else this module knows nothing of routes.
"""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from millrace.errors import BusyError, FeatureError, MillraceError, NoChampionError, RequestError

JSON = b"application/json"
_ADVICE = {
    401: ((b"www-authenticate", b"Bearer"),),
    413: ((b"connection", b"close"),),  # whose body was not read
    503: ((b"retry-after", b"1"),),
}
_WORDS = {
    404: ("There is nothing at this address.", "See /openapi.json for what there is."),
    405: ("This address does not take this method.", "See /openapi.json for what it takes."),
}


def error_body(error: MillraceError, request_id: str, path: str = "") -> tuple[int, bytes]:
    """The status and the body of an error of a request to `path`; where we looked is for the log, not for clients."""
    status = status_of(error)
    field = error.field if isinstance(error, RequestError) else ""
    shape = {"status": status, "what": error.what, "field": field, "todo": error.todo}
    if path.startswith("/v2/") or path == "/v2":
        text = f"{field}: {error.what}" if field else error.what
        told = {"error": f"{text} {error.todo}".rstrip(), "detail": shape}
    else:
        told = {"error": shape}
    return status, msgspec.json.encode(told | {"request_id": request_id})


def refusal(error: Exception, scope: Scope) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """The answer to a request that ended in an error: status, body, and the headers that say what to do about it. The
    request's scope keeps the `error` for the log."""
    scope["error"], told = error, told_error(error)
    status, body = error_body(told, scope.get("request_id", ""), scope["path"])
    if isinstance(told, RequestError) and told.retry_after:
        return status, body, [(b"retry-after", b"%d" % told.retry_after)]
    return status, body, list(_ADVICE.get(status, ()))


def status_of(error: MillraceError) -> int:
    """A request's own status; 503 for what heals by itself (no champion yet, a store that is down), else 500."""
    if isinstance(error, RequestError):
        return error.status
    return 503 if isinstance(error, NoChampionError | FeatureError | BusyError) else 500


def told_error(error: Exception) -> MillraceError:
    """What a client is told of an error: one of ours as it is; of one that nobody foresaw nothing, the log has it."""
    if isinstance(error, MillraceError):
        return error
    return MillraceError("The server failed to answer this request.", todo="Its log has the cause.")


def install_handlers(app: FastAPI) -> None:
    """Let every error of `app`'s ordinary routes leave in the one shape."""

    async def of_tree(request: Request, error: Exception) -> Response:
        status, body, headers = refusal(error, request.scope)
        told = {name.decode(): value.decode() for name, value in headers}
        return Response(body, status, told, media_type=JSON.decode())

    async def of_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        what, todo = _WORDS.get(status, ("This request cannot be answered.", ""))
        response = await of_tree(request, RequestError(status, what, todo=todo))
        response.headers.update(getattr(error, "headers", None) or {})  # which methods are allowed
        return response

    async def of_validation(request: Request, error: Exception) -> Response:
        problems = error.errors() if isinstance(error, RequestValidationError) else []
        field = ".".join(str(part) for part in problems[0]["loc"][1:]) if problems else ""
        return await of_tree(request, RequestError(422, "A parameter is missing or of the wrong type.", field=field))

    app.add_exception_handler(MillraceError, of_tree)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
