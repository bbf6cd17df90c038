"""The ``answer-length`` baseline: always prefer the longer answer of a pair, or the shorter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunesmith.contracts import (
    BaselineTask,
    BaselineVariant,
    Finding,
    Generation,
    Progress,
    TokenScores,
)
from tunesmith.errors import UsageError
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith.plan import Plan
from tunesmith.records import Answer, Preference, Prompt
from tunesmith_evidence.tasks.kinds import are_pairs

NAME = "answer-length"


@dataclass(frozen=True)
class LengthRule:
    """A text model whose scores only rank answers by their number of characters."""

    prefers_longer: bool

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return scores whose sum and mean per answer both rank the answers by length."""
        lengths = [1 + len(c if isinstance(c, str) else c.text) for c in completions]
        return [TokenScores((-(n**-2.0 if self.prefers_longer else n),) * n) for n in lengths]

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Raise an error, because the rule can only rank existing answers.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "the `answer-length` baseline ranks answers, but cannot generate answers",
            hint="use an evaluator that ranks answers, such as preference-accuracy",
        )


class AnswerLengthOptions(Options):
    """``answer-length`` has no options."""


class AnswerLength:
    """Prefers longer or shorter answers, whichever the training pairs prefer more often."""

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the rule that fits more training pairs, or nothing if there are no pairs."""
        pairs = [record for record in task.train if isinstance(record, Preference)]
        if pairs:
            lengths = [(len(pair.chosen), len(pair.rejected)) for pair in pairs]
            is_longer = sum((a > b) - (a < b) for a, b in lengths) >= 0
            name = f"the {'longer' if is_longer else 'shorter'} answer wins"
            yield BaselineVariant(name=name, model=LengthRule(is_longer))


ANSWER_LENGTH = BaselineOffer(
    name=NAME,
    summary="always prefer the longer answer of a pair, or always the shorter one",
    config=AnswerLengthOptions,
    build=lambda options: AnswerLength(),
    solution="constant",
    cost=0,
    ranks_answers=True,
    suits=are_pairs,
)


def review(plan: Plan) -> Iterator[Finding]:
    """Yield an error if the run file lists this baseline, but the first evaluator cannot rank."""
    first = next(iter(plan.evaluators), None)
    if first is None or first.offer.ranks_answers or NAME not in (plan.baseline_options.use or ()):
        return
    yield Finding(
        level="error",
        where="baselines.use",
        message=f"{NAME} can only rank existing answers, not generate them, so {first.id} cannot "
        "measure it",
        hint=f'remove "{NAME}", or list the evaluator `preference-accuracy` first',
    )
