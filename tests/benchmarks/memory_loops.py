"""Reconstruct the training loop of a published memory measurement, and predict its peak memory.

Settings that a case does not state widen its interval. Nothing here was fitted to a row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.benchmarks import litgpt_2023
from tests.benchmarks.public_models import config_like, config_of

from tunesmith.errors import TunesmithError
from tunesmith_torch.memory_estimate.allocator_replay import CudaAllocator, replay_allocations
from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.memory_estimate.trace import StepTrace
from tunesmith_torch.testing import plain_loop

TRACED_BOUNDS = 0.85, 1.15
"""Interval of a traced loop, as factors of the expected value: the worst error of any method on the
list, in either direction, rounded up. ``memory_cases.check_width`` shows that the width that a part
of the cases needs is enough for the others."""
STAND_IN_BOUNDS = 0.75, 1.35
"""Interval if another adapter replaces one that cannot be traced."""
UNKNOWN_BOUNDS = 0.5, 2.0
"""Interval if important settings are not stated."""
DENSE_UPDATE_BYTES = 4
"""Bytes per weight of a full-size update, which a method that cannot be traced may materialize."""
DEFAULT_LONGEST_ROW = 1024
"""Tokens of the longest row if rows are ragged and no length is stated: instruction data."""
TRACE_ERRORS = (
    *(ImportError, RuntimeError, ValueError, TypeError, KeyError, IndexError),
    *(AttributeError, AssertionError, TunesmithError),
)
"""Exceptions of code that needs real tensors or is not installed."""


class UnclearCase(Exception):
    """A case that cannot be predicted; the message has the reason."""


@dataclass(frozen=True)
class Prediction:
    """The predicted peak memory of a case, in bytes."""

    low: float
    expected: float
    high: float
    is_known: bool
    """True if batch size, sequence length and all important settings are stated."""
    basis: str
    """The way in which it was predicted, and the settings that are not stated."""

    def widened(self, low: float, high: float, basis: str) -> Prediction:
        """Return a wider interval, for a case of which not all settings are known."""
        reason = f"{self.basis}; {basis}"
        return Prediction(self.low * low, self.expected, self.high * high, False, reason)


def predict(case: Mapping[str, Any]) -> Prediction:
    """Predict the peak memory of a case.

    Raises:
        UnclearCase: it is not about training a language model, or states too little.
    """
    text = f"{case.get('note') or ''} {case.get('technique') or ''}".lower()
    if "diffusion" in text:
        raise UnclearCase("not a language model")
    if re.search(r"inference|weights only", text):
        raise UnclearCase("not about training")
    config = config_of(str(case.get("model") or ""))
    is_public = config is not None
    config = config or config_like(_required(case, "params"))
    _required(case, "batch")
    source = str(case.get("source") or "").lower()
    if "litgpt" in source:
        prediction = _predict_litgpt(case, config, text)
    elif case.get("peft_config") is not None or "method_comparison" in source:
        prediction = _predict_peft(case, config)
    elif "qlora paper" in source or "2305.14314" in source:
        prediction = _predict_qlora_paper(case, config)
    else:
        prediction = _predict_plain_loop(case, config, text)
    if not is_public:
        prediction = prediction.widened(0.8, 1.25, "a model of that size is taken instead")
    return prediction


def _required(case: Mapping[str, Any], name: str) -> float:
    value = case.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UnclearCase(f"no {name}, got {value!r}")
    return float(value)


_PLAIN_OPTIMIZER = re.compile(r"(torch\.optim\.)?adamw?([ _(]*(torch|fused|foreach)\)?)*")


def unknown_settings(case: Mapping[str, Any]) -> list[str]:
    """Return the settings that differ from the plain loop's or are not stated."""
    unknown = []
    dtype = str(case.get("dtype") or "").lower()
    if not re.search(r"bf16|bfloat16|nf4|float16|fp16", dtype) or re.search(r"mixed|amp", dtype):
        unknown.append(f"dtype {dtype or 'not stated'}")
    optimizer = str(case.get("optimizer") or "").lower().strip()
    if not _PLAIN_OPTIMIZER.fullmatch(optimizer):
        unknown.append(f"optimizer {optimizer or 'not stated'}")
    if _gpu_count(case) > 1:
        unknown.append(f"{_gpu_count(case)} GPUs")
    if case.get("checkpointing") is None:
        unknown.append("checkpointing not stated")
    return unknown


# --------------------------------------------------------------------------- families


def _predict_peft(case: Mapping[str, Any], config: Mapping[str, Any]) -> Prediction:
    """Predict a method in PEFT's own comparison: the plain loop, traced with its config."""
    method = str(case.get("technique") or "").upper()
    full = method.startswith("FULL")
    fields = dict(case.get("peft_config") or {})
    unknown = unknown_settings(case)
    if not full and not fields:
        unknown.append("no peft_config")
    sequence, is_known = _sequence(case)
    loop = plain_loop.LoopConfig(
        batch=int(_required(case, "batch")),
        sequence=sequence,
        adapter=None if full else {"peft_type": method, **fields},
        gradient_checkpointing=bool(case.get("checkpointing")),
        use_cache=not case.get("checkpointing"),
    )
    try:
        prediction = _prediction(
            plain_loop.trace(config, loop), case, TRACED_BOUNDS, is_known, "traced"
        )
    except TRACE_ERRORS as error:
        prediction = _predict_with_lora(case, config, loop, is_known, type(error).__name__)
    return prediction.widened(*UNKNOWN_BOUNDS, ", ".join(unknown)) if unknown else prediction


def _predict_with_lora(
    case: Mapping[str, Any],
    config: Mapping[str, Any],
    loop: plain_loop.LoopConfig,
    is_known: bool,
    why: str,
) -> Prediction:
    """Predict an adapter that cannot be traced: by a LoRA with as many trainable weights.

    Such a method may materialize its update, one number for each weight of its target matrices.
    """
    shape = ModelShape.from_config(config)
    target_names = (loop.adapter or {}).get("target_modules") or case.get("targets") or ["q_proj"]
    lora = {"peft_type": "LORA", "r": _rank(case, shape), "target_modules": ["q_proj", "v_proj"]}
    traced = plain_loop.trace(config, replace(loop, adapter=lora))
    prediction = _prediction(
        traced, case, STAND_IN_BOUNDS, is_known, f"a LoRA of that size is taken instead: {why}"
    )
    targets = "all-linear" if isinstance(target_names, str) else list(target_names)
    dense = (
        DENSE_UPDATE_BYTES * shape.layers * sum(m.weights for m in shape.targeted_layers(targets))
    )
    return replace(
        prediction, high=max(prediction.high, prediction.expected * TRACED_BOUNDS[1] + dense)
    )


def _sequence(case: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the tokens of the longest row of a batch, and True if they are stated.

    Otherwise they are between twice the mean and the cap: their geometric mean is returned.
    """
    sequence = case.get("seq") or case.get("fitted_seq")
    if sequence:
        return int(sequence), True
    cap, mean = case.get("seq_cap"), case.get("mean_tokens_per_batch")
    if cap and mean:
        return round(math.sqrt(float(cap) * 2 * float(mean) / _required(case, "batch"))), False
    return int(cap or DEFAULT_LONGEST_ROW), False


def _rank(case: Mapping[str, Any], shape: ModelShape) -> int:
    """Return the rank at which LoRA on queries and values has as many trainable weights."""
    each = sum(
        m.out_features + m.in_features
        for m in shape.linear_layers
        if m.name in ("q_proj", "v_proj")
    )
    return max(1, round(float(case.get("trainable") or 1e6) / (shape.layers * each)))


def _predict_litgpt(case: Mapping[str, Any], config: Mapping[str, Any], text: str) -> Prediction:
    """Predict a row of LitGPT's tables of 2023.

    Sharded weights are gathered before they are used: in the worst case a GPU holds its shard in
    addition to everything that it would hold alone.
    """
    kind, shape = str(config["model_type"]), ModelShape.from_config(config)
    four: Any = "nf4-dq" if "nf4-dq" in text else "nf4" if "nf4" in text else ""
    sequence, is_known = _sequence(case)
    row = litgpt_2023.PublishedRow(
        batch=int(_required(case, "batch")),
        sequence=sequence,
        four_bits=four,
        rank=int(case.get("rank") or 8),
        rotary={"phi": 0.5, "gpt_neox": 0.25}.get(kind, 1.0),
        parallel=kind in ("phi", "gpt_neox", "falcon"),
        shared_norm=kind in ("phi", "falcon"),
    )
    alone = _prediction(
        litgpt_2023.trace(config, row), case, TRACED_BOUNDS, is_known, "reimplemented"
    )
    unknown = unknown_settings(case)
    if "2023" not in str(case.get("source")):
        unknown.append("another version of the code")
    if "lora" not in text and "adapter" not in text and "full" not in text:
        raise UnclearCase(f"technique {case.get('technique')!r} of LitGPT is not known here")
    if "adapter" in text and not unknown:
        low, high = STAND_IN_BOUNDS
        return Prediction(
            alone.expected * low, alone.expected, alone.expected * high, False, "LoRA"
        )
    # In bf16: a gradient and two moments of each weight.
    training_state = shape.parameters * 6 if "full" in text else 0
    if not unknown and not training_state and not case.get("checkpointing"):
        return alone
    gpus, weights = _gpu_count(case), _weight_bytes(config, four)
    low = (weights + training_state) / gpus * 0.9
    shard = (weights + training_state) / gpus if gpus > 1 else training_state
    basis = f"between its share of the weights and one GPU's plain loop: {', '.join(unknown)}"
    high = alone.high * (UNKNOWN_BOUNDS[1] if not is_known else 1) + shard
    return Prediction(low, math.sqrt(low * high), high, False, basis)


def _predict_qlora_paper(case: Mapping[str, Any], config: Mapping[str, Any]) -> Prediction:
    """Predict QLoRA as in its paper: rank 64, all linear layers, adapters in bf16, recomputation.

    Dettmers et al. 2023, appendix B. The optimizer's moments, in fp32, are paged: they are on the
    GPU if it has room, and otherwise on the host.
    """
    sequence, is_known = _sequence(case)
    loop = plain_loop.LoopConfig(
        batch=int(_required(case, "batch")),
        sequence=sequence,
        adapter={
            "peft_type": "LORA",
            "r": int(case.get("rank") or 64),
            "target_modules": "all-linear",
        },
        gradient_checkpointing=True,
        four_bits="nf4-dq",
        adapter_dtype="bfloat16",
    )
    traced = plain_loop.trace(config, loop)
    resident = replace(traced, timeline=traced.timeline.scale_label("optimizer", 2))
    paged_out = replace(traced, timeline=traced.timeline.scale_label("optimizer", 1e-3))
    prediction = _prediction(
        resident, case, TRACED_BOUNDS, is_known, "traced with the paper's settings"
    )
    return replace(prediction, low=_prediction(paged_out, case, TRACED_BOUNDS, is_known, "").low)


_DECIDING_WORDS = (
    *("+ ", "same", "above", "savers", "compile", "offload"),
    *("8-bit", "paged", "in backward", "optimizer_in_bwd", "fsdp"),
)
"""Words for settings that change memory and that the plain loop does not have."""


def _predict_plain_loop(
    case: Mapping[str, Any], config: Mapping[str, Any], text: str
) -> Prediction:
    """Predict a plain loop with the settings that the case states."""
    technique = str(case.get("technique") or "").lower()
    settings_text = f"{text} {str(case.get('optimizer') or '').lower()}"
    settings_text = settings_text.replace("full + packed", "packed")  # its "+" means nothing
    words = [word.strip() for word in _DECIDING_WORDS if word in settings_text] + unknown_settings(
        case
    )
    quantized: Literal["", "nf4-dq"] = "nf4-dq" if "qlora" in technique else ""
    sequence, is_known = _sequence(case)
    loop = plain_loop.LoopConfig(
        batch=int(_required(case, "batch")),
        sequence=sequence,
        adapter=_adapter(case, technique),
        gradient_checkpointing=bool(case.get("checkpointing")),
        four_bits=quantized,
        padded="packed" not in text,
        keeps_output=False,
        adapter_dtype="bfloat16" if "torchtune" in str(case.get("source")) else "float32",
    )
    if not technique.startswith(("full", "+")) and "lora" not in technique:
        prediction = _predict_with_lora(
            case, config, loop, is_known, f"technique {technique!r} is not known here"
        )
        return prediction.widened(
            *UNKNOWN_BOUNDS, ", ".join(words) or "its algorithm is not stated"
        )
    prediction = _prediction(
        plain_loop.trace(config, loop), case, TRACED_BOUNDS, is_known and not words, "traced"
    )
    if not is_known:
        prediction = prediction.widened(*UNKNOWN_BOUNDS, f"with rows of {sequence} tokens")
    if not words:
        return prediction
    low = min(
        _weight_bytes(config, quantized) / _gpu_count(case) * TRACED_BOUNDS[0], prediction.low
    )
    high = prediction.high * (
        UNKNOWN_BOUNDS[1] if any(word.startswith("dtype") for word in words) else 1
    )
    if _gpu_count(case) > 1:  # its shard, in addition to the gathered weights
        high += _weight_bytes(config, quantized) / _gpu_count(case)
    if "savers" in words:  # they may move even the weights to the host
        low = 0.1 * low
    basis = f"between its weights and a plain loop: {', '.join(words)}"
    return Prediction(low, math.sqrt(low * high), high, False, basis)


def _adapter(case: Mapping[str, Any], technique: str) -> Mapping[str, Any] | None:
    """Return the PEFT config of a plain loop's adapter, or None if all weights are trained.

    Raises:
        UnclearCase: the technique is not known, and its size is not stated.
    """
    if technique.startswith(("full", "+")):
        return None
    if "lora" not in technique and not case.get("trainable"):
        raise UnclearCase(
            f"technique {technique!r}: neither known here nor its trained weights stated"
        )
    targets = case.get("targets") or (["q_proj", "v_proj"] if "q,v" in technique else "all-linear")
    return {"peft_type": "LORA", "r": int(case.get("rank") or 16), "target_modules": targets}


def _weight_bytes(config: Mapping[str, Any], quantized: str) -> float:
    """Return the bytes of a model's weights in bf16, or with its linear layers in 4 bits."""
    shape = ModelShape.from_config(config)
    linear = shape.layers * shape.layer_linear_weights
    return 2 * shape.parameters - (linear * 1.48 if quantized else 0)


def _gpu_count(case: Mapping[str, Any]) -> int:
    """Return the number of GPUs over which weights may be sharded."""
    counts = re.findall(r"(\d+) ?x ", f"{case.get('gpu') or ''} ")
    return max([int(count) for count in counts], default=1)


def _prediction(
    traced: StepTrace,
    case: Mapping[str, Any],
    bounds: tuple[float, float],
    is_known: bool,
    basis: str,
) -> Prediction:
    """Return the prediction of the counter that was read: allocated or reserved bytes."""
    allocated, reserved = replay_allocations(
        (event for _, event in traced.timeline), CudaAllocator()
    )
    expected = float(reserved if "reserved" in str(case.get("note")).lower() else allocated)
    low, high = bounds
    return Prediction(expected * low, expected, expected * high, is_known, basis)
