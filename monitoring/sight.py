"""What is seen of one window before anything is decided: its data, drift, performance, serving, and the harm to expect.

Everything is measured against the champion's reference; drift also against the window before, and within slices. This
module knows nothing of instants beyond the window's, of stores or of decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import polars as pl

from millrace.outcomes import Attached
from millrace.quality import Quality
from millrace.usecase import LABEL, UseCase
from monitoring import data_quality
from monitoring.arrays import without_arrays
from monitoring.data_quality import DataQuality
from monitoring.drift import SCORE, Drift, drift
from monitoring.estimate import Estimate, estimate
from monitoring.harm import Harm, Signs, judge_harm, share_of
from monitoring.maturity import Maturity
from monitoring.performance import Performance, performance
from monitoring.rows import last_of_each_row
from monitoring.service import Service, service
from monitoring.slices import SliceDrift, slice_drift
from monitoring.top_label import of_top_label, with_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a pass is told beside its frames; each part may be missing, and then what rests on it is not told.

    `previous`: the predictions of the window before. `importance`: of the champion's inputs. `earlier_rows`: how many
    rows earlier windows of this length had. `costs`: by version what its gate measured. `price`: of one core's hour.
    """

    previous: pl.DataFrame | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    earlier_rows: Sequence[int] = ()
    costs: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """The parts of what is seen; `previous` is the drift since the window before, None when that was not given, and
    `estimate` what the scores lead to expect, None when the reference has too few labels."""

    data_quality: DataQuality
    drift: Drift
    previous: Drift | None
    slices: tuple[SliceDrift, ...]
    live: Performance
    maturity: Maturity
    estimate: Estimate | None
    service: Service
    harm: Harm


def look(
    use_case: UseCase,
    reference: pl.DataFrame,
    within: pl.DataFrame,
    labelled: Attached,
    ripe: Maturity,
    beside: Beside,
    *,
    seed: int = 0,
) -> Sight:
    """See the rows `within` a window, `labelled` as far as labels are known and as `ripe` as they are.

    Windows that share a reference are as many as fit into the age at which a champion is replaced; the window as a
    whole and its slices are two families of tests. Each family has its share of `Monitor.alpha`.
    """
    monitor = use_case.monitor
    tests = ceil(use_case.retrain.max_age / monitor.window) * (2 if use_case.slices else 1)
    found = drift(reference, within, monitor, windows=tests, seed=seed)
    slices = slice_drift(reference, within, use_case.slices, monitor, windows=tests, seed=seed)
    earlier = None if beside.previous is None else last_of_each_row(beside.previous)[0]
    before = None if earlier is None else drift(earlier, within, monitor, windows=tests, seed=seed)
    served = service(within, costs=beside.costs, price=beside.price)
    expected = _estimate(use_case, reference, within, seed)
    live = live_performance(use_case, labelled)
    signs = _signs(reference, within, found, slices, live if ripe.enough else None, expected, beside.importance)
    return Sight(
        data_quality=_trust(reference, within, beside.earlier_rows, served),
        drift=found,
        previous=before,
        slices=slices,
        live=live,
        maturity=ripe,
        estimate=expected,
        service=served,
        harm=judge_harm(signs, serious_loss=use_case.retrain.max_surprise),
    )


def live_performance(use_case: UseCase, labelled: Attached) -> Performance:
    """The performance on the rows whose label is known; of K classes, of the predicted one's being right."""
    found = performance(labelled, slices=use_case.slices)
    return of_top_label(found) if use_case.label.classes else found


def surprise(quality: Quality | None, promised: float | None) -> float | None:
    """Log loss less what was promised; 0 when chance explains it, None when it is unknown."""
    if quality is None or promised is None:
        return None
    low, high = quality.log_loss_interval
    apart = quality.log_loss - promised
    return apart if abs(apart) > (high - low) / 2 else 0.0


def _trust(reference: pl.DataFrame, within: pl.DataFrame, earlier_rows: Sequence[int], served: Service) -> DataQuality:
    """The data's quality, arrays by their two numbers, with what the serving says of its clocks."""
    found = data_quality.check(without_arrays(reference), without_arrays(within), earlier_rows=earlier_rows)
    return replace(found, of_rows=(*found.of_rows, *served.problems))


def _estimate(use_case: UseCase, reference: pl.DataFrame, within: pl.DataFrame, seed: int) -> Estimate | None:
    if SCORE not in within.columns or not within.schema[SCORE].is_numeric():
        return None
    classes = use_case.label.classes
    events = with_event(reference, classes) if classes and LABEL in reference.columns else reference
    return estimate(events, within[SCORE], seed=seed)


def _signs(
    reference: pl.DataFrame,
    within: pl.DataFrame,
    found: Drift,
    slices: Sequence[SliceDrift],
    live: Performance | None,
    expected: Estimate | None,
    importance: Mapping[str, float],
) -> Signs:
    """What the harm is judged from; `live` only when enough labels are known to judge by."""
    of_slices = {column.name for one in slices for column in one.columns}
    drifted = tuple(dict.fromkeys([*found.drifted, *sorted(of_slices - {SCORE})]))
    return Signs(
        drifted=drifted,
        score_drifted=bool(found.score and found.score.drifted) or SCORE in of_slices,
        score_shift=_mean_shift(reference, within),
        score_distance=found.score.beyond if found.score else None,
        expected_loss=expected.excess_loss if expected else None,
        surprise=surprise(live.quality, live.promised_log_loss) if live else None,
        importance=share_of(importance, found.drifted),
    )


def _mean_shift(reference: pl.DataFrame, within: pl.DataFrame) -> float | None:
    """The window's mean score less the reference's, of the scores that are numbers."""
    means = []
    for frame in (reference, within):
        scores = frame[SCORE] if SCORE in frame.columns else pl.Series(dtype=pl.Float64)
        finite = scores.filter(scores.is_finite()).sort() if scores.dtype.is_float() else scores
        means.append(finite.mean() if finite.dtype.is_numeric() and len(finite) else None)
    before, now = means
    return float(now) - float(before) if isinstance(before, float) and isinstance(now, float) else None
