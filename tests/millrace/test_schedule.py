"""The schedule of a use case: its lines are checked where they are written."""

from __future__ import annotations

import pytest

from millrace.errors import UseCaseError
from millrace.usecase import Schedule


def test_a_line_that_means_nothing_is_told_with_its_field() -> None:
    with pytest.raises(UseCaseError, match="Schedule: monitor cannot be used: '61' is no minute"):
        Schedule(monitor="61 * * * *")


def test_an_empty_line_is_never() -> None:
    assert Schedule(score="").score == ""
