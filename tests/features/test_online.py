"""The reader: equal to the offline join at the same instant, and clear about what a row lacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from returns import DAY, START, Place

from features.breaker import StoreDownError
from features.materialize import materialize
from features.online import Reader, open_reader
from features.online_store import Stored
from features.plan import ReadPlan, read_plan
from features.repo import open_store
from features.store import open_rows, repo_folder
from features.training_set import historical_features
from features.views import Down, Stale
from millrace.errors import FeatureError, RequestError

END = START + 9 * DAY


@pytest.fixture(scope="module")
def plan(built: Place) -> ReadPlan:
    return read_plan(built.use_case, open_store(built.use_case, built.settings))


@pytest.fixture(scope="module")
def reader(built: Place, plan: ReadPlan) -> Iterator[Reader]:
    materialize(built.use_case, built.settings, as_of=END)
    found = open_reader(plan, built.use_case, built.settings)
    yield found
    found.close()
    for path in repo_folder(built.use_case, built.settings).glob("online.db*"):
        path.unlink()


def row(**changes: Any) -> dict[str, Any]:
    return {"shop": "s0", "item": "i1", "price": 2.5, "placed": START + timedelta(hours=3)} | changes


@pytest.mark.parametrize("later", [timedelta(0), timedelta(hours=12), timedelta(hours=12, microseconds=1), 3 * DAY])
def test_values_equal_the_offline_join_at_the_same_instant(built: Place, reader: Reader, later: timedelta) -> None:
    rows = [
        row(shop=f"s{n % 4}", item=f"i{n % 6}", price=None if n % 5 == 0 else float(n), placed=START + n * DAY)
        for n in range(24)
    ]
    frame = pl.DataFrame(rows, schema_overrides={"placed": pl.Datetime("us", "UTC")})
    offline = historical_features(built.use_case, built.settings, frame.with_columns(event_time=pl.lit(END + later)))
    online = reader.read(rows, at=END + later)
    assert online.values == [list(values) for values in offline.select(reader.plan.features).rows()]


def test_a_row_names_the_views_that_had_nothing_for_it(reader: Reader) -> None:
    found = reader.read([row(), row(shop="new"), row(item=None)], at=END)
    assert found.missing == [(), ("by_pair", "by_shop"), ("by_pair", "facts")]


def test_expired_values_are_null_and_their_views_are_stale_not_missing(reader: Reader) -> None:
    found = reader.read([row(), row(shop="new")], at=END + 2 * DAY)
    assert (found.missing, found.stale) == ([(), ("by_pair", "by_shop")], {0: ["by_pair", "by_shop"]})
    assert (found.values[0][-1], found.refused) == (None, {})


def reader_with(built: Place, plan: ReadPlan, policy: Stale) -> Reader:
    """A reader by the plan with one policy for all views."""
    views = tuple(replace(view, stale=policy) for view in plan.views)
    return open_reader(replace(plan, views=views), built.use_case, built.settings)


def test_serve_answers_with_the_old_value_and_says_so(built: Place, plan: ReadPlan, reader: Reader) -> None:
    old = reader_with(built, plan, "serve").read([row()], at=END + 2 * DAY)
    assert old.values == reader.read([row()], at=END).values
    assert (old.missing, old.stale, old.refused) == ([()], {0: ["by_pair", "by_shop"]}, {})


def test_serve_never_answers_from_after_the_instant(built: Place, plan: ReadPlan, reader: Reader) -> None:
    found = reader_with(built, plan, "serve").read([row()], at=END - DAY)
    assert (found.missing, found.stale) == ([("by_pair", "by_shop")], {})


def test_refuse_names_the_rows_that_must_not_be_answered(built: Place, plan: ReadPlan, reader: Reader) -> None:
    found = reader_with(built, plan, "refuse").read([row(shop="new"), row()], at=END + 2 * DAY)
    assert found.refused == {1: ["by_pair", "by_shop"]}


@pytest.mark.parametrize("policy", ["flag", "refuse"])
def test_a_row_that_brings_a_views_features_is_not_stale(built: Place, plan: ReadPlan, policy: Stale) -> None:
    given = row(shop_returned=0.5, shop_orders=3, pair_returned=0.5)
    found = reader_with(built, plan, policy).read([given], at=END + 2 * DAY)
    assert (found.missing, found.stale, found.refused) == ([()], {}, {})


def test_nothing_from_after_the_instant_is_answered(reader: Reader) -> None:
    assert reader.read([row()], at=END - DAY).missing == [("by_pair", "by_shop")]


class DownRows:
    """A store whose breaker is open."""

    def read(self, keys: Sequence[bytes]) -> list[Stored | None]:
        raise StoreDownError("The online store does not answer.")

    def close(self) -> None:
        pass


def down_reader(built: Place, plan: ReadPlan, **policies: Down) -> Reader:
    """A reader of a store that is down; `policies` by view."""
    views = tuple(replace(view, down=policies.get(view.name, "default")) for view in plan.views)
    return Reader(replace(plan, views=views), built.use_case, DownRows())


def test_while_the_store_is_down_stored_values_are_null_and_computed_ones_stand(built: Place, plan: ReadPlan) -> None:
    found = down_reader(built, plan).read([row(), row(shop="new")], at=END)
    values = dict(zip(plan.features, found.values[0], strict=True))
    assert (values["shop_orders"], values["pair_returned"], values["shop_code"]) == (None, None, "s0")
    assert found.down == {place: ["by_pair", "by_shop", "facts"] for place in (0, 1)}
    assert (found.missing, found.stale, found.refused) == ([(), ()], {}, {})


def test_while_the_store_is_down_what_a_row_brings_stands(built: Place, plan: ReadPlan) -> None:
    found = down_reader(built, plan).read([row(shop_returned=0.5, shop_orders=3)], at=END)
    assert found.values[0][-2:] == [0.5, 3]
    assert found.down == {0: ["by_pair", "facts"]}


def test_a_row_without_an_entity_misses_it_though_the_store_is_down(built: Place, plan: ReadPlan) -> None:
    found = down_reader(built, plan).read([row(item=None)], at=END)
    assert (found.missing, found.down) == ([("by_pair", "facts")], {0: ["by_shop"]})


def test_a_view_that_refuses_to_be_answered_without_a_store_is_named(built: Place, plan: ReadPlan) -> None:
    rows = [row(), row(shop_returned=0.5, shop_orders=3)]
    assert down_reader(built, plan, by_shop="refuse").read(rows, at=END).refused == {0: ["by_shop"]}


def test_a_damaged_row_is_missing_and_the_others_stand(built: Place, plan: ReadPlan, reader: Reader) -> None:
    class Damaging:
        """The reader's rows, the first of them damaged."""

        def read(self, keys: Sequence[bytes]) -> list[Stored | None]:
            stored = open_rows(built.use_case, built.settings)
            found = zip(keys, stored.read(keys), strict=True)
            stored.close()
            return [(one[0], one[1], b"\xc1") if one and b"s0" in key else one for key, one in found]

        def close(self) -> None:
            pass

    rows = [row(), row(shop="s1")]
    found = Reader(plan, built.use_case, Damaging()).read(rows, at=END)
    assert found.missing == [("by_pair", "by_shop"), ()]
    assert found.values[1] == reader.read(rows, at=END).values[1]


def test_a_feature_that_a_row_brings_stands_in_place_of_the_stored_one(reader: Reader) -> None:
    found = reader.read([row(shop_orders=-1, weight=10), row()], at=END)
    given, stored = (dict(zip(reader.plan.features, values, strict=True)) for values in found.values)
    assert (given["shop_orders"], given["load"]) == (-1, 25.0)
    assert (stored["shop_orders"], stored["load"]) == (72, 5.0)


def test_a_computed_feature_that_a_row_brings_stands_too(reader: Reader) -> None:
    (values,) = reader.read([row(cost=99.0)], at=END).values
    assert values[reader.plan.features.index("cost")] == 99.0


def test_a_row_that_brings_every_feature_needs_no_keys(reader: Reader) -> None:
    found = reader.read([dict.fromkeys(reader.plan.features, 1.0)], at=END)
    assert found.values == [[1.0] * len(reader.plan.features)]


def test_times_may_come_as_text_with_an_offset(reader: Reader) -> None:
    text, instant = (
        reader.read([row(placed=placed)], at=END) for placed in ("2024-01-01T05:00:00+02:00", row()["placed"])
    )
    assert text == instant


def test_no_rows_no_answers(reader: Reader) -> None:
    assert reader.read([], at=END).values == []


@pytest.mark.parametrize(
    ("bad", "field", "message"),
    [
        ({"shop": 1}, "rows[1].shop", "must be a string"),
        ({"price": "2"}, "rows[1].price", "must be a number"),
        ({"price": True}, "rows[1].price", "must be a number"),
        ({"placed": "2024-01-01T00:00:00"}, "rows[1].placed", "must be a time with its offset"),
        ({"placed": 5}, "rows[1].placed", "must be a time with its offset"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_but_not_repeated(
    reader: Reader, bad: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as error:
        reader.read([row(), row(**bad)], at=END)
    assert (error.value.status, error.value.field) == (422, field)


@pytest.mark.parametrize("lacking", ["shop", "item", "price", "placed"])
def test_a_row_that_lacks_a_column_is_refused_by_name(reader: Reader, lacking: str) -> None:
    bare = row()
    del bare[lacking]
    with pytest.raises(RequestError, match=f"Row 0 lacks {lacking}") as error:
        reader.read([bare], at=END)
    assert error.value.field == f"rows[0].{lacking}"


def test_an_on_demand_function_that_fails_is_named(built: Place, plan: ReadPlan, reader: Reader) -> None:
    def order_facts(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"hour": [1 / len(inputs["price"]) - 1 and inputs["nothing"]]}

    broken = open_reader(plan, replace(built.use_case, on_demand=(order_facts,)), built.settings)
    with pytest.raises(FeatureError, match=r"order_facts gave no list of 1 values for shop_code|order_facts failed"):
        broken.read([row()], at=END)


def test_a_use_case_that_lost_a_function_is_told_at_opening(built: Place, plan: ReadPlan) -> None:
    with pytest.raises(FeatureError, match="on-demand function order_facts, which the use case no longer has"):
        open_reader(plan, replace(built.use_case, on_demand=()), built.settings)


def test_reading_imports_neither_feast_nor_pandas() -> None:
    code = "import sys, features.online; print({'feast', 'pandas', 'pyarrow', 'deltalake'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def test_readers_may_be_shared_by_threads(reader: Reader) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def read(_: int) -> list[list[Any]]:
        return reader.read([row()], at=END).values

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(read, range(20)))
    assert all(values == answers[0] for values in answers)
