"""Which loop a published measurement of memory was taken of, and what the tracer makes of it.

What a case does not say widens its interval. Nothing here was fitted to a row.
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
from tunesmith_torch.memory_estimate.allocator_replay import Cuda, replay
from tunesmith_torch.memory_estimate.model_shape import Shape
from tunesmith_torch.memory_estimate.trace import Traced
from tunesmith_torch.testing import plain_loop

WITHIN = 0.85, 1.15
"""Interval of a loop that is traced, as factors of what is expected: the worst error of any method
on the list, either way, rounded up. ``held_out`` shows that a part of the cases gives a width that
holds for the others."""
STAND_IN = 0.75, 1.35
"""The same where another adapter stands in for one that cannot be traced."""
UNKNOWN = 0.5, 2.0
"""The same where settings that decide are not told."""
DENSE = 4
"""Bytes of an update that a method which cannot be traced may write out for each weight."""
RAGGED = 1024
"""Tokens of the longest row, where rows are ragged and nothing is said: instruction data."""
CANNOT = (
    *(ImportError, RuntimeError, ValueError, TypeError, KeyError, IndexError),
    *(AttributeError, AssertionError, TunesmithError),
)
"""What tracing somebody else's code ends in where it needs numbers, or is not installed."""


class Unclear(Exception):
    """A case that nothing can be said of; the message says why."""


@dataclass(frozen=True)
class Prediction:
    """What a case should have taken, in bytes."""

    low: float
    expected: float
    high: float
    known: bool
    """Whether batch, sequence and all settings that decide are told."""
    how: str

    def scaled(self, low: float, high: float, how: str) -> Prediction:
        """A wider interval, of a case that is not known in full."""
        said = f"{self.how}; {how}"
        return Prediction(self.low * low, self.expected, self.high * high, False, said)


def predict(case: Mapping[str, Any]) -> Prediction:
    """The interval for a case.

    Raises:
        Unclear: it is not about training a language model, or says too little.
    """
    text = f"{case.get('note') or ''} {case.get('technique') or ''}".lower()
    if "diffusion" in text:
        raise Unclear("not a language model")
    if re.search(r"inference|weights only", text):
        raise Unclear("not about training")
    config = config_of(str(case.get("model") or ""))
    named = config is not None
    config = config or config_like(_required(case, "params"))
    _required(case, "batch")
    source = str(case.get("source") or "").lower()
    if "litgpt" in source:
        found = _litgpt(case, config, text)
    elif case.get("peft_config") is not None or "method_comparison" in source:
        found = _peft(case, config)
    elif "qlora paper" in source or "2305.14314" in source:
        found = _paper(case, config)
    else:
        found = _other(case, config, text)
    if not named:
        found = found.scaled(0.8, 1.25, "a model of that size stands in")
    return found


def _required(case: Mapping[str, Any], name: str) -> float:
    value = case.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise Unclear(f"no {name}, got {value!r}")
    return float(value)


_PLAIN_OPTIMIZER = re.compile(r"(torch\.optim\.)?adamw?([ _(]*(torch|fused|foreach)\)?)*")


def undecided(case: Mapping[str, Any]) -> list[str]:
    """Fields that say that the loop was not the plain one, or do not say whether it was."""
    found = []
    dtype = str(case.get("dtype") or "").lower()
    if not re.search(r"bf16|bfloat16|nf4|float16|fp16", dtype) or re.search(r"mixed|amp", dtype):
        found.append(f"dtype {dtype or 'not told'}")
    optimizer = str(case.get("optimizer") or "").lower().strip()
    if not _PLAIN_OPTIMIZER.fullmatch(optimizer):
        found.append(f"optimizer {optimizer or 'not told'}")
    if _gpus(case) > 1:
        found.append(f"{_gpus(case)} GPUs")
    if case.get("checkpointing") is None:
        found.append("checkpointing not told")
    return found


# --------------------------------------------------------------------------- families


def _peft(case: Mapping[str, Any], config: Mapping[str, Any]) -> Prediction:
    """A method of PEFT's own comparison: the plain loop, traced with its config."""
    method = str(case.get("technique") or "").upper()
    full = method.startswith("FULL")
    fields = dict(case.get("peft_config") or {})
    unsaid = undecided(case)
    if not full and not fields:
        unsaid.append("no peft_config")
    sequence, told = _sequence(case)
    loop = plain_loop.Loop(
        batch=int(_required(case, "batch")),
        sequence=sequence,
        adapter=None if full else {"peft_type": method, **fields},
        gradient_checkpointing=bool(case.get("checkpointing")),
        use_cache=not case.get("checkpointing"),
    )
    try:
        found = _of(plain_loop.trace(config, loop), case, WITHIN, told, "traced")
    except CANNOT as error:
        found = _stand_in(case, config, loop, told, type(error).__name__)
    return found.scaled(*UNKNOWN, ", ".join(unsaid)) if unsaid else found


def _stand_in(
    case: Mapping[str, Any], config: Mapping[str, Any], loop: plain_loop.Loop, told: bool, why: str
) -> Prediction:
    """A LoRA of the size of an adapter that cannot be traced.

    Such a method may write its update out, a number for each weight of the matrices it adapts.
    """
    shape = Shape.of(config)
    named = (loop.adapter or {}).get("target_modules") or case.get("targets") or ["q_proj"]
    lora = {"peft_type": "LORA", "r": _rank(case, shape), "target_modules": ["q_proj", "v_proj"]}
    traced = plain_loop.trace(config, replace(loop, adapter=lora))
    found = _of(traced, case, STAND_IN, told, f"a LoRA of that size stands in: {why}")
    targets = "all-linear" if isinstance(named, str) else list(named)
    dense = DENSE * shape.layers * sum(m.weights for m in shape.adapted(targets))
    return replace(found, high=max(found.high, found.expected * WITHIN[1] + dense))


def _sequence(case: Mapping[str, Any]) -> tuple[int, bool]:
    """Tokens of the longest batch, and whether they are told.

    Else, from the cap and the mean: the middle of its logarithm.
    """
    told = case.get("seq") or case.get("fitted_seq")
    if told:
        return int(told), True
    cap, mean = case.get("seq_cap"), case.get("mean_tokens_per_batch")
    if cap and mean:
        return round(math.sqrt(float(cap) * 2 * float(mean) / _required(case, "batch"))), False
    return int(cap or RAGGED), False


def _rank(case: Mapping[str, Any], shape: Shape) -> int:
    """The rank at which LoRA on queries and values has as many trainable weights."""
    each = sum(m.outputs + m.inputs for m in shape.matrices if m.name in ("q_proj", "v_proj"))
    return max(1, round(float(case.get("trainable") or 1e6) / (shape.layers * each)))


def _litgpt(case: Mapping[str, Any], config: Mapping[str, Any], text: str) -> Prediction:
    """A row of LitGPT's tables of 2023.

    Weights that are sharded are gathered to be computed with: at worst the shard and all that one
    GPU would hold are there at once.
    """
    kind, shape = str(config["model_type"]), Shape.of(config)
    four: Any = "nf4-dq" if "nf4-dq" in text else "nf4" if "nf4" in text else ""
    sequence, told = _sequence(case)
    run = litgpt_2023.Run(
        batch=int(_required(case, "batch")),
        sequence=sequence,
        four_bits=four,
        rank=int(case.get("rank") or 8),
        rotary={"phi": 0.5, "gpt_neox": 0.25}.get(kind, 1.0),
        parallel=kind in ("phi", "gpt_neox", "falcon"),
        shared_norm=kind in ("phi", "falcon"),
    )
    alone = _of(litgpt_2023.trace(config, run), case, WITHIN, told, "restated")
    unsaid = undecided(case)
    if "2023" not in str(case.get("source")):
        unsaid.append("another version of the code")
    if "lora" not in text and "adapter" not in text and "full" not in text:
        raise Unclear(f"technique {case.get('technique')!r} of LitGPT is not known here")
    if "adapter" in text and not unsaid:
        low, high = STAND_IN
        return Prediction(
            alone.expected * low, alone.expected, alone.expected * high, False, "LoRA"
        )
    moving = shape.parameters * 6 if "full" in text else 0  # bf16: a gradient and two means
    if not unsaid and not moving and not case.get("checkpointing"):
        return alone
    gpus, weights = _gpus(case), _weights(config, four)
    low = (weights + moving) / gpus * 0.9
    shard = (weights + moving) / gpus if gpus > 1 else moving
    how = f"between its share of the weights and one GPU's plain loop: {', '.join(unsaid)}"
    high = alone.high * (UNKNOWN[1] if not told else 1) + shard
    return Prediction(low, math.sqrt(low * high), high, False, how)


def _paper(case: Mapping[str, Any], config: Mapping[str, Any]) -> Prediction:
    """QLoRA as its paper ran it: rank 64 on all linear layers, adapters in bf16, recomputation.

    Dettmers et al. 2023, appendix B. The optimizer's means, in fp32, are paged: on a GPU that has
    room they are there, and else they are not.
    """
    sequence, told = _sequence(case)
    loop = plain_loop.Loop(
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
    wide = replace(traced, timeline=traced.timeline.scaled("optimizer", 2))
    none = replace(traced, timeline=traced.timeline.scaled("optimizer", 1e-3))
    found = _of(wide, case, WITHIN, told, "traced with the paper's settings")
    return replace(found, low=_of(none, case, WITHIN, told, "").low)


_DECIDES = (
    *("+ ", "same", "above", "savers", "compile", "offload"),
    *("8-bit", "paged", "in backward", "optimizer_in_bwd", "fsdp"),
)
"""Words for settings that change memory and that the plain loop has not."""


def _other(case: Mapping[str, Any], config: Mapping[str, Any], text: str) -> Prediction:
    """A plain loop with what the case says, as far as it says it."""
    technique = str(case.get("technique") or "").lower()
    told_words = f"{text} {str(case.get('optimizer') or '').lower()}"
    packed = told_words.replace("full + packed", "packed")
    words = [word.strip() for word in _DECIDES if word in packed] + undecided(case)
    quantised: Literal["", "nf4-dq"] = "nf4-dq" if "qlora" in technique else ""
    sequence, told = _sequence(case)
    loop = plain_loop.Loop(
        batch=int(_required(case, "batch")),
        sequence=sequence,
        adapter=_adapter(case, technique),
        gradient_checkpointing=bool(case.get("checkpointing")),
        four_bits=quantised,
        padded="packed" not in text,
        keeps_output=False,
        adapter_dtype="bfloat16" if "torchtune" in str(case.get("source")) else "float32",
    )
    if not technique.startswith(("full", "+")) and "lora" not in technique:
        found = _stand_in(case, config, loop, told, f"technique {technique!r} is not known here")
        return found.scaled(*UNKNOWN, ", ".join(words) or "how it works is not told")
    found = _of(plain_loop.trace(config, loop), case, WITHIN, told and not words, "traced")
    if not told:
        found = found.scaled(*UNKNOWN, f"with rows of {sequence} tokens")
    if not words:
        return found
    low = min(_weights(config, quantised) / _gpus(case) * WITHIN[0], found.low)
    high = found.high * (UNKNOWN[1] if any(word.startswith("dtype") for word in words) else 1)
    if _gpus(case) > 1:  # a shard beside what is gathered of all
        high += _weights(config, quantised) / _gpus(case)
    if "savers" in words:  # with weights on the host, nothing is certain to be there
        low = 0.1 * low
    how = f"between its weights and a plain loop: {', '.join(words)}"
    return Prediction(low, math.sqrt(low * high), high, False, how)


def _adapter(case: Mapping[str, Any], technique: str) -> Mapping[str, Any] | None:
    """The adapter of a plain loop; None: all weights.

    Raises:
        Unclear: the technique is of no known kind, and its size is not told.
    """
    if technique.startswith(("full", "+")):
        return None
    if "lora" not in technique and not case.get("trainable"):
        raise Unclear(f"technique {technique!r}: neither known here nor its trained weights told")
    targets = case.get("targets") or (["q_proj", "v_proj"] if "q,v" in technique else "all-linear")
    return {"peft_type": "LORA", "r": int(case.get("rank") or 16), "target_modules": targets}


def _weights(config: Mapping[str, Any], quantised: str) -> float:
    """Bytes of a model's weights in bf16, or with its linear layers in 4 bits."""
    shape = Shape.of(config)
    linear = shape.layers * shape.layer_weights
    return 2 * shape.parameters - (linear * 1.48 if quantised else 0)


def _gpus(case: Mapping[str, Any]) -> int:
    """Over how many GPUs weights may be spread."""
    counts = re.findall(r"(\d+) ?x ", f"{case.get('gpu') or ''} ")
    return max([int(count) for count in counts], default=1)


def _of(
    traced: Traced, case: Mapping[str, Any], bounds: tuple[float, float], known: bool, how: str
) -> Prediction:
    """The prediction, by the counter that was read: bytes in use, or held by the allocator."""
    allocated, held = replay((event for _, event in traced.timeline), Cuda())
    expected = float(held if "reserved" in str(case.get("note")).lower() else allocated)
    low, high = bounds
    return Prediction(expected * low, expected, expected * high, known, how)
