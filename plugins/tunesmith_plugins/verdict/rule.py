"""Apply the rule of the verdict. The first of these conditions that holds decides.

::

    1  Errors affect more than 2 % of the test rows, or more than 10 % of     FIX DATA FIRST
       the labels are wrong (max_label_noise).
       The evaluator reports that its own scores are meaningless, such as a   NOT ENOUGH EVIDENCE
       judge that fails its tests.
    2  No model reaches the minimum in [gate]. Without a minimum: every row   NOTHING WORKS YET
       is wrong, or no model clearly beats the majority-class baseline (for
       pairs of answers: the rule that the longer, or shorter, answer wins).
         ... and on so few rows, not even a perfect model could               NOT ENOUGH EVIDENCE
    3  The tuned model beats the strongest baseline by the margin or more,    FINE-TUNE
       and clearly beats every baseline (each interval is above 0).
         ... but a kind of baseline was not measured in full, or the length   NOT ENOUGH EVIDENCE
       of the answers may explain the advantage
    4  The advantage over some baseline is shown to be below the margin.      PROMPT or
       Of several such baselines, it is the cheapest one that no other        SMALL CLASSIFIER
       solution beats by more than the margin.
         ... but the tuned model is underfitted                               NOT ENOUGH EVIDENCE
    5  Otherwise: too few test rows to decide.                                NOT ENOUGH EVIDENCE

If the model is underfitted, case 4 still applies if even a perfect model would not beat that
baseline by the margin. NOTHING WORKS YET is unchanged, but its sentence names underfitting as the
reason.

Cases 3 and 4 use the *advantage*: the paired difference from a baseline with its interval, positive
if the tuned model is better. It is compared with two numbers::

                            0           margin
    FINE-TUNE               |    [--------|---o------]    value >= margin, interval above 0
    PROMPT, CLASSIFIER   [--|---o-----]   |               interval below the margin
    NOT ENOUGH EVIDENCE  [--|-----------o-|------]        anything else

Why there is a margin: with enough rows, even a tiny advantage is significant, but it does not pay
for training and serving a model. The margin also makes "a prompt is enough" testable. No number of
rows can show that two models are equal, only that they differ by less than some amount.

Why case 3 mentions the strongest baseline and every baseline: the validation rows choose the
strongest one, because the best one on the test rows would partly be the luckiest. If there are few
validation rows, they may choose a weak one, so the tuned model must beat all others too.

``docs/explanation/verdict.md`` explains the rule to users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.events import JSON, TUNED
from tunesmith.execution.report import metric_label
from tunesmith.plan import Evidence
from tunesmith_evidence.answers.cut_answers import describe_cut_answers
from tunesmith_evidence.number_text import format_rate, format_share
from tunesmith_evidence.winner import discard_winner, save_winner
from tunesmith_plugins.verdict.case import (
    CLASSIFIER,
    FINE_TUNE,
    FIX_DATA,
    NO_EVIDENCE,
    NOTHING_WORKS,
    PROMPT,
    Ruling,
    VerdictCase,
)
from tunesmith_plugins.verdict.data_faults import describe_data_faults
from tunesmith_plugins.verdict.gaps import (
    KINDS,
    Gap,
    describe_gaps,
    describe_remedy,
    find_blocking_gaps,
    find_few_row_gaps,
)
from tunesmith_plugins.verdict.length_control import describe_length_control
from tunesmith_plugins.verdict.nothing_works import find_nothing_works
from tunesmith_plugins.verdict.offer import VerdictOptions
from tunesmith_plugins.verdict.paired_comparisons import (
    PairedComparison,
    choose_winner,
    comparisons_to_json,
    find_comparisons,
    find_strongest,
    find_sufficient,
)
from tunesmith_plugins.verdict.review import describe_review, find_review
from tunesmith_plugins.verdict.rows import count_changes, count_rows_needed
from tunesmith_plugins.verdict.side_effects import (
    describe_absence,
    describe_price,
    find_side_effects,
)
from tunesmith_plugins.verdict.text import MetricFormatter
from tunesmith_plugins.verdict.undertraining import (
    describe_undertraining,
    is_always_enough,
)

BETTER_TRAINED = "a tuned model that is not underfitted"
NO_REASON = "even a perfect model would not be better by the margin"
MAX_WRONG_SHARE = 0.3
"""Above this share of wrong answers, the sentence warns about a sufficient baseline."""
BESIDE_TUNED = {
    "worse": "is better than the tuned model",
    "unclear": "is about as good as the tuned model",
    "better": "is only slightly worse than the tuned model",
}
"""Comparison of the winning baseline with the tuned model, by the tuned model's outcome."""
DOCUMENTS = "documents"
"""Name of the baseline that answers from the user's documents."""
SEED_NOISE = 0.02
"""Difference in accuracy that the training seed alone may explain."""
SEEDS = (
    "a difference below 0.02 may be due to the random seed: `tunesmith seeds` repeats the "
    "training with three seeds"
)


def give_verdict(evidence: Evidence) -> JSON:
    """Judge a run, and save the winning baseline if one is sufficient."""
    verdict = judge_case(evidence)
    if verdict.get("word") not in (PROMPT, CLASSIFIER):
        discard_winner(evidence.folder)
        return verdict
    return {**verdict, "winner": save_winner(evidence, verdict["baseline"])}


def judge_case(evidence: Evidence) -> JSON:
    """Judge the run by the first metric that was measured on the tuned model.

    Returns:
        The verdict as JSON, or an empty dict if the tuned model was not measured.
    """
    tuned = next((event for event in evidence.measured if event.model == TUNED), None)
    if tuned is None:
        return {}
    options = evidence.plan.table(VerdictOptions)
    comparisons = find_comparisons(evidence, tuned, options.confidence)
    label = metric_label(evidence.measured, tuned.evaluator, tuned.metric)
    case = VerdictCase(evidence, options, tuned, MetricFormatter(label, tuned.unit), comparisons)
    strongest, chosen_on_validation = None, True
    if case.baselines:
        strongest, chosen_on_validation = find_strongest(case.baselines)
    if strongest is not None and not chosen_on_validation:
        # The test rows both choose and judge this baseline, so a wider interval corrects for the
        # choice.
        level = 1 - (1 - options.confidence) / len(case.baselines)
        strongest = replace(strongest, confidence=level)
    # The order is the rule: each check assumes that the ones before it did not apply. For example,
    # a baseline is only compared with the tuned model if some model works at all.
    ruling = (
        _find_data_faults(case)
        or _find_void_scores(case)
        or find_nothing_works(case)
        or _find_fine_tune(case, strongest)
        or _find_sufficient_baseline(case)
        or _find_no_evidence(case, strongest)
    )
    ruling = _withhold_if_undertrained(case, ruling)
    return _to_json(case, ruling, strongest, chosen_on_validation)


def _to_json(
    case: VerdictCase,
    ruling: Ruling,
    strongest: PairedComparison | None,
    chosen_on_validation: bool,
) -> JSON:
    shown = ruling.comparison or strongest
    verdict: JSON = {
        "word": ruling.word,
        "worth_it": ruling.word == FINE_TUNE,
        "rule": ruling.rule,
        "reason": ruling.sentence,
        "would_change": ruling.would_change,
        "metric": case.tuned.metric,
        "evaluator": case.tuned.evaluator,
        "tuned": case.tuned.value,
        "margin": case.options.margin,
        "confidence": case.options.confidence,
        "outcome": "unclear",
        "baseline": "",
        "not_measured": [gap.to_json() for gap in case.gaps],
        "comparisons": comparisons_to_json(case.comparisons),
    }
    if shown is not None:
        verdict |= shown.to_json()
        verdict["baseline"] = shown.name
        verdict["rows_needed"] = count_rows_needed(
            shown, case.options.margin, case.required_level(shown)
        )
    if strongest is not None:
        verdict["strongest"] = strongest.name
        folds = strongest.baseline.folds if strongest.baseline else 0
        on_validation = "out-of-fold" if folds else "validation"
        verdict["chosen_on"] = on_validation if chosen_on_validation else "test"
    models = [case.tuned, *([shown.measured] if shown else [])]
    notes = [
        describe_length_control(case, ruling.sentence),
        *(describe_cut_answers(case.evidence.folder, event) for event in models),
    ]
    if review := find_review(case.evidence.measured, verdict["baseline"]):
        verdict["review"] = review
        notes.append(describe_review(review))
    if _may_be_the_seed(ruling, shown):
        notes.append(SEEDS)
    effects = find_side_effects(case.evidence, case.options.confidence)
    verdict["side_effects"] = [effect.to_json() for effect in effects]
    price, clauses = describe_price(effects), [ruling.sentence]
    verdict["side_effects_text"] = price or describe_absence(effects)
    if price:
        verdict["price"] = price
        clauses.append(f"outside the task: {price}")
    missed = [gap for gap in case.gaps if not gap.excluded]
    if missed and not ruling.names_gaps:
        notes.append(f"not measured: {describe_gaps(missed)}")
    verdict["notes"] = [note for note in notes if note]
    verdict["sentence"] = "; ".join([*clauses, *verdict["notes"]])
    return verdict


def _may_be_the_seed(ruling: Ruling, comparison: PairedComparison | None) -> bool:
    if comparison is None or ruling.word not in (FINE_TUNE, PROMPT, CLASSIFIER):
        return False
    return comparison.is_share and 0 < abs(comparison.advantage().value) < SEED_NOISE


def _find_data_faults(case: VerdictCase) -> Ruling | None:
    best = max([case.tuned.value, *(c.measured.value for c in case.comparisons)])
    shares = not case.tuned.unit and case.tuned.higher_is_better
    faults = describe_data_faults(
        case.evidence, case.options.max_label_noise, best if shares else None
    )
    if not faults:
        return None
    return Ruling(
        FIX_DATA,
        "errors affect more than 2 % of the test rows, or more than "
        f"{format_share(case.options.max_label_noise)} of the labels are wrong",
        f"fix the data first: {'; '.join(faults)}",
        "corrected data and a new run",
    )


def _find_void_scores(case: VerdictCase) -> Ruling | None:
    """Return a ruling if an evaluator reports that its own scores are meaningless."""
    events = [case.tuned, *(comparison.measured for comparison in case.comparisons)]
    void = next((event for event in events if event.details.get("void")), None)
    if void is None:
        return None
    return Ruling(
        NO_EVIDENCE,
        "the evaluator reports that its scores are meaningless",
        f"not enough evidence: {void.evaluator}: {void.details['void']}",
        "an evaluator that can tell right answers from wrong ones",
    )


def _find_fine_tune(case: VerdictCase, strongest: PairedComparison | None) -> Ruling | None:
    if strongest is None:
        return None
    advantage, margin = strongest.advantage(), case.options.margin
    if advantage.value < margin or _find_unbeaten(case, strongest) is not None:
        return None
    few = find_few_row_gaps(case.baselines, case.tuned.n, margin)
    blocking = find_blocking_gaps(case.evidence, [*case.gaps, *few])
    if blocking:
        return _refuse_fine_tune(case, strongest, blocking)
    if case.tuned.details.get("explained_by_length"):
        return Ruling(
            NO_EVIDENCE,
            "the length of the answers may explain the advantage",
            f"not enough evidence: better than the strongest baseline, {strongest.name}: "
            f"{case.numbers.compare(strongest)}",
            "an advantage that remains at equal length",
        )
    changes = count_changes(strongest, margin)
    flipped = f"{changes} of the {advantage.n} rows flipped in favor of {strongest.name}"
    rows = f" (if {flipped})" if changes else ""
    return Ruling(
        FINE_TUNE,
        "the tuned model beats the strongest baseline by the margin or more, and clearly beats "
        "every baseline",
        f"fine-tuning was worth it, compared with the strongest baseline ({strongest.name}): "
        f"{case.numbers.compare(strongest)}",
        f"a difference below {case.numbers.plain(margin)}, or an interval that includes 0{rows}",
    )


def _refuse_fine_tune(
    case: VerdictCase, strongest: PairedComparison, blocking: Sequence[Gap]
) -> Ruling:
    """Return the ruling if the tuned model wins but a kind of baseline is missing."""
    kinds = " or ".join(dict.fromkeys(KINDS[gap.solution] for gap in blocking))
    return Ruling(
        NO_EVIDENCE,
        "a kind of baseline that suits the rows was not measured in full",
        f"not enough evidence: better than the strongest measured baseline, {strongest.name}: "
        f"{case.numbers.compare(strongest)}; but a {kinds} was not fully measured: "
        f"{describe_gaps(blocking)}",
        describe_remedy(case.evidence, blocking),
        names_gaps=True,
    )


def _find_unbeaten(case: VerdictCase, strongest: PairedComparison) -> PairedComparison | None:
    """Return the first baseline that the tuned model does not clearly beat, or None.

    The strongest baseline comes first, then the one with the smallest advantage. FINE-TUNE needs
    every single test to succeed, so the levels need no correction (intersection-union test).
    """
    others = [comparison for comparison in case.baselines if comparison.name != strongest.name]
    ranked = [strongest, *sorted(others, key=lambda comparison: comparison.advantage().value)]
    return next((c for c in ranked if c.comparison.outcome != "better"), None)


def _find_sufficient_baseline(case: VerdictCase) -> Ruling | None:
    """Return a ruling if the tuned model's advantage over a baseline is below the margin."""
    margin = case.options.margin
    sufficient = find_sufficient(case.solutions, margin, case.options.confidence)
    if not sufficient:
        return None
    usable = [comparison for comparison in sufficient if case.reaches_minimum(comparison)]
    winner = choose_winner(case.evidence, case.solutions, usable or sufficient, margin)
    what = "a small classifier" if winner.solution == "classifier" else "a prompt"
    if winner.name == DOCUMENTS:
        what = "a prompt with your documents"
    wrong = 1 - winner.values[0] if case.is_rated else 0.0
    if wrong > MAX_WRONG_SHARE:
        verb = BESIDE_TUNED[winner.comparison.outcome]
        claim = f"{what} ({winner.name}) {verb}, but still wrong on {format_share(wrong)} of rows"
    else:
        claim = f"{what} is enough ({winner.name})"
    return Ruling(
        CLASSIFIER if winner.solution == "classifier" else PROMPT,
        f"{what} is enough: the interval of the difference is below the margin",
        f"fine-tuning was not worth it: {claim}: "
        f"{case.numbers.compare(winner)}; the margin is {case.numbers.plain(margin)}",
        _describe_other_margin(case, winner),
        winner,
    )


def _describe_other_margin(case: VerdictCase, comparison: PairedComparison) -> str:
    """Return the (positive) margin that would make the baseline insufficient, as text."""
    high = comparison.advantage().high
    if high <= 0:
        return "only a better tuned model"
    margin = f"{format_rate(high)} {case.numbers.unit}".rstrip()
    return f"a margin below {margin} in [verdict], or a better tuned model"


def _withhold_if_undertrained(case: VerdictCase, ruling: Ruling) -> Ruling:
    """Withhold a ruling that advises against tuning if the tuned model is underfitted.

    NOTHING WORKS YET does not advise against tuning, so it stays, and its sentence adds the reason.
    """
    if ruling.word not in (NOTHING_WORKS, PROMPT, CLASSIFIER):
        return ruling
    reason = describe_undertraining(case.evidence.folder)
    if reason is None:
        return ruling
    comparison = ruling.comparison
    if comparison is None:
        sentence = f"{ruling.sentence}; the tuned model is underfitted: {reason}"
        change = f"{BETTER_TRAINED}, or {ruling.would_change}"
        return replace(ruling, sentence=sentence, would_change=change)
    if is_always_enough(comparison, case.options.margin):
        sentence = f"{ruling.sentence}; the tuned model is underfitted, but {NO_REASON}"
        return replace(ruling, sentence=sentence)
    compared = f"compared with {comparison.name}: {case.numbers.compare(comparison)}"
    return Ruling(
        NO_EVIDENCE,
        "the tuned model is underfitted, so its score is not evidence against tuning",
        f"not enough evidence: the tuned model is underfitted: {reason}; so far, {compared}",
        BETTER_TRAINED,
        comparison,
    )


def _find_no_evidence(case: VerdictCase, strongest: PairedComparison | None) -> Ruling:
    rule = "no other part of the rule applies"
    if strongest is None:
        text = f"tuned model: {case.numbers.interval(case.tuned)}; no baseline was measured"
        change = "measured baselines ([baselines] in the run file)"
        return Ruling(NO_EVIDENCE, rule, f"not enough evidence: {text}", change)
    margin = case.options.margin
    if _is_constant(case):
        only = case.numbers.value(case.tuned.value)
        text = f"every model scores {only} on every row, so this metric cannot tell them apart"
        change = "another metric, or rows where the models differ"
        return Ruling(NO_EVIDENCE, rule, f"not enough evidence: {text}", change)
    comparison = _find_unbeaten(case, strongest) or strongest
    needed = count_rows_needed(comparison, margin, case.required_level(comparison))
    rows = f"about {needed:,} test rows" if needed else "more test rows"
    if needed and comparison.advantage().n < needed <= case.tuned.n:
        rows = f"[baselines] rows = {needed}"  # the model answered too few of the test rows
    would = f"{rows} would show {_claim(comparison, margin)} if the difference stays the same"
    if comparison.is_trivial and comparison.comparison.outcome == "worse":
        would, rows = "more rows would not help", "a better tuned model"
    return Ruling(
        NO_EVIDENCE,
        rule,
        f"not enough evidence: {_describe_outcome(comparison, comparison is strongest)}: "
        f"{case.numbers.compare(comparison)}; {would}",
        rows,
        comparison,
    )


def _is_constant(case: VerdictCase) -> bool:
    """Return True if all models have the same value on all rows and it is not the best possible.

    If all models are right on every row, more rows can still show that the advantage is below the
    margin.
    """
    values = {
        v for c in case.comparisons for v in (*c.pairs.tuned_values, *c.pairs.baseline_values)
    }
    bounds = case.comparisons[0].bounds
    best = bounds and bounds[1 if case.tuned.higher_is_better else 0]
    return len(values) == 1 and values != {best}


def _describe_outcome(comparison: PairedComparison, is_strongest: bool) -> str:
    name = f"the strongest baseline, {comparison.name}" if is_strongest else comparison.name
    match comparison.comparison.outcome:
        case "better":
            return f"better than {name}, but maybe by less than the margin"
        case "worse" if not comparison.is_trivial:
            return f"worse than {name}, but not clearly so when all baselines are tested at once"
        case "worse":
            return f"worse than {comparison.kind}, {comparison.name}"
        case _:
            return f"no clear difference from {name}"


def _claim(comparison: PairedComparison, margin: float) -> str:
    if comparison.advantage().value >= margin:
        return "that tuning is better"
    return f"that tuning gains less than {format_rate(margin)}"
