"""Review of judges: a model must not be judged by what it is trained to please."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Preference, Record
from tunesmith_plugins.evaluators.win_rate.offer import WinRateOptions
from tunesmith_torch.compare.training_rewards import TrainingRewards, find_training_rewards

TRAINED_ON = (
    "the judge is a reward that the policy is trained on: it prefers what was trained to please it"
)
NO_JUDGE = (
    "no judge compares the answers that models give; {metric} compares how probable they find "
    "the chosen answers"
)


def review(plan: Plan, test: Sequence[Record]) -> Iterator[Finding]:
    """Yield a warning for a judge that is trained on, and a note if pairs have no judge."""
    rewards = find_training_rewards(plan.technique.config)
    judges = [e.config for e in plan.evaluators if isinstance(e.config, WinRateOptions)]
    for judge in judges:
        if rewards is not None and rewards.includes(judge):
            baselines = (
                "" if judge.reward or judge.plugin else "; baselines are not measured with it"
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
            hint=f'name the evaluator "win-rate" first; {_propose_judge(rewards)}',
        )


def _propose_judge(rewards: TrainingRewards | None) -> str:
    if rewards is not None and rewards.gold is not None:
        return f'its judge can be the gold reward: reward = "{rewards.gold}"'
    return "its judge can be a function of yours (`reward`, `plugin`) or a reward model of others"
