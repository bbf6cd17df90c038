"""Offer and evaluator of ``win-rate``: how often a judge prefers the model's answer."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import Evaluator, Measurement, RunContext, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import DataPath
from tunesmith.records import Record, last_exchange
from tunesmith_torch.compare.other_model import (
    ComparingEvaluator,
    ComparisonOptions,
    RewardOptions,
    load_scorer,
    open_other_model,
)

METRIC = Metric(name="win_rate", higher_is_better=True, bounds=(0, 1))


class WinRateOptions(ComparisonOptions, RewardOptions):
    """Options: the other model, the judge, and how long an answer may be."""

    reward: DataPath | None = Field(
        None,
        description=(
            'The judge: a Python function as "file.py:function" that takes a prompt and an answer, '
            "both text, and returns a number, or the folder of a reward model. If `plugin` is "
            "unset too: the reward model of this run, which the policy learns to please."
        ),
    )
    max_new_tokens: int = Field(
        128, ge=1, description="Most tokens that either model generates for an answer."
    )


class WinRate(ComparingEvaluator):
    """Scores 1 if the greedy answer gets a higher reward than the other model's, 1/2 for a tie."""

    def __init__(self, options: WinRateOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per record; nothing while the other model or the judge is untrained."""
        other, scorer = open_other_model(self.options, run), load_scorer(self.options, run)
        if other is None or scorer is None:
            return []
        prompts = [last_exchange(record)[0] for record in records]
        ours, theirs = (
            [answer.text for answer in opened.generate(prompts, self.options.max_new_tokens)]
            for opened in (model, other)
        )
        rewards = scorer.rewards([*prompts, *prompts], [*ours, *theirs])
        our_rewards, their_rewards = rewards[: len(prompts)], rewards[len(prompts) :]
        # Equal answers tie: their rewards may differ by rounding, because batches differ.
        values = tuple(
            0.5
            if our_text == their_text or reward == other_reward
            else float(reward > other_reward)
            for our_text, their_text, reward, other_reward in zip(
                ours, theirs, our_rewards, their_rewards, strict=True
            )
        )
        return [Measurement(metric=METRIC.name, values=values, outputs=tuple(ours))]


def build(options: WinRateOptions) -> Evaluator:
    """Build the evaluator."""
    return WinRate(options)


WIN_RATE = EvaluatorOffer(
    name="win-rate",
    summary="how often a reward model or function scores the answer higher than another model's",
    config=WinRateOptions,
    build=build,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    generates=True,
    model_count=lambda options: 2 + options.uses_reward_model,
    answer_limit=lambda options, records: options.max_new_tokens,
)
