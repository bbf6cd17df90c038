"""Describe how much of a preference result the length of the answers explains."""

from __future__ import annotations

from tunesmith_evidence.number_text import format_difference, format_interval, format_number
from tunesmith_plugins.verdict.case import VerdictCase

CHANCE = 0.5


def describe_length_control(case: VerdictCase, sentence: str) -> str:
    """Compare the tuned model with the baseline that ranks answers by their length.

    Args:
        case: the run.
        sentence: the verdict's sentence so far, whose numbers are not repeated.

    Returns:
        A clause, or an empty string if length does not explain the result, and no rule by length
        was measured.
    """
    rule = next((c for c in case.baselines if c.rule), None)
    explained = str(case.tuned.details.get("explained_by_length", ""))
    if rule is None:
        return explained
    pairs, difference = rule.pairs, rule.comparison.difference
    alike = sum(a == b for a, b in zip(pairs.baseline_values, pairs.tuned_values, strict=True))
    is_named = rule.kind in sentence
    name = "this rule" if is_named else f"{rule.kind} ({format_number(rule.values[0])})"
    clause = f"the tuned model decides like {name} in {alike:,} of {len(pairs):,} pairs"
    if case.numbers.compare(rule) not in sentence:
        interval = format_interval(difference.low, difference.high, signed=True)
        clause += f", difference {format_difference(difference.value)} {interval}"
    clauses = [clause]
    if explained:
        clauses.append(explained)
    if case.is_beyond_length:
        clauses.append("at equal length, the tuned model still prefers the chosen answers")
    elif rule.comparison.outcome != "better" and case.tuned.low > CHANCE:
        clauses.append("nothing shows that the model learned more than length")
    return "; ".join(clauses)
