"""The variants that a candidate asks for, one after the other, and those of its students.

It knows which variant is made of what, and how a failure is told; how each is made stands in a module of its own. None
is assumed better than its candidate: that is for the gate to say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from millrace.candidates import Distil, Int8, Prune, TorchCandidate
from millrace.errors import MillraceError, TrainingError, first_line
from training.deadline import DeadlineError, deadline
from training.export import Exported, export
from training.fit import Fitted
from training.made import Made, Rows
from training.variants.distil import distilled
from training.variants.int8 import quantized
from training.variants.prune import pruned


@dataclass(frozen=True, slots=True)
class _Base:
    """What a variant is made of: a fitted network, what serves it, and its name."""

    name: str
    candidate: TorchCandidate
    fitted: Fitted
    exported: Exported


def make_variants(
    candidate: TorchCandidate, fitted: Fitted, exported: Exported, rows: Rows, *, name: str
) -> Iterator[Made]:
    """Each variant of `candidate` as it would serve, in the order of their declaration.

    `fitted` is the candidate's network on `rows`, `exported` what serves it, and `name` what that model is called so
    far: its variants are called `name+suffix`. A student's own variants come right after it. Raises `TrainingError`
    naming the variant when it cannot be made or served, or takes longer than the candidate's `timeout` (a student: its
    own).
    """
    base = _Base(name, candidate, fitted, exported)
    for variant in candidate.variants:
        if isinstance(variant, Int8):
            yield _made_int8(variant, base, rows)
            continue
        network, made = _made_network(variant, base, rows)
        yield made
        if isinstance(variant, Distil):
            yield from make_variants(variant.student, network, made.exported, rows, name=made.name)


def _made_int8(variant: Int8, base: _Base, rows: Rows) -> Made:
    name, began = f"{base.name}+{variant.suffix}", time.perf_counter()
    with _named(name, base.candidate):
        found, notes = quantized(base.exported, rows, variant.rows)
    seconds = time.perf_counter() - began
    return Made(name, found, base.fitted.params, {}, seconds, of=base.name, notes=notes)


def _made_network(variant: Prune | Distil, base: _Base, rows: Rows) -> tuple[Fitted, Made]:
    """A variant that is a network of its own, and what serves it, proven equal to it."""
    name, began = f"{base.name}+{variant.suffix}", time.perf_counter()
    with _named(name, variant.student if isinstance(variant, Distil) else base.candidate):
        if isinstance(variant, Prune):
            network, notes = pruned(base.candidate, base.fitted, rows, variant)
        else:
            network, notes = distilled(base.fitted, rows, variant)
    found = export(
        name,
        network.model,
        rows.inputs,
        rows.X,
        classes=rows.classes,
        threads=rows.hardware.threads,
        declared=isinstance(variant, Distil),  # no code builds a pruned network again
    )
    seconds = time.perf_counter() - began
    return network, Made(name, found, network.params, network.curves, seconds, of=base.name, notes=notes)


@contextmanager
def _named(name: str, candidate: TorchCandidate) -> Iterator[None]:
    """The body within the candidate's timeout; what goes wrong inside is told with the variant's name."""
    cannot = f"The variant {name!r} cannot be made"
    try:
        with deadline(candidate.timeout):
            yield
    except MillraceError as error:
        raise TrainingError(f"{cannot}: {error.what}", looked=error.looked, todo=error.todo) from error
    except DeadlineError as error:
        raise TrainingError(
            f"{cannot} within {candidate.timeout.total_seconds():g} s, the timeout of {candidate.name!r}.",
            todo="Give it more time (timeout=timedelta(…)) or less to do; the champion is untouched.",
        ) from error
    except Exception as error:  # a module is the user's code, and tracing it raises whatever stands in the way
        raise TrainingError(
            f"{cannot}: {first_line(error)}.",
            todo=f"Leave the variant away, or change the module of {candidate.name!r}; the champion is untouched.",
        ) from error
