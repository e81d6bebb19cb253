"""Whether a model may serve: every limit of its budget, its features and scores online, the baseline, the champion on
the same rows, every slice, its calibration, and what damaged inputs do to it.

`judge` weighs evidence; `compare_scores`, `compare_with_champion`, `compare_slices`, `calibration_test` and
`robustness_test` make it from outcomes and scores. All are pure functions: they know no model, file or clock. The
rules, their constants and what they were measured on: docs/decisions/0003-champion-rule.md and 0012-gates.md.
"""

from training.gate.calibration import CalibrationTest, calibration_test
from training.gate.champion import ChampionOnSameRows, Compared, compare_with_champion
from training.gate.judgement import judge
from training.gate.robustness import Damage, RobustnessTest, robustness_test
from training.gate.scores import ScoreParity, compare_scores
from training.gate.slices import SliceComparison, SliceDifference, compare_slices
from training.gate.verdict import Check, LimitResult, Verdict

__all__ = [
    "CalibrationTest",
    "ChampionOnSameRows",
    "Check",
    "Compared",
    "Damage",
    "LimitResult",
    "RobustnessTest",
    "ScoreParity",
    "SliceComparison",
    "SliceDifference",
    "Verdict",
    "calibration_test",
    "compare_scores",
    "compare_slices",
    "compare_with_champion",
    "judge",
    "robustness_test",
]
