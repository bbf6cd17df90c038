"""Name a result that the length of the answers explains, for preference and policy training."""

from __future__ import annotations

from tunesmith_evidence.number_text import format_difference, format_interval, format_number
from tunesmith_plugins.verdict.case import VerdictCase

CHANCE = 0.5


def describe_length_control(case: VerdictCase, sentence: str) -> str:
    """Compare the tuned model with the rule by length.

    Args:
        case: the run.
        sentence: the verdict's sentence so far; its numbers are not repeated.

    Returns:
        A clause; empty if neither a rule by length was measured nor length explains the result.
    """
    rule = next((c for c in case.baselines if c.rule), None)
    explained = str(case.tuned.details.get("explained_by_length", ""))
    if rule is None:
        return explained
    pairs, difference = rule.pairs, rule.comparison.difference
    alike = sum(a == b for a, b in zip(pairs.baseline_values, pairs.tuned_values, strict=True))
    clauses = []
    if case.numbers.compare(rule) not in sentence:
        interval = format_interval(difference.low, difference.high, signed=True)
        clauses.append(
            f"{rule.kind} reaches {format_number(rule.values[0])}, so the tuned model differs by "
            f"{format_difference(difference.value)} {interval}"
        )
    clauses.append(f"the tuned model decides like this rule in {alike:,} of {len(pairs):,} pairs")
    if case.is_beyond_length:
        clauses.append("at equal length, the tuned model still prefers the chosen answers")
    elif rule.comparison.outcome != "better" and case.tuned.low > CHANCE:
        clauses.append("nothing shows that the model learned more than length")
    return "; ".join(clauses)
