"""The admin call that makes a server look who is champion."""

from __future__ import annotations

import httpx
import pytest

from millrace.settings import Settings

from .conftest import Promote


def test_the_champion_serves_when_the_call_is_answered(client: httpx.Client, promote: Promote) -> None:
    promote(2)
    answer = client.post("/v1/late/reload")
    assert answer.status_code == 200
    assert answer.json()["workers"] == [{"worker": 0, "version": 2, "problem": ""}]


def test_a_version_that_could_not_be_opened_is_tried_again_at_once(
    client: httpx.Client, promote: Promote, settings: Settings
) -> None:
    with pytest.MonkeyPatch.context() as away:
        away.setattr("serving.online.champion.POLL_SECONDS", 600)
        promote(2)
        model = settings.bundles / "late" / "2" / "model.onnx"
        kept = model.rename(settings.home / "model.onnx")
        answer = client.post("/v1/late/reload")
        assert answer.status_code == 503
        (worker,) = answer.json()["workers"]
        assert worker["version"] == 1
        assert "Version 2 cannot be served" in worker["problem"]
        kept.rename(model)
        assert client.post("/v1/late/reload").json()["workers"] == [{"worker": 0, "version": 2, "problem": ""}]


def test_another_use_case_is_not_known(client: httpx.Client) -> None:
    assert client.post("/v1/other/reload").status_code == 404


def test_it_needs_a_key(stranger: httpx.Client) -> None:
    assert stranger.post("/v1/late/reload").status_code == 401
