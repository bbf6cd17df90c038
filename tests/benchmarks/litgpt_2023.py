"""Reimplement LoRA of LitGPT in October 2023, of which its published memory was measured.

Shapes: B rows, T tokens, D hidden size, F intermediate size, V vocabulary size.

Everything is in bf16, adapters and AdamW's state included. One matrix computes queries, keys and
values, with adapters for queries and values and dropout before them. The head computes 128 tokens
at a time. 4-bit products keep their input for backward, as in bitsandbytes 0.41.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith_torch.memory_estimate import gpu_substitutes
from tunesmith_torch.memory_estimate.allocation_recorder import AllocationRecorder, track_layers
from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.memory_estimate.timeline import TRACED_LAYERS, NonUniformLayersError
from tunesmith_torch.memory_estimate.trace import StepTrace, fake_tensors

HEAD_CHUNK = 128
DTYPE = torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of the published table."""

    batch: int
    sequence: int
    four_bits: str = ""
    """``nf4``, ``nf4-dq``, or empty."""
    rank: int = 8
    rotary: float = 1.0
    """Share of a head's size that is rotated."""
    shared_norm: bool = False
    """Attention and feed-forward have one norm."""
    parallel: bool = False
    """Feed-forward is computed from the layer's input, not from attention's output."""


class _LinearKeepingInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Linear4bit) -> Tensor:
        ctx.kept, ctx.layer = x, layer
        return functional.linear(x, layer.dense(), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dense(), None


class Linear4bit(nn.Module):
    """A frozen linear layer whose weight is packed."""

    def __init__(self, in_features: int, out_features: int, bias: bool, double: bool) -> None:
        super().__init__()
        self.shape, blocks = (out_features, in_features), out_features * in_features // 64
        self.register_buffer(
            "packed", torch.empty(out_features * in_features // 2, dtype=torch.uint8)
        )
        scales = torch.empty(blocks, dtype=torch.uint8 if double else torch.float32)
        self.register_buffer("scales", scales)
        self.register_buffer("second", torch.empty(blocks // 256 + 1) if double else None)
        self.bias = nn.Parameter(torch.empty(out_features, dtype=DTYPE)) if bias else None

    def dense(self) -> Tensor:
        wide = self.scales.float() if self.second is not None else self.scales
        out = torch.empty(self.shape, dtype=DTYPE)
        del wide
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _LinearKeepingInput.apply(x, self)  # type: ignore[no-untyped-call]
        return out


def _linear(row: PublishedRow, in_features: int, out_features: int, bias: bool) -> nn.Module:
    if row.four_bits:
        return Linear4bit(in_features, out_features, bias, row.four_bits == "nf4-dq")
    return nn.Linear(in_features, out_features, bias=bias, dtype=DTYPE)


class _RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=DTYPE))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        mean = torch.mean(wide * wide, dim=-1, keepdim=True)
        normed = wide * torch.rsqrt(mean + 1e-5)
        return self.weight * normed.to(x.dtype)


class _QueryKeyValue(nn.Module):
    """One matrix for queries, keys and values, with a low-rank update of queries and values."""

    def __init__(self, shape: ModelShape, row: PublishedRow) -> None:
        super().__init__()
        self.out_features = (shape.attention_heads + 2 * shape.key_value_heads) * shape.head_dim
        self.linear = _linear(row, shape.hidden_size, self.out_features, shape.has_biases)
        adapted_features = (shape.attention_heads + shape.key_value_heads) * shape.head_dim
        self.a = nn.Parameter(torch.empty(2 * row.rank, shape.hidden_size, dtype=DTYPE))
        self.b = nn.Parameter(torch.empty(adapted_features, row.rank, dtype=DTYPE))
        self.adapted_features = adapted_features
        self.target_columns: Tensor
        self.register_buffer(
            "target_columns", torch.empty(adapted_features, dtype=torch.long), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        base = self.linear(x)
        low = functional.linear(functional.dropout(x, 0.05, True), self.a)
        high = functional.conv1d(low.transpose(-2, -1), self.b.unsqueeze(-1), groups=2)
        high = high.transpose(-2, -1).transpose(0, 1)
        wide = high.new_zeros((*high.shape[:-1], self.out_features)).view(-1, self.out_features)
        wide = wide.index_copy(1, self.target_columns, high.reshape(-1, self.adapted_features))
        update = wide.view((*high.shape[:-1], self.out_features)).transpose(0, 1)
        total: Tensor = base + update * (16 / 8)
        return total


class _Block(nn.Module):
    def __init__(self, shape: ModelShape, row: PublishedRow) -> None:
        super().__init__()
        D, F = shape.hidden_size, shape.intermediate_size
        self.shape, self.row = shape, row
        norm = (
            (lambda: _RmsNorm(D)) if shape.has_gated_mlp else (lambda: nn.LayerNorm(D, dtype=DTYPE))
        )
        self.norm_1, self.norm_2 = norm(), None if row.shared_norm else norm()
        self.attn = _QueryKeyValue(shape, row)
        self.proj = _linear(row, shape.attention_heads * shape.head_dim, D, shape.has_biases)
        self.up = _linear(row, D, F, shape.has_biases)
        self.gate = _linear(row, D, F, shape.has_biases) if shape.has_gated_mlp else None
        self.down = _linear(row, F, D, shape.has_biases)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n = self.norm_1(x)
        h = self.attention(n, cos, sin)
        if self.row.parallel:
            n = n if self.norm_2 is None else self.norm_2(x)
            return x + h + self.mlp(n)
        x = x + h
        assert self.norm_2 is not None
        return x + self.mlp(self.norm_2(x))

    def attention(self, n: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = n.shape
        s = self.shape
        each = s.attention_heads // s.key_value_heads
        qkv = (
            self.attn(n).view(B, T, s.key_value_heads, each + 2, s.head_dim).permute(0, 2, 3, 1, 4)
        )
        q, k, v = qkv.split((each, 1, 1), dim=2)
        q, k, v = (x.reshape(B, -1, T, s.head_dim) for x in (q, k, v))
        wide = cos.shape[-1]
        q, k = (torch.cat((_rotate(x[..., :wide], cos, sin), x[..., wide:]), -1) for x in (q, k))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(B, T, s.attention_heads * s.head_dim))
        return out

    def mlp(self, n: Tensor) -> Tensor:
        up = self.up(n)
        middle = functional.gelu(up) if self.gate is None else functional.silu(self.gate(n)) * up
        out: Tensor = self.down(middle)
        return out


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos + turned * sin).type_as(x)


class _Gpt(nn.Module):
    def __init__(self, shape: ModelShape, row: PublishedRow, layers: int) -> None:
        super().__init__()
        D, V = shape.hidden_size, shape.vocab_size
        self.wte = nn.Embedding(V, D, dtype=DTYPE)
        self.layers = nn.ModuleList(_Block(shape, row) for _ in range(layers))
        self.norm = _RmsNorm(D) if shape.has_gated_mlp else nn.LayerNorm(D, dtype=DTYPE)
        self.head = _linear(row, D, V, shape.has_biases)
        rotated = int(shape.head_dim * row.rotary)
        for name in ("cos", "sin"):
            table = torch.empty(row.sequence, rotated, dtype=DTYPE)
            self.register_buffer(name, table, persistent=False)

    def forward(self, ids_BT: Tensor) -> list[Tensor]:
        x = self.wte(ids_BT)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return [self.head(part) for part in torch.split(self.norm(x), HEAD_CHUNK, 1)]


def trace(config: Mapping[str, Any], row: PublishedRow) -> StepTrace:
    """Trace one training step."""
    shape = ModelShape.from_config(config)
    try:
        partial = _trace_layers(shape, row, TRACED_LAYERS)
        return StepTrace(partial.timeline.stretch_to_layers(shape.layers), 0, 0)
    except NonUniformLayersError:
        return _trace_layers(shape, row, shape.layers)


def _trace_layers(shape: ModelShape, row: PublishedRow, layers: int) -> StepTrace:
    recorder = AllocationRecorder(gpu_substitutes.GPU_WORKSPACES)
    with fake_tensors(gpu=True, autocast=False):
        model = _Gpt(shape, row, layers)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith((".a", ".b")))
        trained = [p for p in model.parameters() if p.requires_grad]
        ids_BT = torch.zeros(row.batch, row.sequence, dtype=torch.long)
        with recorder.recording():
            with recorder.phase("weights", flat=True):
                for number, layer in enumerate(model.layers):
                    for tensor in (*layer.parameters(), *layer.buffers()):
                        recorder.record_existing(tensor, "weights", number)
                for tensor in (*model.parameters(), *model.buffers()):
                    recorder.record_existing(tensor, "weights")
            track_layers(list(model.layers), recorder)
            _run_step(model, trained, ids_BT, recorder)
    return StepTrace(recorder.timeline.with_block_labels(recorder.labels), 0, 0)


def _run_step(
    model: nn.Module, trained: list[nn.Parameter], ids_BT: Tensor, recorder: AllocationRecorder
) -> None:
    """Run one step: the peak was in the first, whose row was by far the longest."""
    optimizer = torch.optim.AdamW(trained, foreach=True)
    with recorder.phase("0.0.forward"):
        logits = model(ids_BT)
        logits[-1] = logits[-1][..., :-1, :]
        losses = [
            functional.cross_entropy(
                chunk.reshape(-1, chunk.shape[-1]), labels.reshape(-1), reduction="none"
            )
            for chunk, labels in zip(logits, torch.split(ids_BT[:, 1:], HEAD_CHUNK, 1), strict=True)
        ]
        loss = torch.cat(losses).mean()
    with recorder.phase("0.0.backward"):
        loss.backward()  # type: ignore[no-untyped-call]
    with recorder.phase("0.step", flat=True):
        optimizer.step()
