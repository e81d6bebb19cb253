"""The loop of a fit: epochs of steps, stopped early by the watched rows, with the best weights kept.

It knows a machine, rows and an objective; it does not know how processes were started, where checkpoints lie or what
the network is. What it does next is all in `Progress`, so that a checkpoint continues it to the same bits on a CPU.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from millrace.errors import TrainingError
from training.network import randomness
from training.network.batches import Batch, Rows, share, steps
from training.network.checkpoint import Checkpoints, Pace
from training.network.curves import gpu_figures
from training.network.machine import Machine
from training.network.meter import LossMeter, refuse
from training.network.task import Outcome, Recipe


@dataclass(slots=True)
class Progress:
    """Where a fit stands beside its weights: `steps` taken in `epoch`, their summed `loss` and `seconds`.

    `order` is the state of the data order's generator as the epoch began, `since` the epochs since the best watched
    loss, `weights` those of that epoch.
    """

    order: torch.Tensor
    epoch: int = 0
    steps: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    best: float = math.inf
    since: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)


class Loop:
    """One fit from wherever its progress stands; `run` it once."""

    def __init__(
        self, recipe: Recipe, machine: Machine, fitted: Rows, watched: Rows, checkpoints: Checkpoints | None
    ) -> None:
        self._recipe, self._machine, self._group = recipe, machine, machine.group
        self._fitted, self._watched, self._checkpoints = fitted, watched, checkpoints
        self._pace = Pace(self._group)
        self._taken = 0.0
        self._progress = Progress(torch.Generator().manual_seed(recipe.seed).get_state())

    def resume(self) -> str:
        """Continue the fit's checkpoint if there is one; says what was found."""
        found, why = self._checkpoints.read() if self._checkpoints and self._group.rank == 0 else (None, "")
        found, why = self._group.from_first((found, why))
        if found is None:
            return why
        self._progress = Progress(**{one.name: found[one.name] for one in fields(Progress)})
        self._machine.load(found["model"], found["optimizer"])
        randomness.restore(found["random"][self._group.rank])
        return f"continued at epoch {self._progress.epoch + 1}, step {self._progress.steps + 1}"

    def run(self) -> Outcome:
        """Fit to the end. Raises `TrainingError` when a loss or gradient is not finite."""
        progress = self._progress
        while progress.epoch < self._recipe.epochs and progress.since < self._recipe.patience:
            self._run_epoch()
        weights = {name: value.cpu() for name, value in progress.weights.items()}
        return Outcome(self._group.from_first(weights), progress.curves)

    def _run_epoch(self) -> None:
        recipe, progress = self._recipe, self._progress
        self._machine.module.train()
        order = torch.Generator()
        order.set_state(progress.order)
        todo = steps(len(self._fitted), recipe.batch_size, recipe.accumulate, order)
        meter = LossMeter(recipe.name, recipe.objective.row_losses, progress.loss)
        before, started = progress.seconds, time.perf_counter()
        for number in range(progress.steps, len(todo)):
            self._take_step(todo[number], number, meter)
            progress.seconds = before + time.perf_counter() - started
            if self._checkpoints and self._pace.due(progress.seconds - before) and number + 1 < len(todo):
                meter.flush()
                progress.steps, progress.loss = number + 1, meter.total
                self._save()
        meter.flush()
        progress.seconds, progress.order = before + time.perf_counter() - started, order.get_state()
        self._close_epoch(meter.total)

    def _take_step(self, batches: tuple[torch.Tensor, ...], number: int, meter: LossMeter) -> None:
        """One step of the optimizer on the mean loss of the rows of `batches`, of which this process takes a share."""
        machine, recipe = self._machine, self._recipe
        machine.optimizer.zero_grad(set_to_none=True)
        scale = self._group.world / sum(map(len, batches))  # the gradients are averaged over the processes
        for position, globally in enumerate(batches):
            batch = self._fitted.at(share(globally, self._group))
            place = f"epoch {self._progress.epoch + 1}, batch {number * recipe.accumulate + position + 1}"
            with ExitStack() as stack:
                if position + 1 < len(batches):
                    stack.enter_context(machine.fabric.no_backward_sync(machine.module))
                logits = machine.module(batch.X)
                loss = recipe.objective.sum(logits, batch.y, batch.soft)
                meter.add(loss, logits, batch, place)
                machine.fabric.backward(loss * scale)
        self._clip(batch, place)
        machine.optimizer.step()

    def _clip(self, batch: Batch, place: str) -> None:
        """On a GPU the norm is not read, which would wait for it: the next batch's loss tells."""
        machine, recipe = self._machine, self._recipe
        norm = machine.fabric.clip_gradients(
            machine.module, machine.optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False
        )
        if machine.device.type == "cpu" and not math.isfinite(size := float(norm)):
            rows = ", ".join(str(int(row)) for row in batch.positions[:5])
            refuse(recipe.name, size, place, f"Its loss is finite; the batch's first fit rows are {rows}.", "gradient")

    def _close_epoch(self, loss: float) -> None:
        """Watch, keep the weights if they are the best, note the curves, save."""
        progress, rows = self._progress, len(self._fitted)
        (total,) = self._group.sums(loss)
        watched = self._watch()
        figures = {
            "fit_loss": total / rows,
            "watch_loss": watched,
            "learning_rate": float(self._machine.optimizer.param_groups[0]["lr"]),
            "seconds": progress.seconds,
            "rows_per_second": rows / max(progress.seconds, 1e-9),
        } | gpu_figures(self._machine.device)
        for name, value in figures.items():
            progress.curves.setdefault(name, []).append(value)
        if watched < progress.best:
            progress.best, progress.since, progress.weights = watched, 0, self._machine.weights()
        else:
            progress.since += 1
        progress.epoch, progress.steps, progress.loss, progress.seconds = progress.epoch + 1, 0, 0.0, 0.0
        self._save()

    def _watch(self) -> float:
        """The mean log loss of the watched rows with the true outcomes, whatever the fit minimizes."""
        machine, sums = self._machine, 0.0
        machine.module.eval()
        with torch.no_grad():
            for batch in self._watched.parts(self._group):
                losses = self._recipe.objective.row_losses(machine.module(batch.X), batch.y)
                sums += float(losses.double().sum())
        (total,) = self._group.sums(sums)
        if not math.isfinite(total):
            raise TrainingError(
                f"The loss of {self._recipe.name!r} on the watched rows became {total} in epoch "
                f"{self._progress.epoch + 1}.",
                looked=f"The watched rows are the last {len(self._watched)} in time; the fit rows' loss is finite.",
                todo="Let its module handle missing and unseen inputs, and keep its logits finite.",
            )
        return total / len(self._watched)

    def _save(self) -> None:
        """All processes take part; the first one writes."""
        if self._checkpoints is None:
            return
        machine = self._machine
        state: dict[str, Any] = {one.name: getattr(self._progress, one.name) for one in fields(Progress)}
        state |= {"model": machine.weights(), "optimizer": machine.optimizer_state()}
        state["random"] = self._group.gathered(randomness.captured())
        if self._group.rank == 0:
            self._checkpoints.write(state)
