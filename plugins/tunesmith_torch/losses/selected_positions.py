"""Compute hidden states and the output head only at the positions that the loss needs.

Shapes: B rows of a padded micro-batch (1 if packed), T tokens, P = B * T positions, N of them
trained, D width, V vocabulary.

The loss reads the hidden states of only N of P positions, those that predict a token in the loss.
The head is computed at these positions, and so is most of the last layer
(:mod:`tunesmith_torch.kernels.last_layer`)::

    tokens            <user>   Who   ?   <assistant>   Ann   .   <end>
    trained                                             x    x     x
    hidden states                             h         h    h            each predicts the next
    targets_N                                Ann        .  <end>

``max_logprob_difference`` compares the result with the model's own forward pass on a few random
tokens. The check runs on the model that will be trained, so it detects an architecture that breaks
these assumptions before training starts.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.data.packing import Example, MicroBatch, collate
from tunesmith_torch.kernels.last_layer import (
    PositionIndex,
    compute_last_layer_at,
    is_recomputed,
)
from tunesmith_torch.kernels.packed_linear import PackedLinear
from tunesmith_torch.kernels.rotary_lengths import length_classes, reset_rotary_state
from tunesmith_torch.losses.cross_entropy import linear_cross_entropy, token_logprobs
from tunesmith_torch.losses.length_parts import Part, join_parts, split_by_length
from tunesmith_torch.runtime.eval_mode import eval_mode

__all__ = ["LMHead", "get_decoder", "get_lm_head", "hidden_at_targets"]

MAX_TRAINED_SHARE = 0.8
"""Above this share of loss positions, trimming the last layer costs more time than it saves."""


class LMHead(NamedTuple):
    """The weights of a language-model head, with the softcap and scale of its logits."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    scale: float

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Return the logits of all tokens in fp32, [N, V], for losses that read all of them."""
        raw_NV = nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V)
        logits_NV = raw_NV.float() * self.scale
        if self.softcap is None:
            return logits_NV
        return self.softcap * torch.tanh(logits_NV / self.softcap)

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


def unwrap_peft(model: Any) -> Any:
    """Return the transformers model inside a PEFT model; its layers keep their adapters.

    Raises:
        EnvironmentProblem: the adapter needs PEFT's own forward, which is not called here.
    """
    if not hasattr(model, "get_base_model"):
        return model
    for name, config in getattr(model, "peft_config", {}).items():
        kind = getattr(config.peft_type, "value", config.peft_type)
        needs_input = getattr(config, "alora_invocation_tokens", None) or kind == "SHADOW"
        if config.is_prompt_learning or needs_input:
            raise EnvironmentProblem(f"adapter `{name}`: {kind} needs PEFT's own forward pass")
    return model.get_base_model()


def get_lm_head(model: nn.Module) -> LMHead:
    """Return the head of a causal language model, with or without tied weights or PEFT.

    Raises:
        EnvironmentProblem: the head is not a single plain linear layer.
    """
    base = unwrap_peft(model)
    head, config = base.get_output_embeddings(), base.config.get_text_config()
    if hasattr(head, "modules_to_save") and hasattr(
        head, "original_module"
    ):  # PEFT's full copies of modules
        copies = [
            head.modules_to_save[n] for n in head.active_adapters if n in head.modules_to_save
        ]
        head = copies[0] if copies and not head.disable_adapters else head.original_module
    weight_VD = getattr(head, "weight", None)
    if hasattr(head, "token_adapter"):  # PEFT's trained tokens, in a head tied to the embeddings
        head = head.token_adapter.base_layer
    if type(head) not in (nn.Linear, PackedLinear) or weight_VD is None:
        raise EnvironmentProblem(
            f"the output head is a {type(head).__name__}, but only a plain linear head can be "
            "fused with the loss",
            hint="train without an adapter or quantization on the head",
        )
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies, Granite divides
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return LMHead(weight_VD, head.bias, softcap, scale)


def hidden_at_targets(
    model: nn.Module,
    batch: MicroBatch,
    *,
    trim: bool = True,
    attention_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """Run the model without its output head; return hidden states at loss positions, [N, D].

    ``trim`` skips most of the last layer's work at other positions. It has no effect with gradient
    checkpointing, which runs the layer again in backward without the hooks that trim it.
    ``attention_kwargs`` are passed to the model's attention.
    """
    decoder = get_decoder(unwrap_peft(model))
    classes = length_classes(decoder)
    kwargs = dict(attention_kwargs or {})
    parts = split_by_length(batch, kwargs.pop("tree_layout", None), classes)

    def compute(part: Part) -> Tensor:
        layout = {} if part.tree_layout is None else {"tree_layout": part.tree_layout}
        return _hidden_of_part(decoder, part.batch, trim=trim, attention_kwargs=kwargs | layout)

    try:
        return join_parts(parts, compute)
    finally:
        if classes.has_state and classes.class_of(batch.longest):
            reset_rotary_state(decoder)


def get_decoder(base: Any) -> Any:
    """Return the model without its head: the embeddings, layers and final norm."""
    decoder = base.get_decoder()
    if decoder is base:  # transformers does not find this architecture's decoder by its name
        decoder = next(part for part in base.children() if isinstance(part, PreTrainedModel))
    return decoder


def _hidden_of_part(
    decoder: Any, batch: MicroBatch, *, trim: bool, attention_kwargs: Mapping[str, Any]
) -> Tensor:
    recomputed = decoder.training and is_recomputed(decoder)
    few = 0 < len(batch.trained_N) <= MAX_TRAINED_SHARE * batch.ids_BT.numel()
    options: dict[str, Any] = {"attention_mask": batch.mask_BT, **attention_kwargs}
    if batch.boundaries is not None:
        # Named like flash attention's arguments: models pass them on to the attention unchanged.
        options |= {f"cu_seq_lens_{x}": batch.boundaries for x in "qk"}
        options |= {f"max_length_{x}": batch.longest for x in "qk"}
    index = PositionIndex(batch.trained_N, batch.ids_BT.numel())
    trimming = trim and few and not recomputed
    shape = batch.ids_BT.shape
    with compute_last_layer_at(decoder, index, shape) if trimming else nullcontext():
        hidden_BTD = decoder(
            input_ids=batch.ids_BT, position_ids=batch.positions_BT, use_cache=False, **options
        ).last_hidden_state
    return index.gather(hidden_BTD.flatten(0, 1))[: len(batch.trained_N)]


@torch.no_grad()
def max_logprob_difference(
    model: nn.Module, *, packed: bool = True, lengths: Sequence[int] = (9, 14)
) -> float:
    """Return the largest error in nats of log-probabilities computed by this module.

    Rows of random tokens in one trimmed micro-batch are compared with each row alone through the
    model's own head. Rounding in fp32 gives 1e-5. A row that attends to another row, or an unknown
    logit scale, gives at least 0.1.
    """
    base = unwrap_peft(model)
    vocabulary = base.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocabulary, (length,), generator=generator) for length in lengths]
    examples = [Example(row.numpy(), torch.arange(len(row)).numpy() % 2 == 0) for row in rows]
    batch = collate(examples, range(len(rows)), packed=packed).to(base.device)
    with eval_mode(model):
        head = get_lm_head(model)
        logp_N = head.logprobs(hidden_at_targets(model, batch), batch)
        expected = []
        for row in rows:
            ids_1T = row[None].to(base.device)
            logp_TV = base(input_ids=ids_1T, use_cache=False).logits[0].float().log_softmax(-1)
            expected.append(logp_TV[1::2].gather(1, ids_1T[0, 2::2, None])[:, 0])
    return float((logp_N - torch.cat(expected)).abs().max())
