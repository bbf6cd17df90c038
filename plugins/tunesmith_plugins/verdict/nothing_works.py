"""Decide NOTHING WORKS YET: no model reaches the minimum, or none beats a trivial baseline."""

from __future__ import annotations

import math
from dataclasses import replace

from tunesmith_evidence.number_text import format_rows
from tunesmith_evidence.pairs import read_pairs
from tunesmith_evidence.statistics import minimum_detectable_difference
from tunesmith_plugins.verdict.case import NO_EVIDENCE, NOTHING_WORKS, Ruling, VerdictCase
from tunesmith_plugins.verdict.paired_comparisons import PairedComparison, mean_on_shared_rows
from tunesmith_plugins.verdict.undertraining import imagine_perfect_model


def find_nothing_works(case: VerdictCase) -> Ruling | None:
    """Return a ruling if no model reaches the minimum or beats the trivial baselines."""
    sign = 1 if case.tuned.higher_is_better else -1
    values = [case.tuned.value, *(c.measured.value for c in case.solutions)]
    value = max(values, key=lambda value: sign * value)
    minimum = case.minimum
    constants = (c for c in case.baselines if c.is_trivial)
    trivial = max(constants, key=lambda c: sign * c.measured.value, default=None)
    if minimum is not None:
        if sign * value >= sign * minimum:
            return None
        text = f"no model reaches {case.numbers.value(minimum)}"
        if trivial is not None and sign * trivial.measured.value >= sign * minimum:
            constant = case.numbers.plain(trivial.measured.value)
            text += f", except for {trivial.kind} ({trivial.name}, {constant})"
        change = f"a model that reaches {case.numbers.plain(minimum)}, the minimum in [gate]"
        rule = "no model reaches the minimum in [gate]"
    elif case.is_rated and value <= 0 and (trivial is None or trivial.measured.value <= 0):
        if math.isinf(minimum_detectable_difference(case.tuned.units or case.tuned.n)):
            return Ruling(
                NO_EVIDENCE,
                "no model answered a row correctly, but the rows are too few to conclude anything",
                f"not enough evidence: no model answered one of {_count_rows(case)} correctly, but "
                "nothing can be concluded from so few",
                _describe_more(case),
            )
        rule = "no model answered a single row correctly"
        change = "a model that answers some rows correctly"
        text = "no model answered a single test row correctly"
    else:
        if trivial is None or _beats_constant_answer(case, trivial) or case.is_beyond_length:
            return None
        constant = f"{trivial.kind} ({trivial.name}, {case.numbers.value(trivial.measured.value)})"
        perfect = imagine_perfect_model(replace(trivial, confidence=_level_against_constant(case)))
        # If the metric has no best value, the score of a perfect model is unknown.
        if perfect is not None and perfect.comparison.outcome != "better":
            is_right = perfect.advantage().value <= 0
            text = f"on {_count_rows(case)}, not even a perfect model would be clearly better than"
            return Ruling(
                NO_EVIDENCE,
                f"no model could be clearly better than {trivial.kind} on "
                + ("these rows" if is_right else "so few rows"),
                f"not enough evidence: {text} {constant}",
                "test rows with different answers" if is_right else _describe_more(case),
            )
        text = f"no model is clearly better than {constant}"
        rule = f"no model is clearly better than {trivial.kind}"
        change = f"a model that is clearly better than {trivial.name}, or more test rows"
    return Ruling(NOTHING_WORKS, rule, f"nothing works yet: {text}; {_describe_best(case)}", change)


def _count_rows(case: VerdictCase) -> str:
    return format_rows(case.tuned.n, case.tuned.units, "test row")


def _describe_more(case: VerdictCase) -> str:
    """Return what more evidence takes: rows, or groups if the rows of a group count as one."""
    return "test rows of more groups" if 0 < case.tuned.units < case.tuned.n else "more test rows"


def _describe_best(case: VerdictCase) -> str:
    """Return the best model, with its score on the rows that all models answered, as text."""
    models = {"the tuned model": case.tuned, **{c.name: c.measured for c in case.solutions}}
    fewest = min(models.values(), key=lambda event: event.n)
    sign = 1 if case.tuned.higher_is_better else -1
    found = {
        name: mean_on_shared_rows(case.evidence, fewest, event) for name, event in models.items()
    }
    values = {name: means[1] for name, means in found.items() if means}
    best = max(values, key=lambda name: sign * values[name])
    some = f" on the {fewest.n:,} rows that all answered" if fewest.n < case.tuned.n else ""
    return f"the best is {best} with {case.numbers.plain(values[best])}{some}"


def _beats_constant_answer(case: VerdictCase, trivial: PairedComparison) -> bool:
    """Return True if the tuned model or another baseline clearly beats the trivial baseline.

    The level is corrected for the number of models (Bonferroni), so that chance makes one of them
    look better in at most 5 % of runs.
    """
    folder, level = case.evidence.folder, _level_against_constant(case)
    models = [case.tuned, *(comparison.measured for comparison in case.solutions)]
    for model in models:
        pairs = read_pairs(folder, trivial.measured, model, case.evidence.metrics)
        comparison = PairedComparison(trivial.measured, trivial.baseline, pairs, level)
        if len(pairs) and comparison.comparison.outcome == "better":
            return True
    return False


def _level_against_constant(case: VerdictCase) -> float:
    return 1 - (1 - case.options.confidence) / (1 + len(case.solutions))
