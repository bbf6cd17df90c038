"""Hidden states at trained positions only, and the head that turns them into logits.

Shapes: B rows of a padded micro-batch (1 if packed), T tokens, P = B * T positions, N of them
trained, D width, V vocabulary.

The loss reads hidden states at N of P positions. All layers but the last need every position,
because keys and values look back; in the *last* layer, what comes after the values is a matter of
each position alone: queries, output projection and feed-forward of the other positions are read by
nobody. So their inputs are gathered to N rows and their outputs spread back, zeros elsewhere, by
hooks that live as long as one forward pass: the module tree and its parameter names stay as they
are.

``disagreement`` compares all of this with the model's own forward pass, on a few random tokens: the
model at hand is asked, so an architecture nobody thought of is found out before it trains wrongly.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.losses import linear_cross_entropy, token_logprobs
from tunesmith_torch.packing import Example, MicroBatch, collate

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
    at = _Places(batch.trained_N, batch.ids_BT.numel())
    with _only_at(decoder, at, batch.ids_BT.shape) if trim and few and not again else nullcontext():
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


class _Places:
    """N of P positions, and the way back: where each of the P is among the N, or N for nowhere."""

    def __init__(self, positions_N: Tensor, P: int) -> None:
        self.positions_N = positions_N
        self.back_P = positions_N.new_full((P,), len(positions_N))
        self.back_P[positions_N] = torch.arange(len(positions_N), device=positions_N.device)

    def gather(self, x_PD: Tensor) -> Tensor:
        out_ND: Tensor = _Gather.apply(x_PD, self)  # type: ignore[no-untyped-call]
        return out_ND

    def spread(self, x_ND: Tensor) -> Tensor:
        out_PD: Tensor = _Spread.apply(x_ND, self)  # type: ignore[no-untyped-call]
        return out_PD


def _gather(x_PD: Tensor, at: _Places) -> Tensor:
    return x_PD.index_select(0, at.positions_N)


def _spread(x_ND: Tensor, at: _Places) -> Tensor:
    """Zeros elsewhere: each is a gather, which is faster than a scatter and has a fixed order."""
    return torch.cat([x_ND, x_ND.new_zeros(1, x_ND.shape[1])]).index_select(0, at.back_P)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_PD: Tensor, at: _Places) -> Tensor:
        ctx.at = at
        return _gather(x_PD, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above_ND: Tensor) -> tuple[Tensor, None]:
        return _spread(above_ND, ctx.at), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, at: _Places) -> Tensor:
        ctx.at = at
        return _spread(x_ND, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above_PD: Tensor) -> tuple[Tensor, None]:
        return _gather(above_PD, ctx.at), None


@contextmanager
def _only_at(decoder: nn.Module, at: _Places, shape: torch.Size) -> Iterator[None]:
    """While it lasts, the last layer's queries, output projection and feed-forward run at N."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x_BTD, *rest = args
        return (at.gather(x_BTD.flatten(0, 1))[None], *rest)

    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if isinstance(out, tuple):  # a mixture of experts may return its routing too
            return (after(module, args, out[0]), *out[1:])
        return at.spread(out[0]).view(*shape, -1)

    hooks = []
    try:
        for module in _position_wise(decoder):
            hooks.append(module.register_forward_pre_hook(before))
            hooks.append(module.register_forward_hook(after))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _position_wise(decoder: Any) -> list[nn.Module]:
    """Find the parts of the last layer that may be trimmed; unknown names are left alone."""
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return []
    last = layers[: decoder.config.get_text_config().num_hidden_layers][-1]
    attention = getattr(last, "self_attn", None)
    parts = [
        getattr(last, "mlp", None),
        *(getattr(attention, n, None) for n in ("q_proj", "o_proj")),
    ]
    return [part for part in parts if isinstance(part, nn.Module)]
