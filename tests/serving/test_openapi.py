"""Whatever the OpenAPI document describes answers whatever it allows, and a bit more, without a server error.

Schemathesis makes the requests from the document that the running server gives: a route is tested by joining it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as searching
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from features.catalog import write_catalog
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.guard import Guard

from .conftest import client_of

EXAMPLES = 30
"""Requests an operation and mode."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Jobs that requests happen to start are run by nobody."""
    return settings.model_copy(update={"job_worker": "elsewhere"})


@pytest.fixture
def served(app: Guard, settings: Settings, use_case: UseCase) -> Iterator[httpx.Client]:
    """A client of a server of this test's own, whose feature views have been applied: there are none."""
    write_catalog(use_case, settings, [])
    with client_of(app, settings) as client:
        yield client


def operations(client: httpx.Client) -> list[Any]:
    """Every operation of the server's document."""
    document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=str(client.base_url))
    return [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not allowed"])
def test_no_request_of_the_document_makes_a_server_error(served: httpx.Client, mode: GenerationMode) -> None:
    found = operations(served)
    assert {"/health/ready", "/v1/models", "/v1/late/predict", "/v1/{use_case}/labels"} <= {one.path for one in found}
    for operation in found:
        _check(served, operation, mode)


def _check(client: httpx.Client, operation: Any, mode: GenerationMode) -> None:
    @searching(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        answer = case.call(headers=dict(client.headers))
        case.validate_response(answer, checks=[not_a_server_error])
        assert answer.headers["x-request-id"]

    with suppress(Unsatisfiable):  # nothing to get wrong: any text may be a name
        ask()
