"""The model card: what people should know of a model before they rely on it, as Markdown.

The sections follow Mitchell et al. (Model Cards for Model Reporting, FAT* 2019): the problem, the data, the method, the
quality with intervals and by slice, the budget, the limits of use, the lineage. It is rendered from plain values when
the bundle is written, so it knows no verdict (costs are measured on the written bundle) and reads no clock: the same
training gives the same card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from millrace.budget import COST_METRICS, Budget, Limit
from millrace.contract import Contract
from millrace.inputs import InputSpec
from millrace.quality import Quality, SliceQuality

_ENGINES = {
    "onnx": "ONNX Runtime, proven equal to the fitted model",
    "skops": "scikit-learn itself, read with skops",
    "torch": "PyTorch, weights read with safetensors",
}
_QUALITY_WORDS = {
    "accuracy": "Accuracy",
    "roc_auc": "Area under the ROC curve",
    "log_loss": "Log loss (nats)",
    "brier": "Brier score",
    "calibration_error": "Expected calibration error",
}
_TOLD_ELSEWHERE = frozenset(
    ("fit", "holdout", "unlabelled", "params", "parity", "not_onnx_because", "lake_versions", "parent", "variant_of")
)
"""Parts of the lineage that have a place of their own in the card."""
_SHOWN_CATEGORIES = 8


def render_card(
    contract: Contract,
    *,
    quality: Quality | None = None,
    slices: Sequence[SliceQuality] = (),
    budget: Budget | None = None,
    baseline: Quality | None = None,
) -> str:
    """The card of a model: its contract (whose lineage tells data and method) and its hold-out quality.

    `baseline` is the quality of the use case's baseline on the same rows. Text that comes from data (categories, slice
    values, parameters) is escaped: it cannot become markup.
    """
    sections = (
        _problem(contract),
        _data(contract),
        _inputs(contract.inputs),
        _method(contract),
        _quality(quality, baseline),
        _slices(slices),
        _budget(budget, quality),
        _limits_of_use(contract, quality),
        _lineage(contract),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _problem(contract: Contract) -> str:
    if contract.classes:
        answer = f"a probability for each of {len(contract.classes)} outcomes: {_text(_listed(contract.classes))}"
    else:
        answer = "the probability, between 0 and 1, that the answer is yes"
    return (
        f"# {_text(contract.use_case)}: {_text(contract.candidate)}\n\n## Problem\n\n"
        f"> {_text(contract.question)}\n\nThe model gives {answer}."
    )


def _data(contract: Contract) -> str:
    lineage = contract.lineage
    rows = [
        (name, part["rows"], part["from"], part["until"])
        for name, part in (("fitted on", lineage.get("fit")), ("hold-out, later in time", lineage.get("holdout")))
        if part
    ]
    told = [f"## Data\n\nWhat was known at {contract.trained_as_of.isoformat()}; nothing later was used."]
    if lineage.get("unlabelled"):
        told.append(f"{lineage['unlabelled']} rows were left out because their outcome was not known yet.")
    if rows:
        told.append(_table(("", "rows", "from", "until"), rows))
    versions = lineage.get("lake_versions") or {}
    if versions:
        told.append(_table(("table", "version"), versions.items()))
    return "\n\n".join(told)


def _inputs(inputs: Sequence[InputSpec]) -> str:
    rows = [(spec.name, _kind(spec), _seen(spec), "" if spec.default is None else spec.default) for spec in inputs]
    return f"## Inputs\n\n{_table(('input', 'kind', 'seen when fitted', 'usual value'), rows)}"


def _kind(spec: InputSpec) -> str:
    return f"{spec.size} numbers" if spec.size > 1 else "number" if spec.kind == "numeric" else "category"


def _seen(spec: InputSpec) -> str:
    if spec.always_missing:
        return "nothing: it was always missing, and its value has no effect"
    return f"{spec.low:g} to {spec.high:g}" if spec.kind == "numeric" else _listed(spec.categories)


def _method(contract: Contract) -> str:
    lineage = contract.lineage
    told = [f"## Method\n\nCandidate {_text(contract.candidate)}, served by {_ENGINES[contract.engine]}."]
    if lineage.get("not_onnx_because"):
        told[0] += f" It is not served from ONNX because: {_text(lineage['not_onnx_because']).rstrip('.')}."
    if lineage.get("parity") is not None:
        told.append(f"The largest difference between served and fitted probabilities was {lineage['parity']:.2g}.")
    if lineage.get("variant_of"):
        told.append(f"It is a variant of {_text(lineage['variant_of'])}, judged like any other model.")
    if lineage.get("parent") is not None:
        told.append(f"Its fit continued that of version {_text(lineage['parent'])}.")
    params = lineage.get("params") or {}
    if params:
        told.append(_table(("parameter", "value"), params.items()))
    return "\n\n".join(told)


def _quality(quality: Quality | None, baseline: Quality | None) -> str:
    if quality is None:
        return "## Quality\n\nIt was not measured when this card was written."
    rows = []
    for metric, value in quality.metrics().items():
        row = [_QUALITY_WORDS.get(metric, metric), _number(value), _interval(quality, metric)]
        rows.append((*row, _number(baseline.metrics()[metric])) if baseline else row)
    head = ("metric", "value", "95 % interval", "baseline")[: 4 if baseline else 3]
    return f"## Quality\n\nMeasured on {quality.rows} hold-out rows that it was not fitted on.\n\n{_table(head, rows)}"


def _slices(slices: Sequence[SliceQuality]) -> str:
    if not slices:
        return ""
    worst_first = sorted(slices, key=lambda one: (-one.quality.log_loss, one.column, one.value))
    rows = [
        (one.column, one.value, one.quality.rows, _number(one.quality.log_loss), _interval(one.quality, "log_loss"))
        for one in worst_first
    ]
    head = ("column", "value", "rows", "log loss", "95 % interval")
    return f"## Slices\n\nThe worst first; slices of few rows are not shown.\n\n{_table(head, rows)}"


def _budget(budget: Budget | None, quality: Quality | None) -> str:
    if budget is None:
        return ""
    if not budget.limits:
        return "## Budget\n\nThe use case declares no limits."
    measured = quality.metrics() if quality else {}
    rows = [(one.metric, f"{one.sense} {one.bound:g}", _held(one, measured)) for one in budget.limits]
    waived = f"\n\nWaived where it cannot be measured: {', '.join(budget.waived)}." if budget.waived else ""
    return (
        "## Budget\n\nCosts are measured on this very bundle after it is written; the verdict on all limits is kept "
        f"with the version (`millrace verdict`).\n\n{_table(('metric', 'limit', 'hold-out'), rows)}{waived}"
    )


def _held(limit: Limit, measured: Mapping[str, float]) -> str:
    if limit.metric not in measured:
        return "measured later" if limit.metric in COST_METRICS else "not measured"
    value = measured[limit.metric]
    return f"{_number(value)} ({'kept' if limit.holds(value) else 'missed'})"


def _limits_of_use(contract: Contract, quality: Quality | None) -> str:
    told = [
        "It answers the question above for rows like those it was fitted on; it was not made for any other decision.",
        "A number outside the range seen is extrapolation; a category that was not seen counts as missing.",
        "Its quality is that of the hold-out's time. It is watched in use, since the world may drift away from it.",
    ]
    missing = [spec.name for spec in contract.inputs if spec.always_missing]
    if missing:
        told.append(f"It learned nothing from {_text(_listed(missing))}, always missing when it was fitted.")
    if quality is not None and not contract.classes and quality.positives < 100:
        told.append(f"Only {quality.positives} hold-out rows had the outcome: its figures are rough.")
    return "## Limits of use\n\n" + "\n".join(f"- {one}" for one in told)


def _lineage(contract: Contract) -> str:
    rest = {name: value for name, value in contract.lineage.items() if name not in _TOLD_ELSEWHERE}
    rows = sorted(_flat(rest))
    return f"## Lineage\n\n{_table(('', 'value'), rows)}" if rows else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of nested mappings as `outer.inner`, without those that say nothing; listed ones by name or number."""
    for name, value in values.items():
        if isinstance(value, (list, tuple)) and any(isinstance(one, Mapping) for one in value):
            value = {str(one.get("name", number)): one for number, one in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and value not in ("", [], ()):
            yield f"{prefix}{name}", value


def _interval(quality: Quality, metric: str) -> str:
    low, high = getattr(quality, f"{metric}_interval", (float("nan"), float("nan")))
    return "" if isnan(low) or isnan(high) else f"{low:.4f} to {high:.4f}"


def _number(value: float) -> str:
    return "" if isnan(value) else f"{value:.4f}"


def _listed(names: Sequence[str]) -> str:
    """Names in one line, the first few of many."""
    shown = ", ".join(names[:_SHOWN_CATEGORIES])
    more = len(names) - _SHOWN_CATEGORIES
    return f"{shown} and {more} more" if more > 0 else shown or "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_MARKUP = str.maketrans({mark: f"\\{mark}" for mark in "\\`*[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def _text(value: object) -> str:
    """A value as text in one line that Markdown and HTML show as it is."""
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        value = ", ".join(value)
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(plain.translate(_MARKUP).split())
