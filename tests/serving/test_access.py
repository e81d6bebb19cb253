"""What a request says of itself: its key, its host, the scope it needs, and whom its failures count for."""

from __future__ import annotations

import pytest

from millrace.errors import RequestError
from serving.access import address_of, check_host, is_open, key_of, needed_scope, session_of, trusted

BASIC = {
    b"Basic YTptcl9rZXk=": b"mr_key",  # a:mr_key
    b"basic OmI6Yw==": b"b:c",  # :b:c
    b"Basic YQ==": b"",
    b"Basic": b"",
    b"Basic x": b"",
}


@pytest.mark.parametrize(("header", "key"), BASIC.items())
def test_the_password_of_basic_authentication_is_the_key(header: bytes, key: bytes) -> None:
    assert key_of({b"authorization": header}) == key


def test_a_header_of_our_own_comes_before_authorization() -> None:
    assert key_of({b"x-api-key": b"a", b"authorization": b"Bearer b"}) == b"a"
    assert key_of({b"authorization": b"Bearer b"}) == b"b"
    assert key_of({}) is None


@pytest.mark.parametrize(
    "path", ["/v1/late/predict\n", "/v1//predict", "/v1/a/b/predict", "/v1/late/predictx", "/x/v1/late/predict"]
)
def test_only_whole_routes_count(path: str) -> None:
    assert needed_scope("POST", path) == "admin"


@pytest.mark.parametrize("raw_path", [b"/health/live", b"/v2/health/ready"])
def test_health_is_open_to_reading_only(raw_path: bytes) -> None:
    assert is_open({"raw_path": raw_path, "method": "HEAD"})
    assert not is_open({"raw_path": raw_path, "method": "POST"})
    assert not is_open({"path": raw_path.decode(), "method": "GET"})


@pytest.mark.parametrize(
    ("client", "who"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:0db8:0001:0002"),
        (("2001:db8:1:2::", 5), "2001:0db8:0001:0002"),
        (("not an address", 5), "not an address"),
        (None, ""),
    ],
)
def test_failures_count_for_an_address_or_the_network_that_one_customer_has(
    client: tuple[str, int] | None, who: str
) -> None:
    assert address_of({"client": client}) == who


def test_a_trusted_name_is_found_in_any_case_and_with_any_port() -> None:
    names = trusted(["API.example.org", "[2001:db8::1]"])
    for header in (b"api.example.org", b"API.EXAMPLE.ORG:443", b"[2001:DB8::1]:8100", b"localhost", b"127.0.0.1:0"):
        check_host(header, names)
    for header in (None, b"example.org", b"api.example.org.", b"2001:db8::1", b"api.example.org:65536"):
        with pytest.raises(RequestError):
            check_host(header, names)


@pytest.mark.parametrize("cookie", [b"", b"=", b"a=b", b"millrace_session", b"\xff=\xff", b"millrace_session=\x00;;;"])
def test_a_broken_cookie_is_no_session(cookie: bytes) -> None:
    assert session_of({b"cookie": cookie}) in ("", "\x00")
