"""The rule of the verdict: the first sentence that is true decides.

The rule compares with what a team would otherwise do. Its sentences are those of
``docs/explanation/verdict.md``, in this order:

1. FIX DATA FIRST: the test rows show nothing, or too many labels are wrong. If the
   scores show nothing, as those of a judge that fails its tests, it is NOT ENOUGH EVIDENCE.
2. NOTHING WORKS YET: no model is good enough to be used. If so few rows are held out that none
   could be shown to be better than one answer to everything, it is NOT ENOUGH EVIDENCE.
3. FINE-TUNE: the tuned model is better than the baseline that was strongest on the validation rows
by the
   margin, and clearly better than every baseline: few validation rows may choose a weak one. A
   baseline of each kind that suits the rows was measured in full; otherwise it is NOT ENOUGH
   EVIDENCE.
4. PROMPT or SMALL CLASSIFIER: the tuned model is hardly better than a baseline. Of several such
baselines
   it is the cheapest one that no other solution beats by more than the margin.
5. NOT ENOUGH EVIDENCE: there are too few test rows to tell.

PROMPT and SMALL CLASSIFIER are withheld as NOT ENOUGH EVIDENCE if the tuned model is underfitted,
unless even one without errors would not change the word. NOTHING WORKS YET then names the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.events import JSON, TUNED
from tunesmith.execution.report import metric_label
from tunesmith.plan import Evidence
from tunesmith_evidence.answers.cut_answers import describe_cut
from tunesmith_evidence.number_text import format_rate, format_share
from tunesmith_evidence.winner import discard_winner, save_winner
from tunesmith_plugins.verdict.case import (
    CLASSIFIER,
    FINE_TUNE,
    FIX_DATA,
    NO_EVIDENCE,
    NOTHING,
    PROMPT,
    Case,
    Ruling,
)
from tunesmith_plugins.verdict.data_faults import describe_data_faults
from tunesmith_plugins.verdict.gaps import (
    KINDS,
    Gap,
    describe_gaps,
    describe_remedy,
    find_blocking,
    find_few_rows,
)
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
from tunesmith_plugins.verdict.rows import count_changes, count_rows_needed
from tunesmith_plugins.verdict.text import Numbers
from tunesmith_plugins.verdict.undertraining import (
    describe_undertraining,
    is_always_enough,
)

BETTER_TRAINED = "a tuned model that is not underfitted"
NO_REASON = "even one without errors would not be better by the margin"
MOST_WRONG = 0.3
"""Share of wrong answers above which what is enough instead of tuning is still not good."""
BESIDE_TUNED = {
    "worse": "is better than the tuned model",
    "unclear": "does about as well as the tuned model",
    "better": "is hardly worse than the tuned model",
}
"""What a winner is, by the outcome of the comparison, which is about the tuned model."""
SEED_NOISE = 0.02
"""Difference of shares below which the seed of a training may be the cause."""
SEEDS = "a difference below two points can be the seed's: `tunesmith seeds` trains with three seeds"


def give_verdict(evidence: Evidence) -> JSON:
    """Judge a run, and save a baseline that is enough as its winner."""
    verdict = judge(evidence)
    if verdict.get("word") not in (PROMPT, CLASSIFIER):
        discard_winner(evidence.folder)
        return verdict
    return {**verdict, "winner": save_winner(evidence, verdict["baseline"])}


def judge(evidence: Evidence) -> JSON:
    """Compute the verdict by the first metric that was measured on the tuned model.

    Returns:
        The verdict as JSON; empty if the tuned model was not measured.
    """
    tuned = next((event for event in evidence.measured if event.model == TUNED), None)
    if tuned is None:
        return {}
    options = evidence.plan.table(VerdictOptions)
    comparisons = find_comparisons(evidence, tuned, options.confidence)
    label = metric_label(evidence.measured, tuned.evaluator, tuned.metric)
    case = Case(evidence, options, tuned, Numbers(label, tuned.unit), comparisons)
    strongest, chosen_on_validation = None, True
    if case.baselines:
        strongest, chosen_on_validation = find_strongest(case.baselines)
    if strongest is not None and not chosen_on_validation:
        # Chosen by the rows that judge it: widened, so that it holds for each baseline at once.
        level = 1 - (1 - options.confidence) / len(case.baselines)
        strongest = replace(strongest, confidence=level)
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
    case: Case, ruling: Ruling, strongest: PairedComparison | None, chosen_on_validation: bool
) -> JSON:
    shown = ruling.comparison or strongest
    verdict: JSON = {
        "word": ruling.word,
        "rule": ruling.rule,
        "sentence": ruling.sentence,
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
        verdict["confidence"] = shown.confidence
        verdict["rows_needed"] = count_rows_needed(shown, case.options.margin, case.proof(shown))
    if strongest is not None:
        verdict["strongest"] = strongest.name
        folds = strongest.baseline.folds if strongest.baseline else 0
        on_validation = "out-of-fold" if folds else "validation"
        verdict["chosen_on"] = on_validation if chosen_on_validation else "test"
    models = [case.tuned, *([shown.measured] if shown else [])]
    for text in filter(None, (describe_cut(case.evidence.folder, event) for event in models)):
        verdict["sentence"] += f"; {text}"
    if _may_be_the_seed(ruling, shown):
        verdict["sentence"] += f"; {SEEDS}"
    missed = [gap for gap in case.gaps if not gap.excluded]
    if missed and not ruling.names_gaps:
        verdict["sentence"] += f"; not measured: {describe_gaps(missed)}"
    return verdict


def _may_be_the_seed(ruling: Ruling, comparison: PairedComparison | None) -> bool:
    if comparison is None or ruling.word not in (FINE_TUNE, PROMPT, CLASSIFIER):
        return False
    return comparison.is_share and 0 < abs(comparison.advantage().value) < SEED_NOISE


def _find_data_faults(case: Case) -> Ruling | None:
    best = max([case.tuned.value, *(c.measured.value for c in case.comparisons)])
    shares = not case.tuned.unit and case.tuned.higher_is_better
    faults = describe_data_faults(
        case.evidence, case.options.max_label_noise, best if shares else None
    )
    if not faults:
        return None
    return Ruling(
        FIX_DATA,
        "an error touches more than 2 % of the test rows, or more than "
        f"{format_share(case.options.max_label_noise)} of the labels are wrong",
        f"fix the data first: {'; '.join(faults)}",
        "other data: with it, run again",
    )


def _find_void_scores(case: Case) -> Ruling | None:
    """Return a ruling if the evaluator found that its scores show nothing."""
    events = [case.tuned, *(comparison.measured for comparison in case.comparisons)]
    void = next((event for event in events if event.details.get("void")), None)
    if void is None:
        return None
    return Ruling(
        NO_EVIDENCE,
        "the evaluator found that its scores show nothing",
        f"not enough evidence: {void.evaluator}: {void.details['void']}",
        "an evaluator that can tell right from wrong",
    )


def _find_fine_tune(case: Case, strongest: PairedComparison | None) -> Ruling | None:
    if strongest is None:
        return None
    advantage, margin = strongest.advantage(), case.options.margin
    if advantage.value < margin or _find_unbeaten(case, strongest) is not None:
        return None
    few = find_few_rows(case.baselines, case.tuned.n, margin)
    blocking = find_blocking(case.evidence, [*case.gaps, *few])
    if blocking:
        return _refuse_fine_tune(case, strongest, blocking)
    changes = count_changes(strongest, margin)
    rows = f" ({changes} of the {advantage.n} rows for {strongest.name} instead)" if changes else ""
    return Ruling(
        FINE_TUNE,
        "the tuned model is better than the strongest baseline by the margin or more, and clearly "
        "better than every baseline",
        f"fine-tuning was worth it: better than {strongest.name}, the strongest baseline, "
        f"{case.numbers.compare(strongest)}",
        f"a difference below {case.numbers.plain(margin)}, or one whose interval includes 0{rows}",
    )


def _refuse_fine_tune(case: Case, strongest: PairedComparison, blocking: Sequence[Gap]) -> Ruling:
    """Return the ruling where the tuned model beats all that was measured, and that is not all."""
    kinds = " or ".join(dict.fromkeys(KINDS[gap.solution] for gap in blocking))
    return Ruling(
        NO_EVIDENCE,
        "a kind of baseline that suits the rows was not measured in full",
        f"not enough evidence: better than {strongest.name}, the strongest of the measured "
        f"baselines, {case.numbers.compare(strongest)}, but it is not known what a {kinds} can do: "
        f"{describe_gaps(blocking)}",
        describe_remedy(case.evidence, blocking),
        names_gaps=True,
    )


def _find_unbeaten(case: Case, strongest: PairedComparison) -> PairedComparison | None:
    """Return a baseline that the tuned model is not clearly better than, the strongest first.

    All baselines must be beaten, so each is tested at the full level (intersection-union test).
    """
    others = [comparison for comparison in case.baselines if comparison.name != strongest.name]
    ranked = [strongest, *sorted(others, key=lambda comparison: comparison.advantage().value)]
    return next((c for c in ranked if c.comparison.outcome != "better"), None)


def _find_sufficient_baseline(case: Case) -> Ruling | None:
    """Return a ruling for the best of the baselines that the tuned model hardly beats."""
    margin = case.options.margin
    sufficient = find_sufficient(case.solutions, margin, case.options.confidence)
    if not sufficient:
        return None
    usable = [comparison for comparison in sufficient if case.reaches_minimum(comparison)]
    winner = choose_winner(case.evidence, case.solutions, usable or sufficient, margin)
    what = "a small classifier" if winner.solution == "classifier" else "a prompt"
    wrong = 1 - winner.values[0] if case.is_rated else 0.0
    if wrong > MOST_WRONG:
        verb = BESIDE_TUNED[winner.comparison.outcome]
        claim = f"{what} {verb} ({winner.name}), and still not good: {format_share(wrong)} wrong"
    else:
        claim = f"{what} is enough ({winner.name})"
    return Ruling(
        CLASSIFIER if winner.solution == "classifier" else PROMPT,
        f"{what} is enough: the interval of the difference is below the margin",
        f"fine-tuning was not worth it: {claim}, "
        f"{case.numbers.compare(winner)}; the margin is {case.numbers.plain(margin)}",
        _describe_other_margin(case, winner),
        winner,
    )


def _describe_other_margin(case: Case, comparison: PairedComparison) -> str:
    """Return what would change that a baseline is enough: a margin must be above 0."""
    high = comparison.advantage().high
    if high <= 0:
        return "a better tuned model; no margin would change it"
    margin = f"{format_rate(high)} {case.numbers.unit}".rstrip()
    return f"a margin below {margin} in [verdict], or a better tuned model"


def _withhold_if_undertrained(case: Case, ruling: Ruling) -> Ruling:
    """Return a ruling that does not advise against tuning if the tuned model is underfitted.

    That nothing works yet is no such advice: it stays, and the reason is added.
    """
    if ruling.word not in (NOTHING, PROMPT, CLASSIFIER):
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
    compared = f"compared with {comparison.name}, {case.numbers.compare(comparison)}"
    return Ruling(
        NO_EVIDENCE,
        "the tuned model is underfitted, so its score is no evidence against tuning",
        f"not enough evidence: the tuned model is underfitted: {reason}; as it is: {compared}",
        BETTER_TRAINED,
        comparison,
    )


def _find_no_evidence(case: Case, strongest: PairedComparison | None) -> Ruling:
    rule = "none of the other sentences is true"
    if strongest is None:
        text = f"tuned model: {case.numbers.interval(case.tuned)}; no baseline was measured"
        change = "baselines: [baselines] in the run file"
        return Ruling(NO_EVIDENCE, rule, f"not enough evidence: {text}", change)
    margin = case.options.margin
    if _is_constant(case):
        only = case.numbers.value(case.tuned.value)
        text = f"every model has the same value on every row, {only}: it does not tell them apart"
        change = "another metric, or rows on which the models differ"
        return Ruling(NO_EVIDENCE, rule, f"not enough evidence: {text}", change)
    comparison = _find_unbeaten(case, strongest) or strongest
    which = ", the strongest baseline" if comparison is strongest else ""
    needed = count_rows_needed(comparison, margin, case.proof(comparison))
    rows = f"about {needed:,} test rows" if needed else "more test rows"
    would = f"{rows} would show {_claim(comparison, margin)}, if both models stay as different"
    if comparison.is_trivial and comparison.comparison.outcome == "worse":
        would = rows = "a better tuned model"
    return Ruling(
        NO_EVIDENCE,
        rule,
        f"not enough evidence: {_describe_outcome(comparison)}{which}, "
        f"{case.numbers.compare(comparison)}; {would}",
        rows,
        comparison,
    )


def _is_constant(case: Case) -> bool:
    """Return True if all models have one value on all rows, and it is not the best possible one.

    If all of them are right everywhere, more rows can show that the tuned model is hardly better.
    """
    values = {
        v for c in case.comparisons for v in (*c.pairs.tuned_values, *c.pairs.baseline_values)
    }
    bounds = case.comparisons[0].bounds
    best = bounds and bounds[1 if case.tuned.higher_is_better else 0]
    return len(values) == 1 and values != {best}


def _describe_outcome(comparison: PairedComparison) -> str:
    match comparison.comparison.outcome:
        case "better":
            return (
                f"better than {comparison.name}, but not clearly by less than the margin or by more"
            )
        case "worse" if not comparison.is_trivial:
            return f"worse than {comparison.name}, but not clearly with so many baselines at once"
        case "worse":
            return f"worse than one answer to everything, {comparison.name}"
        case _:
            return f"no clear difference from {comparison.name}"


def _claim(comparison: PairedComparison, margin: float) -> str:
    if comparison.advantage().value >= margin:
        return "that tuning is better"
    return f"that tuning is less than {format_rate(margin)} better"
