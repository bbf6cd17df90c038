"""Measure rivals: solve the task without tuning, from the same training rows.

What chooses sees dev rows only: the variants of a rival are compared on them, and the best one is
scored once on the held-out rows. Where few rows leave none for dev, folds of training rows take
their place, each scored by what was built from the others. Rivals that ask the base model are
costly: few rows compare their variants, they are scored on the same random rows, and within a
budget of time, so that they cost less than the training they are compared with.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.contracts import Rival, RivalTask, RivalVariant, RunContext, TextModel
from tunesmith.data.subset import Subset
from tunesmith.errors import ConfigError, DataError, UsageError
from tunesmith.events import JSON, RivalChosen
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.evaluate import measure_model
from tunesmith.execution.run_data import DataParts
from tunesmith.fence import ask, fence, require_unchanged
from tunesmith.offers import EvaluatorOffer, RivalOffer
from tunesmith.plan import Component, Plan
from tunesmith.plugins import missing_requirements
from tunesmith.records import Record
from tunesmith.statistics import mean_interval

Rivals = Sequence[Component[RivalOffer[Any]]]
SAMPLE = 2_000
"""Number of training rows by which default rivals are chosen."""
DEV_ROWS = 20
"""Number of rows by which a variant that asks the base model is scored."""
COMPARED_ROWS = 10
"""Number of them by which its variants are compared: only the best one is scored on the others."""


def choose_rivals(
    plan: Plan, train: Sequence[Record], evaluator: Component[EvaluatorOffer[Any]] | None
) -> Rivals:
    """Return the rivals of a run, the cheapest first: the named ones, or those that suit the rows.

    A rival whose libraries are missing, or whose answers ``evaluator`` cannot measure, is left out
    unless it is named.
    """
    rivals = sorted(plan.rivals, key=lambda rival: (rival.offer.cost, rival.offer.name))
    if plan.baselines.use is not None or evaluator is None:
        return rivals
    sample = [train[row] for row in range(0, len(train), -(-len(train) // SAMPLE) or 1)]
    return [
        rival
        for rival in rivals
        if can_measure(evaluator, rival)
        and (
            ask(rival.offered, "suits", rival.offer.suits, sample)
            or ask(rival.offered, "is_configured", rival.offer.is_configured, rival.config)
        )
        and not [*missing_requirements(rival.offer.needs)]
    ]


def can_measure(
    evaluator: Component[EvaluatorOffer[Any]], rival: Component[RivalOffer[Any]]
) -> bool:
    """Return True if an evaluator can measure a rival: a classifier has no probabilities."""
    has_scores = rival.offer.can_score and rival.offer.solution != "classifier"
    return evaluator.offer.generates or has_scores


def list_evaluators(
    evaluators: Sequence[Component[EvaluatorOffer[Any]]], rival: Component[RivalOffer[Any]]
) -> Sequence[Component[EvaluatorOffer[Any]]]:
    """Return the evaluators that measure a rival.

    A prompt with examples is costly. The first evaluator decides, so only those measure it, unless
    it is the reference, that ask for answers or for probabilities as the first one does.
    """
    if rival.offer.is_reference or not rival.offer.needs_model:
        return [evaluator for evaluator in evaluators if can_measure(evaluator, rival)]
    return [e for e in evaluators if e.offer.generates == evaluators[0].offer.generates]


_Scored = tuple[Sequence[RivalVariant], Sequence[Record]]
"""Rows that are scored, with the variants that are built for them; none: those of the task."""


@dataclass
class _Tried:
    """A variant, and what it scored so far."""

    variant: RivalVariant
    place: int
    values: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    rows: int = 0
    seconds: float = 0.0

    @property
    def score(self) -> float:
        return mean_interval(self.values, self.weights, resamples=100).value

    def to_json(self) -> JSON:
        names = {"name": self.variant.name, "score": self.score}
        return {**names, "rows": self.rows, "seconds": self.seconds}


@dataclass(frozen=True)
class RivalChoice:
    """Chooses one variant of each rival on the dev rows, within the budget of the run."""

    plan: Plan
    task: RivalTask
    parts: DataParts
    evaluator: Component[EvaluatorOffer[Any]]
    """The evaluator whose first metric decides."""
    run: RunContext
    emit: Emitter

    def choose(
        self, rival: Component[RivalOffer[Any]], seconds_left: float = float("inf")
    ) -> TextModel | None:
        """Return the model of the best variant, or None if the time is up before the first one.

        A resumed run takes the variant that was chosen before.
        """
        plugin = rival.offered.plugin
        earlier = self.emit.report.rivals.get(rival.offer.name)
        try:
            # A third party's one gets the rows that are trained on afterwards.
            rows = () if plugin.is_builtin else (self.task.train,)
            with (
                fence(plugin, "variants", may_take_long=True),
                require_unchanged(plugin, *rows),
            ):
                built = rival.offer.build(rival.config)
                variants = built.variants(self.task)
                if earlier is not None and not earlier.skipped:
                    return next((v.model for v in variants if v.name == earlier.variant), None)
                best, event = self._compare(rival.offer, built, variants, seconds_left)
        except (ConfigError, DataError, UsageError) as error:
            if self.plan.baselines.use is not None:
                raise
            best, event = None, _describe(rival.offer, skipped=error.message)
        self.emit(event)
        return best.model if best else None

    def select_rows(
        self, rival: Component[RivalOffer[Any]], count: int, seconds_left: float
    ) -> Sequence[int]:
        """Return the numbers of the ``count`` held-out rows on which a rival is scored.

        Costly rivals are scored on the same random rows. If none is stronger than a costly one on
        the dev rows, that one is scored on all, if the time is enough: few rows cannot show that it
        is good enough.
        """
        rows = self.plan.baselines.rows
        if not rival.offer.needs_model or not rows or rows >= count:
            return range(count)
        costly = {r.offer.name for r in self.plan.rivals if r.offer.needs_model}
        scored = [c for c in self.emit.report.rivals.values() if c.dev_score is not None]
        sign = 1 if self.evaluator.offer.metrics[0].higher_is_better else -1
        # Of equal ones a costly one is wanted, and the cheapest of these.
        order = [(sign * (c.dev_score or 0.0), c.rival in costly) for c in scored]
        best = scored[order.index(max(order))] if scored else None
        if best is not None and best.rival == rival.offer.name:
            variant = next(v for v in best.variants if v["name"] == best.variant)
            if variant["seconds"] * count / best.dev_rows <= seconds_left:
                return range(count)
        return sorted(random.Random(self.plan.run.seed).sample(range(count), rows))

    def _compare(
        self,
        offer: RivalOffer[Any],
        rival: Rival,
        variants: Iterable[RivalVariant],
        seconds_left: float,
    ) -> tuple[RivalVariant | None, RivalChosen]:
        """Score variants until the time is up; return the best one and the event about it."""
        metric = self.evaluator.offer.metrics[0]
        sign = 1 if metric.higher_is_better else -1
        compared, others = [self._list_scored(rival, rows) for rows in self._draw_rows(offer)]
        best, tried = None, list[_Tried]()
        started = time.perf_counter()
        skipped = "it has no variant for these rows"
        for place, variant in enumerate(variants):
            slowest = max((one.seconds for one in tried), default=0.0)
            if time.perf_counter() - started + slowest > seconds_left:
                skipped = skipped and "[baselines] budget is used up"
                break
            best, skipped = best or variant, ""
            one = _Tried(variant, place)
            self._measure(one, offer.name, compared)
            if not one.values:
                break
            tried.append(one)
        if tried:
            chosen = max(tried, key=lambda one: sign * one.score)
            best = chosen.variant
            if time.perf_counter() - started + chosen.seconds <= seconds_left:
                self._measure(chosen, offer.name, others)
        return best, _describe(
            offer,
            variant=best.name if best else "",
            evaluator=self.evaluator.id,
            metric=metric.name,
            higher_is_better=metric.higher_is_better,
            dev_score=chosen.score if tried else None,
            dev_rows=chosen.rows if tried else 0,
            folds=0 if len(self.parts.dev) else len(compared),
            variants=[one.to_json() for one in tried],
            seconds=time.perf_counter() - started,
            skipped=skipped,
        )

    def _measure(self, tried: _Tried, rival: str, scored: Sequence[_Scored]) -> None:
        """Add the metric's values over records; none where it cannot be measured yet."""
        plugin, metric = self.plan.technique.offered.plugin, self.evaluator.offer.metrics[0].name
        started = time.perf_counter()
        phase = " ".join(filter(None, ["choosing:", rival, tried.variant.name]))
        for fold, (alike, records) in enumerate(scored, 1):
            label = f"{phase}, fold {fold}" if len(scored) > 1 else phase
            model = _find_alike(tried.variant, tried.place, alike)
            args = (label, model, self.evaluator, records, self.emit, self.run, plugin)
            for found in (m for m in measure_model(*args) if m.metric == metric):
                tried.values += found.values
                tried.weights += found.weights or [1.0] * len(records)
                tried.rows += len(records)
        tried.seconds += time.perf_counter() - started

    def _draw_rows(self, offer: RivalOffer[Any]) -> tuple[Sequence[int], Sequence[int]]:
        """Return the rows that compare variants, and those on which the best is scored also."""
        rows: Sequence[int] = range(len(self.parts.dev) or len(self.task.train))
        if not offer.needs_model:
            return rows, ()
        drawn = random.Random(self.plan.run.seed).sample(rows, min(DEV_ROWS, len(rows)))
        return sorted(drawn[:COMPARED_ROWS]), sorted(drawn[COMPARED_ROWS:])

    def _list_scored(self, rival: Rival, rows: Sequence[int]) -> list[_Scored]:
        """Return dev rows, or parts of each fold of training rows with what is built for it."""
        train, dev = self.task.train, self.parts.dev
        if len(dev):
            return [((), Subset(dev, rows))] if rows else []
        folds = []
        for left_out in map(set, self.parts.folds if rows else ()):
            others = [row for row in range(len(train)) if row not in left_out]
            variants = [*rival.variants(replace(self.task, train=Subset(train, others)))]
            folds.append((variants, Subset(train, sorted(left_out.intersection(rows)))))
        return [fold for fold in folds if all(map(len, fold))]


def _find_alike(variant: RivalVariant, place: int, alike: Sequence[RivalVariant]) -> TextModel:
    """Return the model of the variant with the same name, or else in the same place."""
    named = [other for other in alike if other.name == variant.name]
    return [*named, *alike[place:], *alike[-1:], variant][0].model


def _describe(offer: RivalOffer[Any], **fields: Any) -> RivalChosen:
    return RivalChosen(rival=offer.name, solution=offer.solution, cost=offer.cost, **fields)
