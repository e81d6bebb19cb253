"""From bytes to outcomes: what a label may say, and the field that a wrong one is refused by."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from millrace.errors import RequestError
from millrace.outcome_log import Outcome
from millrace.source import Source
from millrace.usecase import Label, Population, UseCase
from serving.outcomes import LabelDecoder

from .conftest import NOW

HOUR = timedelta(hours=1)
ID = b'{"prediction_id": "p", "label": 1}'


def of_classes(use_case: UseCase) -> UseCase:
    label = Label(use_case.label.source, "fruit", HOUR, classes=("apple", "pear", "7"))
    return replace(use_case, label=label)


def decoded(use_case: UseCase, *labels: bytes, max_rows: int = 3) -> list[Outcome]:
    body = b'{"labels": [%s]}' % b", ".join(labels)
    return LabelDecoder(use_case, max_rows=max_rows).decode(body, now=NOW)


def refused(use_case: UseCase, body: bytes, max_rows: int = 3) -> tuple[int, str]:
    with pytest.raises(RequestError) as error:
        LabelDecoder(use_case, max_rows=max_rows).decode(body, now=NOW)
    assert "secret" not in str(error.value)
    return error.value.status, error.value.field


def test_a_label_by_id_is_known_now(use_case: UseCase) -> None:
    assert decoded(use_case, ID) == [Outcome("1", NOW, prediction_id="p")]


@pytest.mark.parametrize(("given", "label"), [(b"true", "1"), (b"false", "0"), (b"1", "1"), (b"0", "0")])
def test_an_outcome_of_two_is_a_boolean_or_0_or_1(use_case: UseCase, given: bytes, label: str) -> None:
    assert decoded(use_case, b'{"prediction_id": "p", "label": %s}' % given)[0].label == label


@pytest.mark.parametrize(("given", "label"), [(b'"pear"', "pear"), (b'"7"', "7"), (b"7", "7")])
def test_a_class_is_its_name_and_a_number_its_text(use_case: UseCase, given: bytes, label: str) -> None:
    assert decoded(of_classes(use_case), b'{"prediction_id": "p", "label": %s}' % given)[0].label == label


@pytest.mark.parametrize("given", [b'"secret"', b"8", b"true", b"7.0", b"null", b"%d" % 2**70])
def test_what_is_no_class_is_422(use_case: UseCase, given: bytes) -> None:
    body = b'{"labels": [{"prediction_id": "p", "label": %s}]}' % given
    assert refused(of_classes(use_case), body) == (422, "labels[0].label")


def test_a_label_by_key_names_the_row_as_the_prediction_log_does(use_case: UseCase) -> None:
    found = decoded(use_case, b'{"trip": 7, "carrier": "UA", "label": 0, "known_at": "2013-04-01T06:00:00-05:00"}')
    assert found == [Outcome("0", datetime(2013, 4, 1, 11, tzinfo=UTC), row_key="UA|7")]


def test_a_label_by_key_may_name_the_instant_predicted_at(use_case: UseCase) -> None:
    (found,) = decoded(use_case, b'{"carrier": "UA", "trip": 7, "at": "2013-04-01T10:00:00Z", "label": 1}')
    assert found.at == NOW - 2 * HOUR


def test_null_times_are_times_not_given(use_case: UseCase) -> None:
    assert decoded(use_case, b'{"prediction_id": "p", "label": 1, "known_at": null, "at": null}') == decoded(
        use_case, ID
    )


def test_no_labels_are_no_outcomes(use_case: UseCase) -> None:
    assert decoded(use_case) == []


def test_a_sender_s_clock_may_be_a_little_ahead(use_case: UseCase) -> None:
    at = (NOW + timedelta(minutes=5)).isoformat().encode()
    assert decoded(use_case, b'{"prediction_id": "p", "label": 1, "known_at": "%s"}' % at)[0].known_at > NOW


KEYED = b'"carrier": "UA", "trip": 7'
AHEAD = (NOW + timedelta(minutes=5, microseconds=1)).isoformat().encode()


@pytest.mark.parametrize(
    ("label", "field"),
    [
        (b'{"prediction_id": "p"}', "labels[1].label"),
        (b'{"label": 1}', "labels[1].carrier"),
        (b'{"label": 1, "carrier": "UA"}', "labels[1].trip"),
        (b'{"label": 2, "prediction_id": "p"}', "labels[1].label"),
        (b'{"label": 1.0, "prediction_id": "p"}', "labels[1].label"),
        (b'{"label": "1", "prediction_id": "p"}', "labels[1].label"),
        (b'{"label": null, "prediction_id": "p"}', "labels[1].label"),
        (b'{"label": 1e400, "prediction_id": "p"}', "labels[1].label"),
        (b'{"label": %d, "prediction_id": "p"}' % 2**70, "labels[1].label"),
        (b'{"label": 1, "prediction_id": "secret", %s}' % KEYED, "labels[1].carrier"),
        (b'{"label": 1, "prediction_id": "secret", "at": "2013-04-01T10:00:00Z"}', "labels[1].at"),
        (b'{"label": 1, "prediction_id": ""}', "labels[1].prediction_id"),
        (b'{"label": 1, "prediction_id": 7}', "labels[1].prediction_id"),
        (b'{"label": 1, "prediction_id": null}', "labels[1].prediction_id"),
        (b'{"label": 1, "prediction_id": "%s"}' % (b"x" * 1_001), "labels[1].prediction_id"),
        (b'{"label": 1, "prediction_id": "secret\\u0000"}', "labels[1].prediction_id"),
        (b'{"label": 1, "carrier": "secret\\u0000", "trip": 7}', "labels[1].carrier"),
        (b'{"label": 1, "carrier": null, "trip": 7}', "labels[1].carrier"),
        (b'{"label": 1, "carrier": 7.5, "trip": 7}', "labels[1].carrier"),
        (b'{"label": 1, "carrier": "UA", "trip": %d}' % 2**63, "labels[1].trip"),
        (b'{"label": 1, "secret": 1}', "labels[1].secret"),
        (b'{"label": 1, "not a name": 1}', "labels[1]"),
        (b'{"label": 1, "prediction_id": "p", "known_at": "2013-04-01"}', "labels[1].known_at"),
        (b'{"label": 1, "prediction_id": "p", "known_at": "2013-04-01T10:00:00"}', "labels[1].known_at"),
        (b'{"label": 1, "prediction_id": "p", "known_at": 1364810400}', "labels[1].known_at"),
        (b'{"label": 1, "prediction_id": "p", "known_at": "1899-12-31T23:59:59Z"}', "labels[1].known_at"),
        (b'{"label": 1, "prediction_id": "p", "known_at": "0001-01-01T00:00:00+10:00"}', "labels[1].known_at"),
        (b'{"label": 1, "prediction_id": "p", "known_at": "%s"}' % AHEAD, "labels[1].known_at"),
        (b'{"label": 1, %s, "at": "2200-01-01T00:00:00Z"}' % KEYED, "labels[1].at"),
        (b'"secret"', "labels[1]"),
    ],
)
def test_a_wrong_label_is_422_by_its_field(use_case: UseCase, label: bytes, field: str) -> None:
    if b'"secret": 1' in label:
        with pytest.raises(RequestError) as error:
            decoded(use_case, ID, label)
        assert (error.value.status, error.value.field) == (422, field)  # a plain word is told, so that it is found
    else:
        assert refused(use_case, b'{"labels": [%s, %s]}' % (ID, label)) == (422, field)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "body")),
        (b"{", (400, "body")),
        (b"\xff", (400, "body")),
        (b'{"labels": [{"label": NaN, "prediction_id": "p"}]}', (400, "body")),
        (b'{"labels": [{"label": Infinity, "prediction_id": "p"}]}', (400, "body")),
        (b'{"labels": [{"label": 1, "prediction_id": "\\ud800secret"}]}', (400, "body")),
        (b'{"labels": []} secret', (400, "body")),
        (b'{"labels": ' + b"[" * 100_000, (422, "labels[0]")),
        (b"[" * 100_000, (422, "body")),
        (b"null", (422, "body")),
        (b"{}", (422, "labels")),
        (b'{"labels": {}}', (422, "labels")),
        (b'{"labels": null}', (422, "labels")),
        (b'{"labels": [], "more": 1}', (422, "more")),
        (b'{"labels": [], "labels": []}', (422, "labels")),
        (b'{"labels": [{"label": 1, "label": 0, "prediction_id": "p"}]}', (422, "label")),
        (b'{"labels": [{"label": 1, "prediction_id": "p", "prediction_id": "q"}]}', (422, "prediction_id")),
        (b'{"labels": [%s]}' % b", ".join([ID] * 4), (413, "labels")),
    ],
)
def test_a_wrong_body_is_refused_by_its_field(use_case: UseCase, body: bytes, expected: tuple[int, str]) -> None:
    assert refused(use_case, body) == expected


@pytest.mark.parametrize("digits", [400, 5_000])
def test_a_number_without_end_is_refused(use_case: UseCase, digits: int) -> None:
    body = b'{"labels": [{"carrier": "UA", "trip": %s, "label": 1}]}' % (b"9" * digits)
    assert refused(use_case, body)[0] in (400, 422)


def with_key(use_case: UseCase, *key: str) -> UseCase:
    source = Source("trips", lambda since, until: None, lambda: None, key)  # type: ignore[arg-type, return-value]  # never read
    return replace(
        use_case, sources=(source,), population=Population(source), label=Label(source, "late", HOUR), feature_tables=()
    )


def test_key_columns_need_not_be_identifiers(use_case: UseCase) -> None:
    body = msgspec.json.encode({"labels": [{"the trip's №": "x", "class": 3, "label": True}]})
    (found,) = LabelDecoder(with_key(use_case, "the trip's №", "class"), max_rows=1).decode(body, now=NOW)
    assert found.row_key == "x|3"


def test_an_empty_key_names_nothing(use_case: UseCase) -> None:
    body = b'{"labels": [{"trip": "", "label": 1}]}'
    assert refused(with_key(use_case, "trip"), body) == (422, "labels[0].trip")


def test_labels_of_a_population_whose_key_has_a_field_s_name_go_by_id_alone(use_case: UseCase) -> None:
    odd = with_key(use_case, "at", "trip")
    assert decoded(odd, ID)[0].prediction_id == "p"
    assert refused(odd, b'{"labels": [{"trip": 1, "label": 1}]}') == (422, "labels[0].trip")
    assert refused(odd, b'{"labels": [{"label": 1}]}') == (422, "labels[0].prediction_id")
