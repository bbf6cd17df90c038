"""Compute several users' rows in one pass, each user with an own adapter, isolated bit for bit.

Shapes: T tokens of a pass, S tokens of a user's segment, B rows of L tokens in it, N loss
positions, D width, I inputs and O outputs of a layer, R rank, P numbers of an adapter.

A pass holds one segment per user. The rows of a user form a rectangle, padded at the end of the
segment to a multiple of 16 tokens::

    tokens            a a a a a a .  | b b b .  | c c c c c c c c c .
    base products     one product for all T tokens
    adapters          A_a, B_a       | A_b, B_b | A_c, B_c
    attention, loss   each user's rows alone

A user's numbers must have the same bits whoever else is in the pass. The adapters, attention and
loss are products whose shapes depend on the user's rows alone. The base products, norms and
activations are computed for all tokens at once, and each row of their results depends on one row of
the input. But a library may choose another kernel, with another order of additions, for another
number of rows. :func:`are_rows_independent` therefore compares the products of the model's matrices
on this machine, bit by bit, before a pass holds several users.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from tunesmith.errors import UsageError
from tunesmith_torch.data.packing import Example, MicroBatch, collate
from tunesmith_torch.losses.selected_positions import get_decoder, get_lm_head
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS_FILE
from tunesmith_torch.models.loading import LoadedBase

L = TypeVar("L", bound=nn.Module)
ATTENTION_NAME = "tunesmith_personal"
TILE = 16
"""Segments are multiples of this many tokens: the rows of a tile and the alignment of a segment in
memory do not depend on other users."""
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


class Segment(NamedTuple):
    """The rectangle of a user's rows, and the number of tokens of the padded segment."""

    rows: int
    length: int
    size: int


@dataclass(frozen=True)
class Layout:
    """The order of an adapter's tensors in one vector of P numbers."""

    shapes: dict[str, tuple[int, ...]]
    """Shape of each tensor by its name in the file, in the order of the vector."""
    scaling: float

    @classmethod
    def read(cls, adapter: Path) -> tuple[Layout, Tensor]:
        """Return the layout and the vector of a LoRA adapter's folder.

        Raises:
            UsageError: the adapter has other tensors than the two matrices of linear layers.
        """
        tensors = dict(sorted(load_file(adapter / ADAPTER_WEIGHTS_FILE).items()))
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        if unknown := next((name for name in tensors if not name.endswith((A, B))), None):
            raise UsageError(f"{adapter}: cannot be a user's adapter: it has a tensor {unknown}")
        rank = config["r"] ** (0.5 if config["use_rslora"] else 1)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        vector_P = torch.cat([tensor.float().flatten() for tensor in tensors.values()])
        return cls(shapes, config["lora_alpha"] / rank), vector_P

    @property
    def paths(self) -> list[str]:
        """The names of the adapted layers in a PEFT model."""
        return [*dict.fromkeys(name.removesuffix(A).removesuffix(B) for name in self.shapes)]

    @property
    def sizes(self) -> list[int]:
        """The number of numbers of each tensor, in the order of the vector."""
        return [torch.Size(shape).numel() for shape in self.shapes.values()]

    def split(self, vector_P: Tensor) -> dict[str, Tensor]:
        """Return the tensors by name, as views of a vector, or of each row of a matrix [B, P]."""
        parts = zip(self.shapes.items(), torch.split(vector_P, self.sizes, -1), strict=True)
        return {name: part.view(*part.shape[:-1], *shape) for (name, shape), part in parts}


def replace_layers(
    model: nn.Module, paths: Sequence[str], make: Callable[[Any], L]
) -> dict[str, L]:
    """Replace the layers with these names by those that ``make`` returns, and return the new ones.

    ``make`` gets the layer to replace.
    """
    made = {}
    for path in paths:
        parent, _, attribute = path.rpartition(".")
        made[path] = make(model.get_submodule(path))
        setattr(model.get_submodule(parent), attribute, made[path])
    return made


class SegmentedLinear(nn.Module):
    """A frozen linear layer, with a low-rank update for each segment of the tokens."""

    def __init__(self, layer: nn.Module, scaling: float) -> None:
        super().__init__()
        self.layer, self.scaling = layer, scaling
        self.sizes: list[int] = []
        self.updates: list[tuple[Tensor, Tensor]] = []
        """The matrices A [R, I] and B [O, R] of each segment."""

    def forward(self, x_1TI: Tensor) -> Tensor:
        """Return the outputs of the layer plus those of the segments' updates."""
        parts = [
            (x_SI @ a_RI.t()) @ b_OR.t()
            for x_SI, (a_RI, b_OR) in zip(
                torch.split(x_1TI[0], self.sizes), self.updates, strict=True
            )
        ]
        out_1TO: Tensor = self.layer(x_1TI) + torch.cat(parts)[None] * self.scaling
        return out_1TO


class SegmentedModel:
    """A base model whose adapted layers take one adapter per segment."""

    def __init__(self, base: LoadedBase, layout: Layout) -> None:
        self.base, self.layout = base, layout
        model: Any = base.model
        AttentionInterface.register(ATTENTION_NAME, _attend_by_segment)
        AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)
        model.set_attn_implementation(ATTENTION_NAME)
        model.requires_grad_(False)
        paths = [path.removeprefix(PREFIX) for path in layout.paths]
        self._layers = replace_layers(
            model, paths, lambda layer: SegmentedLinear(layer, layout.scaling)
        )
        self.decoder: Any = get_decoder(model)
        self._head = get_lm_head(model)

    def losses(self, vectors: Sequence[Tensor], batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the loss of each user's rows in nats, summed over the tokens, in one pass.

        ``vectors`` are the users' adapters. ``batches`` are their rows, padded to a rectangle.
        """
        batches = [batch.to(vectors[0].device) for batch in batches]
        parts = self._compute_hidden(vectors, batches)
        return [
            self._head.loss(hidden_SD[batch.trained_N], batch)
            for hidden_SD, batch in zip(parts, batches, strict=True)
        ]

    def _compute_hidden(
        self, vectors: Sequence[Tensor], batches: Sequence[MicroBatch]
    ) -> Sequence[Tensor]:
        """Return the decoder's last hidden states of each segment, [S, D]."""
        segments = tuple(_measure(batch) for batch in batches)
        for layer in self._layers.values():
            layer.sizes, layer.updates = [segment.size for segment in segments], []
        for vector_P in vectors:
            tensors = self.layout.split(vector_P)
            for path, layer in self._layers.items():
                layer.updates.append((tensors[f"{PREFIX}{path}{A}"], tensors[f"{PREFIX}{path}{B}"]))
        ids_T, positions_T = (
            torch.cat([_pad(x, s.size) for x, s in zip(parts, segments, strict=True)])
            for parts in (
                [batch.ids_BT for batch in batches],
                [batch.positions_BT for batch in batches],
            )
        )
        hidden_TD = self.decoder(
            input_ids=ids_T[None],
            position_ids=positions_T[None],
            attention_mask=None,
            use_cache=False,
            personal_segments=segments,
        ).last_hidden_state[0]
        return torch.split(hidden_TD, [segment.size for segment in segments])

    @torch.no_grad()
    def check_separation(self, vector_P: Tensor) -> None:
        """Check that a row's hidden states do not depend on the rows before it, maybe another's.

        Raises:
            UsageError: the model has recurrent layers or convolutions, or its own attention
        """
        found = []
        for token in (1, 2):
            rows = [Example(np.full(TILE, t), np.arange(TILE) > 0) for t in (token, 3)]
            batches = [collate([row], [0], packed=False).to(vector_P.device) for row in rows]
            found.append(self._compute_hidden([vector_P, vector_P], batches)[1])
        if not torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-5):
            raise UsageError(
                "personal: this model's layers carry information from one row to the next",
                hint="choose a model whose only layers across tokens are transformers' attention",
            )


def padded_size(batch: MicroBatch) -> int:
    """Return the number of tokens that a batch takes in a pass."""
    return -(-batch.ids_BT.numel() // TILE) * TILE


def _measure(batch: MicroBatch) -> Segment:
    rows, length = batch.ids_BT.shape
    return Segment(rows, length, padded_size(batch))


def _pad(x_BL: Tensor, size: int) -> Tensor:
    return functional.pad(x_BL.flatten(), (0, size - x_BL.numel()))


def _attend_by_segment(  # noqa: PLR0913 - transformers calls it so
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    personal_segments: Sequence[Segment] = (),
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention in the rows of each segment, [1, H, T, d] to [1, T, H, d].

    Rows are padded at their end, so no token sees padding. transformers calls this in every layer.

    Raises:
        UsageError: the model's attention has a feature that is not supported.
    """
    longest = max(segment.length for segment in personal_segments)
    named = ("softcap", "s_aux", "position_bias")
    if found := [name for name in named if options.get(name) is not None]:
        raise UsageError(f"personal: the attention of this model uses {found[0]}")
    if sliding_window is not None and sliding_window < longest:
        raise UsageError(
            f"personal: rows are longer than the model's attention window of {sliding_window}",
            hint=f"set technique.max_length = {sliding_window}",
        )
    outs = []
    sizes = [segment.size for segment in personal_segments]
    split = (torch.split(x, sizes, 2) for x in (query, key, value))
    for (rows, length, size), *parts in zip(personal_segments, *split, strict=True):
        q, k, v = (
            x[0, :, : rows * length].unflatten(1, (rows, length)).transpose(0, 1).contiguous()
            for x in parts
        )
        out_BHLd = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        out_SHd = out_BHLd.transpose(1, 2).flatten(0, 1)
        outs.append(functional.pad(out_SHd, (0, 0, 0, 0, 0, size - rows * length)))
    return torch.cat(outs)[None], None


@torch.no_grad()
def are_rows_independent(decoder: nn.Module, tokens: int) -> bool:
    """Return True if no row of the decoder's products depends on the other rows, bit by bit.

    For each shape of a linear layer, forward and backward products of ``tokens`` rows are compared
    with those of parts of these rows. Matrices of other layers, such as experts, are not compared,
    so a decoder that has some gives False.
    """
    generator = torch.Generator().manual_seed(0)
    modules = [m for m in decoder.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    compared = {id(module.weight) for module in modules}
    if any(p.ndim > 1 and id(p) not in compared for p in decoder.parameters()):
        return False
    layers = {m.weight.shape: m for m in modules if isinstance(m, nn.Linear)}
    tokens = max(tokens // TILE, 2) * TILE
    doubled = [TILE << n for n in range(tokens.bit_length())]
    sizes = [size for n in doubled for size in (n, 3 * n) if size < tokens]
    for layer in layers.values():
        weight_OI = layer.weight
        products: tuple[tuple[int, Callable[[Tensor], Tensor]], ...] = (
            (weight_OI.shape[1], layer),
            (weight_OI.shape[0], partial(_compute_input_grads, weight_OI)),
        )
        for width, multiply in products:
            x_TI = torch.randn(tokens, width, generator=generator).to(weight_OI.device)
            whole_TO = multiply(x_TI[None])[0]
            for number, size in enumerate(sizes):
                start = (0, (tokens - size) // 2 // TILE * TILE, tokens - size)[number % 3]
                part = slice(start, start + size)
                if not torch.equal(multiply(x_TI[part][None])[0], whole_TO[part]):
                    return False
    return True


def _compute_input_grads(weight_OI: Tensor, grads_BTO: Tensor) -> Tensor:
    return grads_BTO @ weight_OI
