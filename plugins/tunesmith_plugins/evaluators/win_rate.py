"""The ``win-rate`` evaluator: measure how often a reward prefers the answer to another model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from tunesmith.contracts import Finding, Measurement, RunContext, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import DataPath
from tunesmith.plan import Plan
from tunesmith.records import Preference, Record, last_exchange
from tunesmith_evidence.judging.equal_length import (
    ANSWER_TOKENS,
    LengthControl,
    measure_tokens,
    share_at_equal_length,
)
from tunesmith_torch.compare.other_model import (
    ComparingEvaluator,
    ComparisonOptions,
    RewardOptions,
    load_reward_scorer,
    open_comparison_model,
)
from tunesmith_torch.compare.training_rewards import TrainingRewards, find_training_rewards

METRIC = Metric(name="win-rate", higher_is_better=True, bounds=(0, 1))
EQUAL_LENGTH = share_at_equal_length("equal-length-win-rate")


class WinRateOptions(ComparisonOptions, RewardOptions):
    """Options of ``win-rate``: the other model, the judge, and the maximum answer length."""

    reward: DataPath | None = Field(
        None,
        description=(
            'The judge: the folder of a reward model, or a Python function as "file.py:function" '
            "that takes the texts of a prompt and an answer and returns a number. If neither "
            "this nor `plugin` is set, the judge is the reward model of this run, which the "
            "policy is trained to maximize."
        ),
    )
    max_new_tokens: int = Field(
        128, ge=1, description="Maximum tokens per answer, for both models."
    )


class WinRate(ComparingEvaluator):
    """Scores 1 if the greedy answer has a higher reward than the other model's, 1/2 for a tie."""

    def __init__(self, options: WinRateOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per record, or an empty list until the other model and judge exist."""
        other, scorer = (
            open_comparison_model(self.options, run),
            load_reward_scorer(self.options, run),
        )
        if other is None or scorer is None:
            return []
        prompts = [last_exchange(record)[0] for record in records]
        answers, others = (
            opened.generate(prompts, self.options.max_new_tokens) for opened in (model, other)
        )
        ours, theirs = ([answer.text for answer in given] for given in (answers, others))
        rewards = scorer.rewards([*prompts, *prompts], [*ours, *theirs])
        our_rewards, their_rewards = rewards[: len(prompts)], rewards[len(prompts) :]
        # Rounding can give equal answers different rewards, but they are a tie.
        values = tuple(
            0.5
            if our_text == their_text or reward == other_reward
            else float(reward > other_reward)
            for our_text, their_text, reward, other_reward in zip(
                ours, theirs, our_rewards, their_rewards, strict=True
            )
        )
        differences = [len(a) - len(b) for a, b in zip(ours, theirs, strict=True)]
        control = LengthControl(values, differences, [record.group for record in records])
        details = control.details("its answers are")
        return [
            Measurement(metric=METRIC.name, values=values, outputs=tuple(ours), details=details),
            *control.measurements(EQUAL_LENGTH.name),
            measure_tokens(answers),
        ]


WIN_RATE = EvaluatorOffer(
    name="win-rate",
    summary="how often a reward scores the answer higher than another model's",
    config=WinRateOptions,
    build=WinRate,
    metrics=(METRIC, EQUAL_LENGTH, ANSWER_TOKENS),
    needs=("torch>=2.11", "transformers>=5.17"),
    generates=True,
    model_count=lambda options: 2 + options.uses_reward_model,
    answer_limit=lambda options, records: options.max_new_tokens,
)


TRAINED_ON = "the judge is a reward that the policy is trained on, so it favors the trained policy"
NO_JUDGE = (
    "no evaluator judges generated answers: {metric} only compares how probable the models find "
    "the chosen answers"
)


def review(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a warning if the policy is trained on the judge, and a note if pairs have no judge."""
    rewards = find_training_rewards(plan.technique.config)
    judges = [e.config for e in plan.evaluators if isinstance(e.config, WinRateOptions)]
    for judge in judges:
        if rewards is not None and rewards.includes(judge):
            baselines = (
                "" if judge.reward or judge.plugin else "; it does not measure the baselines"
            )
            yield Finding(
                level="warning",
                where="evaluators.win-rate",
                message=TRAINED_ON + baselines,
                hint=_propose_judge(rewards),
            )
    generates = any(evaluator.offer.generates for evaluator in plan.evaluators)
    pairs = bool(test) and all(isinstance(record, Preference) for record in test)
    if pairs and not generates:
        metric = plan.evaluators[0].id if plan.evaluators else "preference-accuracy"
        yield Finding(
            level="info",
            where="evaluators",
            message=NO_JUDGE.format(metric=metric),
            hint=f'list the evaluator "win-rate" first; {_propose_judge(rewards)}',
        )


def _propose_judge(rewards: TrainingRewards | None) -> str:
    if rewards is not None and rewards.gold is not None:
        return f'the gold reward can be its judge: reward = "{rewards.gold}"'
    return "your own function (`reward`, `plugin`) or another reward model can be its judge"
