"""Watching a policy while it learns: what it is rewarded for beside what is wanted of it.

A reward that is learned from will be exploited sooner or later (Gao et al. 2023, "Scaling laws for
reward model overoptimization"): it goes on rising while answers get worse. So every so many steps
the policy is looked at on held-out rows, with a *gold* measure that it never learns from. It is
stopped, and goes back to where gold was best, when

- the reward on these rows is clearly higher than at the best look and gold clearly lower, or
- it is further from its reference than the budget allows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.contracts import Job
from tunesmith.events import JSON, Gated, Sampled, Watched
from tunesmith.records import Prompt
from tunesmith.statistics import paired_difference
from tunesmith_torch.fit import Look
from tunesmith_torch.groups import Group, score_groups
from tunesmith_torch.policy import PolicyLoop, Reward
from tunesmith_torch.rlhf_options import PolicyStage

GATE = "divergence"
CONFIDENCE = 0.99
"""Of the intervals that call a policy diverged: there are many looks at one run."""
RECENT = 5
"""Rollouts whose mean divergence is held against the budget: a single one is a noisy estimate."""


@dataclass(frozen=True)
class Seen:
    """One look: a value for each held-out row."""

    step: int
    proxy: Sequence[float]
    gold: Sequence[float]
    """Empty: nothing is known beside the reward."""

    def to_json(self) -> JSON:
        return {"step": self.step, "proxy": [*self.proxy], "gold": [*self.gold]}


@dataclass(frozen=True)
class Gold:
    """How good a policy really is, on rows that it never learns from."""

    prompts: Sequence[Prompt]
    pairs: Sequence[Group]
    """For each prompt its pair of answers; empty where ``function`` says how good an answer is."""
    function: Reward | None

    def values(self, loop: PolicyLoop, texts: Sequence[str], budget: int) -> list[float]:
        """One number for each prompt; none where there is nothing to judge by."""
        if self.function is not None:
            return list(self.function.rewards(self.prompts, texts))
        if not self.pairs:
            return []
        found = []
        with loop.adapted.arithmetic():
            scores = score_groups(loop.policy, self.pairs, loop.layout, budget)
        for pair, score_2 in zip(self.pairs, scores, strict=True):
            good, bad = (float(s) / len(a) for s, a in zip(score_2, pair.answers, strict=True))
            found.append(0.5 if good == bad else float(good > bad))
        return found


@dataclass
class Watch:
    """The course of a policy: its looks, and what they came to."""

    job: Job[Any]
    loop: PolicyLoop
    reward: Reward
    gold: Gold
    options: PolicyStage
    best: Seen | None = None
    last: int = -1
    """The step of the last look."""
    stopped: str = ""
    """Why the policy was stopped, in a sentence; empty: it was not."""
    diverged: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    tokens: int = 0
    trained_tokens: int = 0
    change: dict[str, float] = field(default_factory=dict)

    def finished(self) -> bool:
        """Count an update of the loop; take stock where it was the rollout's last."""
        if not self.loop.finished():
            return False
        counts = self.loop.counts(())
        self.tokens += counts.tokens
        self.trained_tokens += counts.trained_tokens
        self.diverged.append(self.loop.figures()["kl"])
        return True

    def look(self, step: int) -> Look:
        """Look at the policy if it is time, and compare it with its best."""
        if self.stopped:
            return "stop"
        if self._over_budget():
            self.stopped = (
                f"stopped at step {step}: {math.fsum(self.diverged) / len(self.diverged):.1f} nats "
                f"from the reference for each answer, kl_budget is {self.options.kl_budget:g}"
            )
            return "stop"
        if step == self.last or step % self.options.watch_every:
            return "go on"
        self.last = step
        seen = self._seen(step)
        if self._is_diverged(seen):
            self._tell(seen, best=False)
            return "stop"
        better = self.best is None or not seen.gold or _mean(seen.gold) > _mean(self.best.gold)
        if better:
            self.best = seen
        self._tell(seen, best=better)
        return "best" if better else "go on"

    def memory(self) -> JSON:
        """The looks so far."""
        return {
            "best": self.best.to_json() if self.best else None,
            "last": self.last,
            "stopped": self.stopped,
            "diverged": list(self.diverged),
            "tokens": [self.tokens, self.trained_tokens],
            "change": self.change,
            "kl_weight": self.loop.price.weight,
        }

    def recall(self, memory: JSON) -> None:
        """Go on from the looks of a checkpoint."""
        self.best = Seen(**memory["best"]) if memory["best"] else None
        self.last, self.stopped = memory["last"], memory["stopped"]
        self.diverged = deque(memory["diverged"], maxlen=RECENT)
        self.tokens, self.trained_tokens = memory["tokens"]
        self.change = memory["change"]
        self.loop.price.weight = memory["kl_weight"]

    def verdict(self) -> Gated:
        """What the gate says when training is over."""
        best = self.best.step if self.best else 0
        said = f"{self.stopped}; the artifact is the checkpoint of step {best}"
        unwatched = "" if self.best is None or self.best.gold else ", nothing held out to watch"
        return Gated(
            stage=self.job.name,
            gate=GATE,
            passed=not self.stopped,
            sentence=said if self.stopped else f"none seen{unwatched}",
            accepted=self.options.accept_divergence,
            figures=self.change,
        )

    # ----------------------------------------------------------------- what is seen

    def _over_budget(self) -> bool:
        budget = self.options.kl_budget
        full = len(self.diverged) == RECENT
        return full and budget > 0 and math.fsum(self.diverged) / RECENT > budget

    def _seen(self, step: int) -> Seen:
        if not self.gold.prompts:
            return Seen(step, [], [])
        texts = self.loop.answers(self.gold.prompts)
        proxy = list(self.reward.rewards(self.gold.prompts, texts))
        told = zip(self.gold.prompts, texts, proxy, strict=True)
        for prompt, text, reward in list(told)[: self.options.tell_samples]:
            said = Sampled(
                stage=self.job.name, step=step, prompt=_text(prompt), answer=text, reward=reward
            )
            self.job.emit(said)
        gold = self.gold.values(self.loop, texts, self.options.micro_tokens)
        return Seen(step, proxy, gold)

    def _is_diverged(self, seen: Seen) -> bool:
        """The reward rose while gold fell, both beyond their intervals, since gold was best."""
        best = self.best
        if best is None or not seen.gold:
            return False
        proxy = paired_difference(best.proxy, seen.proxy, confidence=CONFIDENCE)
        gold = paired_difference(best.gold, seen.gold, confidence=CONFIDENCE)
        self.change = {"proxy": proxy.value, "gold": gold.value}
        if proxy.low <= 0 or gold.high >= 0:
            return False
        self.stopped = (
            f"stopped at step {seen.step}: since step {best.step} the reward on {len(seen.proxy)} "
            f"held-out rows rose by {proxy.value:.3g} [{proxy.low:.3g}, {proxy.high:.3g}] while "
            f"gold fell by {-gold.value:.3g} [{-gold.high:.3g}, {-gold.low:.3g}]"
        )
        return True

    def _tell(self, seen: Seen, *, best: bool) -> None:
        figures = {}
        if seen.proxy:
            figures["proxy"] = _mean(seen.proxy)
        if seen.gold:
            figures["gold"] = _mean(seen.gold)
        if self.diverged:
            figures["kl"] = self.diverged[-1]
        self.job.emit(Watched(stage=self.job.name, step=seen.step, figures=figures, best=best))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content
