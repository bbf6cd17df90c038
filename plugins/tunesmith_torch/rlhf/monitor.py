"""Monitor a policy during RLHF with its reward and a gold reward that it is not trained on.

A policy sooner or later exploits the reward it optimizes: the reward keeps rising while the
completions get worse (Gao et al. 2023, "Scaling laws for reward model overoptimization"). So every
``monitor.every`` steps the policy is evaluated on validation rows, with its own reward and with a
*gold reward*. Training stops and returns to the checkpoint with the best gold reward if

- since the best evaluation, the reward has clearly risen and the gold reward has clearly fallen, or
- the gold reward is clearly lower than before the first step, or
- the KL divergence from the reference exceeds ``max_kl``.

"Clearly" means that the confidence interval of the paired differences over the validation rows
excludes zero.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.contracts import Job
from tunesmith.events import JSON, CompletionSampled, Event, GateChecked, Monitored
from tunesmith.records import Prompt
from tunesmith.statistics import Interval
from tunesmith_evidence.number_text import format_estimate, format_number
from tunesmith_evidence.statistics import paired_difference
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.prefix.completion_groups import CompletionGroup, score_groups
from tunesmith_torch.rlhf.policy_objective import PolicyObjective
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.runtime import distributed, sharding
from tunesmith_torch.training.loop import BatchCounts
from tunesmith_torch.training.monitor import MonitorDecision
from tunesmith_torch.training.validation import require_state

__all__ = ["GoldReward", "PolicyEvaluation", "PolicyMonitor"]

GATE = "divergence"
"""Name of the divergence check in events and reports."""
FALSE_ALARM_RATE = 0.01
"""Sets the confidence levels that keep noise from stopping a policy whose gold reward is constant.

The best of k evaluations is partly the luckiest, and every later one is compared with it. With a
confidence level of 0.99 for every comparison, noise alone would stop two of five runs within 20
evaluations. So comparison k has the level ``1 - FALSE_ALARM_RATE / k**2``, which lowers this to one
or two runs in a hundred.
"""
RESAMPLES = 5_000
"""Number of bootstrap resamples, large because the confidence levels are close to 1."""
KL_WINDOW = 5
"""Rollouts over which the KL is averaged before it is compared with ``max_kl``.

The KL of a single rollout is a noisy estimate.
"""

_REQUIRED_STATE = (
    "first", "best", "last_step", "stop_reason", "recent_kl", "tokens", "change", "kl_coef",
)  # fmt: skip
"""Keys that the saved state of a monitor must have."""


@dataclass(frozen=True)
class PolicyEvaluation:
    """One evaluation of the policy: a reward and a gold reward for each validation row."""

    step: int
    """Number of optimizer steps before this evaluation."""
    rewards: Sequence[float]
    """Each row's reward, the one that training optimizes."""
    gold_rewards: Sequence[float]
    """Each row's gold reward; empty if no gold reward is set."""

    def to_json(self) -> JSON:
        """Return the step, and the rewards and gold rewards of the validation rows."""
        return {
            "step": self.step,
            "rewards": [*self.rewards],
            "gold_rewards": [*self.gold_rewards],
        }


@dataclass(frozen=True)
class GoldReward:
    """The gold reward: a policy's true quality on validation rows, which it is not trained on.

    With a function, it is the function's value for the policy's completion. Without one, it is 1
    for a pair if the chosen completion has the higher mean log-probability per token under the
    policy, 0.5 if both are equal, and otherwise 0.
    """

    prompts: Sequence[Prompt]
    pairs: Sequence[CompletionGroup]
    """The pair of completions for each prompt; empty if ``function`` is used."""
    function: Reward | None
    units: Sequence[str | None] | None = None
    """Each prompt's unit, such as a group of dependent rows; None if prompts are independent."""

    def select(self, rows: Sequence[int]) -> GoldReward:
        """Return this gold reward restricted to some of the prompts."""
        pairs = [self.pairs[row] for row in rows] if self.pairs else []
        return GoldReward([self.prompts[row] for row in rows], pairs, self.function)

    def compute(
        self, objective: PolicyObjective, completions: Sequence[str], budget: int
    ) -> list[float]:
        """Return one number per prompt; an empty list without a function and without pairs."""
        if self.function is not None:
            return list(self.function.rewards(self.prompts, completions))
        if not self.pairs:
            return []
        gold_rewards = []
        with objective.adapted.autocast():
            logprobs = score_groups(objective.policy, self.pairs, objective.layout, budget)
        for pair, logprobs_2 in zip(self.pairs, logprobs, strict=True):
            chosen, rejected = (
                float(logprob) / len(completion)
                for logprob, completion in zip(logprobs_2, pair.completions, strict=True)
            )
            gold_rewards.append(0.5 if chosen == rejected else float(chosen > rejected))
        return gold_rewards


@dataclass
class PolicyMonitor:
    """A training monitor that evaluates a policy and stops training if the policy diverges."""

    job: Job[Any]
    objective: PolicyObjective
    reward: Reward
    gold: GoldReward
    options: PolicyOptions
    first: PolicyEvaluation | None = None
    best: PolicyEvaluation | None = None
    """The evaluation with the highest gold reward; without gold rewards, the newest evaluation."""
    last_step: int = -1
    """The step of the last evaluation."""
    stop_reason: str = ""
    """The reason why training was stopped; empty if it was not."""
    recent_kl: deque[float] = field(default_factory=lambda: deque(maxlen=KL_WINDOW))
    """KL divergences from the reference in the latest rollouts, in nats per completion."""
    tokens: int = 0
    """Number of tokens computed so far, without padding."""
    trained_tokens: int = 0
    """Number of completion tokens trained on so far."""
    change: dict[str, float] = field(default_factory=dict)
    """Change of reward and gold reward from the best evaluation to the last evaluation."""
    evaluations: int = 0
    """Number of earlier evaluations; a new one is compared with the best of them."""
    steps: int | None = None
    """The final step. It is always evaluated, because its weights may become the artifact."""
    stopped_at: int | None = None
    """The step at which training was stopped; None if it was not."""
    reward_spread: float | None = None
    """The widest spread of rewards in any rollout; None if unknown.

    A rollout's spread is the mean, over its prompts, of the range of rewards for one prompt.
    """

    def is_batch_finished(self) -> bool:
        """Count an update; return True, and record the rollout, after a rollout's last update."""
        if not self.objective.finish_update():
            return False
        self.record_rollout(self.objective.counts(()), self.objective.metrics())
        return True

    def record_rollout(self, counts: BatchCounts, metrics: Mapping[str, float]) -> None:
        """Record a rollout's token counts, its reward spread, and its KL if measured."""
        self.tokens += counts.tokens
        self.trained_tokens += counts.trained_tokens
        if "kl" in metrics:
            self.recent_kl.append(metrics["kl"])
        if self.options.generation.num_generations > 1:
            self.reward_spread = max(self.reward_spread or 0.0, metrics["reward_spread"])

    def evaluate(self, step: int) -> MonitorDecision:
        """Evaluate the policy if an evaluation is due; decide whether to save, stop or go on."""
        if self.stop_reason:
            return self._stop(step)
        if self._exceeds_max_kl():
            mean_kl = math.fsum(self.recent_kl) / len(self.recent_kl)
            self.stop_reason = (
                f"stopped at step {step}: the KL divergence from the reference is "
                f"{format_number(mean_kl)} nats per completion, above max_kl = "
                f"{self.options.monitor.max_kl:g}"
            )
            return self._stop(step)
        is_due = step % self.options.monitor.every == 0 or step == self.steps
        if step == self.last_step or not is_due:
            return "continue"
        self.last_step = step
        evaluation = self._evaluate_validation(step)
        self.first = self.first or evaluation
        if self._has_diverged(evaluation):
            self._emit(evaluation, best=False)
            return self._stop(step)
        self.evaluations += 1
        is_best = (
            self.best is None
            or not evaluation.gold_rewards
            or _mean(evaluation.gold_rewards) > _mean(self.best.gold_rewards)
        )
        if is_best:
            self.best = evaluation
        self._emit(evaluation, best=is_best)
        return "save_best" if is_best else "continue"

    def _stop(self, step: int) -> MonitorDecision:
        self.stopped_at = step
        return "stop"

    def count_steps(self, planned: int) -> int:
        """Return the number of steps taken: ``planned``, or fewer if training was stopped."""
        return planned if self.stopped_at is None else self.stopped_at

    def state_dict(self) -> JSON:
        """Return the state to store in a checkpoint."""
        return {
            "first": self.first.to_json() if self.first else None,
            "best": self.best.to_json() if self.best else None,
            "last_step": self.last_step,
            "stop_reason": self.stop_reason,
            "recent_kl": list(self.recent_kl),
            "tokens": [self.tokens, self.trained_tokens],
            "change": self.change,
            "evaluations": self.evaluations,
            "reward_spread": self.reward_spread,
            "kl_coef": self.objective.kl_controller.coef,
        }

    def load_state_dict(self, state: JSON) -> None:
        """Restore the state from a checkpoint.

        Raises:
            IntegrityError: a required key is missing.
        """
        require_state(self.job, state, _REQUIRED_STATE)
        self.first = PolicyEvaluation(**state["first"]) if state["first"] else None
        self.best = PolicyEvaluation(**state["best"]) if state["best"] else None
        self.last_step, self.stop_reason = state["last_step"], state["stop_reason"]
        self.recent_kl = deque(state["recent_kl"], maxlen=KL_WINDOW)
        self.tokens, self.trained_tokens = state["tokens"]
        self.change = state["change"]
        # Checkpoints may lack this count; then assume an evaluation every `monitor.every` steps.
        default = self.last_step // self.options.monitor.every + 1
        self.evaluations = state.get("evaluations", default)
        self.reward_spread = state.get("reward_spread")
        self.objective.kl_controller.coef = state["kl_coef"]

    def results(self) -> Sequence[Event]:
        """Return the events that end training: the result of the divergence check."""
        return [self.gate_result()]

    def gate_result(self) -> GateChecked:
        """Return the result of the divergence check, at the end of training."""
        failure = self._failure()
        no_gold = "" if self.best is None or self.best.gold_rewards else ", no gold reward"
        return GateChecked(
            stage=self.job.stage,
            gate=GATE,
            passed=not failure,
            message=failure or f"not detected{no_gold}",
            accepted=self.options.monitor.accept_divergence,
            metrics=self.change,
        )

    def _failure(self) -> str:
        if self.stop_reason:
            best = self.best.step if self.best else 0
            return f"{self.stop_reason}; the artifact is the checkpoint of step {best}"
        if self.reward_spread == 0:
            return (
                "nothing was learned: in every rollout, all completions of a prompt got the same "
                "reward"
            )
        return ""

    # ----------------------------------------------------------------- one evaluation

    def _exceeds_max_kl(self) -> bool:
        max_kl = self.options.monitor.max_kl
        is_full = len(self.recent_kl) == KL_WINDOW
        return is_full and max_kl > 0 and math.fsum(self.recent_kl) / KL_WINDOW > max_kl

    def _evaluate_validation(self, step: int) -> PolicyEvaluation:
        prompts = self.gold.prompts
        if not prompts:
            return PolicyEvaluation(step, [], [])
        with sharding.summon_full_params(self.objective.adapted.model):
            evaluated = distributed.map_rows(len(prompts), self._evaluate_rows)
        completions = [completion for completion, _, _ in evaluated]
        rewards = [reward for _, reward, _ in evaluated]
        samples = list(zip(prompts, completions, rewards, strict=True))
        for prompt, completion, reward in samples[: self.options.monitor.log_completions]:
            event = CompletionSampled(
                stage=self.job.stage,
                step=step,
                prompt=_text(prompt),
                completion=completion,
                reward=reward,
            )
            self.job.emit(event)
        gold_rewards = [gold for _, _, gold in evaluated if gold is not None]
        return PolicyEvaluation(step, rewards, gold_rewards)

    def _evaluate_rows(self, rows: Sequence[int]) -> list[tuple[str, float, float | None]]:
        """Return each row's greedy completion, reward, and gold reward (None if not measured)."""
        gold = self.gold.select(rows)
        completions = self.objective.rollout_generator.generate_greedy(gold.prompts)
        rewards = list(self.reward.rewards(gold.prompts, completions))
        gold_rewards: Sequence[float | None] = gold.compute(
            self.objective, completions, self.options.micro_batch_tokens
        )
        no_gold = [None] * len(completions)
        return list(zip(completions, rewards, gold_rewards or no_gold, strict=True))

    def _has_diverged(self, evaluation: PolicyEvaluation) -> bool:
        """Compare with the best and the first evaluation; set ``change`` and ``stop_reason``.

        Return True if the gold reward clearly fell since the first evaluation. Also return True if
        it clearly fell since the best one while the reward clearly rose.
        """
        first, best = self.first, self.best
        if first is None or best is None or not evaluation.gold_rewards:
            return False
        self.change = {
            "reward": _mean(evaluation.rewards) - _mean(best.rewards),
            "gold_reward": _mean(evaluation.gold_rewards) - _mean(best.gold_rewards),
        }
        gold_change = self._paired_change(best.gold_rewards, evaluation.gold_rewards)
        if gold_change.high >= 0:
            return False
        reward_change = self._paired_change(best.rewards, evaluation.rewards)
        since_first = (
            gold_change
            if first is best
            else self._paired_change(first.gold_rewards, evaluation.gold_rewards)
        )
        rows = f"{len(evaluation.rewards)} validation rows"
        if reward_change.low > 0:
            rise = format_estimate(reward_change.value, reward_change.low, reward_change.high)
            self.stop_reason = (
                f"stopped at step {evaluation.step}: since step {best.step} the reward on {rows} "
                f"rose by {rise} while the gold reward fell by "
                f"{_format_fall(gold_change)}"
            )
        elif since_first.high < 0:
            self.stop_reason = (
                f"stopped at step {evaluation.step}: on {rows} the gold reward is lower than at "
                f"step {first.step} by {_format_fall(since_first)}"
            )
        return bool(self.stop_reason)

    def _paired_change(self, before: Sequence[float], now: Sequence[float]) -> Interval:
        level = 1 - FALSE_ALARM_RATE / self.evaluations**2
        units = self.gold.units
        return paired_difference(before, now, groups=units, confidence=level, resamples=RESAMPLES)

    def _emit(self, evaluation: PolicyEvaluation, *, best: bool) -> None:
        metrics = {}
        if evaluation.rewards:
            metrics["reward"] = _mean(evaluation.rewards)
        if evaluation.gold_rewards:
            metrics["gold_reward"] = _mean(evaluation.gold_rewards)
        if self.recent_kl:
            metrics["kl"] = self.recent_kl[-1]
        self.job.emit(
            Monitored(stage=self.job.stage, step=evaluation.step, metrics=metrics, best=best)
        )


def _format_fall(change: Interval) -> str:
    return format_estimate(-change.value, -change.high, -change.low)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].text
