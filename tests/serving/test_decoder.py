"""The request decoder: what is wrong is a 4xx that names the field and repeats nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import RequestError
from serving.online.bodies import Numbers
from serving.online.decoder import Need, RequestDecoder
from serving.online.request import PredictRequest, ScoresRequest

COLUMNS: dict[str, Any] = {
    "carrier": "text",
    "flight": "integer",
    "delay": "number",
    "weekend": "flag",
    "scheduled": "instant",
    "ticket": "key",
}
NEEDS = [Need("carrier", frozenset({"delay"})), Need("scheduled", frozenset({"weekend"}))]
GOOD = {"carrier": "UA", "scheduled": "2013-04-01T06:30:00-05:00"}


@pytest.fixture(scope="module")
def decoder() -> RequestDecoder:
    return RequestDecoder(COLUMNS, NEEDS, max_rows=3)


def refused(decoder: RequestDecoder, body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decoder.decode(body)
    return caught.value


def test_a_good_request_is_read_with_times_in_utc(decoder: RequestDecoder) -> None:
    body = json.dumps({"rows": [GOOD], "at": "2013-04-01T02:00:00+02:00", "features": True}).encode()
    request = decoder.decode(body)
    assert request.at == datetime(2013, 4, 1, tzinfo=UTC)
    assert request.features
    assert request.rows == [{"carrier": "UA", "scheduled": datetime(2013, 4, 1, 11, 30, tzinfo=UTC)}]


def test_no_rows_is_an_empty_request(decoder: RequestDecoder) -> None:
    assert decoder.decode(b'{"rows": []}').rows == []


def test_a_null_is_a_value_given(decoder: RequestDecoder) -> None:
    assert decoder.decode(b'{"rows": [{"delay": null, "weekend": null}]}').rows == [{"delay": None, "weekend": None}]


def row(text: str) -> bytes:
    return ('{"rows": [{"carrier": "UA", "weekend": true, ' + text + "}]}").encode()


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        (b'{"rows": []} trailing', 400, "body"),
        (row('"delay": NaN'), 400, "body"),
        (row('"delay": Infinity'), 400, "body"),
        (row('"carrier": "\\ud800 and more text"'), 400, "body"),
        (row('"ticket": "\xff"').replace("\xff".encode(), b"\xff"), 400, "body"),
        (b"[" * 100_000, 422, "body"),
        (b'{"rows": [{"delay": ' + b"[" * 100_000, 422, "rows[0].delay"),
        (b"null", 422, "body"),
        (b"{}", 422, "rows"),
        (b'{"rows": {}}', 422, "rows"),
        (b'{"rows": [1]}', 422, "rows[0]"),
        (b'{"rows": [], "model": 1}', 422, "model"),
        (b'{"rows": [], "features": 1}', 422, "features"),
        (b'{"rows": [], "at": 1364774400}', 422, "at"),
        (b'{"rows": [], "at": "2013-04-01T00:00:00"}', 422, "at"),
        (b'{"rows": [], "at": "0001-01-01T00:00:00+14:00"}', 422, "at"),
        (b'{"rows": [], "at": "9999-12-31T23:59:59-14:00"}', 422, "at"),
        (row('"delay": 1e400'), 422, "rows[0].delay"),
        (row('"delay": 1e39'), 422, "rows[0].delay"),
        (row('"delay": "12"'), 422, "rows[0].delay"),
        (row('"delay": true'), 422, "rows[0].delay"),
        (row('"flight": 1.5'), 422, "rows[0].flight"),
        (row('"flight": 1180591620717411303424'), 422, "rows[0].flight"),
        (row('"weekend": 1'), 422, "rows[0].weekend"),
        (row('"ticket": "' + "x" * 1_001 + '"'), 422, "rows[0].ticket"),
        (row('"ticket": "a\\u0000b"'), 422, "rows[0].ticket"),
        (row('"ticket": {}'), 422, "rows[0].ticket"),
        (row('"colour": 1'), 422, "rows[0].colour"),
        (row('"<script>": 1'), 422, "rows[0]"),
        (row('"delay": 1, "delay": 2'), 422, "delay"),
        (row('"delay": 1, "d\\u0065lay": ":"'), 422, "rows[0].delay"),
        (b'{"rows": [], "rows": []}', 422, "rows"),
        (b'{"rows": [{"weekend": true}]}', 422, "rows[0].carrier"),
        (b'{"rows": [{"carrier": "UA"}]}', 422, "rows[0].scheduled"),
        (b'{"rows": [{"carrier": "UA", "weekend": true}, {}]}', 422, "rows[1].carrier"),
        (b'{"rows": [' + b",".join([b"{}"] * 4) + b"]}", 413, "rows"),
    ],
)
def test_bad_input_is_refused_naming_the_field(decoder: RequestDecoder, body: bytes, status: int, field: str) -> None:
    error = refused(decoder, body)
    assert (error.status, error.field) == (status, field)


@pytest.mark.parametrize("value", ["9" * 50, "1e400", '"secret-value"', '["secret-value"]'])
def test_no_value_is_repeated(decoder: RequestDecoder, value: str) -> None:
    error = refused(decoder, row(f'"delay": {value}'))
    assert value.strip('["]') not in str(error)


def test_an_unknown_column_with_an_odd_name_is_not_repeated(decoder: RequestDecoder) -> None:
    assert "script" not in str(refused(decoder, row('"<script>alert(1)</script>": 1')))


def test_a_duplicate_hidden_behind_colons_in_a_text_is_found(decoder: RequestDecoder) -> None:
    error = refused(decoder, row('"ticket": ":::", "delay": 1, "delay": 2'))
    assert error.field == "delay"


def outcome(body: bytes) -> list[dict[str, Any]] | int:
    """The rows, or the status that refuses them."""
    try:
        return RequestDecoder(COLUMNS, NEEDS, max_rows=3).decode(body).rows
    except RequestError as error:
        return error.status


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_the_clients_error_or_read(body: bytes) -> None:
    assert outcome(body) in (400, 413, 422) or outcome(body) == []


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_value_is_refused_as_the_clients_error_or_read(value: Any) -> None:
    body = json.dumps({"rows": [{"delay": value, "weekend": None}]}).encode()
    assert outcome(body) in (400, 422, [{"delay": value, "weekend": None}])


@pytest.fixture(scope="module")
def of_classes() -> RequestDecoder:
    """The decoder of a model of classes that takes an array."""
    need = Need("image", frozenset({"image"}))
    return RequestDecoder({"image": Numbers(3), "ticket": "key"}, [need], max_rows=3, classes=True)


@pytest.mark.parametrize("image", [[1, 2.5, -3], [None, 0, 1], None])
def test_an_array_of_its_length_is_read_as_it_is(of_classes: RequestDecoder, image: Any) -> None:
    (row,) = of_classes.decode(json.dumps({"rows": [{"image": image}]}).encode()).rows
    assert row == {"image": image}


@pytest.mark.parametrize(
    ("image", "status", "field"),
    [
        ("[31337, 1]", 422, "rows[0].image"),
        ("[31337, 1, 1, 1]", 422, "rows[0].image"),
        ("[]", 422, "rows[0].image"),
        ('"SECRET"', 422, "rows[0].image"),
        ("31337", 422, "rows[0].image"),
        ('{"SECRET": 1}', 422, "rows[0].image"),
        ('[1, "SECRET", 1]', 422, "rows[0].image[1]"),
        ("[1, [31337], 1]", 422, "rows[0].image[1]"),
        ("[1, true, 1]", 422, "rows[0].image[1]"),
        ("[1, 1, 1e39]", 422, "rows[0].image[2]"),
        ("[1, 1, 1e400]", 422, "rows[0].image[2]"),
        ("[1, 1, NaN]", 400, "body"),
        ("[1, 1, 1", 400, "body"),
    ],
)
def test_an_array_of_another_shape_is_refused_by_its_name(
    of_classes: RequestDecoder, image: str, status: int, field: str
) -> None:
    error = refused(of_classes, f'{{"rows": [{{"image": {image}}}]}}'.encode())
    assert (error.status, error.field) == (status, field)
    assert "SECRET" not in str(error)
    assert "31337" not in str(error)


def test_what_nothing_else_stands_for_is_needed_itself(of_classes: RequestDecoder) -> None:
    error = refused(of_classes, b'{"rows": [{"ticket": 1}]}')
    assert (error.field, error.todo) == ("rows[0].image", "")


def test_all_scores_are_asked_for_of_a_model_of_classes_only(
    decoder: RequestDecoder, of_classes: RequestDecoder
) -> None:
    assert isinstance(of_classes.decode(b'{"rows": [], "scores": true}'), ScoresRequest)
    assert not isinstance(of_classes.decode(b'{"rows": [], "scores": false}'), ScoresRequest)
    assert refused(decoder, b'{"rows": [], "scores": true}').field == "scores"


@pytest.mark.parametrize("wish", ['"scores": 1', '"scores": null', '"scores": true, "scores": false'])
def test_a_wrong_wish_for_scores_is_refused(of_classes: RequestDecoder, wish: str) -> None:
    assert refused(of_classes, f'{{"rows": [{{"image": null}}], {wish}}}'.encode()).field == "scores"


# Bodies whose rows bring every input are decoded another way, which must not be seen from outside.

WHOLE = RequestDecoder(COLUMNS, NEEDS, max_rows=3, inputs=("delay", "weekend"), key=("ticket", "flight"))
ROW = {"delay": 0.5, "weekend": True}


def test_rows_with_every_input_are_read_as_values_in_the_models_order() -> None:
    request = WHOLE.decode(b'{"rows": [{"weekend": true, "delay": 1}, {"delay": null, "weekend": null}]}')
    assert (request.count, request.rows, request.values) == (2, (), [(1.0, True), (None, None)])
    assert request.keys == ()


def test_the_key_of_such_a_row_is_kept_when_it_brings_all_of_it() -> None:
    rows = [{**ROW, "ticket": "a7", "flight": 5}, {**ROW, "ticket": "a7"}]
    assert WHOLE.decode(json.dumps({"rows": rows}).encode()).keys == ["a7|5", ""]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ('"delay": 1, "weekend": true, "delay": 1', "delay"),
        ('"delay": 1, "weekend": true, "carrier": "U\\u0000"', "rows[0].carrier"),
        ('"delay": 1, "weekend": 1', "rows[0].weekend"),
        ('"delay": "1", "weekend": true', "rows[0].delay"),
        ('"delay": 1, "weekend": true, "rain": 1', "rows[0].rain"),
    ],
)
def test_what_is_wrong_with_such_a_row_is_named(row: str, field: str) -> None:
    assert (refused(WHOLE, f'{{"rows": [{{{row}}}]}}'.encode()).field) == field


def test_such_rows_are_counted_too() -> None:
    assert refused(WHOLE, json.dumps({"rows": [ROW] * 4}).encode()).status == 413


VALUES = st.sampled_from([None, 0.5, 2, True, "UA", "2013-04-01T06:30:00Z", 1e39, 2**70, [], "a:b", "a\0b"])
ROWS = st.lists(st.dictionaries(st.sampled_from([*COLUMNS, "rain"]), VALUES), max_size=4)


def decoded(decoder: RequestDecoder, body: bytes) -> PredictRequest | tuple[int, str, str]:
    try:
        return decoder.decode(body)
    except RequestError as error:
        return error.status, error.field, error.what


WHOLE_ROWS = st.lists(st.builds(lambda more: {**ROW, **more}, st.dictionaries(st.sampled_from([*COLUMNS]), VALUES)))


@given(rows=WHOLE_ROWS | ROWS)
def test_both_decoders_agree(rows: list[dict[str, Any]]) -> None:
    body = json.dumps({"rows": rows}).encode()
    wanted, request = (decoded(decoder, body) for decoder in (RequestDecoder(COLUMNS, NEEDS, max_rows=3), WHOLE))
    if isinstance(wanted, tuple) or isinstance(request, tuple):
        assert request == wanted
        return
    assert request.count == wanted.count
    if request.values is None:
        assert request.rows == wanted.rows
    else:
        assert request.values == [(row["delay"], row["weekend"]) for row in wanted.rows]
