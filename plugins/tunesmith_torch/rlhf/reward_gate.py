"""The gate behind a reward model: what it is worth on held-out pairs, before a policy meets it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import GateError
from tunesmith.events import Event, Gated, Measured
from tunesmith.records import Preference
from tunesmith.statistics import Interval
from tunesmith.storage import write_atomic
from tunesmith_torch.options.rlhf import RewardStage
from tunesmith_torch.prefix.completion_groups import groups_of
from tunesmith_torch.rlhf.reward_metrics import RewardReport, reward_report
from tunesmith_torch.rlhf.reward_model import RewardModel

GATE = "reward model"
RECORDS = "heldout.jsonl"


@dataclass(frozen=True)
class Judged:
    """A reward model on held-out pairs, record by record."""

    pairs: Sequence[Preference]
    chosen: Sequence[float]
    rejected: Sequence[float]
    report: RewardReport

    @classmethod
    def of(cls, model: RewardModel, pairs: Sequence[Preference]) -> Judged:
        """Let it judge the pairs.

        Raises:
            ValueError: no pairs.
        """
        groups = groups_of(pairs, model.template)
        rewards = [reward_2.tolist() for reward_2 in model.rewards_of(groups)]
        lengths = [(len(group.answers[0]), len(group.answers[1])) for group in groups]
        chosen, rejected = [good for good, _ in rewards], [bad for _, bad in rewards]
        tied = [pair.group for pair in pairs]
        report = reward_report(chosen, rejected, lengths, tied)
        return cls(pairs, chosen, rejected, report)

    def events(self, job: Job[Any], gate: Gated, seconds: float) -> list[Event]:
        """What there is to tell: the accuracies with their intervals, and what the gate says."""
        self._write(job)
        intervals = {
            "reward_accuracy": self.report.accuracy,
            "reward_accuracy_equal_length": self.report.matched_accuracy,
            "reward_accuracy_longer_chosen": self.report.longer_accuracy,
            "reward_accuracy_shorter_chosen": self.report.shorter_accuracy,
        }
        told: list[Event] = [
            _measured(job, name, interval, seconds)
            for name, interval in intervals.items()
            if interval is not None
        ]
        return [*told, gate]

    def _write(self, job: Job[Any]) -> None:
        lines = [
            json.dumps({"source": pair.source, "chosen": good, "rejected": bad}) + "\n"
            for pair, good, bad in zip(self.pairs, self.chosen, self.rejected, strict=True)
        ]
        write_atomic(job.out / RECORDS, "".join(lines))


def verdict(report: RewardReport | None, options: RewardStage) -> Gated:
    """What the gate says to a reward model; None: there was no held-out pair to try it on."""
    stage, accepted = "reward", options.accept_weak
    if report is None:
        text = "no held-out pair to try the reward model on"
        return Gated(stage=stage, gate=GATE, passed=False, sentence=text, accepted=accepted)
    faults = _faults(report)
    said = f"{' and '.join(faults)}: " if faults else ""
    return Gated(
        stage=stage,
        gate=GATE,
        passed=not faults,
        sentence=said + report.sentence(),
        accepted=accepted,
        figures=report.figures(),
    )


def _faults(report: RewardReport) -> list[str]:
    faults = []
    if not report.beats_chance:
        few = f" (only {report.units} independent held-out pairs: being right on all is no proof)"
        faults.append("it does not beat chance" + (few if report.too_few else ""))
    if report.length_biased:
        faults.append("it judges by length")
    elif report.length_unclear:
        faults.append(
            f"it cannot be told from length alone, which is right in "
            f"{report.length_accuracy.value:.3f} of the pairs"
        )
    return faults


def hold(gate: Gated) -> None:
    """Let a run go on past the gate, or not.

    Raises:
        GateError: it says no, and the run file does not accept that.
    """
    if gate.passed or gate.accepted:
        return
    raise GateError(
        f"reward: {gate.sentence}",
        hint=(
            "the policy was not trained; give the reward model more or cleaner pairs (for length: "
            "pairs of equal length), or accept it with technique.reward.accept_weak = true"
        ),
    )


def _measured(job: Job[Any], metric: str, interval: Interval, seconds: float) -> Measured:
    return Measured(
        model=job.name,
        evaluator="reward-model",
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        higher_is_better=True,
        seconds=seconds,
        records=RECORDS,
    )
