"""The chart: valid SVG within its frame, broken where there is no value, without inline style."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as Xml

from hypothesis import given
from hypothesis import strategies as st

from serving.web.chart import HEIGHT, WIDTH, Point, draw

START = datetime(2013, 4, 1, tzinfo=UTC)
VALUES = st.none() | st.floats(0, 1) | st.floats(-1e6, 1e6)


def points(*pairs: tuple[float | None, float | None], versions: str = "") -> list[Point]:
    return [
        Point(START + timedelta(days=7 * index), live, static, int(versions[index]) if versions else 1)
        for index, (live, static) in enumerate(pairs)
    ]


def drawn(svg: str, kind: str) -> list[Xml.Element]:
    return [element for element in Xml.fromstring(svg).iter() if element.get("class") == kind]


def test_nothing_is_drawn_without_values() -> None:
    assert draw("ROC AUC", []) == ""
    assert draw("ROC AUC", points((None, None), (None, None))) == ""


def test_a_missing_value_breaks_the_curve() -> None:
    svg = draw("ROC AUC", points((0.7, 0.7), (0.8, 0.7), (None, None), (0.75, 0.7), (0.76, 0.7)))
    (live,) = drawn(svg, "curve live")
    assert re.findall("[ML]", live.get("d") or "") == ["M", "L", "M", "L"]


def test_a_line_stands_where_another_version_begins_to_serve() -> None:
    assert len(drawn(draw("x", points(*[(0.7, 0.7)] * 4, versions="1122")), "change")) == 1


def test_a_tooltip_names_both_values() -> None:
    title = next(Xml.fromstring(draw("x", points((0.71234, 0.7)))).iter("title"))
    assert title.text == "1 Apr 2013: live 0.7123, left alone 0.7000 (v1)"


@given(st.lists(st.tuples(VALUES, VALUES), max_size=60))
def test_whatever_the_values_everything_lies_in_the_frame_and_carries_no_style(
    pairs: list[tuple[float | None, float | None]],
) -> None:
    svg = draw("<Log & loss>", points(*pairs))
    if svg:
        root = Xml.fromstring(svg)
        assert root.get("aria-label", "").startswith("<Log & loss>")
        for element in root.iter():
            assert element.get("style") is None
            for name, limit in (("cx", WIDTH), ("cy", HEIGHT), ("x1", WIDTH), ("y1", HEIGHT), ("y2", HEIGHT)):
                assert -0.1 <= float(element.get(name, 0)) <= limit + 0.1
