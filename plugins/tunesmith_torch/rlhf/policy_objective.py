"""The policy loop: rollout, reward, advantage, update.

Shapes: A answers of a micro-batch, N tokens of all its answers, D width.

A batch of prompts is one step: the policy answers each several times, answers are rewarded, and
the policy moves, once or a few times, towards those that were better than expected. It is an
:class:`tunesmith_torch.training.loop.Objective`, so checkpoints, memory and the optimizer are those of every
technique; the draws come from torch's generator, which a checkpoint keeps. Where several processes
train, each answers and learns from its own prompts; whatever is taken over a batch is taken over
the whole batch.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from tunesmith.errors import UsageError
from tunesmith.records import Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.losses import policy_gradient
from tunesmith_torch.losses.selected_positions import head_of
from tunesmith_torch.models.adapter_stack import as_reference
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.options.policy import PolicyLoopOptions
from tunesmith_torch.prefix.completion_groups import Answers, Layout, answer_hidden
from tunesmith_torch.rlhf.rollout import Actor, Reward, Rollout
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.eval_mode import evaluating
from tunesmith_torch.training.loop import Counts

SHOWN = ("reward", "kl", "answer_tokens")
"""The figures that come first: a terminal has room for three."""


class ValueNet(nn.Module):
    """A policy with a head that guesses what each token will earn. It begins with guesses of 0."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def values(self, hidden_ND: Tensor) -> Tensor:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            values_N1: Tensor = self.head(hidden_ND.float())
        return values_N1[:, 0]


@dataclass
class Lesson:
    """A micro-batch of answers with all that the update needs."""

    answers: Answers
    old_N: Tensor
    reference_N: Tensor
    advantage_N: Tensor
    returns_N: Tensor
    weight_N: Tensor
    """1 / what the batch's loss is divided by; 0 for tokens that are not learned from."""
    weight_of_all: float = 1.0
    """The sum of these weights over the whole batch."""


@dataclass
class _Figures:
    """Figures of a batch, as far as this rank's answers make them up."""

    sums: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def most(self, **values: float) -> None:
        for name, value in values.items():
            self.maxima[name] = max(self.maxima.get(name, value), value)

    def whole(self) -> dict[str, float]:
        """Of the whole batch."""
        return {**distributed.summed(self.sums), **distributed.largest(self.maxima)}


@dataclass
class KlPrice:
    """The price of a nat of divergence: fixed, or adapted towards a target.

    ``weight <- weight (1 + 0.1 clip(kl / target - 1, -0.2, 0.2))`` after every rollout (Ziegler et
    al. 2019, section 2.2), so that it is the divergence that stays where it is wanted.
    """

    weight: float
    target: float | None = None

    def adapt(self, kl: float) -> None:
        """Take a rollout's divergence into account, in nats for each answer."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.weight *= 1 + 0.1 * error


class PolicyLoop:
    """PPO, GRPO and RLOO as an objective for :func:`tunesmith_torch.training.loop.fit`."""

    def __init__(  # noqa: PLR0913 - each is independent of the others
        self,
        adapted: Adapted,
        template: Template,
        prompts: Sequence[Prompt],
        reward: Reward,
        options: PolicyLoopOptions,
        layout: Layout,
        reference: nn.Module | None = None,
    ) -> None:
        """``reference``: a frozen copy of the start, for a policy that keeps none beside it."""
        self.adapted, self._reference = adapted, reference
        self._options, self.layout = options, layout
        self._device = adapted.base.model.device
        self._value = adapted.model if isinstance(adapted.model, ValueNet) else None
        self.policy = self._value.model if self._value is not None else adapted.model
        if (options.algorithm == "ppo") != (self._value is not None):
            raise UsageError("the policy needs a value head for ppo, and for ppo alone")
        head = head_of(self.policy)
        if head.softcap is not None and options.temperature != 1:
            raise UsageError("technique.temperature: this model caps its logits, so it must be 1")
        self._valueless = replace(adapted, model=self.policy)
        self.actor = Actor(self._valueless, template, prompts, reward, options)
        self.price = KlPrice(options.kl_coef, options.kl_target)
        self._lessons: list[Lesson] = []
        self._updates = 0
        self._counts = Counts(0, 0, 1)
        self._figures = _Figures()

    def micro_batches(self, rows: Sequence[int], budget: int) -> list[Lesson]:
        """Rollout, reward and advantage, in the first of a batch's updates; then the same again."""
        if self._updates > 0:
            return self._lessons
        self._figures = _Figures()
        rollout = self.actor.rollout(rows)
        laid_out = self.layout.micro_batches(rollout.groups, range(len(rows)), budget)
        self._lessons = [self._lesson(rollout, answers) for answers in laid_out]
        self._take_stock(rollout, self._lessons)
        return self._lessons

    def finished(self) -> bool:
        """Count an update; whether the rollout has had all of its own."""
        self._updates += 1
        if self._updates < self._options.num_iterations:
            return False
        self._updates, self._lessons = 0, []
        if self._options.needs_reference:
            self.price.adapt(self._figures.whole()["kl"])
        return True

    def loss(self, micro_batch: Lesson) -> Tensor:
        """The update: this micro-batch's share of the batch's loss."""
        lesson, options = micro_batch, self._options
        logp_N, hidden_ND = self._logprobs(lesson.answers)
        loss_N = policy_gradient.clipped(
            logp_N, lesson.old_N, lesson.advantage_N, options.clip_range
        )
        if options.algorithm == "grpo" and options.kl_coef > 0:
            apart_N = policy_gradient.divergence(logp_N, lesson.reference_N)
            loss_N = loss_N + options.kl_coef * apart_N
        if self._value is not None:
            missed_N = self._value.values(hidden_ND) - lesson.returns_N
            loss_N = loss_N + options.vf_coef * missed_N**2
        with torch.no_grad():
            far_N = (torch.exp(logp_N - lesson.old_N) - 1).abs() > options.clip_range
            share = float((far_N * lesson.weight_N).sum()) / lesson.weight_of_all
            self._figures.add(clip_fraction=share / options.num_iterations)
            if self._updates == 0:  # the policy is still the one that was drawn from
                self._figures.most(sampler_gap=float((logp_N - lesson.old_N).abs().max()))
        return (loss_N * lesson.weight_N).sum()

    @torch.no_grad()
    def _lesson(self, rollout: Rollout, cpu: Answers) -> Lesson:
        """Compare what was earned with what was to be expected, token by token."""
        answers, options = cpu.to(self._device), self._options
        said = [answer for row in cpu.groups for answer in rollout.said[row]]
        old_N = torch.tensor([x for answer in said for x in answer.logprobs], device=self._device)
        kept = [rollout.kept(row, options.mask_truncated_completions) for row in cpu.groups]
        weight_N = torch.cat(kept).to(old_N)[answers.answer_N]
        values_N, reference_N = torch.zeros_like(old_N), old_N
        with self.adapted.arithmetic(), evaluating(self.adapted.model):
            if self._value is not None:
                values_N = self._value.values(answer_hidden(self.policy, answers))
            if options.needs_reference:
                reference_N = self._reference_logprobs(answers)
        # The policy drew these tokens, so old - reference is on average the divergence.
        apart_N = old_N - reference_N
        self._figures.add(kl=float(apart_N.sum()) / rollout.answers_in_batch)
        price_N = self.price.weight * apart_N
        earned_A = torch.cat([rollout.rewards[row] for row in cpu.groups])
        if options.algorithm == "ppo":
            advantage_N = policy_gradient.of_tokens(
                earned_A.to(price_N),
                answers.lengths_A.tolist(),
                price_N,
                values_N,
                options.gamma,
                options.gae_lambda,
            )
        else:
            if options.algorithm == "rloo":  # grpo has the divergence in the loss
                earned_A -= answers.sums(price_N).cpu()
            compare = policy_gradient.rloo if options.algorithm == "rloo" else policy_gradient.grpo
            groups = zip(torch.split(earned_A, options.num_generations), kept, strict=True)
            advantage_A = torch.cat([policy_gradient.of_group(*group, compare) for group in groups])
            advantage_N = advantage_A.to(price_N)[answers.answer_N]
        returns_N = advantage_N + values_N
        return Lesson(answers, old_N, reference_N, advantage_N, returns_N, weight_N)

    def _take_stock(self, rollout: Rollout, lessons: Sequence[Lesson]) -> None:
        """Set the weights by what the whole batch holds, note the figures.

        GRPO and PPO take the mean over tokens, RLOO the mean over answers of sums over tokens.
        """
        flat = [answer for answers in rollout.said for answer in answers]
        mine = {
            "tokens": sum(float(lesson.weight_N.sum()) for lesson in lessons),
            "kept": sum(
                int(rollout.kept(row, self._options.mask_truncated_completions).sum())
                for row in range(len(rollout.said))
            ),
            "spoken": sum(len(answer.ids) for answer in flat),
            "sizes": sum(self.layout.size(group) for group in rollout.groups),
        }
        whole, answers = distributed.summed(mine), rollout.answers_in_batch
        tokens = whole["tokens"]
        units = max(whole["kept"] if self._options.algorithm == "rloo" else tokens, 1.0)
        entropy = 0.0
        for lesson in lessons:
            entropy -= float(lesson.old_N.sum())
            lesson.weight_N = lesson.weight_N / units
            lesson.weight_of_all = max(tokens, 1.0) / units
        self._counts = Counts(int(whole["sizes"]), int(tokens), 1)
        self._figures.add(
            reward=sum(float(earned_A.sum()) for earned_A in rollout.rewards) / answers,
            reward_spread=sum(float(r_A.max() - r_A.min()) * len(r_A) for r_A in rollout.rewards)
            / answers,
            answer_tokens=mine["spoken"] / answers,
            entropy=entropy / whole["spoken"],
            truncated=sum(answer.stopped == "limit" for answer in flat) / answers,
        )

    def _logprobs(self, answers: Answers, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Of every token at the temperature of the draws, and the hidden states before them."""
        model = self.policy if model is None else model
        hidden_ND = answer_hidden(model, answers)
        head = head_of(model)
        head = head._replace(scale=head.scale / self._options.temperature)
        return head.logprobs(hidden_ND, answers.batch), hidden_ND

    def _reference_logprobs(self, answers: Answers) -> Tensor:
        """What the policy said at its start: the same model without its adapter, or a copy."""
        if self._reference is not None:
            return self._logprobs(answers, self._reference)[0]
        with as_reference(self._valueless):
            return self._logprobs(answers)[0]

    def __len__(self) -> int:
        return len(self.actor)

    def counts(self, rows: Sequence[int]) -> Counts:
        """Tokens of the last rollout. Losses are divided here already, so the unit is one."""
        return self._counts

    def figures(self) -> dict[str, float]:
        """Reward, divergence, length, entropy and clipping of the last batch."""
        found = self._figures.whole()
        first: dict[str, float] = {name: found.pop(name) for name in SHOWN if name in found}
        return {**first, **found, "kl_coef": self.price.weight}
