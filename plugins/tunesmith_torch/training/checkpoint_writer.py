"""Save and restore training checkpoints, and apply a monitor's decisions.

The order within a step decides how much work an interruption costs::

    update -> StepFinished event -> stopped (Ctrl-C)?  save, then leave
                                 -> evaluate           may save the best weights, or end training
                                 -> save if due

A stopped run saves its step *before* evaluating it: a signal must not wait for an evaluation, which
the resumed run does first (:func:`tunesmith_torch.training.loop.run_training_loop`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError, RunStopped
from tunesmith.events import CheckpointSaved, StepFinished
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.disk_space import require_free_space
from tunesmith_torch.training import checkpoint_owner, training_state
from tunesmith_torch.training.additions import NO_ADDITIONS, Additions
from tunesmith_torch.training.monitor import NO_MONITOR, MonitorDecision, TrainingMonitor

__all__ = ["CheckpointWriter"]

DEFAULT_SAVE_SECONDS = 120
"""Seconds between checkpoints if ``checkpoints.every`` is unset; a crash costs at most this."""


@dataclass
class CheckpointWriter:
    """Saves and restores training checkpoints, and applies the monitor's decisions."""

    job: Job[Any]
    masters: MasterWeights
    every: int | None
    """Number of steps between checkpoints; None: save every :data:`DEFAULT_SAVE_SECONDS`."""
    monitor: TrainingMonitor
    additions: Additions = NO_ADDITIONS
    last_step: int = 0
    """The step of the newest checkpoint."""
    last_time: float = field(default_factory=time.monotonic)
    """The time of the newest checkpoint, or of the start."""

    def resume(self, last_step: int | None = None) -> int:
        """Restore the newest checkpoint; return the number of steps already taken.

        ``last_step`` is the last step of the plan, or None if unknown.

        Raises:
            IntegrityError: the checkpoint belongs to another run or stage, or lies beyond the last
                step.
        """
        self._require_space()
        checkpoint = distributed.rank_0_first(self.job.checkpoints.newest)
        if checkpoint is None:
            return 0
        checkpoint_owner.require_own_checkpoint(self.job, checkpoint, last_step)
        training_state.restore_training_state(checkpoint.path, self.masters, self.additions)
        self.monitor.load_state_dict(checkpoint.meta.get("monitor", {}))
        self.last_step = checkpoint.step
        return checkpoint.step

    def after_step(self, event: StepFinished) -> bool:
        """Emit the step, evaluate it, and save if due; return True if training is over.

        Raises:
            RunStopped: ``job.emit`` or an addition raised it. The step is saved first.
        """
        step, stop = event.step, None
        try:
            self.job.emit(event)
        except RunStopped as error:
            stop = error
        # Rank 0 decides for all ranks: it receives the signals, and their clocks differ.
        is_stopped, is_due = distributed.broadcast_from_rank_0(
            lambda: [stop is not None, self.is_due(step)]
        )
        if is_stopped:
            self.save(step)  # on all ranks, because each may hold a part of the weights
            if stop is not None:
                raise stop
            distributed.all_gather_object(None)  # this receives the error that rank 0 raises
        try:
            if self.evaluate(step):
                return True
        except RunStopped:
            self.save(step)
            raise
        if is_due:
            self.save(step)
        return False

    def evaluate(self, step: int) -> bool:
        """Let additions and the monitor evaluate the step; return True if training is over."""
        if self.additions.is_finished(step):
            return True
        return self.apply_decision(step, self.monitor.evaluate(step))

    def apply_decision(self, step: int, decision: MonitorDecision) -> bool:
        """Save or restore the best weights as decided; return True if training is over.

        Raises:
            IntegrityError: training stops, but this run has no best checkpoint to restore.
        """
        if decision == "save_best":
            self.save(step, best=True)
        if decision != "stop":
            return False
        best = self.job.checkpoints.best()
        if best is None:
            what = "the best checkpoint is missing, so training cannot end with its weights"
            raise IntegrityError(f"{self.job.checkpoints.folder}: {what}")
        checkpoint_owner.require_own_checkpoint(self.job, best, step)
        training_state.restore_training_state(best.path, self.masters, self.additions)
        return True

    def _require_space(self) -> None:
        """Check that the disk has room for the kept and the next checkpoints, and for the artifact.

        Raises:
            EnvironmentProblem: the disk is too full; the message names both sizes.
        """
        weights_bytes = sum(4 * master.numel() for master in self.masters.masters)
        existing = len(self.job.checkpoints.steps())
        best = self.monitor is not NO_MONITOR  # the best one is kept in addition to the newest ones
        new = max(1, self.job.checkpoints.keep + 1 + best - existing)
        # A checkpoint holds the fp32 masters and AdamW's two moments: three times the weights.
        require_free_space(self.job.out, 3 * weights_bytes * new + weights_bytes)

    def is_due(self, step: int) -> bool:
        """Return True if a checkpoint should be saved after this step."""
        if self.every is not None:
            return step % self.every == 0
        return time.monotonic() - self.last_time > DEFAULT_SAVE_SECONDS

    def save(self, step: int, *, best: bool = False) -> None:
        """Commit a checkpoint, unless this step already has one.

        Rank 0 commits it, after every rank with a part of the weights has written that part.
        """
        if step == self.last_step and not best:
            return
        started = time.perf_counter()
        if distributed.is_rank_0():
            meta = {
                **checkpoint_owner.build_owner_meta(self.job),
                "monitor": self.monitor.state_dict(),
            }
            path = self.job.checkpoints.save(step, self._write, meta=meta, best=best)
        elif self.masters.is_sharded:
            self._write(None)
        self.last_step, self.last_time = step, time.monotonic()
        if not distributed.is_rank_0():
            return
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        seconds = time.perf_counter() - started
        name = str(path.relative_to(self.job.out))
        self.job.emit(CheckpointSaved(step=step, path=name, bytes=size, seconds=seconds))

    def _write(self, folder: Path | None) -> None:
        """Write this rank's part of the state; return when all ranks have written theirs.

        ``folder`` is the folder that rank 0 will commit; the other ranks pass None and receive it.
        """
        if self.masters.is_sharded:
            folder = Path(
                distributed.broadcast_from_rank_0(lambda: str(folder and folder.absolute()))
            )
        assert folder is not None
        training_state.save_training_state(folder, self.masters, self.additions)
        if self.masters.is_sharded:
            distributed.all_gather_object(None)
