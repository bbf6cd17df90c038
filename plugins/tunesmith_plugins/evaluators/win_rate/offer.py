"""The offer and the measurement: how often a judge likes the model's answer better."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import Evaluator, Measurement, RunSoFar, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import DataPath
from tunesmith.records import Record, last_exchange
from tunesmith_torch.compare.other_model import Comparing, RivalOptions, is_function, judge, rival

METRIC = Metric(name="win_rate", higher_is_better=True)


class WinRateOptions(RivalOptions):
    """Against whom, and who judges."""

    reward: DataPath | None = Field(
        None,
        description=(
            'What judges: a Python function as "file.py:function" that takes a prompt and an '
            "answer, or the folder of a reward model. Unset: the reward model of this run."
        ),
    )
    tokens: int = Field(128, ge=1, description="Longest answer of either model, in tokens.")

    @property
    def judged_by_model(self) -> bool:
        return self.reward is None or not is_function(self.reward)


class WinRate(Comparing):
    """1 where the model's greedy answer earns more than the other one's, 1/2 for a tie, else 0."""

    def __init__(self, options: WinRateOptions) -> None:
        self.options = options

    def against(
        self, model: TextModel, records: Sequence[Record], run: RunSoFar | None
    ) -> Sequence[Measurement]:
        """One value for each record; nothing before what is needed is there."""
        other, judging = rival(self.options, run), judge(self.options.reward, run)
        if other is None or judging is None:
            return []
        prompts = [last_exchange(record)[0] for record in records]
        ours, theirs = (
            [answer.text for answer in asked.generate(prompts, self.options.tokens)]
            for asked in (model, other)
        )
        rewards = judging.rewards([*prompts, *prompts], [*ours, *theirs])
        both = zip(rewards[: len(prompts)], rewards[len(prompts) :], strict=True)
        # Equal answers tie, though rounding may tell their rewards apart.
        values = tuple(
            0.5 if mine == its or good == bad else float(good > bad)
            for mine, its, (good, bad) in zip(ours, theirs, both, strict=True)
        )
        return [Measurement(metric=METRIC.name, values=values, outputs=tuple(ours))]


def build(options: WinRateOptions) -> Evaluator:
    """The evaluator."""
    return WinRate(options)


WIN_RATE = EvaluatorOffer(
    name="win-rate",
    summary="how often a reward model or function likes the answer better than another model's",
    config=WinRateOptions,
    build=build,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    models=lambda options: 2 + options.judged_by_model,
)
