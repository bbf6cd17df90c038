"""Estimate the memory and compute of a training step by arithmetic on the model's sizes.

Names: P tokens of the largest micro-batch, N tokens of it that contribute to the loss, D hidden
size, F intermediate size of the feed-forward, V vocabulary size, r rank, w bytes of a number in the
compute dtype.

The estimate adds up all that the training loop of this toolkit keeps, in allocation order (a
picture is in :mod:`tunesmith_torch.memory_estimate`)::

    weights                      w per weight, or less if quantized
    masters                      4 per trained weight, if all weights are trained in bf16
    gradients                    4 per trained weight
    optimizer                    8 per trained weight: AdamW's two moments, or 2 in 8 bits

    activations                  the tensors that autograd saves in each layer
    logits                       one chunk

It takes a millisecond and is accurate to about 10 %.
:mod:`tunesmith_torch.memory_estimate.trace` runs the step itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tunesmith.estimates import Estimate, PhaseMemory
from tunesmith_torch.memory_estimate import constants, per_rank
from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION, RowLengths
from tunesmith_torch.options.generation_limits import (
    MAX_MERGED_BYTES,
    MAX_PACKED_BYTES,
    MAX_ROWS,
    MIN_TOKENS_TO_MERGE,
    kv_bytes_per_token,
    max_cached_tokens,
)

# These constants repeat values from modules that import torch, which this module must not import.
MIB = 2**20
LOGITS_CHUNK_BYTES = 64 * MIB
"""Bytes of logits that the fused head computes at a time (losses/cross_entropy.py, CHUNK_BYTES)."""
SCORING_TOKENS = 8_192
"""Number of tokens in a scoring pass (generation/text_model.py, SCORING_TOKENS)."""
ANSWER_TOKENS = 256
"""Usual token limit of an evaluation's answers."""
ATTENTION_BLOCK_SIZE, LONG_ROW_TOKENS = 128, 1024
"""Queries per block (kernels/block_attention.py), and the length above which rows use a fused
kernel (kernels/varlen_attention.py)."""
STATIC_FACTORS = (0.98, 1.03)
"""Bounds of weights and optimizer state, relative to the estimate: block rounding and buffers."""
DYNAMIC_FACTORS = (0.65, 1.4)
"""Bounds of the memory that depends on tokens, relative to the estimate."""


class MemoryParts(NamedTuple):
    """Bytes by component, in groups of different uncertainty."""

    static: Mapping[str, int]
    """Components determined by the model's sizes."""
    dynamic: Mapping[str, int]
    """Components that depend on the rows."""
    framework: Mapping[str, int]
    """Libraries and allocator overhead."""
    worst_case_extra: int = 0
    """Bytes that are rarely needed, and only included in the upper bound."""

    def to_memory(self, length_factors: tuple[float, float]) -> PhaseMemory:
        """Return the sum of all parts, with its bounds.

        ``length_factors`` bounds the rows' real lengths, relative to the estimated lengths.
        """
        static, dynamic = sum(self.static.values()), sum(self.dynamic.values())
        framework = sum(self.framework.values())
        return PhaseMemory(
            low=round(
                static * STATIC_FACTORS[0]
                + dynamic * DYNAMIC_FACTORS[0] * length_factors[0]
                + framework * 0.7
            ),
            expected=static + dynamic + framework,
            high=round(
                static * STATIC_FACTORS[1]
                + dynamic * DYNAMIC_FACTORS[1] * length_factors[1]
                + framework * 1.4
                + self.worst_case_extra
            ),
            components={**self.static, **self.dynamic, **self.framework},
        )


def estimate(setting: EstimateSetting) -> Estimate:
    """Estimate the memory of every phase, and the floating-point operations of training."""
    workload = setting.workload
    parts = {
        "load": loading_memory(setting),
        "train": training_memory(setting),
        **({"gather": gathering_memory(setting)} if setting.is_sharded else {}),
        "evaluate": evaluation_memory(setting),
    }
    return Estimate(
        method="analytic",
        memory={phase: part.to_memory(workload.length_factors) for phase, part in parts.items()},
        flops=training_flops(setting),
        steps=workload.steps,
        pilot_steps=workload.pilot_steps,
        tokens=workload.tokens,
        longest_row=workload.longest_row,
        micro_batch_tokens=workload.micro_batch_tokens,
        compute_bytes=setting.compute_bytes,
        notes=(*workload.notes, *setting.notes),
    )


# --------------------------------------------------------------------------- phases


def loading_memory(setting: EstimateSetting) -> MemoryParts:
    """Return the memory of loading: the weights, and the part of their files in memory with them.

    On a CPU, mapped pages of the files count as the process's memory. A matrix in the files' dtype
    is a view of them; a matrix in another dtype exists twice.
    """
    shape = setting.shape
    static = {"weights": setting.base_bytes}
    if setting.device == "cpu":
        converts = setting.method == "qlora" or setting.storage_bytes != setting.compute_bytes
        file_bytes = shape.parameters * setting.storage_bytes if converts else 0
    else:
        largest = max(shape.embedding_weights, shape.layer_linear_weights)
        file_bytes = largest * setting.storage_bytes
    framework = constants.framework_memory(setting.device, running=False)
    return MemoryParts(static, {"weight files": file_bytes}, framework)


def training_memory(setting: EstimateSetting) -> MemoryParts:
    """Return the peak memory of a training step, in bytes by component.

    The peak is at the end of the forward pass, with all activations and the logits, or at the end
    of the backward pass, with all gradients and one layer's temporaries.
    """
    shape, w = setting.shape, setting.compute_bytes
    lora = setting.adapter is not None
    static = stored_memory(setting)
    activations, working = activation_bytes(setting), layer_backward_bytes(setting)
    gradients = setting.trainable_parameters * 4
    if setting.is_sharded:
        gradients //= setting.processes
        static["gathered"] = per_rank.ShardSizes(setting).gathered
    head = _head_bytes(setting)
    # With several micro-batches, gradients of the earlier ones exist during the forward pass.
    accumulated = gradients if setting.workload.accumulates_gradients else 0
    forward = accumulated + activations + max(working, head["logits"])
    embeddings = 0 if lora or setting.is_sharded else shape.embedding_weights * (w + 4)
    backward = gradients + max(working + embeddings, per_rank.sum_buffer_bytes(setting))
    if forward >= backward:
        static["gradients"] = accumulated
        temporaries = max(0, working - head["logits"])
        dynamic = {"activations": activations, "temporaries": temporaries, **head}
    else:
        static["gradients"] = gradients
        dynamic = {"activations": working, "temporaries": backward - gradients - working, **head}
        dynamic["logits"] = 0  # freed before the backward pass reaches the first layers
    tensors = sum(static.values()) + sum(dynamic.values())
    return MemoryParts(static, dynamic, _framework_and_fragmentation(setting, tensors))


def stored_memory(setting: EstimateSetting) -> dict[str, int]:
    """Return the bytes of weights, masters and optimizer state, which a process always holds."""
    trainable = setting.trainable_parameters
    static = {"weights": setting.base_bytes}
    if setting.adapter is not None:
        static["adapter"] = trainable * 4  # fp32, so no masters are needed
    elif setting.compute_bytes != 4 and not setting.is_sharded:
        static["masters"] = trainable * 4
    static["optimizer"] = round(trainable * setting.moment_bytes)
    if setting.is_sharded:
        shards = per_rank.ShardSizes(setting)
        static = {name: shards.part(size) for name, size in static.items()}
        static["weights"] = shards.weights
    return static


def gathering_memory(setting: EstimateSetting) -> MemoryParts:
    """Return the memory of a process while it gathers all weights of a sharded model.

    This happens for evaluations on validation rows, and when the artifact is saved.
    """
    static = {**stored_memory(setting), "whole weights": per_rank.ShardSizes(setting).whole}
    return MemoryParts(static, {}, _framework_and_fragmentation(setting, sum(static.values())))


def evaluation_memory(setting: EstimateSetting) -> MemoryParts:
    """Return the peak of evaluation: the weights, plus generation or scoring, whichever is larger.

    The prompts' key-value cache is copied into one with room for the answers
    (:class:`tunesmith_torch.generation.kv_cache.DecodingCache`), so keys exist twice while it
    grows. Answers are expected to be as long as those of the test rows; in the worst case, all
    reach their token limit.
    """
    shape, w, test = setting.shape, setting.compute_bytes, setting.workload.test
    prompt = max((row.prompt for row in test), default=0)
    longest = max((row.prompt + max(row.completions) for row in test), default=0)
    rows = len(test)
    cache_sizes = shape.key_value_heads, shape.head_dim, shape.layers, w
    token_bytes, max_tokens = kv_bytes_per_token(*cache_sizes), max_cached_tokens(*cache_sizes)
    batch = min(max(1, max_tokens // (prompt + ANSWER_TOKENS)), MAX_ROWS, rows)
    forward = _forward_bytes_per_token(shape, w)
    tokens = min(SCORING_TOKENS, sum(map(SINGLE_COMPLETION.token_count, test)))
    logits = min(LOGITS_CHUNK_BYTES, tokens * shape.vocab_size * w)
    generating = {
        "cache": token_bytes * batch * longest * 3 // 2,
        "activations": forward * batch * prompt,
    }
    scoring = {
        "activations": forward * tokens,
        "logits": logits * (3 if setting.device == "cuda" else 1),
    }
    static = {"weights": setting.base_bytes}
    if setting.adapter is not None:
        static["adapter"] = setting.trainable_parameters * 4
    if setting.model_count > 1:
        static["other models"] = (setting.model_count - 1) * setting.base_bytes
    static |= packed_weights_memory(setting)
    dynamic, merged = scoring, merged_weights_memory(setting, rows * ANSWER_TOKENS)
    if sum(generating.values()) + sum(merged.values()) >= sum(scoring.values()):
        dynamic, static = generating, static | merged
    tensors = sum(static.values()) + sum(dynamic.values())
    framework = _framework_and_fragmentation(setting, tensors)
    return MemoryParts(static, dynamic, framework, token_bytes * batch * ANSWER_TOKENS * 7 // 4)


def merged_weights_memory(setting: EstimateSetting, tokens: int) -> dict[str, int]:
    """Return the bytes of the linear layers that generation copies to merge adapters, if any.

    The result is empty if no adapters are merged. On a CPU, LoRA adapters are merged in fp32 if
    many ``tokens`` are generated (:mod:`tunesmith_torch.generation.merged_lora`).
    """
    linear = 4 * setting.shape.layers * setting.shape.layer_linear_weights
    mergeable = (
        setting.method == "lora" and setting.options.fused_kernels and setting.compute_bytes == 4
    )
    pays = setting.device == "cpu" and tokens >= MIN_TOKENS_TO_MERGE
    return {"merged weights": linear} if mergeable and pays and linear <= MAX_MERGED_BYTES else {}


def packed_weights_memory(setting: EstimateSetting) -> dict[str, int]:
    """Return the bytes of the linear layers that all open models store twice on a CPU, if any.

    See :mod:`tunesmith_torch.kernels.packed_linear`.
    """
    shape, packed = setting.shape, setting.shape.embedding_weights  # the head
    if setting.method != "qlora" and (setting.adapter is None or setting.compute_bytes == 2):
        packed += shape.layers * shape.layer_linear_weights
    packed *= setting.compute_bytes
    used = setting.device == "cpu" and setting.options.fused_kernels and packed <= MAX_PACKED_BYTES
    return {"packed weights": setting.model_count * packed} if used else {}


# --------------------------------------------------------------------------- activations


def activation_bytes(setting: EstimateSetting) -> int:
    """Return the bytes that autograd keeps for all layers between forward and backward."""
    shape, w, P = setting.shape, setting.compute_bytes, setting.workload.micro_batch_tokens
    if setting.options.gradient_checkpointing:
        return shape.layers * P * shape.hidden_size * w + P * shape.hidden_size * 4
    return shape.layers * layer_activation_bytes(setting) + P * shape.hidden_size * 6


def layer_activation_bytes(setting: EstimateSetting) -> int:
    """Return the bytes that autograd keeps for one layer between forward and backward."""
    shape, w, P = setting.shape, setting.compute_bytes, setting.workload.micro_batch_tokens
    D, F = shape.hidden_size, shape.intermediate_size * shape.active_experts
    query, key = shape.attention_heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    full = setting.adapter is None
    # The fused norm keeps its result and its scaled input. The norm of transformers keeps its
    # result, its input in fp32 (for w = 4 the input itself), and the scaled input if the scale is
    # trained.
    norm = 2 * w * D if setting.options.fused_kernels else (4 + w + (w if full else 0)) * D
    attention = (2 * query + 2 * key) * w
    mlp = (4 if shape.has_gated_mlp else 2) * F * w
    kept = P * (2 * norm + attention + mlp) + _attention_bytes(setting)
    if not full:
        kept += _adapter_activation_bytes(setting)
    return kept


def _attention_bytes(setting: EstimateSetting) -> int:
    """Return the bytes that attention keeps in addition to queries, keys and values.

    Fused kernels keep one sum per query; block attention on a CPU keeps all probabilities.
    """
    heads, workload = setting.shape.attention_heads, setting.workload
    if setting.device == "cuda" or not setting.options.packing:
        return 4 * heads * workload.micro_batch_tokens
    shares_prompt = workload.grouping.shares_prompt
    pairs = sum(_attended_pairs(row, shares_prompt) for row in workload.micro_batch)
    return heads * setting.compute_bytes * pairs


def _attended_pairs(row: RowLengths, shares_prompt: bool) -> int:
    """Return the number of query-key pairs that block attention computes for a row.

    All queries of a block are multiplied by the same keys, some of them masked
    (kernels/block_attention.py and kernels/tree_attention.py).
    """

    def causal_pairs(n: int) -> int:
        return n * (n + 64) // 2 if n <= LONG_ROW_TOKENS else 4 * n

    if not shares_prompt:
        return sum(causal_pairs(row.prompt + tokens) for tokens in row.completions)
    queries = sum(row.completions)
    own_keys = max(min(queries, ATTENTION_BLOCK_SIZE), *row.completions)
    return causal_pairs(row.prompt) + queries * (row.prompt + own_keys)


def _adapter_activation_bytes(setting: EstimateSetting) -> int:
    """Return the bytes that LoRA keeps: the product with A, and A and B in the compute dtype.

    On a quantized base model everything is kept twice, because the inputs are in fp32.
    """
    adapter = setting.adapter
    assert adapter is not None
    targets = list(setting.shape.targeted_layers(adapter.target_modules))
    P, r, w = setting.workload.micro_batch_tokens, adapter.rank, setting.compute_bytes
    small = sum(P * r * w + r * (m.out_features + m.in_features) * w for m in targets)
    return small * (2 if setting.method == "qlora" else 1)


def layer_backward_bytes(setting: EstimateSetting) -> int:
    """Return the temporary bytes of one layer's backward pass: gradients of its activations."""
    shape, w, P = setting.shape, setting.compute_bytes, setting.workload.micro_batch_tokens
    widest = max(shape.intermediate_size * shape.active_experts * 3, shape.hidden_size * 4)
    working = P * widest * w + P * shape.hidden_size * 8
    if setting.method == "qlora":  # the dequantized matrix, and another tensor of its size
        working += max(m.out_features * m.in_features for m in shape.linear_layers) * w * 2
    if setting.options.gradient_checkpointing:
        working += layer_activation_bytes(setting)
    return working


def _head_bytes(setting: EstimateSetting) -> dict[str, int]:
    """Return the bytes that the fused output head needs.

    These are one chunk of logits, and the gradients of the hidden states and the head's weight.
    """
    shape, w = setting.shape, setting.compute_bytes
    D, V = shape.hidden_size, shape.vocab_size
    N = round(setting.workload.micro_batch_tokens * min(1.0, setting.workload.trained_share * 1.2))
    chunk = min(N, max(LOGITS_CHUNK_BYTES // (V * w), D // 4, 1))
    logits = chunk * V * w
    if setting.device == "cuda":  # a copy in fp32; a CPU makes this copy block by block
        logits += chunk * V * 4
    logits += 2 * N * D * w
    if setting.adapter is None:
        # With several chunks, the weight's gradient is summed in fp32.
        logits += V * D * (w if chunk >= N else 4 + 2 * w)
    return {"logits": logits}


def _forward_bytes_per_token(shape: ModelShape, w: int) -> int:
    """Return the bytes per token that a layer needs in a forward pass without gradients."""
    widest = 2 * shape.hidden_size + 3 * shape.intermediate_size * shape.active_experts
    return widest * w + 8 * shape.hidden_size


def _framework_and_fragmentation(setting: EstimateSetting, tensor_bytes: int) -> dict[str, int]:
    """Return the overhead in bytes: the libraries, and memory that the allocator cannot use."""
    share = constants.FRAGMENTATION_SHARE[setting.device]
    fragmentation = round(tensor_bytes * share)
    return {**constants.framework_memory(setting.device), "fragmentation": fragmentation}


# --------------------------------------------------------------------------- work


def training_flops(setting: EstimateSetting) -> float:
    """Return the floating-point operations of training (Kaplan et al. 2020, section 2.1).

    Per weight and token, the forward pass takes two operations, the gradient of the input two, and
    the gradient of a trained weight two. In causal attention, a token attends to half of its row on
    average.
    """
    shape, workload, options = setting.shape, setting.workload, setting.options
    lora = setting.adapter is not None
    passes = (2 if lora else 3) + (1 if options.gradient_checkpointing else 0)
    per_token = 2.0 * shape.active_layer_weights * passes
    if lora:
        per_token += 6.0 * setting.trainable_parameters
    # The mean length of the row that a random token belongs to, so long rows count more.
    mean = sum(n * n for n in workload.row_tokens) / max(sum(workload.row_tokens), 1)
    attention = 4.0 * shape.attention_heads * shape.head_dim * (mean / 2) * shape.layers
    per_token += attention * (3.5 + (1 if options.gradient_checkpointing else 0))
    per_token += 2.0 * shape.embedding_weights * workload.trained_share * (2 if lora else 3)
    return per_token * workload.tokens
