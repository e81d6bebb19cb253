"""The options of a training go through a flow's parameters and a run's record unchanged."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from training.hardware import Hardware
from training.options import TrainOptions

FULL = TrainOptions(3, 5, timedelta(minutes=2), True, 4, Hardware("cpu", 2, 3), {"p99_ms": 5.0})


@pytest.mark.parametrize("options", [TrainOptions(), FULL])
def test_options_come_back_from_json(options: TrainOptions) -> None:
    assert TrainOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
