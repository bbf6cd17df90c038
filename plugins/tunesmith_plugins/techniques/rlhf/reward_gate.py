"""Check a reward model before a policy is trained on its rewards.

The check fails if the reward model is no better than chance on the validation pairs, or if its
rewards may depend on length alone (:mod:`tunesmith_plugins.techniques.rlhf.reward_metrics`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import GateError
from tunesmith.events import Event, GateChecked, Measured
from tunesmith.records import Preference
from tunesmith.statistics import Interval
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_number
from tunesmith_plugins.techniques.rlhf.reward_metrics import RewardReport, build_reward_report
from tunesmith_torch.prefix.completion_groups import tokenize_pairs
from tunesmith_torch.rlhf.reward_model import RewardModel

GATE = "reward model"
"""Name of the check in events and reports."""
RECORDS_FILE = "validation.jsonl"


@dataclass(frozen=True)
class RewardModelEvaluation:
    """A reward model's rewards for validation pairs, and the metrics computed from them."""

    pairs: Sequence[Preference]
    chosen: Sequence[float]
    rejected: Sequence[float]
    report: RewardReport

    @classmethod
    def run(cls, model: RewardModel, pairs: Sequence[Preference]) -> RewardModelEvaluation:
        """Compute the rewards of both completions of each pair.

        Raises:
            ValueError: ``pairs`` is empty.
        """
        groups = tokenize_pairs(pairs, model.template)
        rewards = [rewards_2.tolist() for rewards_2 in model.group_rewards(groups)]
        lengths = [(len(group.completions[0]), len(group.completions[1])) for group in groups]
        chosen, rejected = [reward for reward, _ in rewards], [reward for _, reward in rewards]
        report = build_reward_report(chosen, rejected, lengths, [pair.group for pair in pairs])
        return cls(pairs, chosen, rejected, report)

    def events(self, job: Job[Any], gate: GateChecked, seconds: float) -> list[Event]:
        """Write the rewards to a file, and return accuracies and the check's result as events."""
        self._write_records(job)
        intervals = {
            "reward-accuracy": self.report.accuracy,
            "reward-accuracy-equal-length": self.report.matched_accuracy,
            "reward-accuracy-longer-chosen": self.report.longer_accuracy,
            "reward-accuracy-shorter-chosen": self.report.shorter_accuracy,
        }
        measured: list[Event] = [
            _measured(job, name, interval, seconds)
            for name, interval in intervals.items()
            if interval is not None
        ]
        return [*measured, gate]

    def _write_records(self, job: Job[Any]) -> None:
        lines = [
            json.dumps({"source": pair.source, "chosen": chosen, "rejected": rejected}) + "\n"
            for pair, chosen, rejected in zip(self.pairs, self.chosen, self.rejected, strict=True)
        ]
        write_atomic(job.out / RECORDS_FILE, "".join(lines))


def decide_gate(report: RewardReport | None, *, accept_weak: bool) -> GateChecked:
    """Decide whether a reward model passes. It fails without a report (no validation pairs)."""
    stage, accepted = "reward", accept_weak
    if report is None:
        text = "there are no validation pairs to evaluate the reward model on"
        return GateChecked(stage=stage, gate=GATE, passed=False, message=text, accepted=accepted)
    faults = _faults(report)
    reasons = f"{' and '.join(faults)}: " if faults else ""
    return GateChecked(
        stage=stage,
        gate=GATE,
        passed=not faults,
        message=reasons + report.summary(),
        accepted=accepted,
        metrics=report.metrics(),
    )


def _faults(report: RewardReport) -> list[str]:
    faults = []
    if not report.is_above_chance:
        few = (
            f" (only {format_count(report.independent_pairs, 'independent validation pair')}: even "
            "a perfect score could be chance)"
        )
        faults.append(
            "the reward model does not beat chance" + (few if report.has_too_few_pairs else "")
        )
    if report.is_length_biased:
        faults.append("the reward model rewards length instead of quality")
    elif report.is_length_unclear:
        faults.append(
            "the reward model may only measure length, which alone is right in "
            f"{format_number(report.length_accuracy.value)} of the pairs"
        )
    return faults


def enforce_gate(gate: GateChecked) -> None:
    """Stop the run if the check failed, unless the run file accepts a failed check.

    Raises:
        GateError: the reward model failed its check.
    """
    if gate.passed or gate.accepted:
        return
    raise GateError(
        f"reward: {gate.message}",
        hint=(
            "the policy was not trained. Add more or cleaner pairs (to counter a length bias, "
            "add pairs of equal length), or train anyway with technique.reward.gate.accept_weak "
            "= true"
        ),
    )


def _measured(job: Job[Any], metric: str, interval: Interval, seconds: float) -> Measured:
    return Measured(
        model=job.stage,
        evaluator="reward-model",
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        higher_is_better=True,
        seconds=seconds,
        records=RECORDS_FILE,
        part="validation",
    )
