"""Measure baselines: solve the task without fine-tuning, from the same training rows.

Choices are made on validation rows only: the variants of a baseline are compared on them, and the
best one is scored once on the test rows. If there are too few rows for a validation part, training
rows are cross-validated: each fold is scored by variants built from the other folds.

Baselines that query the base model are costly, so they share a time budget. All of their variants
are compared on a few rows first. The first variant of each baseline comes before all others, so
that every baseline gets a turn::

    rows    variants of each baseline
    10      all: first variants first, then those of the most promising baseline
    20      the better half
    40      the better half of these, if more than one is left
    80      the same

A baseline with a single variant stops after 10 rows. If even the best variant has the worst
possible score after 20 rows, such as 0 right answers, further rows would not tell the variants
apart, so the comparison stops. Few test rows are then enough to show how weak the baseline is.

The event about the choice lists all variants with the reason why they were stopped or skipped.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tunesmith.contracts import BaselineTask, BaselineVariant, RunContext, TextModel
from tunesmith.data.subset import Subset
from tunesmith.errors import (
    ConfigError,
    DataError,
    PromptTooLongError,
    TunesmithError,
    UsageError,
)
from tunesmith.events import BaselineChosen, FindingReported
from tunesmith.execution.baseline_candidates import BaselineCandidate, TimeBudget, TriedVariant
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.evaluate import measure_model
from tunesmith.execution.run_data import DataParts
from tunesmith.execution.suitable_baselines import Baselines, describe_choice
from tunesmith.fence import fence, require_unchanged
from tunesmith.fence.returned import blame_plugin, check_variants
from tunesmith.offers import BaselineOffer, EvaluatorOffer, Plugin
from tunesmith.plan import Component, Plan
from tunesmith.plugins import missing_requirements
from tunesmith.records import Record

REFUSAL_ERRORS = (ConfigError, DataError, UsageError)
"""Errors that mean that a baseline cannot solve a task. Any other error is a bug in its plugin."""
ROUND_ROWS = (10, 20, 40, 80)
"""Total rows on which variants that query the base model are compared, after each round."""
ROWS_AT_WORST = 20
"""Number of test rows for a costly baseline with the worst possible validation score."""
NEVER_TRIED = "the time limit [baselines] budget was reached"
WORSE_HALF = "not in the better half"
NOT_BETTER = "not better than the chosen variant"
NO_VALIDATION_ROWS = "there are no validation rows to compare variants on"


_Scored = tuple[Sequence[BaselineVariant], Sequence[Record]]
"""Variants and the rows to score with them; without variants, those of the task are used."""


@dataclass(frozen=True)
class BaselineChoice:
    """Chooses one variant of each baseline on the validation rows, within the run's time budget."""

    plan: Plan
    task: BaselineTask
    parts: DataParts
    evaluator: Component[EvaluatorOffer[Any]]
    """The evaluator whose first metric decides."""
    run: RunContext
    emit: Emitter

    def choose(
        self, baselines: Baselines, budget_seconds: float
    ) -> tuple[list[tuple[Component[BaselineOffer[Any]], TextModel]], float]:
        """Choose each baseline's best variant; return the variants' models and the seconds left.

        A resumed run uses the variant that was chosen before.
        """
        contenders = self._open_all(baselines)
        budget = TimeBudget(budget_seconds)
        for contender in contenders:
            if not contender.offer.needs_model:
                self._try_all([contender], self._draw_rows(0, None), TimeBudget(float("inf")))
        costly = [contender for contender in contenders if contender.offer.needs_model]
        self._try_all(costly, self._draw_rows(0, ROUND_ROWS[0]), budget)
        for done, wanted in pairwise(ROUND_ROWS):
            rows = self._draw_rows(done, wanted)
            for contender in sorted(costly, key=lambda one: -one.promise(self._sign)):
                if rows and self._is_undecided(contender, done):
                    self._narrow_down(contender, rows, budget)
        chosen = [(each.baseline, self._conclude(each)) for each in contenders]
        return [(baseline, model) for baseline, model in chosen if model is not None], budget.left

    def skip(self, baseline: Component[BaselineOffer[Any]], reason: str) -> None:
        """Record why a baseline is skipped; if it has a score, keep the score and add a warning."""
        name, scored = baseline.offer.name, self.emit.report.measured.values()
        if any((e.model, e.evaluator) == (name, self.evaluator.id) for e in scored):
            self.emit(FindingReported(level="warning", source=f"baselines.{name}", message=reason))
        else:
            self.emit(describe_choice(baseline.offer, skipped=reason))

    def select_rows(
        self, baseline: Component[BaselineOffer[Any]], count: int, seconds_left: float
    ) -> Sequence[int]:
        """Return the numbers of the test rows, out of ``count``, on which a baseline is scored.

        Costly baselines are scored on the same random rows. A costly baseline that no other beats
        on the validation rows is scored on all test rows if time allows, because a few rows cannot
        show that it is good enough.
        """
        metric = self.evaluator.offer.metrics[0]
        has_parts = metric.is_row_mean or metric.compute is not None
        if not baseline.offer.needs_model or not has_parts:
            return range(count)
        rows = min(self.plan.baseline_options.max_rows or count, count)
        sample = random.Random(self.plan.run.seed).sample(range(count), rows)
        chosen = self.emit.report.baselines.get(baseline.offer.name)
        if chosen is not None and chosen.test_rows is not None:
            return sorted(sample[: chosen.test_rows])
        if rows == count:
            return range(count)
        costly = {r.offer.name for r in self.plan.baselines if r.offer.needs_model}
        scored = [c for c in self.emit.report.baselines.values() if c.validation_score is not None]
        # If scores are equal, prefer a costly baseline; if several are costly, the cheapest.
        order = [(self._sign * (c.validation_score or 0.0), c.baseline in costly) for c in scored]
        best = scored[order.index(max(order))] if scored else None
        if best is not None and best.baseline == baseline.offer.name:
            variant = next(v for v in best.variants if v["name"] == best.variant)
            if variant["seconds"] * count / best.validation_rows <= seconds_left:
                return range(count)
        return sorted(sample)

    @property
    def _sign(self) -> int:
        return 1 if self.evaluator.offer.metrics[0].higher_is_better else -1

    def _is_worst(self, score: float) -> bool:
        """Return True if this is the worst possible score, as when all answers are wrong."""
        metric = self.evaluator.offer.metrics[0]
        return score == (metric.limits or (0.0, 1.0))[0 if metric.higher_is_better else 1]

    def _needs_few_rows(self, offer: BaselineOffer[Any], best: TriedVariant) -> bool:
        """Return True if few test rows are enough, unless the run file sets their number."""
        is_set = self.plan.baseline_options.rows is not None
        return offer.needs_model and not is_set and self._is_worst(best.score)

    def _is_undecided(self, contender: BaselineCandidate, done: int) -> bool:
        """Return True if further rows may change the choice between variants."""
        if done == ROUND_ROWS[0]:
            return contender.count > 1
        return len(contender.left) > 1 and not all(self._is_worst(o.score) for o in contender.left)

    def _open_all(self, baselines: Baselines) -> list[BaselineCandidate]:
        """Build the variants of all baselines; those without a model learn from all rows here."""
        free = [baseline for baseline in baselines if not baseline.offer.needs_model]
        opened: dict[str, BaselineCandidate] = {}
        if free:
            with self.emit.phase("preparing baselines", len(free), "baselines") as progress:
                for baseline in free:
                    opened[baseline.offer.name] = self._open(baseline)
                    progress(len(opened))
        return [opened.get(baseline.offer.name) or self._open(baseline) for baseline in baselines]

    def _open(self, baseline: Component[BaselineOffer[Any]]) -> BaselineCandidate:
        """Build the variants of a baseline; if one raises an error, keep the variants before it."""
        contender = BaselineCandidate(baseline)
        missing = missing_requirements(baseline.offer.needs)
        if missing:
            contender.reject(missing[0])
            return contender
        with self._call(baseline.offered.plugin):
            try:
                contender.built = baseline.offer.build(baseline.config)
                for place, variant in enumerate(contender.built.variants(self.task)):
                    if not variant.omitted:
                        contender.untried.append((place, variant))
                        contender.count += 1
                        continue
                    contender.omitted.append({"name": variant.name, "reason": variant.omitted})
            except REFUSAL_ERRORS as error:
                self._refuse(contender, error)
        with blame_plugin(baseline.offered.plugin, "variants"):
            check_variants([variant for _, variant in contender.untried])
        return contender

    @contextmanager
    def _call(self, plugin: Plugin) -> Iterator[None]:
        """Call a baseline in the fence; a third-party plugin must not change training rows."""
        rows = () if plugin.is_builtin else (self.task.train,)
        with fence(plugin, "variants", may_take_long=True), require_unchanged(plugin, *rows):
            yield

    def _refuse(
        self,
        contender: BaselineCandidate,
        error: TunesmithError,
        variant: BaselineVariant | None = None,
    ) -> None:
        """Record a variant's error, or raise it if the run file names the baseline.

        A prompt that is too long for a row is not the run file's fault, so it is always recorded.
        """
        if self.plan.baseline_options.use is not None and not isinstance(error, PromptTooLongError):
            raise error
        contender.reject(error.message, variant)

    def _try_all(
        self, contenders: Sequence[BaselineCandidate], rows: Sequence[int], budget: TimeBudget
    ) -> None:
        """Score every variant on some rows, as far as the budget allows."""
        waiting = [each for each in contenders if each.untried and not self._was_chosen(each)]
        scored = {id(each): self._list_scored(each, rows) for each in waiting}
        waiting = [each for each in waiting if each.untried]
        while waiting:
            fresh = [each for each in waiting if each.is_fresh]
            each = fresh[0] if fresh else max(waiting, key=lambda one: one.promise(self._sign))
            slowest = max((one.seconds for one in each.tried), default=0.0)
            if budget.covers(slowest):
                one = TriedVariant(each.untried[0][1], each.untried[0][0])
                each.untried.pop(0)
                self._score(each, one, scored[id(each)], budget)
            else:
                each.give_up(NEVER_TRIED)
            waiting = [one for one in waiting if one.untried]

    def _narrow_down(
        self, contender: BaselineCandidate, rows: Sequence[int], budget: TimeBudget
    ) -> None:
        """Score the better half of the remaining variants on further rows, if time is left.

        If none of the better half can answer these rows, the other half takes its place.
        """
        ranked = contender.rank(self._sign)
        half = -(-len(ranked) // 2)
        best, others = ranked[:half], ranked[half:]
        if len(best) == 1 and best[0].rows >= ROUND_ROWS[1]:
            best, contender.left = [], best  # no other variant is left to compare with
        elif not budget.covers(sum(o.seconds / o.rows * len(rows) for o in best)):
            best, others = [], ranked
        for one in others:
            one.stop(NEVER_TRIED if others is ranked else WORSE_HALF)
        if not best:
            return
        contender.left = [*best]  # a variant that fails is removed from this list
        scored = self._list_scored(contender, rows)
        for one in best:
            self._score(contender, one, scored, budget)
        if not contender.left:
            contender.left = others or [*contender.tried]
            self._narrow_down(contender, rows, budget)

    def _score(
        self,
        contender: BaselineCandidate,
        one: TriedVariant,
        scored: Sequence[_Scored],
        budget: TimeBudget,
    ) -> None:
        """Score a variant on further rows; drop it from the comparison if it cannot answer them."""
        started = time.perf_counter()
        try:
            self._measure(one, contender, scored)
        except REFUSAL_ERRORS as error:
            self._refuse(contender, error, one.variant)
            for ones in (contender.tried, contender.left):
                ones[:] = [other for other in ones if other is not one]
        else:
            if not one.values:  # no rows to compare on, or the evaluator cannot measure yet
                contender.unscored = contender.unscored or one.variant
                if not scored:
                    contender.give_up(NO_VALIDATION_ROWS)
                contender.untried.clear()
            elif one not in contender.tried:
                contender.tried.append(one)
                contender.left.append(one)
        seconds = time.perf_counter() - started
        contender.seconds += seconds
        budget.left -= seconds

    def _conclude(self, contender: BaselineCandidate) -> TextModel | None:
        """Return the model of the best variant, or None if there is none; report the choice."""
        earlier = self._was_chosen(contender)
        if earlier is not None:
            variants = (variant for _, variant in contender.untried)
            return next((v.model for v in variants if v.name == earlier.variant), None)
        offer, metric = contender.offer, self.evaluator.offer.metrics[0]
        best = next(iter(contender.rank(self._sign)), None)
        variant = best.variant if best else contender.unscored
        for one in contender.tried:
            if one is best:
                one.reason = ""
            elif not one.reason:
                one.stop(NOT_BETTER)
        skipped = ""
        if variant is None:
            reasons = [one["reason"] for one in contender.not_tried]
            skipped = reasons[0] if reasons else "it has no variants for these rows"
        event = describe_choice(
            offer,
            variant=variant.name if variant else "",
            evaluator=self.evaluator.id,
            metric=metric.name,
            higher_is_better=metric.higher_is_better,
            validation_score=best.score if best else None,
            validation_rows=best.rows if best else 0,
            folds=0 if len(self.parts.validation) or best is None else len(self.parts.folds),
            variants=[one.to_json() for one in contender.tried],
            omitted=contender.omitted,
            not_tried=contender.not_tried,
            test_rows=ROWS_AT_WORST if best and self._needs_few_rows(offer, best) else None,
            seconds=contender.seconds,
            skipped=skipped,
        )
        self.emit(event)
        return variant.model if variant else None

    def _was_chosen(self, contender: BaselineCandidate) -> BaselineChosen | None:
        earlier = self.emit.report.baselines.get(contender.offer.name)
        return earlier if earlier is not None and not earlier.skipped else None

    def _measure(
        self, tried: TriedVariant, contender: BaselineCandidate, scored: Sequence[_Scored]
    ) -> None:
        """Add the metric's values over the records; add nothing if it cannot be measured yet."""
        plugin, metric = self.plan.technique.offered.plugin, self.evaluator.offer.metrics[0].name
        started = time.perf_counter()
        # There is nothing to choose with one variant, but the verdict ranks by validation scores.
        verb = "choosing:" if contender.count > 1 else "scoring:"
        phase = " ".join(filter(None, [verb, contender.offer.name, tried.variant.name]))
        for fold, (alike, records) in enumerate(scored, 1):
            label = f"{phase}, fold {fold}" if len(scored) > 1 else phase
            model = _find_alike(tried.variant, tried.place, alike)
            args = (label, model, self.evaluator, records, self.emit, self.run, plugin)
            for found in (m for m in measure_model(*args) if m.metric == metric):
                tried.values += found.values
                tried.weights += found.weights or [1.0] * len(records)
                tried.rows += len(records)
        tried.seconds += time.perf_counter() - started

    def _draw_rows(self, done: int, wanted: int | None) -> Sequence[int]:
        """Return rows ``done`` to ``wanted`` (None: all rows) of a fixed random order."""
        rows = range(len(self.parts.validation) or len(self.task.train))
        if wanted is None:
            return rows
        drawn = random.Random(self.plan.run.seed).sample(rows, min(ROUND_ROWS[-1], len(rows)))
        return sorted(drawn[done:wanted])

    def _list_scored(self, contender: BaselineCandidate, rows: Sequence[int]) -> list[_Scored]:
        """Return validation rows, or rows of each fold with variants built from the other folds.

        A baseline that cannot be built from the fewer rows of a fold is not compared.
        """
        train, validation = self.task.train, self.parts.validation
        if len(validation):
            return [((), Subset(validation, rows))] if rows else []
        folds = []
        for skipped in map(set, self.parts.folds if rows else ()):
            others = [row for row in range(len(train)) if row not in skipped]
            task = replace(self.task, train=Subset(train, others))
            try:
                with self._call(contender.baseline.offered.plugin):
                    variants = [*contender.built.variants(task)] if contender.built else []
            except REFUSAL_ERRORS as error:
                for _, variant in contender.untried:
                    self._refuse(contender, error, variant)
                contender.untried.clear()
                return []
            folds.append((variants, Subset(train, sorted(skipped.intersection(rows)))))
        return [fold for fold in folds if all(map(len, fold))]


def _find_alike(
    variant: BaselineVariant, place: int, alike: Sequence[BaselineVariant]
) -> TextModel:
    """Return the model of the variant in ``alike`` with the same name or, failing that, place.

    If there are too few variants, the last one is used; if there are none, ``variant`` itself.
    """
    named = [other for other in alike if other.name == variant.name]
    return [*named, *alike[place:], *alike[-1:], variant][0].model
