"""Changes of the options that save memory: what each saves, and whether it is enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from tunesmith.contracts import Economy, EstimateRequest
from tunesmith.estimate.ask import Technique, first_estimate
from tunesmith.estimate.memory_peak import Peak, peak_of
from tunesmith.plugins import blame

SHOWN = 3
LONGEST = 8
"""Changes that are made one upon another before it is given up."""


@dataclass(frozen=True)
class Saving:
    """One change of the run file, or several together, and the peak that is left then."""

    changes: tuple[str, ...]
    prices: tuple[str, ...]
    """What each change costs, in words."""
    saves: int
    peak: Peak
    enough: bool
    """Whether the run surely fits then."""


def savings(
    technique: Technique,
    config: BaseModel,
    request: EstimateRequest,
    now: Peak,
    limit: int | None,
) -> list[Saving]:
    """The cheapest changes, at most three: those that make it fit, where there are such.

    Without one that is enough alone, the first is what it takes together. ``now`` is the peak as
    it is believed; what changes save is estimated analytically, and scaled to it.
    """
    scale = _Scale(technique, request, now, limit)
    if not scale.known(config):
        return []
    single = [scale.saving(config, (economy,)) for economy in _economies(technique, config)]
    helpful = [saving for saving in single if saving is not None and saving.saves > 0]
    if limit is None or now.high <= limit:
        return helpful[:SHOWN]
    enough = [saving for saving in helpful if saving.enough]
    if enough:
        return enough[:SHOWN]
    together = _together(technique, config, scale)
    helpful.sort(key=lambda saving: -saving.saves)
    return ([together] if together else []) + helpful[: SHOWN - bool(together)]


class _Scale:
    """Estimates changed options, relative to the peak as it is believed."""

    def __init__(
        self, technique: Technique, request: EstimateRequest, now: Peak, limit: int | None
    ) -> None:
        self._technique = technique
        self._request = request
        self._now = now
        self._limit = limit
        self._base = 0

    def known(self, config: BaseModel) -> bool:
        """Whether the options as they are can be estimated; the scale's zero."""
        estimate = first_estimate(self._technique, config, self._request)
        self._base = peak_of(estimate).expected if estimate else 0
        return self._base > 0

    def saving(self, config: BaseModel, made: tuple[Economy[BaseModel], ...]) -> Saving | None:
        """What the changes come to, one upon the other; the last one holds the options."""
        changed = made[-1].config if made else config
        estimate = first_estimate(self._technique, changed, self._request)
        if estimate is None:
            return None
        peak = self._now.times(peak_of(estimate).expected / self._base)
        return Saving(
            changes=tuple(change for economy in made for change in economy.changes),
            prices=tuple(economy.price for economy in made),
            saves=self._now.expected - peak.expected,
            peak=peak,
            enough=self._limit is not None and peak.high <= self._limit,
        )


def _together(technique: Technique, config: BaseModel, scale: _Scale) -> Saving | None:
    """Change upon change, the cheapest first, until it is enough; None if it never is."""
    made: list[Economy[BaseModel]] = []
    best: Saving | None = None
    while len(made) < LONGEST:
        done = {economy.changes for economy in made}
        current = made[-1].config if made else config
        further = (e for e in _economies(technique, current) if e.changes not in done)
        for economy in further:
            saving = scale.saving(config, (*made, economy))
            if saving is not None and saving.saves > (best.saves if best else 0):
                made.append(economy)
                best = saving
                break
        else:
            return None
        if best is not None and best.enough:
            return best
    return None


def _economies(technique: Technique, config: BaseModel) -> Iterator[Economy[BaseModel]]:
    if technique.offer.economies is None:
        return
    with blame(technique.plugin):
        yield from technique.offer.economies(config)
