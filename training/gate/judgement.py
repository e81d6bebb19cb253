"""One model before its gate: every rule that there is evidence for, and what they come to.

A pure function of measurements; it measures nothing and knows no model, file or clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from features.parity import Parity
from millrace.budget import Budget
from millrace.quality import Quality
from training.gate.calibration import CalibrationTest, check_calibration
from training.gate.champion import ChampionOnSameRows, check_champion
from training.gate.limits import check_limits, limit_in_words
from training.gate.robustness import RobustnessTest, check_robustness
from training.gate.scores import ScoreParity, check_scores
from training.gate.slices import SliceComparison, check_slices
from training.gate.verdict import Check, Verdict, plain


def judge(
    budget: Budget,
    *,
    quality: Quality,
    cost: Mapping[str, float],
    calls: Mapping[str, int] | None = None,
    parity: Parity | None = None,
    scores: ScoreParity | None = None,
    baseline: Quality | None = None,
    champion: ChampionOnSameRows | None = None,
    slices: SliceComparison | None = None,
    calibration: CalibrationTest | None = None,
    robustness: RobustnessTest | None = None,
    notes: Mapping[str, str] | None = None,
) -> Verdict:
    """Judge one model by its hold-out quality, its cost by the budget's names, and whatever else is known of it.

    A limit on what was not measured is not kept, unless the budget waives it; `notes` say why a cost was not measured
    or what weakens its figure, `calls` how many calls a 99th percentile is of.
    `parity` is what asking for hold-out rows online came to (None: the features come with the request): one value that
    differs refuses the model, as does one of the `scores` that the path that serves gave. `baseline` is the baseline's
    quality on the same rows; the model must have the lower log loss. `champion` is None when nothing serves yet.
    `slices` come from `compare_slices`, `calibration` from `calibration_test`, `robustness` from `robustness_test`;
    what is None is not looked at.
    """
    limits = check_limits(budget, quality, cost, calls=calls, notes=notes)
    checks = [
        None if parity is None else _check_parity(parity),
        None if scores is None else check_scores(scores),
        None if baseline is None else _check_baseline(quality, baseline),
        None if champion is None else check_champion(champion, budget, cost),
        None if slices is None else check_slices(slices),
        None if calibration is None else check_calibration(calibration),
        None if robustness is None else check_robustness(robustness),
    ]
    made = tuple(one for one in checks if one is not None)
    found = [(one.passed, limit_in_words(one)) for one in limits]
    found += [(one.passed, one.reason) for one in made]
    against = tuple(reason for passed, reason in found if not passed)
    kept = tuple(reason for passed, reason in found if passed)
    return Verdict(not against, against + kept, limits, against, made)


def _check_parity(parity: Parity) -> Check:
    figures = {"rows": parity.rows, "values": parity.values, "mismatches": parity.mismatches}
    return Check("parity", parity.holds, str(parity), figures)


def _check_baseline(quality: Quality, baseline: Quality) -> Check:
    better = quality.log_loss < baseline.log_loss
    verb = "beats" if better else "does not beat"
    reason = f"It {verb} the baseline: log loss {quality.log_loss:.4f} against {baseline.log_loss:.4f}."
    return Check("baseline", better, reason, plain({"log_loss": quality.log_loss, "baseline": baseline.log_loss}))
