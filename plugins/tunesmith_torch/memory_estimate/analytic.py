"""Memory and work of a training step, by arithmetic on the model's sizes.

Names: P tokens of the largest micro-batch, N those that carry loss, D width, F width of the
feed-forward, V vocabulary, L layers, H heads, K key heads, d head width, w bytes of a number.

This is an account of what the training loop of this toolkit keeps, in the order in which it comes
to be: weights; fp32 masters of trained bf16 weights, their gradients, AdamW's two moments; what
autograd saves in a layer; one chunk of logits. It answers in a millisecond and is good to about a
tenth; :mod:`tunesmith_torch.memory_estimate.trace` runs the step itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tunesmith.contracts import Estimate, Memory
from tunesmith_torch.memory_estimate import constants
from tunesmith_torch.memory_estimate.model_shape import Shape
from tunesmith_torch.memory_estimate.setting import Setting
from tunesmith_torch.memory_estimate.workload import ALONE, Row
from tunesmith_torch.options.generation_limits import (
    FOLDED_BYTES,
    MAX_ROWS,
    WORTH_FOLDING,
    cached_tokens,
    slot_bytes,
)
from tunesmith_torch.options.training import LoraOptions

MIB = 2**20
CHUNK = 64 * MIB
"""Logits that the fused head holds at once (losses.CHUNK_BYTES)."""
SCORED = 8_192
"""Tokens of a scoring pass (textmodel.SCORE_BUDGET)."""
ANSWER = 256
"""Tokens of an answer that an evaluation asks for at most, as a rule."""
BLOCK, LONG = 128, 1024
"""Queries of a block of attention, and of a row that goes to a fused kernel (attention.py)."""
STATIC = (0.98, 1.03)
"""How far weights and optimizer may be from their account: rounding of blocks, buffers."""
DYNAMIC = (0.65, 1.4)
"""The same for what depends on tokens."""


class Parts(NamedTuple):
    """Bytes by component: those that sizes fix, those that hang on rows, those of libraries."""

    static: Mapping[str, int]
    dynamic: Mapping[str, int]
    libraries: Mapping[str, int]
    unsure: int = 0
    """What may come on top, and as a rule does not."""

    def memory(self, spread: tuple[float, float]) -> Memory:
        """As an interval: ``spread`` says how far rows may be from what is thought of them."""
        static, dynamic = sum(self.static.values()), sum(self.dynamic.values())
        libraries = sum(self.libraries.values())
        return Memory(
            low=round(static * STATIC[0] + dynamic * DYNAMIC[0] * spread[0] + libraries * 0.7),
            expected=static + dynamic + libraries,
            high=round(
                static * STATIC[1]
                + dynamic * DYNAMIC[1] * spread[1]
                + libraries * 1.4
                + self.unsure
            ),
            components={**self.static, **self.dynamic, **self.libraries},
        )


def estimate(setting: Setting) -> Estimate:
    """Memory of every phase, and the work of the whole training."""
    load = setting.load
    parts = {
        "load": loading(setting),
        "train": training(setting),
        "evaluate": evaluating(setting),
    }
    if isinstance(setting.options, LoraOptions):
        parts["merge"] = merging(setting)
    return Estimate(
        method="analytic",
        memory={phase: part.memory(load.spread) for phase, part in parts.items()},
        flops=flops(setting),
        steps=load.steps,
        tokens=load.tokens,
        longest=load.longest,
        micro_batch_tokens=load.micro_batch_tokens,
        notes=load.notes,
    )


# --------------------------------------------------------------------------- phases


def loading(setting: Setting) -> Parts:
    """Weights, and beside them what they are read from.

    On a CPU the files' pages count as this process's own: a matrix in another format than the files
    is there twice, and one in the same format lies in them.
    """
    shape = setting.shape
    static = {"weights": setting.base_bytes}
    dynamic = {"reading": max(shape.table, shape.layer_weights) * setting.stored}
    if setting.device == "cpu":
        other = setting.method == "qlora" or setting.stored != setting.width
        dynamic = {"reading": shape.parameters * setting.stored if other else 0}
    return Parts(static, dynamic, constants.libraries(setting.device, running=False))


def training(setting: Setting) -> Parts:
    """The peak of a step: all activations and the logits, or all gradients and a layer."""
    shape, moving, w = setting.shape, setting.trainable, setting.width
    lora = isinstance(setting.options, LoraOptions)
    own = 4 if lora or w == 4 else 0
    static = {"weights": setting.base_bytes}
    if lora:
        static["adapter"] = moving * 4
    elif not own:
        static["masters"] = moving * 4
    static["optimizer"] = round(moving * setting.moment_bytes)
    kept, working = activations(setting), working_set(setting)
    gradients = moving * 4
    head = _head(setting)
    waiting = gradients if setting.load.several else 0
    forward = waiting + kept + max(working, head["logits"])
    backward = gradients + working + (0 if lora else shape.table * (w + 4))
    if forward >= backward:
        static["gradients"] = waiting
        dynamic = {"activations": kept, "temporaries": max(0, working - head["logits"]), **head}
    else:
        static["gradients"] = gradients
        dynamic = {"activations": working, "temporaries": backward - gradients - working, **head}
        dynamic["logits"] = 0
    return Parts(static, dynamic, _around(setting, sum(static.values()) + sum(dynamic.values())))


def evaluating(setting: Setting) -> Parts:
    """Weights; and keys and values of answers in the making, or a scoring pass.

    Prompts leave a cache of their own, which is copied into one with room for the answers
    (:class:`tunesmith_torch.generation.kv_cache.Slots`); where it grows, the keys are there twice. Answers are
    taken to be as long as those of the held-out rows; at worst all of them come to their limit.
    """
    shape, w, heldout = setting.shape, setting.width, setting.load.heldout
    prompt = max((row.prompt for row in heldout), default=0)
    longest = max((row.prompt + max(row.answers) for row in heldout), default=0)
    rows = len(heldout)
    kept = shape.key_heads, shape.head_width, shape.layers, w
    slot, most = slot_bytes(*kept), cached_tokens(*kept)
    at_once = min(max(1, most // (prompt + ANSWER)), MAX_ROWS, rows)
    forward, tokens = _forward(shape, w), min(SCORED, sum(map(ALONE.size, heldout)))
    logits = min(CHUNK, tokens * shape.vocabulary * w) * (3 if setting.device == "cuda" else 1)
    generating = {
        "cache": slot * at_once * longest * 3 // 2,
        "activations": forward * at_once * prompt,
    }
    scoring = {"activations": forward * tokens, "logits": logits}
    static = {"weights": setting.base_bytes}
    if isinstance(setting.options, LoraOptions):
        static["adapter"] = setting.trainable * 4
    if setting.models > 1:
        static["other models"] = (setting.models - 1) * setting.base_bytes
    dynamic, held = scoring, folded(setting, rows * ANSWER)
    if sum(generating.values()) + sum(held.values()) >= sum(scoring.values()):
        dynamic, static = generating, static | held
    around = _around(setting, sum(static.values()) + sum(dynamic.values()))
    return Parts(static, dynamic, around, slot * at_once * ANSWER * 7 // 4)


def folded(setting: Setting, tokens: int) -> dict[str, int]:
    """Weights with their adapters in them, where a CPU answers with so many tokens (folding.py)."""
    linear = 4 * setting.shape.layers * setting.shape.layer_weights
    plain = setting.method == "lora" and setting.options.fused_kernels and setting.width == 4
    worth = setting.device == "cpu" and tokens >= WORTH_FOLDING
    there = plain and worth and linear <= FOLDED_BYTES
    return {"folded": linear} if there else {}


def merging(setting: Setting) -> Parts:
    """Base and adapter are added up in fp32, and the sum is read back in fp32.

    Quantised weights are there until ordinary ones have been made of them. On a CPU fp32 files stay
    mapped while one of their tensors is in use, beside the matrices that were added up.
    """
    shape = setting.shape
    static = {"weights": shape.parameters * 4, "adapter": setting.trainable * 4}
    quantised = setting.base_bytes if setting.method == "qlora" else 0
    mapped = setting.device == "cpu" and setting.stored == 4
    sums = 4 * shape.layers * shape.layer_weights if mapped else 0
    static["quantised" if quantised > sums else "sums"] = max(quantised, sums)
    largest = max((m.outputs * m.inputs for m in shape.matrices), default=0)
    return Parts(static, {"temporaries": 3 * 4 * largest}, constants.libraries(setting.device))


# --------------------------------------------------------------------------- activations


def activations(setting: Setting) -> int:
    """What autograd keeps between forward and backward, all layers."""
    shape, load, w = setting.shape, setting.load, setting.width
    P = load.micro_batch_tokens
    if setting.options.gradient_checkpointing:
        return shape.layers * P * shape.width * w + P * shape.width * 4
    return shape.layers * layer_activations(setting) + P * shape.width * 6


def layer_activations(setting: Setting) -> int:
    """What autograd keeps of one layer."""
    shape, load, w = setting.shape, setting.load, setting.width
    P, D, F = load.micro_batch_tokens, shape.width, shape.feed_forward * shape.active_experts
    query, key = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    full = not isinstance(setting.options, LoraOptions)
    # A norm keeps its result, and what it scaled; the libraries' own also its input in fp32
    # (w = 4: the very same), and what it scaled only if the scale is trained.
    norm = 2 * w * D if setting.options.fused_kernels else (4 + w + (w if full else 0)) * D
    attention = (2 * query + 2 * key) * w
    mlp = (4 if shape.gated else 2) * F * w
    kept = P * (2 * norm + attention + mlp) + _attention(setting)
    if not full:
        kept += _low_rank(setting)
    return kept


def _attention(setting: Setting) -> int:
    """Beside queries, keys, values: a sum per query, or on the CPU the probabilities themselves."""
    shape, load, w = setting.shape, setting.load, setting.width
    if setting.device == "cuda" or not setting.options.packing:
        return 4 * shape.heads * load.micro_batch_tokens
    return shape.heads * w * sum(_met(row, load.grouping.shared) for row in load.micro)


def _met(row: Row, shared: bool) -> int:
    """For each query the keys in its block, of a prompt and its answers (branches.py)."""

    def half(n: int) -> int:
        return n * (n + 64) // 2 if n <= LONG else 4 * n

    if not shared:
        return sum(half(row.prompt + answer) for answer in row.answers)
    every = sum(row.answers)
    return half(row.prompt) + every * (row.prompt + max(min(every, BLOCK), *row.answers))


def _low_rank(setting: Setting) -> int:
    """What adapters keep: the small product, and A and B rounded; over 4 bits, inputs in fp32."""
    options = setting.options
    assert isinstance(options, LoraOptions)
    adapted = list(setting.shape.adapted(options.target_modules))
    P, r, w = setting.load.micro_batch_tokens, options.rank, setting.width
    small = sum(P * r * w + r * (m.outputs + m.inputs) * w for m in adapted)
    return small * (2 if setting.method == "qlora" else 1)


def working_set(setting: Setting) -> int:
    """What a layer needs while it is computed backwards: gradients of what it kept."""
    shape, w, P = setting.shape, setting.width, setting.load.micro_batch_tokens
    widest = max(shape.feed_forward * shape.active_experts * 3, shape.width * 4)
    working = P * widest * w + P * shape.width * 8
    if setting.method == "qlora":
        working += max(m.outputs * m.inputs for m in shape.matrices) * w * 2
    if setting.options.gradient_checkpointing:
        working += layer_activations(setting)
    return working


def _head(setting: Setting) -> dict[str, int]:
    """The fused head: one chunk of logits, the gradient by hidden states, by the head itself."""
    shape, w = setting.shape, setting.width
    D, V = shape.width, shape.vocabulary
    N = round(setting.load.micro_batch_tokens * min(1.0, setting.load.trained * 1.2))
    chunk = min(N, max(CHUNK // (V * w), D // 4, 1))
    logits = chunk * V * w
    if setting.device == "cuda":  # in fp32 beside it; on the CPU block by block
        logits += chunk * V * 4
    logits += 2 * N * D * w
    if not isinstance(setting.options, LoraOptions):
        logits += V * D * (w if chunk >= N else 4 + 2 * w)
    return {"logits": logits}


def _forward(shape: Shape, w: int) -> int:
    """Bytes per token that a layer needs at once without gradients."""
    return (2 * shape.width + 3 * shape.feed_forward * shape.active_experts) * w + 8 * shape.width


def _around(setting: Setting, inside: int) -> dict[str, int]:
    """What libraries take, and what the allocator cannot give out."""
    share = constants.FRAGMENTATION[setting.device]
    return {**constants.libraries(setting.device), "fragmentation": round(inside * share)}


# --------------------------------------------------------------------------- work


def flops(setting: Setting) -> float:
    """Floating-point operations of the whole training.

    A product takes two per weight and token, backward once more by the input and, where the weight
    is trained, once more by the weight (Kaplan et al. 2020, section 2.1). Causal attention reads
    half of the positions before it.
    """
    shape, load, options = setting.shape, setting.load, setting.options
    lora = isinstance(options, LoraOptions)
    passes = (2 if lora else 3) + (1 if options.gradient_checkpointing else 0)
    per_token = 2.0 * shape.active_weights * passes
    if lora:
        per_token += 6.0 * setting.trainable
    mean = sum(n * n for n in load.lengths) / max(sum(load.lengths), 1)
    attention = 4.0 * shape.heads * shape.head_width * (mean / 2) * shape.layers
    per_token += attention * (3.5 + (1 if options.gradient_checkpointing else 0))
    per_token += 2.0 * shape.table * load.trained * (2 if lora else 3)
    return per_token * load.tokens
