"""Find changes to the options that save memory, and estimate how much each one saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import BaseModel

from tunesmith.estimates import EstimateRequest, MemorySaving
from tunesmith.fence import call_in_fence
from tunesmith_plugins.estimate.memory_peak import MemoryPeak, compute_peak
from tunesmith_plugins.estimate.request import Technique, first_estimate

MAX_SHOWN = 3
"""Maximum number of savings to return."""
MAX_COMBINED = 16
"""Maximum number of changes to combine in order to make a run fit."""

Applied: TypeAlias = tuple[MemorySaving[BaseModel], ...]
"""Changes in order; the options of each one include all earlier changes."""


@dataclass(frozen=True)
class Saving:
    """One or more changes to the run file, and the peak memory after these changes."""

    changes: tuple[str, ...]
    costs: tuple[str, ...]
    """The disadvantage of each change, in words."""
    saves: int
    peak: MemoryPeak
    enough: bool
    """True if the run fits into the memory limit after the changes."""


def find_savings(
    technique: Technique,
    config: BaseModel,
    request: EstimateRequest,
    current: MemoryPeak,
    limit: int | None,
) -> list[Saving]:
    """Find up to three changes that save memory, those with the smallest disadvantage first.

    If the run exceeds ``limit`` bytes, return only changes that make it fit. If no single change is
    enough, the first result combines as few changes as possible, and the largest single savings
    follow. Savings are estimated analytically and scaled to ``current``, the best known peak.
    """
    estimator = _SavingEstimator(technique, request, current, limit)
    if not estimator.set_base(config):
        return []
    single = [estimator.saving(config, (change,)) for change in _changes(technique, config)]
    helpful = [saving for saving in single if saving is not None and saving.saves > 0]
    if limit is None or current.high <= limit:
        return helpful[:MAX_SHOWN]
    enough = [saving for saving in helpful if saving.enough]
    if enough:
        return enough[:MAX_SHOWN]
    combined = _combine(technique, config, estimator)
    helpful.sort(key=lambda saving: -saving.saves)
    return ([combined] if combined else []) + helpful[: MAX_SHOWN - bool(combined)]


class _SavingEstimator:
    """Estimates the effect of changed options, relative to the best known peak."""

    def __init__(
        self, technique: Technique, request: EstimateRequest, current: MemoryPeak, limit: int | None
    ) -> None:
        self._technique = technique
        self._request = request
        self._current = current
        self._limit = limit
        self._base = 0

    def set_base(self, config: BaseModel) -> bool:
        """Estimate the peak with unchanged options. Return False if there is no estimate."""
        estimate = first_estimate(self._technique, config, self._request)
        self._base = compute_peak(estimate).expected if estimate else 0
        return self._base > 0

    def saving(self, config: BaseModel, applied: Applied) -> Saving | None:
        """Estimate the effect of changes applied in sequence, or return None if that fails."""
        # The last change holds the options with all changes applied.
        changed = applied[-1].config if applied else config
        estimate = first_estimate(self._technique, changed, self._request)
        if estimate is None:
            return None
        peak = self._current.scaled(compute_peak(estimate).expected / self._base)
        shown = _drop_superseded(applied)
        return Saving(
            changes=tuple(setting for change in shown for setting in change.changes),
            costs=tuple(change.cost for change in shown),
            saves=self._current.expected - peak.expected,
            peak=peak,
            enough=self._limit is not None and peak.high <= self._limit,
        )


def _combine(technique: Technique, config: BaseModel, estimator: _SavingEstimator) -> Saving | None:
    """Apply changes in sequence, smallest disadvantage first, until the run fits.

    Try changes that have not saved memory so far last. They may help later, because several phases
    can have nearly the same peak, and each may need its own change. Return None if the run never
    fits.
    """
    applied: Applied = ()
    saves = 0
    while len(applied) < MAX_COMBINED:
        done = {change.changes for change in applied}
        changed = applied[-1].config if applied else config
        remaining = [c for c in _changes(technique, changed) if c.changes not in done]
        estimated = [(c, estimator.saving(config, (*applied, c))) for c in remaining]
        known = [(change, saving) for change, saving in estimated if saving is not None]
        if not known:
            return None
        change, saving = next((each for each in known if each[1].saves > saves), known[0])
        applied, saves = (*applied, change), saving.saves
        if saving.enough:
            return _drop_needless(technique, config, estimator, applied)
    return None


def _drop_needless(
    technique: Technique, config: BaseModel, estimator: _SavingEstimator, applied: Applied
) -> Saving | None:
    """Return the saving of these changes, without those that the run does not need to fit."""
    # Start at the end: the last changes have the largest disadvantage, or build on earlier ones.
    for number in reversed(range(len(applied))):
        fewer = _apply(technique, config, [*applied[:number], *applied[number + 1 :]])
        saving = estimator.saving(config, fewer) if fewer else None
        if saving is not None and saving.enough:
            applied = fewer
    return estimator.saving(config, applied)


def _apply(
    technique: Technique, config: BaseModel, wanted: Sequence[MemorySaving[BaseModel]]
) -> Applied:
    """Apply changes in sequence. Return () if the technique no longer offers one of them."""
    applied: Applied = ()
    for change in wanted:
        offered = {each.changes: each for each in _changes(technique, config)}
        if change.changes not in offered:
            return ()
        applied = (*applied, offered[change.changes])
        config = applied[-1].config
    return applied


def _drop_superseded(applied: Applied) -> Applied:
    """Drop changes whose keys are all overwritten by later changes."""
    kept: Applied = ()
    keys: set[str] = set()
    for change in reversed(applied):
        changed = {setting.partition(" = ")[0] for setting in change.changes}
        if not changed <= keys:
            kept = (change, *kept)
        keys |= changed
    return kept


def _changes(technique: Technique, config: BaseModel) -> Iterator[MemorySaving[BaseModel]]:
    """Yield the changes that the technique offers, the one with the least disadvantage first."""
    if technique.offer.memory_savings is None:
        return
    yield from call_in_fence(technique, "memory_savings", technique.offer.memory_savings, config)
