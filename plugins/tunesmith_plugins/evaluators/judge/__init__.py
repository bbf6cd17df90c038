"""The ``judge`` evaluator: a language model compares the answers with those of another model.

Judges make mistakes. Therefore the judge sees each pair of answers in both orders, and it is tested
on *anchors*, which are pairs whose better answer is known. If it fails this test, the result is
void.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from tunesmith.contracts import Finding, Measurement, RunContext, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.plan import Plan
from tunesmith.records import Prompt, Record, last_exchange
from tunesmith.text import format_count
from tunesmith_evidence.judging.equal_length import (
    ANSWER_TOKENS,
    LengthControl,
    measure_tokens,
    share_at_equal_length,
)
from tunesmith_evidence.judging.pairwise import (
    DEFAULT_CRITERION,
    MIN_ANCHORS,
    VERDICTS,
    AnswerPair,
    AskJudge,
    Judgments,
    inject_anchors,
    judge_pairs,
)
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.evaluators.judge.misplaced import CheckedWins, check_wins
from tunesmith_torch.compare.judge_model import JudgeEndpointOptions, open_judge, review_endpoint
from tunesmith_torch.compare.other_model import ComparingEvaluator, open_comparison_model

METRIC = Metric(name="judge-win-rate", higher_is_better=True, bounds=(0, 1))
EQUAL_LENGTH = share_at_equal_length("equal-length-judge-win-rate")
MAX_INVALID_SHARE = 0.1
"""If a larger share of the replies contains no verdict, the result is void."""


class JudgeOptions(JudgeEndpointOptions):
    """Options of ``judge``: the judge, the model to compare with, and the test of the judge."""

    model: str = Field(
        min_length=1,
        description=(
            "The judge. If `endpoint` is set, the name of a model there. Otherwise a model "
            "reference, run folder or artifact; it chooses the most probable of A, B and tie."
        ),
    )
    criterion: str = Field(
        DEFAULT_CRITERION,
        min_length=1,
        description="The question that the judge answers about each pair.",
    )
    max_new_tokens: int = Field(256, ge=1, description="Maximum tokens per answer.")
    anchors: int = Field(
        20,
        ge=MIN_ANCHORS,
        description="Number of pairs that test the judge: a reference answer and a damaged copy.",
    )
    agreement: float = Field(
        0.8,
        gt=0.5,
        le=1,
        description="Minimum share of the `anchors` where the judge must prefer the reference in "
        "both orders.",
    )


class Judge(ComparingEvaluator):
    """Scores 1 if the judge prefers the answer in both orders, 0 if the other's, otherwise 1/2.

    If the judge fails its test, every row scores 1/2, and the finding states the reason.
    """

    def __init__(
        self, options: JudgeOptions, references: Sequence[tuple[str, str]] | None = None
    ) -> None:
        self.options = options
        self.references = references
        """Requests and references for testing the judge; None: those of the measured rows."""

    def prepare(self, references: Sequence[Record]) -> Judge:
        """Return an evaluator that tests its judge with these references."""
        return Judge(self.options, list_references(references))

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per record, or an empty list until the other model has been trained.

        Raises:
            EnvironmentProblem: the endpoint does not respond.
        """
        options = self.options
        other = open_comparison_model(options, run)
        if other is None:
            return []
        prompts = [last_exchange(record)[0] for record in records]
        answers, others = (
            opened.generate(prompts, options.max_new_tokens) for opened in (model, other)
        )
        ours, theirs = ([answer.text for answer in given] for given in (answers, others))
        requests = [show_prompt(prompt) for prompt in prompts]
        pairs = [AnswerPair(*texts) for texts in zip(requests, ours, theirs, strict=True)]
        references = list_references(records) if self.references is None else self.references
        needs_judge = any(pair.ours.strip() != pair.theirs.strip() for pair in pairs)
        anchors = inject_anchors(references, options.anchors) if needs_judge else []
        ask = self.open(run) if len(anchors) >= MIN_ANCHORS else _call_tie
        tested = judge_pairs(anchors, ask, options.criterion)
        found = judge_pairs(pairs, ask, options.criterion)
        checked = check_wins(pairs, found, references, ask, options.criterion, options.anchors)
        details = to_details(checked, tested, options.agreement, needs_judge)
        judged = checked.judgments.judged
        scores = [judgment.score if details["holds"] else 0.5 for judgment in judged]
        differences = [len(a) - len(b) for a, b in zip(ours, theirs, strict=True)]
        control = LengthControl(scores, differences, [record.group for record in records])
        length = control.details("its answers are")
        if length["explained_by_length"]:
            length["finding"] = f"{details['finding']}; {length['explained_by_length']}"
        return [
            Measurement(
                metric=METRIC.name,
                values=tuple(scores),
                outputs=tuple(ours),
                details=details | length,
            ),
            *(control.measurements(EQUAL_LENGTH.name) if details["holds"] else ()),
            measure_tokens(answers),
        ]

    def open(self, run: RunContext | None) -> AskJudge:
        """Return a function that sends prompts to the judge and returns its replies."""
        return open_judge(self.options.model, self.options, VERDICTS, run, "evaluators.model")


def list_references(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return each record's request, as shown to the judge, with its reference answer."""
    exchanges = map(last_exchange, records)
    return [(show_prompt(prompt), answer.text) for prompt, answer in exchanges]


def _call_tie(prompts: Sequence[str]) -> Sequence[str]:
    """Call every pair a tie, because there is too little to judge or to test the judge."""
    return ["tie"] * len(prompts)


def show_prompt(prompt: Prompt) -> str:
    """Format a prompt for the judge to read."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message.role}: {message.text}" for message in prompt)


def to_details(
    checked: CheckedWins, tested: Judgments, agreement: float, asked: bool
) -> dict[str, Any]:
    """Return the details of a measurement. ``holds`` is True if the judge can be trusted."""
    found = checked.judgments
    total = len(found.judged)
    right = sum(judgment.score == 1 for judgment in tested.judged)
    anchors = len(tested.judged)
    invalid = found.invalid / max(found.replies, 1)
    problem = ""
    if asked and anchors < MIN_ANCHORS:
        problem = (
            f"only {format_count(anchors, 'anchor')} could be built, but the test of the judge "
            f"needs {MIN_ANCHORS}"
        )
    elif asked and right < agreement * anchors:
        problem = (
            f"the judge preferred the reference to its damaged copy in only {right} of {anchors} "
            f"anchors, but {format_share(agreement)} are needed"
        )
    elif invalid > MAX_INVALID_SHARE:
        problem = f"{format_share(invalid)} of the replies contain none of A, B and tie"
    first, second = (found.count_position(position) for position in "AB")
    scores = [judgment.score for judgment in found.judged]
    wins, losses = scores.count(1.0), scores.count(0.0)
    text = (
        f"{format_count(wins, 'win')}, {format_count(losses, 'loss')} and "
        f"{format_count(total - wins - losses, 'tie')} in {format_count(total, 'pair')}; "
        f"position bias: the order decides {first + second} of {total} pairs ({first} for the "
        f"first answer, {second} for the second); the judge passed {right} of {anchors} anchors"
    )
    if found.invalid:
        text += f"; {format_count(found.invalid, 'reply')} contained no verdict"
    if any(found.attempts):
        ours, theirs = found.attempts
        text += (
            f"; answers that seem to instruct the judge: {ours} of this model, {theirs} of the "
            "other"
        )
    if any(checked.withdrawn):
        ours, theirs = checked.withdrawn
        text += (
            "; wins withdrawn because the judge also prefers the same answer to references of "
            f"unrelated requests: {ours} of this model, {theirs} of the other"
        )
    if checked.controls and not checked.holds:
        text += (
            "; wins could not be checked for instructions to the judge, because it preferred "
            f"the right reference in only {checked.controls_lost} of {checked.controls} control "
            "replies"
        )
    return {
        "holds": not problem,
        "void": problem,
        "wins": wins, "losses": losses,
        "first_preferred": first, "second_preferred": second,
        "anchors": anchors, "anchors_right": right,
        "invalid": found.invalid, "attempts": list(found.attempts),
        "withdrawn": list(checked.withdrawn),
        "misplaced": checked.controls, "misplaced_lost": checked.controls_lost,
        "finding": f"no verdict, {problem}: {text}" if problem else text,
    }  # fmt: skip


def review(plan: Plan) -> Iterator[Finding]:
    """Yield a note that rows are sent to an endpoint, and an error if its token is missing."""
    for evaluator in plan.evaluators:
        if isinstance(evaluator.config, JudgeOptions):
            yield from review_endpoint(evaluator.config, f"evaluators.{evaluator.id}", "test rows")


JUDGE = EvaluatorOffer(
    name="judge",
    summary="how often a judge model prefers the answer to another model's, in both orders",
    config=JudgeOptions,
    build=Judge,
    metrics=(METRIC, EQUAL_LENGTH, ANSWER_TOKENS),
    needs=("torch>=2.11", "transformers>=5.17"),
    generates=True,
    model_count=lambda options: 2 + (options.endpoint is None),
    answer_limit=lambda options, records: options.max_new_tokens,
)
