"""JSON bodies of other protocols, read as strictly as our own: no NaN, no key given twice, no nesting without end.

What is refused is named by its place in the body; neither a value nor a key of the client's own is repeated. This
module knows nothing of any protocol.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from millrace.errors import RequestError
from serving.answer import MANY

Body = TypeVar("Body")
Scalar = str | int | float | bool | None
"""What a parameter may be: it bounds what is made of the ones that nobody reads."""
_PLACE = re.compile(r" - at `\$(?P<place>[^`]*)`$")


def decode(body: bytes, decoder: msgspec.json.Decoder[Body], within: str = "") -> Body:
    """The body, or its part `within`; `RequestError`: 400 what is not JSON, 422 another shape."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error), within) from None
    except (ValueError, RecursionError):  # malformed, cut off, not UTF-8, lone surrogates, NaN, nested without end
        what = "The body is not JSON."
        raise RequestError(400, what, field="body", todo="What is missing is null: JSON has no NaN.") from None


def refuse_duplicates(body: bytes, keys: int) -> None:
    """Raise `RequestError` (422) if an object of `body`, of which `keys` keys were decoded, has a key twice.

    The decoder keeps the last of two equal keys silently. Every key is followed by a colon, so as many colons as keys
    prove that there are no more; only a body with other colons (in texts) is read again.
    """
    if body.count(b":") == keys:
        return
    try:
        json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):  # this reader takes less than the first one
        raise RequestError(400, "The body is not JSON.", field="body") from None


def refuse_more_rows(rows: int, limit: int, field: str) -> None:
    """Raise `RequestError` (413) for more rows than a request may have, before anything is made of them."""
    if rows > limit:
        raise RequestError(413, f"A request has at most {limit:,} rows.", field=field, todo=f"Split it, or {MANY}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RequestError(422, "An object of the body has a key twice.", field="body")
    return found


def _wrong_shape(message: str, within: str) -> RequestError:
    """The error of a decoder's message, its place as the field; the place counts from `within`."""
    found = _PLACE.search(message)
    field = (within + found["place"] if found else within).lstrip(".") or "body"
    if "unknown field" in message:  # the message repeats its name
        return RequestError(422, "This object has a member that the protocol does not know.", field=field)
    return RequestError(422, _PLACE.sub("", message).rstrip(".") + ".", field=field)
