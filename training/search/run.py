"""The search itself: a set of parameters after the other, each fitted on every fold until it is hopeless.

It knows neither where the rows come from nor what the parameters are for: `training.fit` builds and fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf, nan
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from millrace.candidates import Candidate, ModelInput, TorchCandidate, default_params
from millrace.errors import MillraceError, TrainingError, first_line
from millrace.quality import log_loss
from training.fit import Labels, Matrix, fit
from training.folds import Fold, Times, rolling_origin
from training.hardware import Hardware
from training.search.space import SearchSpace
from training.search.study import (
    OUTCOME,
    close_trial,
    open_study,
    params_key,
    read_trials,
    study_digest,
    tried_keys,
)
from training.search.trials import Found, Trial, best

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial as Asked

_NO_LIMIT = 1e9
"""Seconds that stand for no limit, since a timedelta knows no infinite ones."""
Progress = Callable[[int, int, float | None], None]
"""Hears how many trials are done, of how many, and the least mean log loss so far (None: no trial is complete)."""


def search(
    candidate: Candidate | TorchCandidate,
    inputs: Sequence[ModelInput],
    X: Matrix,
    y: Labels,
    *,
    times: Times,
    known: Times,
    trials: int,
    storage: str,
    name: str,
    classes: int = 0,
    timeout: timedelta | None = None,
    seed: int = 0,
    folds: int = 3,
    hardware: Hardware | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Found:
    """The best of `trials` sets of parameters of `candidate.search` by mean log loss over `folds` folds in time.

    `X` (rows, columns) and `y` (rows,) are in the order of `times` (rows,), when each row happened; `known` (rows,) is
    when its label was. The candidate's own parameters are tried first, then random ones up to ten in all, then what
    Optuna's TPE (Bergstra et al. 2011, Watanabe 2023) proposes; no set is fitted twice. A set whose mean over its first
    folds is worse than the median's (Golovin et al. 2017) is fitted on no more, once five were on all.

    The study lies in `storage` (`sqlite:///PATH`) under `name`: with `resume` it goes on where an earlier call with the
    same candidate, data, seed and folds ended in any way, and comes to what one call would have; one of which every
    trial failed starts anew. `trials` counts those of earlier calls, `timeout` this call alone; a trial that it ends in
    its midst does not count. Nothing is searched with `trials=0` or a space of one combination.

    Raises `TrainingError` when the rows do not suffice, the storage cannot be used, or every trial failed; `BusyError`
    when another process searches under this name.
    """
    space = SearchSpace(candidate.search)
    if trials < 0 or (timeout is not None and timeout <= timedelta(0)):
        raise TrainingError(f"A search needs trials of 0 or more and a time above 0, not {trials} and {timeout}.")
    if trials == 0 or space.size == 1:
        why = "no trials were asked for" if trials == 0 else "there is one combination only"
        return Found(default_params(candidate.search), nan, (), why)
    stretches = rolling_origin(times, known, y, folds=folds, classes=classes)
    digest = study_digest(candidate, space, {"seed": seed, "folds": folds, "classes": classes}, (X, y, times, known))
    judge = _Judge(candidate, inputs, X, y, stretches, classes, seed, hardware or Hardware())
    deadline = inf if timeout is None else perf_counter() + timeout.total_seconds()
    with open_study(storage, name, digest, resume=resume) as study:
        work = _Search(study, space, judge, deadline)
        stopped = work.run(trials, progress)
        return _found(candidate, read_trials(study, space), stopped)


@dataclass(frozen=True)
class _Judge:
    """Fits one set of parameters on one fold and tells its log loss."""

    candidate: Candidate | TorchCandidate
    inputs: Sequence[ModelInput]
    X: Matrix
    y: Labels
    folds: Sequence[Fold]
    classes: int
    seed: int
    hardware: Hardware

    def loss(self, params: Mapping[str, Any], fold: Fold, limit: timedelta) -> float:
        """The log loss, in nats, of the fold's watched rows; the fit may take `limit` at most."""
        fitted = fit(
            replace(self.candidate, timeout=min(limit, self.candidate.timeout)),
            self.inputs,
            self.X[fold.fit],
            self.y[fold.fit],
            classes=self.classes,
            seed=self.seed,
            hardware=self.hardware,
            params=params,
        )
        scores = np.asarray(fitted.model.predict_proba(self.X[fold.watch]), dtype=np.float64)
        return log_loss(self.y[fold.watch], scores if self.classes else scores[:, 1])


@dataclass(frozen=True)
class _Search:
    """One call's work on a study."""

    study: Study
    space: SearchSpace
    judge: _Judge
    deadline: float

    @property
    def left(self) -> timedelta:
        """The time that is left, zero or less when it is up."""
        return timedelta(seconds=min(self.deadline - perf_counter(), _NO_LIMIT))

    def run(self, trials: int, progress: Progress | None) -> str:
        """Try until `trials` are done in all; returns why it stopped."""
        total = int(min(trials, self.space.size))
        distributions = self.space.distributions()
        while True:
            done = read_trials(self.study, self.space)
            if progress is not None:
                winner = best(done)
                progress(min(len(done), total), total, None if winner is None else winner.log_loss)
            if len(done) >= total:
                return f"all {total} combinations were tried" if total < trials else f"{total} trials were done"
            if self.left <= timedelta(0):
                return "the time was up"
            self._try(self._ask(len(done), distributions))

    def _ask(self, done: int, distributions: Mapping[str, Any]) -> Asked:
        """The next set of parameters, one that was not tried.

        The sampler is made anew from the seed and the number of trials done, not kept: so a search that was killed goes
        on with the very sets it would have tried.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        random, tried = np.random.default_rng([self.judge.seed, done]), tried_keys(self.study)
        if not done and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial(self.space.default())
        # No other process works on this study, so no running trial is to be kept clear of.
        self.study.sampler = TPESampler(seed=int(random.integers(2**32)), constant_liar=False)
        while params_key((asked := self.study.ask(dict(distributions))).params) in tried:
            close_trial(self.study, asked, None)
            while params_key(drawn := self.space.draw(random)) in tried:
                pass
            self.study.enqueue_trial(drawn)
        return asked

    def _try(self, asked: Asked) -> None:
        """Fit on one fold after the other; what came of it is written down before the trial is closed."""
        params, began, folds = self.space.params(asked.params), perf_counter(), self.judge.folds
        losses: list[float] = []
        state, reason = "complete", ""
        for step, fold in enumerate(folds):
            if losses and asked.should_prune():
                state, reason = "pruned", f"worse than the median after {step} of {len(folds)} folds"
                break
            if (left := self.left) <= timedelta(0):
                return close_trial(self.study, asked, None)
            try:
                losses.append(self.judge.loss(params, fold, left))
            except Exception as error:  # a candidate is the user's code: one set it cannot be fitted with is one trial
                if self.left <= timedelta(0):
                    return close_trial(self.study, asked, None)
                state, reason = "failed", error.what if isinstance(error, MillraceError) else first_line(error)
                break
            asked.report(fmean(losses), step)
        outcome = {"state": state, "losses": losses, "reason": reason, "seconds": perf_counter() - began}
        asked.set_user_attr(OUTCOME, outcome)
        return close_trial(self.study, asked, outcome)


def _found(candidate: Candidate | TorchCandidate, trials: Sequence[Trial], stopped: str) -> Found:
    winner = best(trials)
    if winner is not None:
        return Found(winner.params, winner.log_loss, tuple(trials), stopped)
    if not trials:
        return Found(default_params(candidate.search), nan, (), f"{stopped} before one trial was complete")
    raise TrainingError(
        f"Every trial of the candidate {candidate.name!r} failed, the first with: {trials[0].reason.rstrip('.')}.",
        looked=f"Trials: {len(trials)}; the first was of {dict(trials[0].params)}.",
        todo="Fix its builder or its search space in the use case's models.",
    )
