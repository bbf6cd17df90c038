"""Watching a policy while it learns: what it is rewarded for beside what is wanted of it.

A reward that is learned from will be exploited sooner or later (Gao et al. 2023, "Scaling laws for
reward model overoptimization"): it goes on rising while answers get worse. So every so many steps
the policy is looked at on held-out rows, with a *gold* measure that it never learns from. It is
stopped, and goes back to where gold was best, when

- the reward on these rows is clearly higher than at the best look and gold clearly lower, or
- gold is clearly lower than before the first step, whatever the reward, or
- it is further from its reference than the budget allows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError
from tunesmith.events import JSON, Gated, Sampled, Watched
from tunesmith.records import Prompt
from tunesmith.statistics import Interval, paired_difference
from tunesmith_torch.options.rlhf import PolicyStage
from tunesmith_torch.prefix.completion_groups import Group, score_groups
from tunesmith_torch.rlhf.policy_objective import PolicyLoop
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.runtime import distributed
from tunesmith_torch.training.loop import Counts, Look

GATE = "divergence"
LUCK = 0.01
"""How often a policy whose gold does not change may be called diverged, at most.

The best of k looks is in part the luckiest, and a later one is held against it, look after look:
at one level for all, 0.99, noise alone would stop two of five runs within 20 looks. So the level
of a comparison is ``1 - LUCK / k**2``, which keeps such runs at one or two in a hundred.
"""
RESAMPLES = 5_000
"""Such levels lie far out in the tails."""
RECENT = 5
"""Rollouts whose mean divergence is held against the budget: a single one is a noisy estimate."""

_NEEDED = ("first", "best", "last", "stopped", "diverged", "tokens", "change", "kl_coef")
"""Without these of its memory a watch cannot go on."""


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

    def only(self, rows: Sequence[int]) -> Gold:
        """The same for some of the prompts."""
        pairs = [self.pairs[row] for row in rows] if self.pairs else []
        return Gold([self.prompts[row] for row in rows], pairs, self.function)

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
    first: Seen | None = None
    best: Seen | None = None
    last: int = -1
    """The step of the last look."""
    stopped: str = ""
    """Why the policy was stopped, in a sentence; empty: it was not."""
    diverged: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    tokens: int = 0
    trained_tokens: int = 0
    change: dict[str, float] = field(default_factory=dict)
    looks: int = 0
    """With which a new look is compared."""
    steps: int | None = None
    """The last one is looked at whatever ``monitor_every`` says: it leaves the artifact."""
    spread: float | None = None
    """How far rewards of one prompt's answers lay apart, at most, in the mean over a rollout."""

    def finished(self) -> bool:
        """Count an update of the loop; take stock where it was the rollout's last."""
        if not self.loop.finished():
            return False
        self.note(self.loop.counts(()), self.loop.figures())
        return True

    def note(self, counts: Counts, figures: Mapping[str, float]) -> None:
        """Take stock of a rollout: what it held, its rewards, its divergence where measured."""
        self.tokens += counts.tokens
        self.trained_tokens += counts.trained_tokens
        if "kl" in figures:
            self.diverged.append(figures["kl"])
        if self.options.num_generations > 1:
            self.spread = max(self.spread or 0.0, figures["reward_spread"])

    def look(self, step: int) -> Look:
        """Look at the policy if it is time, and compare it with its best."""
        if self.stopped:
            return "stop"
        if self._over_budget():
            self.stopped = (
                f"stopped at step {step}: {math.fsum(self.diverged) / len(self.diverged):.1f} nats "
                f"from the reference for each answer, max_kl is {self.options.max_kl:g}"
            )
            return "stop"
        if step == self.last or (step % self.options.monitor_every and step != self.steps):
            return "go on"
        self.last = step
        seen = self._seen(step)
        self.first = self.first or seen
        if self._is_diverged(seen):
            self._tell(seen, best=False)
            return "stop"
        self.looks += 1
        better = self.best is None or not seen.gold or _mean(seen.gold) > _mean(self.best.gold)
        if better:
            self.best = seen
        self._tell(seen, best=better)
        return "best" if better else "go on"

    def memory(self) -> JSON:
        """The looks so far."""
        return {
            "first": self.first.to_json() if self.first else None,
            "best": self.best.to_json() if self.best else None,
            "last": self.last,
            "stopped": self.stopped,
            "diverged": list(self.diverged),
            "tokens": [self.tokens, self.trained_tokens],
            "change": self.change,
            "looks": self.looks,
            "spread": self.spread,
            "kl_coef": self.loop.price.weight,
        }

    def recall(self, memory: JSON) -> None:
        """Go on from the looks of a checkpoint.

        Raises:
            IntegrityError: it does not hold what is needed to go on.
        """
        lacking = [name for name in _NEEDED if name not in memory]
        if lacking:
            raise IntegrityError(
                f"{self.job.checkpoints.folder}: the newest checkpoint says nothing of the "
                f"policy's {', '.join(lacking)}; it cannot be resumed",
                hint="train this stage anew, in a fresh run folder",
            )
        self.first = Seen(**memory["first"]) if memory["first"] else None
        self.best = Seen(**memory["best"]) if memory["best"] else None
        self.last, self.stopped = memory["last"], memory["stopped"]
        self.diverged = deque(memory["diverged"], maxlen=RECENT)
        self.tokens, self.trained_tokens = memory["tokens"]
        self.change = memory["change"]
        # Older checkpoints did not count looks, which came every so many steps, nor know a spread.
        self.looks = memory.get("looks", self.last // self.options.monitor_every + 1)
        self.spread = memory.get("spread")
        self.loop.price.weight = memory["kl_coef"]

    def verdict(self) -> Gated:
        """What the gate says when training is over."""
        sentence = self._fault()
        unwatched = "" if self.best is None or self.best.gold else ", nothing held out to watch"
        return Gated(
            stage=self.job.name,
            gate=GATE,
            passed=not sentence,
            sentence=sentence or f"none seen{unwatched}",
            accepted=self.options.accept_divergence,
            figures=self.change,
        )

    def _fault(self) -> str:
        if self.stopped:
            best = self.best.step if self.best else 0
            return f"{self.stopped}; the artifact is the checkpoint of step {best}"
        if self.spread == 0:
            return (
                "nothing was learned: at every step all answers to a prompt earned the same reward"
            )
        return ""

    # ----------------------------------------------------------------- what is seen

    def _over_budget(self) -> bool:
        budget = self.options.max_kl
        full = len(self.diverged) == RECENT
        return full and budget > 0 and math.fsum(self.diverged) / RECENT > budget

    def _seen(self, step: int) -> Seen:
        if not self.gold.prompts:
            return Seen(step, [], [])
        answered = distributed.by_rows(len(self.gold.prompts), self._answered)
        texts = [text for text, _, _ in answered]
        proxy = [reward for _, reward, _ in answered]
        told = zip(self.gold.prompts, texts, proxy, strict=True)
        for prompt, text, reward in list(told)[: self.options.log_completions]:
            said = Sampled(
                stage=self.job.name, step=step, prompt=_text(prompt), answer=text, reward=reward
            )
            self.job.emit(said)
        return Seen(step, proxy, [value for _, _, value in answered if value is not None])

    def _answered(self, rows: Sequence[int]) -> list[tuple[str, float, float | None]]:
        """What the policy says to these held-out rows, its reward, and its gold if there is any."""
        gold = self.gold.only(rows)
        texts = self.loop.actor.answers(gold.prompts)
        proxy = list(self.reward.rewards(gold.prompts, texts))
        values: Sequence[float | None] = gold.values(
            self.loop, texts, self.options.micro_batch_tokens
        )
        return list(zip(texts, proxy, values or [None] * len(texts), strict=True))

    def _is_diverged(self, seen: Seen) -> bool:
        """Gold fell beyond its interval: while the reward rose, or below where it began."""
        first, best = self.first, self.best
        if first is None or best is None or not seen.gold:
            return False
        self.change = {
            "proxy": _mean(seen.proxy) - _mean(best.proxy),
            "gold": _mean(seen.gold) - _mean(best.gold),
        }
        gold = self._change(best.gold, seen.gold)
        if gold.high >= 0:
            return False
        proxy = self._change(best.proxy, seen.proxy)
        whole = gold if first is best else self._change(first.gold, seen.gold)
        rows = f"{len(seen.proxy)} held-out rows"
        if proxy.low > 0:
            self.stopped = (
                f"stopped at step {seen.step}: since step {best.step} the reward on {rows} rose by "
                f"{proxy.value:.3g} [{proxy.low:.3g}, {proxy.high:.3g}] while gold fell by "
                f"{_fall(gold)}"
            )
        elif whole.high < 0:
            self.stopped = (
                f"stopped at step {seen.step}: on {rows} gold is lower than at step {first.step} "
                f"by {_fall(whole)}"
            )
        return bool(self.stopped)

    def _change(self, before: Sequence[float], now: Sequence[float]) -> Interval:
        level = 1 - LUCK / self.looks**2
        return paired_difference(before, now, confidence=level, resamples=RESAMPLES)

    def _tell(self, seen: Seen, *, best: bool) -> None:
        figures = {}
        if seen.proxy:
            figures["proxy"] = _mean(seen.proxy)
        if seen.gold:
            figures["gold"] = _mean(seen.gold)
        if self.diverged:
            figures["kl"] = self.diverged[-1]
        self.job.emit(Watched(stage=self.job.name, step=seen.step, figures=figures, best=best))


def _fall(change: Interval) -> str:
    return f"{-change.value:.3g} [{-change.high:.3g}, {-change.low:.3g}]"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content
