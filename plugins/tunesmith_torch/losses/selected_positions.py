"""Hidden states at trained positions only, and the head that turns them into logits.

Shapes: B rows of a padded micro-batch (1 if packed), T tokens, P = B * T positions, N of them
trained, D width, V vocabulary.

The loss reads hidden states at N of P positions, and the last layer computes little else
(:mod:`tunesmith_torch.kernels.last_layer`).

``disagreement`` compares all of this with the model's own forward pass, on a few random tokens: the
model at hand is asked, so an architecture nobody thought of is found out before it trains wrongly.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.data.packing import Example, MicroBatch, collate
from tunesmith_torch.kernels.last_layer import Places, only_at
from tunesmith_torch.losses.cross_entropy import linear_cross_entropy, token_logprobs

WORTHWHILE = 0.8
"""Above this share of trained positions, gathering costs more than it saves."""


class Head(NamedTuple):
    """The last matrix, and what is done to its logits."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    scale: float

    def loss(self, hidden_ND: Tensor, batch: MicroBatch) -> Tensor:
        """Return the summed (weighted) negative log-likelihood of the batch's targets, in nats."""
        return linear_cross_entropy(
            hidden_ND,
            self.weight_VD,
            batch.targets_N,
            bias_V=self.bias_V,
            weights_N=batch.weights_N,
            softcap=self.softcap,
            logit_scale=self.scale,
        )

    def logprobs(self, hidden_ND: Tensor, batch: MicroBatch) -> Tensor:
        """Return the log-probability of each of the batch's targets, in nats."""
        return token_logprobs(
            hidden_ND,
            self.weight_VD,
            batch.targets_N,
            bias_V=self.bias_V,
            softcap=self.softcap,
            logit_scale=self.scale,
        )


def base_of(model: Any) -> Any:
    """Return the transformers model inside a PEFT one; adapters stay in it.

    Raises:
        EnvironmentProblem: the adapter does its work in PEFT's own forward, which is not run here.
    """
    if not hasattr(model, "get_base_model"):
        return model
    for name, config in getattr(model, "peft_config", {}).items():
        if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
            kind = getattr(config.peft_type, "value", config.peft_type)
            raise EnvironmentProblem(f"adapter `{name}`: {kind} cannot skip PEFT's own forward")
    return model.get_base_model()


def head_of(model: nn.Module) -> Head:
    """Return the head of a causal language model, tied or not, PEFT or not.

    Raises:
        EnvironmentProblem: its logits are not those of one plain matrix.
    """
    base = base_of(model)
    head, config = base.get_output_embeddings(), base.config.get_text_config()
    if hasattr(head, "modules_to_save") and hasattr(head, "original_module"):  # PEFT's full copies
        copies = [
            head.modules_to_save[n] for n in head.active_adapters if n in head.modules_to_save
        ]
        head = copies[0] if copies and not head.disable_adapters else head.original_module
    if type(head) is not nn.Linear:
        raise EnvironmentProblem(
            f"the head is a {type(head).__name__}, and only a plain linear head can be fused with "
            "the loss",
            hint="train without an adapter or quantization on the head",
        )
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies, Granite divides
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(head.weight, head.bias, softcap, scale)


def trained_hidden(
    model: nn.Module,
    batch: MicroBatch,
    *,
    trim: bool = True,
    also: Mapping[str, Any] | None = None,
) -> Tensor:
    """Run the model without its head; return the hidden states at trained positions, [N, D].

    ``trim`` saves what the last layer would compute for the others. Under gradient checkpointing it
    is left out: the layer runs once more in backward, when the hooks are gone. ``also`` goes to
    the model's attention with the rest.
    """
    base = base_of(model)
    decoder = base.get_decoder()
    again = base.training and _checkpoints(base)
    few = 0 < len(batch.trained_N) <= WORTHWHILE * batch.ids_BT.numel()
    options: dict[str, Any] = {"attention_mask": batch.mask_BT, **(also or {})}
    if batch.boundaries is not None:
        options |= {f"cu_seq_lens_{x}": batch.boundaries for x in "qk"}
        options |= {f"max_length_{x}": batch.longest for x in "qk"}
    at = Places(batch.trained_N, batch.ids_BT.numel())
    with only_at(decoder, at, batch.ids_BT.shape) if trim and few and not again else nullcontext():
        hidden_BTD = decoder(
            input_ids=batch.ids_BT, position_ids=batch.positions_BT, use_cache=False, **options
        ).last_hidden_state
    return at.gather(hidden_BTD.flatten(0, 1))


def _checkpoints(base: Any) -> bool:
    for name in ("is_activation_checkpointing", "is_gradient_checkpointing"):  # new name, old name
        if hasattr(base, name):
            return bool(getattr(base, name))
    return False


@torch.no_grad()
def disagreement(model: nn.Module, *, packed: bool = True) -> float:
    """Return how far log-probabilities here are from the model's own, in nats, at worst.

    Two rows of random tokens, together and trimmed, against each alone through the model's own
    head. Rounding alone in fp32 gives 1e-5, a row that hears another or a scale not known 0.1 up.
    """
    base, training = base_of(model), {module: module.training for module in model.modules()}
    vocabulary = base.config.get_text_config().vocab_size
    source = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocabulary, (length,), generator=source) for length in (9, 14)]
    examples = [Example(row.numpy(), torch.arange(len(row)).numpy() % 2 == 0) for row in rows]
    batch = collate(examples, [0, 1], packed=packed).to(base.device)
    model.eval()
    try:
        head = head_of(model)
        ours_N = head.logprobs(trained_hidden(model, batch), batch)
        theirs = []
        for row in rows:
            ids_1T = row[None].to(base.device)
            logp_TV = base(input_ids=ids_1T, use_cache=False).logits[0].float().log_softmax(-1)
            theirs.append(logp_TV[1::2].gather(1, ids_1T[0, 2::2, None])[:, 0])
    finally:
        for module, was in training.items():
            module.training = was
    return float((ours_N - torch.cat(theirs)).abs().max())
