"""Store the study, Optuna's record of the trials, in a journal that survives a killed search.

The sampler seed of each trial is derived from the study's seed and the trial's number. An
interrupted search therefore proposes the same trials as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from tunesmith_optuna.findings import Result, Row
from tunesmith_optuna.space import Choices, Dimension, Space, Value, list_combinations
from tunesmith_optuna.trial_log import TENTHS, ValidationPoint

FOLDER = "optuna"
"""Folder of the journal, inside the study's folder."""
JOURNAL = "journal.log"
DUPLICATE = "duplicate_of"
MIN_TRIALS_FOR_IMPORTANCE = 10
"""Number of finished trials needed to estimate importances (and at least five per option)."""
MAX_PROPOSALS = 100
"""Stop the search after this many repeated proposals in a row."""


class Study:
    """A study, whose trials are in Optuna's storage."""

    def __init__(self, folder: Path, space: Space, direction: str, pruner: str, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        (folder / FOLDER).mkdir(exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(folder / FOLDER / JOURNAL)))
        self.space, self.seed = space, seed
        self.maximizes = direction == "maximize"
        self._study = optuna.create_study(
            storage=storage, study_name="tune", direction=direction, load_if_exists=True,
            pruner=create_pruner(pruner), sampler=TPESampler(seed=seed),
        )  # fmt: skip

    # ------------------------------------------------------------------ proposals

    def propose(self, first: Mapping[str, Value] | None) -> Trial | None:
        """Return the next trial, or None if all combinations were tried or too many were repeated.

        ``first`` optionally contains the parameters of the first trial.
        """
        if not self._study.get_trials(deepcopy=False) and first is not None:
            self._study.enqueue_trial(dict(first))
        for _ in range(MAX_PROPOSALS):
            tried = self._tried()
            if self.space.size is not None and len(tried) >= self.space.size:
                return None
            number = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = TPESampler(seed=derive_seed(self.seed, number))
            trial = self._study.ask(self._distributions())
            earlier = tried.get(_key(trial.params))
            if earlier is None:
                return trial
            trial.set_user_attr(DUPLICATE, earlier)
            self._study.tell(trial, state=TrialState.FAIL)
            if self.space.size is not None:
                self._study.enqueue_trial(self._choose_untried(tried, number))
        return None

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {d.key: to_distribution(d) for d in self.space.dimensions}

    def _tried(self) -> dict[tuple[tuple[str, Value], ...], int]:
        return {_key(t.params): t.number for t in self._trials()}

    def _choose_untried(self, tried: Mapping[Any, int], number: int) -> dict[str, Value]:
        rest = [p for p in list_combinations(self.space) if _key(p) not in tried]
        return random.Random(derive_seed(self.seed, number)).choice(rest)

    # ------------------------------------------------------------------ results

    def should_prune(self, trial: Trial, evaluation: ValidationPoint) -> bool:
        """Report a validation loss to Optuna, and return True if its pruner stops the trial."""
        if evaluation.tenth not in self._reported(trial):
            loss = -evaluation.loss if self.maximizes else evaluation.loss
            trial.report(loss, evaluation.tenth)
        return bool(trial.should_prune())

    def _reported(self, trial: Trial) -> Mapping[int, float]:
        found: FrozenTrial = self._study.get_trials(deepcopy=False)[trial.number]
        return dict(found.intermediate_values)

    def finish(self, trial: Trial, result: Result, seconds: float) -> None:
        """Record the score of a finished trial."""
        trial.set_user_attr("result", [result.low, result.high, result.n])
        self._end(trial, TrialState.COMPLETE, seconds, "", result.value)

    def prune(self, trial: Trial, seconds: float, reason: str) -> None:
        """Record that a trial was stopped early, with the reason."""
        self._end(trial, TrialState.PRUNED, seconds, reason)

    def fail(self, trial: Trial, seconds: float, reason: str) -> None:
        """Record that a trial failed, with the reason."""
        self._end(trial, TrialState.FAIL, seconds, reason)

    def _end(
        self, trial: Trial, state: TrialState, seconds: float, reason: str,
        value: float | None = None,
    ) -> None:  # fmt: skip
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr("reason", reason)
        with warnings.catch_warnings():  # For pruned trials, Optuna uses the last reported loss.
            warnings.simplefilter("ignore")
            self._study.tell(trial, value, state=state)

    def unfinished(self) -> list[Trial]:
        """Return the trials that an earlier search started but did not finish."""
        return [
            Trial(self._study, frozen._trial_id)
            for frozen in self._trials()
            if frozen.state == TrialState.RUNNING
        ]

    def rows(self) -> list[Row]:
        """Return all trials in the order they started, without duplicates."""
        return [self._to_row(frozen) for frozen in self._trials()]

    def _to_row(self, frozen: FrozenTrial) -> Row:
        attributes = frozen.user_attrs
        names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
        names |= {TrialState.FAIL: "failed"}
        result = None
        if frozen.state == TrialState.COMPLETE and frozen.value is not None:
            result = Result(frozen.value, *attributes["result"])
        return Row(
            frozen.number, names.get(frozen.state, "running"), self.space.decode(frozen.params),
            result, float(attributes.get("seconds", 0.0)), str(attributes.get("reason", "")),
        )  # fmt: skip

    def sort(self, rows: Sequence[Row]) -> list[Row]:
        """Return the trials with a result, the best first; ties keep their order."""
        finished = [(row.result.value, row) for row in rows if row.result]
        finished.sort(key=lambda pair: -pair[0] if self.maximizes else pair[0])
        return [row for _, row in finished]

    def importances(self) -> dict[str, float]:
        """Return the share of score differences due to each option, or {} if trials are few.

        The shares are estimated with a random forest over the options (fANOVA, Hutter et al., ICML
        2014).
        """
        values = {frozen.value for frozen in self._trials() if frozen.state == TrialState.COMPLETE}
        count = sum(frozen.state == TrialState.COMPLETE for frozen in self._trials())
        options = len(self.space.dimensions)
        if options < 2 or count < max(MIN_TRIALS_FOR_IMPORTANCE, 5 * options) or len(values) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return {key: float(share) for key, share in found.items()}

    def _trials(self) -> Iterator[FrozenTrial]:
        """Yield the started trials, without duplicates and queued trials."""
        for frozen in self._study.get_trials(deepcopy=False):
            if DUPLICATE not in frozen.user_attrs and frozen.state != TrialState.WAITING:
                yield frozen


def to_distribution(dimension: Dimension) -> BaseDistribution:
    """Convert a dimension of the search space to Optuna's distribution."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    low, high, log, step = dimension.low, dimension.last, dimension.log, dimension.step
    if dimension.is_integer:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def create_pruner(name: str) -> BasePruner:
    """Return Optuna's pruner by name: ``median``, ``hyperband`` or ``none``."""
    if name == "median":
        return MedianPruner(n_startup_trials=3, n_warmup_steps=2)
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=TENTHS, reduction_factor=3)
    return NopPruner()


def derive_seed(seed: int, number: int) -> int:
    """Return the seed for the proposal of a trial."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def _key(params: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(params.items()))
