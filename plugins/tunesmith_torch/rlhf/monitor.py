"""Monitor a policy during RLHF: its reward, and a gold reward that it is never trained on.

A reward that is optimized will be exploited sooner or later (Gao et al. 2023, "Scaling laws for
reward model overoptimization"): it keeps rising while the completions get worse. So every
``monitor.every`` steps the policy is evaluated on validation rows, with its own reward and with a
*gold reward*. Training stops, and goes back to the checkpoint with the best gold reward, if

- the reward is clearly higher than at the best evaluation and the gold reward clearly lower, or
- the gold reward is clearly lower than before the first step, or
- the KL divergence from the reference exceeds ``max_kl``.

"Clearly" means beyond a confidence interval of the paired differences over the validation rows.
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

__all__ = ["Evaluation", "GoldReward", "PolicyMonitor"]

GATE = "divergence"
"""The gate's name in events and reports."""
FALSE_ALARM_RATE = 0.01
"""Upper bound of the probability to stop a policy whose gold reward does not change.

The best of k evaluations is partly the luckiest, and each later one is compared with it. With the
same level of 0.99 for all comparisons, noise alone would stop two of five runs within 20
evaluations. So comparison k has the level ``1 - FALSE_ALARM_RATE / k**2``, which limits this to one
or two runs in a hundred.
"""
RESAMPLES = 5_000
"""Bootstrap resamples: such levels lie far out in the tails."""
KL_WINDOW = 5
"""Rollouts whose mean KL is compared with ``max_kl``: a single one is a noisy estimate."""

_REQUIRED_STATE = (
    "first", "best", "last_step", "stop_reason", "recent_kl", "tokens", "change", "kl_coef",
)  # fmt: skip
"""Keys without which a monitor cannot be resumed."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the policy: a reward and a gold reward for each validation row."""

    step: int
    """Optimizer steps taken before it."""
    rewards: Sequence[float]
    """The reward of each row, which is optimized."""
    gold_rewards: Sequence[float]
    """Empty if there is no gold reward."""

    def to_json(self) -> JSON:
        """Return the step, and the rewards and gold rewards of the validation rows."""
        return {
            "step": self.step,
            "rewards": [*self.rewards],
            "gold_rewards": [*self.gold_rewards],
        }


@dataclass(frozen=True)
class GoldReward:
    """The quality that is wanted of the policy, measured on rows that it is never trained on.

    It is a function of the completion, or without one the share of validation pairs of which the
    policy finds the chosen completion more likely (by the mean log-probability of its tokens).
    """

    prompts: Sequence[Prompt]
    pairs: Sequence[CompletionGroup]
    """For each prompt its pair of completions; empty if ``function`` is used."""
    function: Reward | None
    units: Sequence[str | None] | None = None
    """The unit of each prompt: prompts of one unit depend on each other. None: all are alone."""

    def select(self, rows: Sequence[int]) -> GoldReward:
        """Return the same for some of the prompts."""
        pairs = [self.pairs[row] for row in rows] if self.pairs else []
        return GoldReward([self.prompts[row] for row in rows], pairs, self.function)

    def compute(
        self, objective: PolicyObjective, completions: Sequence[str], budget: int
    ) -> list[float]:
        """Return one number for each prompt; an empty list if there is no gold reward."""
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
    """Evaluates a policy during training and stops it if it diverges.

    A :class:`tunesmith_torch.training.monitor.TrainingMonitor`.
    """

    job: Job[Any]
    objective: PolicyObjective
    reward: Reward
    gold: GoldReward
    options: PolicyOptions
    first: Evaluation | None = None
    best: Evaluation | None = None
    """The evaluation with the highest gold reward so far; the newest one if there is no gold."""
    last_step: int = -1
    """The step of the last evaluation."""
    stop_reason: str = ""
    """A sentence; empty if the policy was not stopped."""
    recent_kl: deque[float] = field(default_factory=lambda: deque(maxlen=KL_WINDOW))
    """KL divergence from the reference in the latest steps, in nats."""
    tokens: int = 0
    """Number of tokens computed so far, without padding."""
    trained_tokens: int = 0
    """Number of tokens of completions so far."""
    change: dict[str, float] = field(default_factory=dict)
    """Difference between the last and the best evaluation."""
    evaluations: int = 0
    """Number of evaluations with which a new one is compared."""
    steps: int | None = None
    """The last step; it is always evaluated, because its weights become the artifact."""
    stopped_at: int | None = None
    """The step after which the policy was stopped."""
    reward_spread: float | None = None
    """Largest mean range of the rewards of one prompt over all rollouts; None if unknown."""

    def is_batch_finished(self) -> bool:
        """Count an update; after the last one of a rollout, record the rollout."""
        if not self.objective.finish_update():
            return False
        self.record_rollout(self.objective.counts(()), self.objective.metrics())
        return True

    def record_rollout(self, counts: BatchCounts, metrics: Mapping[str, float]) -> None:
        """Record a rollout's token counts, the spread of its rewards, and its KL if measured."""
        self.tokens += counts.tokens
        self.trained_tokens += counts.trained_tokens
        if "kl" in metrics:
            self.recent_kl.append(metrics["kl"])
        if self.options.generation.num_generations > 1:
            self.reward_spread = max(self.reward_spread or 0.0, metrics["reward_spread"])

    def evaluate(self, step: int) -> MonitorDecision:
        """Evaluate the policy if it is due, and compare it with its best evaluation."""
        if self.stop_reason:
            return self._stop(step)
        if self._exceeds_max_kl():
            mean_kl = math.fsum(self.recent_kl) / len(self.recent_kl)
            self.stop_reason = (
                f"stopped at step {step}: {format_number(mean_kl)} nats "
                f"from the reference for each completion, max_kl is {self.options.monitor.max_kl:g}"
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
        """Return the number of steps that were taken."""
        return planned if self.stopped_at is None else self.stopped_at

    def state_dict(self) -> JSON:
        """Return the evaluations so far, and the KL coefficient."""
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
        """Restore the state of a checkpoint.

        Raises:
            IntegrityError: a required part is missing.
        """
        require_state(self.job, state, _REQUIRED_STATE)
        self.first = Evaluation(**state["first"]) if state["first"] else None
        self.best = Evaluation(**state["best"]) if state["best"] else None
        self.last_step, self.stop_reason = state["last_step"], state["stop_reason"]
        self.recent_kl = deque(state["recent_kl"], maxlen=KL_WINDOW)
        self.tokens, self.trained_tokens = state["tokens"]
        self.change = state["change"]
        # Optional: without a count, one evaluation every `monitor.every` steps is assumed.
        default = self.last_step // self.options.monitor.every + 1
        self.evaluations = state.get("evaluations", default)
        self.reward_spread = state.get("reward_spread")
        self.objective.kl_controller.coef = state["kl_coef"]

    def results(self) -> Sequence[Event]:
        """Return the result of the gate, at the end of training."""
        return [self.gate_result()]

    def gate_result(self) -> GateChecked:
        """Return the result of the gate, at the end of training."""
        failure = self._failure()
        no_gold = "" if self.best is None or self.best.gold_rewards else ", no gold reward"
        return GateChecked(
            stage=self.job.stage,
            gate=GATE,
            passed=not failure,
            message=failure or f"none seen{no_gold}",
            accepted=self.options.monitor.accept_divergence,
            metrics=self.change,
        )

    def _failure(self) -> str:
        if self.stop_reason:
            best = self.best.step if self.best else 0
            return f"{self.stop_reason}; the artifact is the checkpoint of step {best}"
        if self.reward_spread == 0:
            return (
                "nothing was learned: at every step all completions of a prompt got the same reward"
            )
        return ""

    # ----------------------------------------------------------------- one evaluation

    def _exceeds_max_kl(self) -> bool:
        max_kl = self.options.monitor.max_kl
        is_full = len(self.recent_kl) == KL_WINDOW
        return is_full and max_kl > 0 and math.fsum(self.recent_kl) / KL_WINDOW > max_kl

    def _evaluate_validation(self, step: int) -> Evaluation:
        prompts = self.gold.prompts
        if not prompts:
            return Evaluation(step, [], [])
        with sharding.unsharded(self.objective.adapted.model):
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
        return Evaluation(step, rewards, gold_rewards)

    def _evaluate_rows(self, rows: Sequence[int]) -> list[tuple[str, float, float | None]]:
        """Return greedy completion, reward and gold reward (or None) of these validation rows."""
        gold = self.gold.select(rows)
        completions = self.objective.rollout_generator.generate_greedy(gold.prompts)
        rewards = list(self.reward.rewards(gold.prompts, completions))
        gold_rewards: Sequence[float | None] = gold.compute(
            self.objective, completions, self.options.micro_batch_tokens
        )
        no_gold = [None] * len(completions)
        return list(zip(completions, rewards, gold_rewards or no_gold, strict=True))

    def _has_diverged(self, evaluation: Evaluation) -> bool:
        """Compare with the best and the first evaluation; set ``change`` and ``stop_reason``.

        True if the gold reward fell beyond its interval: since the best evaluation while the reward
        rose, or since the first evaluation.
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

    def _emit(self, evaluation: Evaluation, *, best: bool) -> None:
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
