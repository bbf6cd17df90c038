"""PPO, GRPO and RLOO as an objective of the training loop.

Shapes: C completions of a micro-batch, N tokens of all its completions, D width of the model.

Derivation. The goal is a policy pi that maximizes::

    J = E[reward(x, y)] - kl_coef * KL(pi, ref)        x: prompt, y ~ pi(. | x): completion

1. *Policy gradient.* The reward is not differentiable, but log pi is: ``grad E[r] = E[r * grad log
   pi(y)]`` (REINFORCE, Williams 1992). Any baseline that does not depend on y may be subtracted
   from r; this keeps the gradient and lowers its variance. What remains is the *advantage* A.

2. *Advantage*: how much better a completion, or a token, was than expected::

       ppo     GAE(gamma, lambda) over token rewards and values (Schulman et al. 2016, eq. 16)
               the value head learns to predict returns = A + values
       grpo    (r - mean) / std of the prompt's completions (Shao et al. 2024, section 4.1)
       rloo    r - mean of the prompt's other completions (Ahmadian et al. 2024, eq. 8)

3. *Ratio.* With ``num_iterations`` above 1, the policy being updated is no longer the policy that
   sampled. Importance sampling corrects for this, token by token: ``ratio = exp(logprobs -
   old_logprobs)``. In the first update the ratio is 1, and ``grad ratio * A = A * grad log pi`` is
   the policy gradient again. RLOO makes no other update, so clipping has no effect there.

4. *Clip.* Updates far from the sampling policy are unreliable. The surrogate ``min(ratio * A,
   clip(ratio) * A)`` (Schulman et al. 2017, eq. 7) has no gradient once a token has moved by more
   than ``clip_range`` in the direction that its advantage favors::

       A > 0   gradient vanishes for ratio > 1 + clip_range
       A < 0   gradient vanishes for ratio < 1 - clip_range

5. *KL estimate*, from the sampled tokens alone (Schulman 2020, "Approximating KL divergence")::

       k1 = old_logprobs - ref_logprobs      unbiased; single values may be negative
       k3 = exp(-d) - 1 + d                  unbiased and never negative; d = logprobs -
                                             ref_logprobs

   PPO and RLOO subtract ``kl_coef * k1`` from the reward, per token or summed over the completion,
   without a gradient. GRPO adds ``kl_coef * k3`` to the loss, with a gradient (Shao et al. 2024,
   eq. 3 and 4). The monitored ``kl`` is the sum of k1 over a completion.

One batch of prompts is one rollout and ``num_iterations`` updates::

    once per rollout   completions     num_generations per prompt, sampled from the policy
                       rewards         one per completion
                       old_logprobs    per sampled token, under the sampling policy
                       ref_logprobs    per sampled token, under the frozen reference
                       advantages      per sampled token, see 2.

    each update        loss = -min(ratio * advantages, clip(ratio) * advantages)
                              + kl_coef * k3(logprobs, ref_logprobs)                  grpo only
                              + vf_coef * (values - returns)^2                        ppo only

PPO and GRPO average the loss over the trained tokens of the batch. RLOO sums it over the tokens of
a completion and averages over the trained completions.

Random numbers come from torch's generator, whose state is saved in checkpoints. Each process
samples completions for its own prompts and trains on them; means are over the batches of all
processes together.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from tunesmith.errors import TrainingError, UsageError
from tunesmith.records import Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.losses import policy_gradient
from tunesmith_torch.losses.selected_positions import get_lm_head
from tunesmith_torch.models.adapter_stack import reference_policy
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.prefix.completion_groups import (
    CompletionBatch,
    CompletionGroup,
    GroupLayout,
    completion_hidden,
)
from tunesmith_torch.rlhf.rollout import Reward, Rollout, RolloutGenerator
from tunesmith_torch.runtime import distributed, sharding
from tunesmith_torch.runtime.eval_mode import eval_mode
from tunesmith_torch.runtime.memory import is_out_of_memory
from tunesmith_torch.training.first_batch import TokenLayout
from tunesmith_torch.training.loop import BatchCounts, RunWithBudget

__all__ = ["LEADING_METRICS", "PolicyMicroBatch", "PolicyObjective", "PreparedRollout"]

LEADING_METRICS = ("reward", "kl", "completion_length")
"""Metrics to list first, because a terminal line has room for three."""


class PolicyWithValueHead(nn.Module):
    """A policy with a linear head, initially zero, that predicts the return of each token."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def values(self, hidden_ND: Tensor) -> Tensor:
        """Return the predicted return at each position, [N], in fp32."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            values_N1: Tensor = self.head(hidden_ND.float())
        return values_N1[:, 0]


@dataclass
class PolicyMicroBatch:
    """A micro-batch of completions with everything that an update needs."""

    completions: CompletionBatch
    """Tokens of the prompts and completions; N of them were sampled."""
    old_logprobs_N: Tensor
    """Log-probability of each sampled token under the policy that sampled it, in nats."""
    ref_logprobs_N: Tensor
    """Log-probability of each sampled token under the reference, in nats."""
    advantages_N: Tensor
    """Advantage of each sampled token."""
    returns_N: Tensor
    """Target of the value head at each sampled token."""
    loss_weights_N: Tensor
    """1 / (divisor of the batch's loss) for each token that is trained on; 0 for other tokens."""
    total_weight: float = 1.0
    """Sum of the loss weights over the complete batch; at least the weight of one token."""


@dataclass
class PreparedRollout:
    """A rollout with everything that its updates need, divided into micro-batches."""

    groups: Sequence[CompletionGroup]
    micro_batches: list[PolicyMicroBatch]
    budget: int
    """Maximum number of tokens in a micro-batch."""


def _split_by_group(prepared: PreparedRollout) -> dict[int, tuple[Tensor, ...]]:
    """Return each prompt's slices of the token tensors, ordered like a micro-batch's fields."""
    by_group: dict[int, tuple[Tensor, ...]] = {}
    for batch in prepared.micro_batches:
        rows = batch.completions.group_indices
        sizes = [prepared.groups[row].completion_tokens for row in rows]
        tensors = (
            batch.old_logprobs_N,
            batch.ref_logprobs_N,
            batch.advantages_N,
            batch.returns_N,
            batch.loss_weights_N,
        )
        shares = zip(*(torch.split(tensor, sizes) for tensor in tensors), strict=True)
        by_group.update(zip(rows, shares, strict=True))
    return by_group


@dataclass
class _BatchMetrics:
    """This rank's contribution to the metrics of a batch."""

    sums: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def update_max(self, **values: float) -> None:
        for name, value in values.items():
            self.maxima[name] = max(self.maxima.get(name, value), value)

    def merge(self, other: _BatchMetrics) -> None:
        self.add(**other.sums)
        self.update_max(**other.maxima)

    def reduce(self) -> dict[str, float]:
        """Return the metrics of the complete batch, over all ranks."""
        return {
            **distributed.all_reduce_sum(self.sums),
            **distributed.all_reduce_max(self.maxima),
        }


@dataclass
class KlController:
    """The coefficient of the KL penalty: constant, or adapted to keep the KL near a target.

    After every rollout, ``coef <- coef * (1 + 0.1 * clip(kl / target - 1, -0.2, 0.2))`` (Ziegler et
    al. 2019, section 2.2).
    """

    coef: float
    """Current coefficient of the KL penalty."""
    target: float | None = None
    """Target KL in nats per completion; None keeps the coefficient constant."""

    def update(self, kl: float) -> None:
        """Adapt the coefficient to a rollout's KL, in nats per completion."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coef *= 1 + 0.1 * error


class PolicyObjective:
    """The objective of PPO, GRPO or RLOO, for :mod:`tunesmith_torch.training.loop`."""

    def __init__(  # noqa: PLR0913 - each is independent of the others
        self,
        adapted: AdaptedModel,
        template: Template,
        prompts: Sequence[Prompt],
        reward: Reward,
        options: PolicyOptions,
        layout: GroupLayout,
        reference: nn.Module | None = None,
    ) -> None:
        """Set up sampling and the loss.

        ``reference`` is a frozen copy of the initial model, needed if all weights are trained. None
        means that the reference is the policy with its trained adapter switched off.
        """
        self.adapted, self._reference = adapted, reference
        self._options, self.layout = options, layout
        self._device, model = adapted.base.model.device, adapted.model
        self._value_model = model if isinstance(model, PolicyWithValueHead) else None
        self.policy = self._value_model.model if self._value_model is not None else model
        if (options.algorithm == "ppo") != (self._value_model is not None):
            raise UsageError("ppo needs a policy with a value head; grpo and rloo need none")
        head = get_lm_head(self.policy)
        # `_logprobs` puts the temperature into the head's scale, which is applied before a softcap.
        if head.softcap is not None and options.generation.temperature != 1:
            raise UsageError("generation.temperature: must be 1, since this model caps its logits")
        self._without_value_head = replace(adapted, model=self.policy)
        self.rollout_generator = RolloutGenerator(
            self._without_value_head, template, prompts, reward, options
        )
        self.kl_controller = KlController(options.loss.kl_coef, options.loss.kl_target)
        self._updates_done = 0
        self._counts, self._metrics = BatchCounts(0, 0, 1), _BatchMetrics()
        self._update_metrics = _BatchMetrics()

    def prepare(self, rows: Sequence[int], run: RunWithBudget) -> PreparedRollout:
        """Sample a rollout; compute its rewards, reference log-probabilities and advantages.

        If memory runs out after sampling, everything but the samples is computed again with a
        smaller budget.

        Raises:
            TrainingError: memory ran out during sampling.
        """
        self._metrics, self._update_metrics = _BatchMetrics(), _BatchMetrics()
        with sharding.summon_full_params(self.adapted.model):
            rollout = self._sample(rows)
            prepared = run(lambda budget: self._score(rollout, budget))
        self._apply_batch_totals(rollout, prepared.micro_batches)
        return prepared

    def _sample(self, rows: Sequence[int]) -> Rollout:
        try:
            return self.rollout_generator.generate_rollout(rows)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory while sampling completions: {error}",
                hint="lower generation.num_generations, generation.max_new_tokens or batch_size",
            ) from error

    def _score(self, rollout: Rollout, budget: int) -> PreparedRollout:
        layouts = self.layout.micro_batches(rollout.groups, range(len(rollout.groups)), budget)
        micro_batches = [self._build_micro_batch(rollout, layout) for layout in layouts]
        return PreparedRollout(rollout.groups, micro_batches, budget)

    def start_update(self) -> None:
        """Discard the metrics that :meth:`loss` recorded in an attempt that ran out of memory."""
        self._update_metrics = _BatchMetrics()

    def micro_batches(self, prepared: PreparedRollout, budget: int) -> list[PolicyMicroBatch]:
        """Return the micro-batches of a rollout; divide it again if the budget has shrunk."""
        if budget == prepared.budget:
            return prepared.micro_batches
        # Only the division changes. The values of each token stay those of the rollout, because the
        # policy that sampled it no longer exists after the first update.
        by_group = _split_by_group(prepared)
        total_weight = prepared.micro_batches[0].total_weight if prepared.micro_batches else 1.0
        relaid = []
        rows = range(len(prepared.groups))
        for layout in self.layout.micro_batches(prepared.groups, rows, budget):
            parts = zip(*(by_group[row] for row in layout.group_indices), strict=True)
            old, reference, advantages, returns, weights = (torch.cat(part) for part in parts)
            completions = layout.to(self._device)
            relaid.append(
                PolicyMicroBatch(
                    completions, old, reference, advantages, returns, weights, total_weight
                )
            )
        return relaid

    def token_layout(self, micro_batch: PolicyMicroBatch) -> TokenLayout:
        """Return the tokens of a micro-batch, for reports."""
        batch, tree_layout = micro_batch.completions.batch, micro_batch.completions.tree_layout
        return TokenLayout(batch, tree_layout, loss_weights_N=micro_batch.loss_weights_N)

    def finish_update(self) -> bool:
        """Count an optimizer step; return True if it was this rollout's last."""
        self._updates_done += 1
        self._metrics.merge(self._update_metrics)
        self._update_metrics = _BatchMetrics()
        if self._updates_done < self._options.loss.num_iterations:
            return False
        self._updates_done = 0
        if self._options.needs_reference:
            self.kl_controller.update(self._metrics.reduce()["kl"])
        return True

    def loss(self, micro_batch: PolicyMicroBatch) -> Tensor:
        """Return this micro-batch's contribution to the batch's loss, a scalar."""
        options = self._options
        advantages_N, old_logprobs_N = micro_batch.advantages_N, micro_batch.old_logprobs_N
        logprobs_N, hidden_ND = self._logprobs(micro_batch.completions)
        loss_N = policy_gradient.clipped_loss(
            logprobs_N, old_logprobs_N, advantages_N, options.loss.clip_range
        )
        if options.algorithm == "grpo" and options.loss.kl_coef > 0:
            kl_N = policy_gradient.kl_estimate(logprobs_N, micro_batch.ref_logprobs_N)
            loss_N = loss_N + options.loss.kl_coef * kl_N
        if self._value_model is not None:
            value_error_N = self._value_model.values(hidden_ND) - micro_batch.returns_N
            loss_N = loss_N + options.loss.vf_coef * value_error_N**2
        with torch.no_grad():
            ratio_N = torch.exp(logprobs_N - old_logprobs_N)
            clipped_N = (ratio_N - 1).abs() > options.loss.clip_range
            clipped_weight = float((clipped_N * micro_batch.loss_weights_N).sum())
            clip_fraction = clipped_weight / micro_batch.total_weight
            self._update_metrics.add(clip_fraction=clip_fraction / options.loss.num_iterations)
            if self._updates_done == 0:
                # Before the first update this is the policy that sampled, so any gap is a rounding
                # difference between the generation code and this forward pass.
                sampler_gap = float((logprobs_N - old_logprobs_N).abs().max())
                self._update_metrics.update_max(sampler_gap=sampler_gap)
        return (loss_N * micro_batch.loss_weights_N).sum()

    @torch.no_grad()
    def _build_micro_batch(self, rollout: Rollout, layout: CompletionBatch) -> PolicyMicroBatch:
        """Compute log-probabilities, values, KL and advantages for the completions of a layout.

        Loss weights are 0 or 1 here; :meth:`_apply_batch_totals` divides them later.
        """
        options, rows = self._options, layout.group_indices
        completions = layout.to(self._device)
        generated = [completion for row in rows for completion in rollout.completions[row]]
        old_logprobs_N = torch.tensor(
            [logprob for completion in generated for logprob in completion.logprobs],
            device=self._device,
        )
        trained = [
            rollout.trained_mask(row, options.loss.mask_truncated_completions) for row in rows
        ]
        loss_weights_N = torch.cat(trained).to(old_logprobs_N)[completions.completion_N]
        # Without a reference its log-probabilities equal the policy's, which makes the KL 0.
        values_N, ref_logprobs_N = torch.zeros_like(old_logprobs_N), old_logprobs_N
        with self.adapted.autocast(), eval_mode(self.adapted.model):
            if self._value_model is not None:
                values_N = self._value_model.values(completion_hidden(self.policy, completions))
            if options.needs_reference:
                ref_logprobs_N = self._reference_logprobs(completions)
        # k1: its expectation is the KL, because the policy sampled these tokens.
        kl_N = old_logprobs_N - ref_logprobs_N
        kl_penalty_N = self.kl_controller.coef * kl_N
        rewards_C = torch.cat([rollout.rewards[row] for row in rows])
        if options.algorithm == "ppo":
            advantages_N = policy_gradient.token_advantages(
                rewards_C.to(kl_penalty_N),
                completions.lengths_C.tolist(),
                kl_penalty_N,
                values_N,
                options.loss.gamma,
                options.loss.gae_lambda,
            )
        else:
            if options.algorithm == "rloo":  # grpo has its KL term in the loss
                rewards_C -= completions.sum_per_completion(kl_penalty_N).cpu()
            advantages_C = self._group_advantages(rewards_C, trained)
            advantages_N = advantages_C.to(kl_penalty_N)[completions.completion_N]
        returns_N = advantages_N + values_N  # the value head's target; grpo and rloo do not read it
        return PolicyMicroBatch(
            completions, old_logprobs_N, ref_logprobs_N, advantages_N, returns_N, loss_weights_N
        )

    def _group_advantages(self, rewards_C: Tensor, trained: Sequence[Tensor]) -> Tensor:
        """Return each completion's advantage relative to completions of the same prompt, [C]."""
        is_rloo = self._options.algorithm == "rloo"
        compare = policy_gradient.rloo_advantages if is_rloo else policy_gradient.grpo_advantages
        groups = zip(
            torch.split(rewards_C, self._options.generation.num_generations), trained, strict=True
        )
        return torch.cat([policy_gradient.group_advantages(*group, compare) for group in groups])

    def _apply_batch_totals(
        self, rollout: Rollout, micro_batches: Sequence[PolicyMicroBatch]
    ) -> None:
        """Divide the loss weights by the totals of the complete batch, and record its metrics.

        The divisor is the number of trained tokens for PPO and GRPO, and of trained completions for
        RLOO.
        """
        generated = [completion for group in rollout.completions for completion in group]
        own = {
            "trained_tokens": sum(float(batch.loss_weights_N.sum()) for batch in micro_batches),
            "trained_completions": sum(
                int(rollout.trained_mask(row, self._options.loss.mask_truncated_completions).sum())
                for row in range(len(rollout.completions))
            ),
            "generated_tokens": sum(len(completion.ids) for completion in generated),
            "computed_tokens": sum(self.layout.count_tokens(group) for group in rollout.groups),
        }
        total, completions = distributed.all_reduce_sum(own), rollout.completions_in_batch
        trained_tokens = total["trained_tokens"]
        is_rloo = self._options.algorithm == "rloo"
        divisor = max(total["trained_completions"] if is_rloo else trained_tokens, 1.0)
        entropy = 0.0
        for batch in micro_batches:
            kl_N = batch.old_logprobs_N - batch.ref_logprobs_N
            self._metrics.add(kl=float(kl_N.sum()) / completions)
            # The entropy is estimated as the mean of -log pi over the sampled tokens.
            entropy -= float(batch.old_logprobs_N.sum())
            batch.loss_weights_N = batch.loss_weights_N / divisor
            # `loss` divides by the total weight, so that clip_fraction is a mean over tokens.
            batch.total_weight = max(trained_tokens, 1.0) / divisor
        # The loss weights already contain the division. With a divisor of 0, the training loop
        # skips the backward pass of this loss: no token is trained on.
        divisor = 1 if trained_tokens else 0
        self._counts = BatchCounts(int(total["computed_tokens"]), int(trained_tokens), divisor)
        reward_ranges = [
            float(rewards_C.max() - rewards_C.min()) * len(rewards_C)
            for rewards_C in rollout.rewards
        ]
        truncated = sum(completion.finish_reason == "length" for completion in generated)
        self._metrics.add(
            reward=sum(float(rewards_C.sum()) for rewards_C in rollout.rewards) / completions,
            reward_spread=sum(reward_ranges) / completions,
            completion_length=own["generated_tokens"] / completions,
            entropy=entropy / total["generated_tokens"],
            truncated=truncated / completions,
        )

    def _logprobs(
        self, completions: CompletionBatch, model: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens' log-probabilities, [N], and the hidden states, [N, D].

        The log-probabilities are at the sampling temperature. Each hidden state is the one that
        predicts its token.
        """
        model = self.policy if model is None else model
        hidden_ND = completion_hidden(model, completions)
        head = get_lm_head(model)
        head = head._replace(scale=head.scale / self._options.generation.temperature)
        return head.logprobs(hidden_ND, completions.batch), hidden_ND

    def _reference_logprobs(self, completions: CompletionBatch) -> Tensor:
        """Return the tokens' log-probabilities under the reference, [N].

        The reference is the frozen copy, or the policy with its trained adapter switched off.
        """
        if self._reference is not None:
            return self._logprobs(completions, self._reference)[0]
        with reference_policy(self._without_value_head):
            return self._logprobs(completions)[0]

    def __len__(self) -> int:
        return len(self.rollout_generator)

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the last rollout's token counts; the loss divisor is 0 without trained tokens."""
        return self._counts

    def metrics(self) -> dict[str, float]:
        """Return the last batch's metrics over all ranks, such as reward, KL and entropy."""
        current = _BatchMetrics(dict(self._metrics.sums), dict(self._metrics.maxima))
        current.merge(self._update_metrics)
        metrics = current.reduce()
        leading: dict[str, float] = {
            name: metrics.pop(name) for name in LEADING_METRICS if name in metrics
        }
        return {**leading, **metrics, "kl_coef": self.kl_controller.coef}
