"""What a request says of itself, and what it may do: its key, its host, and the scope that each route needs.

THE table of scopes is here. This module knows nothing of which keys are good.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from ipaddress import IPv6Address, ip_address
from typing import Any

from millrace.errors import RequestError

Headers = Mapping[bytes, bytes]
"""A request's headers, names in lower case."""

COOKIE = "millrace_session"
"""Name of the web pages' cookie."""
OPEN = frozenset({b"/health/live", b"/health/ready", b"/v2/health/live", b"/v2/health/ready"})
"""What is answered without a key, to GET and HEAD."""
MAX_HEADERS = 64
"""Most headers of one request; more: 431."""

_READ = ("GET", "HEAD")
_TABLE = (
    ("predict", ("POST",), "/v1/{use_case}/predict"),
    ("predict", ("POST",), "/v2/models/{name}/infer"),
    ("predict", ("POST",), "/v2/models/{name}/versions/{version}/infer"),
    ("predict", ("POST",), "/invocations"),
    ("predict", ("POST",), "/v1/{use_case}/invocations"),
    ("predict", ("POST", *_READ), "/v1/{use_case}/jobs"),
    ("predict", _READ, "/v1/{use_case}/jobs/{job}"),
    ("predict", ("POST",), "/v1/{use_case}/jobs/{job}/cancel"),
    ("predict", _READ, "/v1/models"),
    ("predict", _READ, "/v1/{use_case}/contract"),
    ("predict", _READ, "/v2"),
    ("predict", _READ, "/v2/models/{name}"),
    ("predict", _READ, "/v2/models/{name}/ready"),
    ("predict", _READ, "/v2/models/{name}/versions/{version}"),
    ("predict", _READ, "/v2/models/{name}/versions/{version}/ready"),
    ("predict", _READ, "/ping"),
    ("predict", _READ, "/health"),
    ("predict", _READ, "/version"),
    ("predict", _READ, "/openapi.json"),
    ("label", ("POST",), "/v1/{use_case}/labels"),
    ("label", ("POST",), "/v1/{use_case}/features/{view}"),
)
"""The scope that a route and method need; whatever is not here needs `admin`."""
_ROUTES = [
    (scope, methods, re.compile("/".join("[^/]+" if part[:1] == "{" else re.escape(part) for part in route.split("/"))))
    for scope, methods, route in _TABLE
]
_WEB = re.compile(r"/|/static/.+|/sign-out|/sign-in")
_HOST = re.compile(rb"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_ONCE = frozenset({b"host", b"x-api-key", b"authorization", b"content-length", b"content-type", b"transfer-encoding"})


@lru_cache(1_024)  # the table takes 10 µs to search; only holders of a key get as far as here
def needed_scope(method: str, path: str) -> str:
    """The scope that a request needs; `path` is decoded, as routes match it."""
    for scope, methods, route in _ROUTES:
        if method in methods and route.fullmatch(path):
            return scope
    return "admin"


def is_open(scope: Mapping[str, Any]) -> bool:
    """Whether this is answered without a key: compared as it was sent, so that no other spelling passes."""
    return scope.get("raw_path", b"") in OPEN and scope["method"] in _READ


def is_web(path: str) -> bool:
    """Whether this is a web page, which a session opens."""
    return _WEB.fullmatch(path) is not None


def key_of(headers: Headers) -> bytes | None:
    """The key that a request came with, as `X-API-Key`, a bearer token or the password of basic authentication."""
    key = headers.get(b"x-api-key")
    if key is not None or b"authorization" not in headers:
        return key
    scheme, _, text = headers[b"authorization"].partition(b" ")
    if scheme.lower() == b"bearer":
        return text.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(text.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def session_of(headers: Headers) -> str:
    """The web pages' cookie, or nothing."""
    try:
        cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def address_of(scope: Mapping[str, Any]) -> str:
    """Whom to count failures for: the client's address, of IPv6 the /64 network that one customer gets whole."""
    host = str((scope.get("client") or ("",))[0])
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped) if address.ipv4_mapped else address.exploded[:19]
    return host


def check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Raise `RequestError` for more headers than anybody needs, and for two of one that says who or what this is."""
    if len(headers) > MAX_HEADERS:
        raise RequestError(431, f"A request has at most {MAX_HEADERS} headers.")
    names = [name for name, _ in headers if name in _ONCE]
    if len(names) > len(set(names)):
        twice = next(name for name in names if names.count(name) > 1).decode()
        raise RequestError(400, "This header is given twice.", field=twice)


def check_host(header: bytes | None, trusted: Collection[bytes]) -> None:
    """Raise `RequestError` (400) unless a Host header is `name` or `name:port` and the name is one of ours."""
    found = _HOST.fullmatch((header or b"").lower())
    if found is None or int(found[2] or 0) > 65_535 or found[1].strip(b"[]") not in trusted:
        raise RequestError(
            400, "This server does not answer to this host name.", field="Host", todo="Set MILLRACE_TRUSTED_HOSTS."
        )


def trusted(names: Collection[str]) -> frozenset[bytes]:
    """The host names to answer to: these and loopback's."""
    return frozenset(name.strip("[]").lower().encode() for name in (*names, "127.0.0.1", "localhost", "::1"))
