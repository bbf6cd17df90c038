"""LoRA as LitGPT ran it in October 2023, restated: what its published memory was measured of.

Shapes: B rows, T tokens, D width, V vocabulary.

bf16 throughout, adapters and AdamW's state included; queries, keys and values from one matrix, with
adapters on queries and values and dropout before them; a head that goes over 128 tokens at a time;
4-bit products that keep their input for backward, as bitsandbytes 0.41 did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith_torch.memory_estimate import gpu_substitutes
from tunesmith_torch.memory_estimate.allocation_recorder import Recorder, watch_layers
from tunesmith_torch.memory_estimate.model_shape import Shape
from tunesmith_torch.memory_estimate.timeline import TRACED, NotUniform
from tunesmith_torch.memory_estimate.trace import Traced, nowhere

HEAD_CHUNK = 128
DTYPE = torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row of the published table."""

    batch: int
    sequence: int
    four_bits: str = ""
    """``nf4``, ``nf4-dq``, or empty."""
    rank: int = 8
    rotary: float = 1.0
    """Share of a head's width that is rotated."""
    shared_norm: bool = False
    """One norm before attention and feed-forward, which run side by side."""
    parallel: bool = False


class _KeepsInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBits) -> Tensor:
        ctx.kept, ctx.layer = x, layer
        return functional.linear(x, layer.dense(), layer.bias)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        return above @ ctx.layer.dense(), None


class FourBits(nn.Module):
    """A frozen linear layer whose weight is packed."""

    def __init__(self, inputs: int, outputs: int, bias: bool, double: bool) -> None:
        super().__init__()
        self.shape, blocks = (outputs, inputs), outputs * inputs // 64
        self.register_buffer("packed", torch.empty(outputs * inputs // 2, dtype=torch.uint8))
        scales = torch.empty(blocks, dtype=torch.uint8 if double else torch.float32)
        self.register_buffer("scales", scales)
        self.register_buffer("second", torch.empty(blocks // 256 + 1) if double else None)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=DTYPE)) if bias else None

    def dense(self) -> Tensor:
        wide = self.scales.float() if self.second is not None else self.scales
        out = torch.empty(self.shape, dtype=DTYPE)
        del wide
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _KeepsInput.apply(x, self)  # type: ignore[no-untyped-call]
        return out


def _linear(run: Run, inputs: int, outputs: int, bias: bool) -> nn.Module:
    if run.four_bits:
        return FourBits(inputs, outputs, bias, run.four_bits == "nf4-dq")
    return nn.Linear(inputs, outputs, bias=bias, dtype=DTYPE)


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
    """One matrix for all three; a low-rank update of the first and the last."""

    def __init__(self, shape: Shape, run: Run) -> None:
        super().__init__()
        self.outputs = (shape.heads + 2 * shape.key_heads) * shape.head_width
        self.linear = _linear(run, shape.width, self.outputs, shape.biased)
        touched = (shape.heads + shape.key_heads) * shape.head_width
        self.a = nn.Parameter(torch.empty(2 * run.rank, shape.width, dtype=DTYPE))
        self.b = nn.Parameter(torch.empty(touched, run.rank, dtype=DTYPE))
        self.touched = touched
        self.places: Tensor
        self.register_buffer("places", torch.empty(touched, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        base = self.linear(x)
        low = functional.linear(functional.dropout(x, 0.05, True), self.a)
        high = functional.conv1d(low.transpose(-2, -1), self.b.unsqueeze(-1), groups=2)
        high = high.transpose(-2, -1).transpose(0, 1)
        wide = high.new_zeros((*high.shape[:-1], self.outputs)).view(-1, self.outputs)
        wide = wide.index_copy(1, self.places, high.reshape(-1, self.touched))
        update = wide.view((*high.shape[:-1], self.outputs)).transpose(0, 1)
        total: Tensor = base + update * (16 / 8)
        return total


class _Block(nn.Module):
    def __init__(self, shape: Shape, run: Run) -> None:
        super().__init__()
        D, F = shape.width, shape.feed_forward
        self.shape, self.run = shape, run
        norm = (lambda: _RmsNorm(D)) if shape.gated else (lambda: nn.LayerNorm(D, dtype=DTYPE))
        self.norm_1, self.norm_2 = norm(), None if run.shared_norm else norm()
        self.attn = _QueryKeyValue(shape, run)
        self.proj = _linear(run, shape.heads * shape.head_width, D, shape.biased)
        self.up = _linear(run, D, F, shape.biased)
        self.gate = _linear(run, D, F, shape.biased) if shape.gated else None
        self.down = _linear(run, F, D, shape.biased)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n = self.norm_1(x)
        h = self.attention(n, cos, sin)
        if self.run.parallel:
            n = n if self.norm_2 is None else self.norm_2(x)
            return x + h + self.mlp(n)
        x = x + h
        assert self.norm_2 is not None
        return x + self.mlp(self.norm_2(x))

    def attention(self, n: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = n.shape
        s = self.shape
        each = s.heads // s.key_heads
        qkv = self.attn(n).view(B, T, s.key_heads, each + 2, s.head_width).permute(0, 2, 3, 1, 4)
        q, k, v = qkv.split((each, 1, 1), dim=2)
        q, k, v = (x.reshape(B, -1, T, s.head_width) for x in (q, k, v))
        wide = cos.shape[-1]
        q, k = (torch.cat((_rotate(x[..., :wide], cos, sin), x[..., wide:]), -1) for x in (q, k))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(B, T, s.heads * s.head_width))
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
    def __init__(self, shape: Shape, run: Run, layers: int) -> None:
        super().__init__()
        D, V = shape.width, shape.vocabulary
        self.wte = nn.Embedding(V, D, dtype=DTYPE)
        self.layers = nn.ModuleList(_Block(shape, run) for _ in range(layers))
        self.norm = _RmsNorm(D) if shape.gated else nn.LayerNorm(D, dtype=DTYPE)
        self.head = _linear(run, D, V, shape.biased)
        rotated = int(shape.head_width * run.rotary)
        for name in ("cos", "sin"):
            table = torch.empty(run.sequence, rotated, dtype=DTYPE)
            self.register_buffer(name, table, persistent=False)

    def forward(self, ids_BT: Tensor) -> list[Tensor]:
        x = self.wte(ids_BT)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return [self.head(part) for part in torch.split(self.norm(x), HEAD_CHUNK, 1)]


def trace(config: Mapping[str, Any], run: Run) -> Traced:
    """The timeline of a step."""
    shape = Shape.of(config)
    try:
        few = _trace(shape, run, TRACED)
        return Traced(few.timeline.stretched(shape.layers), 0, 0)
    except NotUniform:
        return _trace(shape, run, shape.layers)


def _trace(shape: Shape, run: Run, layers: int) -> Traced:
    recorder = Recorder(gpu_substitutes.GPU)
    with nowhere(gpu=True, autocast=False):
        model = _Gpt(shape, run, layers)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith((".a", ".b")))
        trained = [p for p in model.parameters() if p.requires_grad]
        ids_BT = torch.zeros(run.batch, run.sequence, dtype=torch.long)
        with recorder.recording():
            with recorder.phase("weights", flat=True):
                for number, layer in enumerate(model.layers):
                    for tensor in (*layer.parameters(), *layer.buffers()):
                        recorder.own(tensor, "weights", number)
                for tensor in (*model.parameters(), *model.buffers()):
                    recorder.own(tensor, "weights")
            watch_layers(list(model.layers), recorder)
            _steps(model, trained, ids_BT, recorder)
    return Traced(recorder.timeline.labelled(recorder.labels), 0, 0)


def _steps(
    model: nn.Module, trained: list[nn.Parameter], ids_BT: Tensor, recorder: Recorder
) -> None:
    """The longest row came first, and all others were far shorter: one step is the peak."""
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
