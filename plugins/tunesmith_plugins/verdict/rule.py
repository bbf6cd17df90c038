"""The rule of the verdict: the first sentence that is true decides.

The rule compares with what a team would otherwise do. Its sentences are those of
``docs/explanation/verdict.md``, in this order:

1. FIX DATA FIRST: the held-out rows prove nothing, or too many labels are wrong. If the
   scores prove nothing, as those of a judge that fails its tests, it is NOT ENOUGH EVIDENCE.
2. NOTHING WORKS YET: no model is good enough to be used. If so few rows are held out that none
   could be shown to be better than one answer to everything, it is NOT ENOUGH EVIDENCE.
3. FINE-TUNE: the tuned model is better than the rival that was strongest on the dev rows by the
   margin, and clearly better than every rival: few dev rows may choose a weak one.
4. PROMPT or SMALL CLASSIFIER: the tuned model is hardly better than a rival.
5. NOT ENOUGH EVIDENCE: there are too few held-out rows to tell.

PROMPT and SMALL CLASSIFIER are withheld as NOT ENOUGH EVIDENCE if the tuned model is underfitted,
unless even one without errors would not change the word. NOTHING WORKS YET then names the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunesmith.events import JSON, TUNED, Measured
from tunesmith.execution.report import metric_label
from tunesmith.plan import Evidence
from tunesmith.text import format_count
from tunesmith_evidence.formats import format_rate, format_share
from tunesmith_evidence.pairs import read_pairs
from tunesmith_plugins.verdict.contests import (
    Contest,
    comparisons_to_json,
    find_contests,
    find_strongest,
    find_sufficient,
    level_of_proof,
    rank_on_dev,
)
from tunesmith_plugins.verdict.data_faults import describe_data_faults
from tunesmith_plugins.verdict.offer import VerdictOptions
from tunesmith_plugins.verdict.rows import count_changes, count_rows_needed
from tunesmith_plugins.verdict.text import Numbers
from tunesmith_plugins.verdict.undertraining import (
    describe_undertraining,
    imagine_perfect_model,
    is_always_enough,
)

FIX_DATA = "FIX DATA FIRST"
NOTHING = "NOTHING WORKS YET"
FINE_TUNE = "FINE-TUNE"
PROMPT = "PROMPT"
CLASSIFIER = "SMALL CLASSIFIER"
NO_EVIDENCE = "NOT ENOUGH EVIDENCE"
BETTER_TRAINED = "a tuned model that is not underfitted"
NO_REASON = "even one without errors would not be better by the margin"
SEED_NOISE = 0.02
"""Difference of shares below which the seed of a training may be the cause."""
SEEDS = "a difference below two points can be the seed's: `tunesmith seeds` trains with three seeds"


@dataclass(frozen=True)
class Ruling:
    """The sentence of the rule that is true, with what it says about this run."""

    word: str
    rule: str
    sentence: str
    would_change: str
    contest: Contest | None = None
    """The contest that the ruling is about; None: that with the strongest rival."""


@dataclass(frozen=True)
class Case:
    """The measurements of a run by its deciding metric, and the contests with its rivals."""

    evidence: Evidence
    options: VerdictOptions
    tuned: Measured
    numbers: Numbers
    contests: Sequence[Contest]
    """All of them, with those of the technique's stages."""

    @property
    def rivals(self) -> list[Contest]:
        """The contests with what could be used in place of the tuned model."""
        return [contest for contest in self.contests if contest.rival is not None]

    @property
    def solutions(self) -> list[Contest]:
        """The rivals that solve the task: not those that give one answer to everything."""
        return [contest for contest in self.rivals if not contest.is_trivial]

    @property
    def is_rated(self) -> bool:
        """True if a model without errors scores 1, and one without anything right 0."""
        return self.numbers.is_share and self.tuned.higher_is_better

    def proof(self, contest: Contest) -> float:
        """Return the level at which a rival is proven to be enough before any other is."""
        is_first = contest.name in (c.name for c in rank_on_dev(self.solutions)[:1])
        count = 1 if is_first else max(1, len(self.solutions))
        return level_of_proof(count, self.options.confidence)


def judge(evidence: Evidence) -> JSON:
    """Compute the verdict by the first metric that was measured on the tuned model.

    Returns:
        The verdict as JSON; empty if the tuned model was not measured.
    """
    tuned = next((event for event in evidence.measured if event.model == TUNED), None)
    if tuned is None:
        return {}
    options = evidence.plan.table(VerdictOptions)
    contests = find_contests(evidence, tuned, options.confidence)
    label = metric_label(evidence.measured, tuned.evaluator, tuned.metric)
    case = Case(evidence, options, tuned, Numbers(label, tuned.unit), contests)
    strongest, chosen_on_dev = None, True
    if case.rivals:
        strongest, chosen_on_dev = find_strongest(case.rivals)
    if strongest is not None and not chosen_on_dev:
        # Chosen by the rows that judge it: widened, so that it holds for each rival at once.
        level = 1 - (1 - options.confidence) / len(case.rivals)
        strongest = replace(strongest, confidence=level)
    ruling = (
        _find_data_faults(case)
        or _find_void_scores(case)
        or _find_nothing_works(case)
        or _find_fine_tune(case, strongest)
        or _find_sufficient_rival(case)
        or _find_no_evidence(case, strongest)
    )
    ruling = _withhold_if_undertrained(case, ruling)
    return _to_json(case, ruling, strongest, chosen_on_dev)


def _to_json(case: Case, ruling: Ruling, strongest: Contest | None, chosen_on_dev: bool) -> JSON:
    shown = ruling.contest or strongest
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
        "rival": "",
        "comparisons": comparisons_to_json(case.contests),
    }
    if shown is not None:
        verdict |= shown.to_json()
        verdict["rival"] = shown.name
        verdict["confidence"] = shown.confidence
        verdict["rows_needed"] = count_rows_needed(shown, case.options.margin, case.proof(shown))
    if strongest is not None:
        verdict["strongest"] = strongest.name
        folds = strongest.rival.folds if strongest.rival else 0
        on_dev = "out-of-fold" if folds else "dev"
        verdict["chosen_on"] = on_dev if chosen_on_dev else "held-out"
    if _may_be_the_seed(ruling, shown):
        verdict["sentence"] += f"; {SEEDS}"
    return verdict


def _may_be_the_seed(ruling: Ruling, contest: Contest | None) -> bool:
    if contest is None or ruling.word not in (FINE_TUNE, PROMPT, CLASSIFIER):
        return False
    return contest.is_share and 0 < abs(contest.advantage().value) < SEED_NOISE


def _find_data_faults(case: Case) -> Ruling | None:
    best = max([case.tuned.value, *(c.measured.value for c in case.contests)])
    shares = not case.tuned.unit and case.tuned.higher_is_better
    faults = describe_data_faults(
        case.evidence, case.options.max_label_noise, best if shares else None
    )
    if not faults:
        return None
    return Ruling(
        FIX_DATA,
        "an error touches more than 2 % of the held-out rows, or more than "
        f"{format_share(case.options.max_label_noise)} of the labels are wrong",
        f"fix the data first: {'; '.join(faults)}",
        "other data: with it, run again",
    )


def _find_void_scores(case: Case) -> Ruling | None:
    """Return a ruling if the evaluator found that its scores prove nothing."""
    events = [case.tuned, *(contest.measured for contest in case.contests)]
    void = next((event for event in events if event.details.get("void")), None)
    if void is None:
        return None
    return Ruling(
        NO_EVIDENCE,
        "the evaluator found that its scores prove nothing",
        f"not enough evidence: {void.evaluator}: {void.details['void']}",
        "an evaluator that can tell right from wrong",
    )


def _find_nothing_works(case: Case) -> Ruling | None:
    """Return a ruling if no model reaches the gate's minimum, or none beats a constant answer."""
    sign = 1 if case.tuned.higher_is_better else -1
    models = [(case.tuned.value, "the tuned model")]
    models += [(c.measured.value, c.name) for c in case.solutions]
    value, best = max(models, key=lambda model: sign * model[0])
    minimum = _minimum_of_gate(case)
    trivial = next((c for c in case.rivals if c.is_trivial), None)
    if minimum is not None:
        if sign * value >= sign * minimum:
            return None
        text = f"no model reaches {case.numbers.value(minimum)}"
        if trivial is not None and sign * trivial.measured.value >= sign * minimum:
            constant = case.numbers.plain(trivial.measured.value)
            text += f", apart from one answer to everything ({trivial.name}, {constant})"
        change = f"a model that reaches {case.numbers.plain(minimum)}, the minimum in [gate]"
        rule = "no model reaches the minimum in [gate]"
    elif case.is_rated and value <= 0 and (trivial is None or trivial.measured.value <= 0):
        rule = "no model gets a row right"
        change = "a model that gets rows right"
        text = "no model gets a single held-out row right"
    else:
        if trivial is None or _beats_constant_answer(case, trivial):
            return None
        constant = (
            f"one answer to everything "
            f"({trivial.name}, {case.numbers.value(trivial.measured.value)})"
        )
        if not _can_be_beaten(case, trivial):
            rows = format_count(len(trivial.pairs), "held-out row")
            text = f"on {rows} not even a model without errors would be clearly better than"
            return Ruling(
                NO_EVIDENCE,
                "no model could be clearly better than one answer to everything on so few rows",
                f"not enough evidence: {text} {constant}",
                "more held-out rows",
            )
        text = f"no model is clearly better than {constant}"
        rule = "no model is clearly better than one answer to everything"
        change = f"a model that is clearly better than {trivial.name}, or more held-out rows"
    sentence = f"nothing works yet: {text}; the best is {best} with {case.numbers.plain(value)}"
    return Ruling(NOTHING, rule, sentence, change)


def _minimum_of_gate(case: Case) -> float | None:
    bounds = [
        bound
        for _, evaluator, metric, bound in case.evidence.plan.gate.bounds()
        if metric == case.tuned.metric and evaluator in ("", case.tuned.evaluator)
    ]
    return bounds[-1] if bounds else None


def _beats_constant_answer(case: Case, trivial: Contest) -> bool:
    """Return True if the tuned model or a rival is clearly better than the constant answer.

    Each is tested at a level at which noise makes one of all seem better in 5 % of runs at most.
    """
    folder, level = case.evidence.folder, _level_against_constant(case)
    models = [case.tuned, *(contest.measured for contest in case.solutions)]
    for model in models:
        pairs = read_pairs(folder, trivial.measured, model)
        contest = Contest(trivial.measured, trivial.rival, pairs, level)
        if len(pairs) and contest.comparison.outcome == "better":
            return True
    return False


def _level_against_constant(case: Case) -> float:
    return 1 - (1 - case.options.confidence) / (1 + len(case.solutions))


def _can_be_beaten(case: Case, trivial: Contest) -> bool:
    """Return True if a model without errors would be clearly better than the constant answer.

    Also if it is not known how good a model without errors is: the metric has no best value.
    """
    perfect = imagine_perfect_model(replace(trivial, confidence=_level_against_constant(case)))
    return perfect is None or perfect.comparison.outcome == "better"


def _find_fine_tune(case: Case, strongest: Contest | None) -> Ruling | None:
    if strongest is None:
        return None
    advantage, margin = strongest.advantage(), case.options.margin
    if advantage.value < margin or _find_unbeaten(case, strongest) is not None:
        return None
    changes = count_changes(strongest, margin)
    rows = f" ({changes} of the {advantage.n} rows for {strongest.name} instead)" if changes else ""
    return Ruling(
        FINE_TUNE,
        "the tuned model is better than the strongest rival by the margin or more, and clearly "
        "better than every rival",
        f"fine-tuning was worth it: better than {strongest.name}, the strongest rival, "
        f"{case.numbers.compare(strongest)}",
        f"a difference below {case.numbers.plain(margin)}, or one whose interval includes 0{rows}",
    )


def _find_unbeaten(case: Case, strongest: Contest) -> Contest | None:
    """Return a rival that the tuned model is not clearly better than, the strongest first.

    All rivals must be beaten, so each is tested at the full level (intersection-union test).
    """
    others = [contest for contest in case.rivals if contest.name != strongest.name]
    ranked = [strongest, *sorted(others, key=lambda contest: contest.advantage().value)]
    return next((c for c in ranked if c.comparison.outcome != "better"), None)


def _find_sufficient_rival(case: Case) -> Ruling | None:
    """Return a ruling for the cheapest rival that the tuned model is hardly better than."""
    margin = case.options.margin
    sufficient = find_sufficient(case.solutions, margin, case.options.confidence)
    if not sufficient:
        return None
    cheapest = min(sufficient, key=lambda c: c.rival.cost if c.rival else 0)
    is_prompt = cheapest.rival is not None and cheapest.rival.solution == "prompt"
    what = "a prompt" if is_prompt else "a small classifier"
    return Ruling(
        PROMPT if is_prompt else CLASSIFIER,
        f"{what} is enough: the interval of the difference is below the margin",
        f"fine-tuning was not worth it: {what} is enough ({cheapest.name}), "
        f"{case.numbers.compare(cheapest)}; the margin is {case.numbers.plain(margin)}",
        _describe_other_margin(case, cheapest),
        cheapest,
    )


def _describe_other_margin(case: Case, contest: Contest) -> str:
    """Return what would change that a rival is enough: a margin must be above 0."""
    high = contest.advantage().high
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
    contest = ruling.contest
    if contest is None:
        sentence = f"{ruling.sentence}; the tuned model is underfitted: {reason}"
        change = f"{BETTER_TRAINED}, or {ruling.would_change}"
        return replace(ruling, sentence=sentence, would_change=change)
    if is_always_enough(contest, case.options.margin):
        sentence = f"{ruling.sentence}; the tuned model is underfitted, but {NO_REASON}"
        return replace(ruling, sentence=sentence)
    compared = f"compared with {contest.name}, {case.numbers.compare(contest)}"
    return Ruling(
        NO_EVIDENCE,
        "the tuned model is underfitted, so its score is no evidence against tuning",
        f"not enough evidence: the tuned model is underfitted: {reason}; as it is: {compared}",
        BETTER_TRAINED,
        contest,
    )


def _find_no_evidence(case: Case, strongest: Contest | None) -> Ruling:
    rule = "none of the other sentences is true"
    if strongest is None:
        text = f"tuned model: {case.numbers.interval(case.tuned)}; no rival was measured"
        change = "rivals: [baselines] in the run file"
        return Ruling(NO_EVIDENCE, rule, f"not enough evidence: {text}", change)
    margin = case.options.margin
    contest = _find_unbeaten(case, strongest) or strongest
    which = ", the strongest rival" if contest is strongest else ""
    needed = count_rows_needed(contest, margin, case.proof(contest))
    rows = f"about {needed:,} held-out rows" if needed else "more held-out rows"
    would = f"{rows} would show {_claim(contest, margin)}, if both models stay as different"
    if contest.is_trivial and contest.comparison.outcome == "worse":
        would = rows = "a better tuned model"
    return Ruling(
        NO_EVIDENCE,
        rule,
        f"not enough evidence: {_describe_outcome(contest)}{which}, "
        f"{case.numbers.compare(contest)}; {would}",
        rows,
        contest,
    )


def _describe_outcome(contest: Contest) -> str:
    match contest.comparison.outcome:
        case "better":
            return f"better than {contest.name}, but not clearly by less than the margin or by more"
        case "worse" if not contest.is_trivial:
            return f"worse than {contest.name}, but this is not proven for so many rivals at once"
        case "worse":
            return f"worse than one answer to everything, {contest.name}"
        case _:
            return f"no clear difference from {contest.name}"


def _claim(contest: Contest, margin: float) -> str:
    if contest.advantage().value >= margin:
        return "that tuning is better"
    return f"that tuning is less than {format_rate(margin)} better"
