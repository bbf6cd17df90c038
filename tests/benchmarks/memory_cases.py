"""The planner's tracer against published measurements of peak memory.

``python -m tests.benchmarks.memory_cases FILE.json`` reads a list of cases (fields: ``source``,
``model``, ``params``, ``technique``, ``batch``, ``seq`` or ``fitted_seq``, ``checkpointing``,
``peak_gib``, ``note``, and where there is one ``peft_config``), traces the loop that each was
measured of, and prints what came out. What a case does not say widens its interval; nothing here
was fitted to a row.
"""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, cast

from tests.benchmarks import litgpt_2023
from tests.benchmarks.public_models import config_like, config_of

from tunesmith.errors import TunesmithError
from tunesmith_torch.planner import peer
from tunesmith_torch.planner.allocator import Cuda, replay
from tunesmith_torch.planner.shape import Shape
from tunesmith_torch.planner.trace import Traced

GIB = 2**30
TRACED = 0.93, 1.06
"""Interval of a loop whose own code is traced, as factors of what is expected. Other versions of
its libraries, and batches that came before the largest one."""
RESTATED = 0.93, 1.12
"""The same where the loop's code of that time is not at hand and was written down again."""
STAND_IN = 0.75, 1.35
"""The same where another adapter stands in for one that cannot be traced."""
UNKNOWN = 0.5, 2.0
"""The same where settings that decide are not told."""
RAGGED = 1024
"""Tokens of the longest row, where rows are ragged and nothing is said: instruction data."""


@dataclass(frozen=True)
class Prediction:
    """What a case should have taken, in bytes."""

    low: float
    expected: float
    high: float
    known: bool
    """Whether batch, sequence and all settings that decide are told."""
    how: str


@dataclass(frozen=True)
class Outcome:
    """A case beside its prediction."""

    case: Mapping[str, Any]
    prediction: Prediction | None

    @property
    def measured(self) -> float:
        return float(self.case["peak_gib"]) * GIB

    @property
    def error(self) -> float:
        assert self.prediction is not None
        return self.prediction.expected / self.measured - 1

    @property
    def over(self) -> bool:
        """Whether the measured peak is above the upper bound."""
        return self.prediction is not None and self.prediction.high < self.measured


def predict(case: Mapping[str, Any]) -> Prediction | None:
    """The interval for a case; None where it is not about a language model."""
    text = f"{case.get('note') or ''} {case.get('technique') or ''}".lower()
    if "diffusion" in text:
        return None
    config = config_of(str(case["model"]))
    named = config is not None
    config = config or config_like(float(case["params"]))
    if "litgpt" in str(case["source"]).lower():
        found = _litgpt(case, config, text)
    elif case.get("peft_config") is not None:
        found = _peft(case, config)
    else:
        found = _other(case, config, text)
    if named:
        return found
    return replace(found, low=found.low * 0.9, high=found.high * 1.1, known=False)


# --------------------------------------------------------------------------- families


def _peft(case: Mapping[str, Any], config: Mapping[str, Any]) -> Prediction:
    """A method of PEFT's own comparison: the plain loop, traced with its config."""
    full = str(case["technique"]).upper() == "FULL"
    fields = None if full else dict(case["peft_config"])
    known = case.get("seq") or case.get("fitted_seq")
    loop = peer.Loop(
        batch=int(case["batch"]),
        sequence=int(known or _guessed_longest(case)),
        adapter=fields,
        checkpointing=bool(case.get("checkpointing")),
        use_cache=not case.get("checkpointing"),
    )
    try:
        return _of(peer.trace(config, loop), case, TRACED, bool(known), "traced")
    except (ImportError, RuntimeError, NotImplementedError, ValueError, TunesmithError) as error:
        how = f"a LoRA of that size stands in: {type(error).__name__}"
        rank = _rank(case, config)
        lora = {"peft_type": "LORA", "r": rank, "target_modules": ["q_proj", "v_proj"]}
        traced = peer.trace(config, replace(loop, adapter=lora))
        return _of(traced, case, STAND_IN, bool(known), how)


def _guessed_longest(case: Mapping[str, Any]) -> int:
    """Tokens of the longest padded batch, from the cap and the mean: its logarithm's middle."""
    cap, mean = case.get("seq_cap"), case.get("mean_tokens_per_batch")
    if cap and mean:
        return round(math.sqrt(float(cap) * 2 * float(mean) / float(case["batch"])))
    return int(cap or RAGGED)


def _rank(case: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """The rank at which LoRA on queries and values has as many trainable weights."""
    shape = Shape.of(config)
    each = sum(m.outputs + m.inputs for m in shape.matrices if m.name in ("q_proj", "v_proj"))
    return max(1, round(float(case.get("trainable") or 1e6) / (shape.layers * each)))


def _litgpt(case: Mapping[str, Any], config: Mapping[str, Any], text: str) -> Prediction:
    """A row of LitGPT's tables of 2023."""
    parallel = config["model_type"] in ("phi", "gpt_neox", "falcon")
    four: Any = "nf4-dq" if "nf4-dq" in text else "nf4" if "nf4" in text else ""
    rotary = {"phi": 0.5, "gpt_neox": 0.25}.get(str(config["model_type"]), 1.0)
    run = litgpt_2023.Run(
        batch=int(case["batch"]),
        sequence=int(case["seq"] or RAGGED),
        four_bits=four,
        rank=int(case.get("rank") or 8),
        rotary=rotary,
        parallel=parallel,
        shared_norm=config["model_type"] in ("phi", "falcon"),
    )
    traced = litgpt_2023.trace(config, run)
    plain = "adapter" not in text and "fsdp" not in text and "full" not in text
    fitting = plain and not case.get("checkpointing") and case["seq"] is not None
    if fitting:
        return _of(traced, case, RESTATED, True, "restated")
    if "adapter" in text:
        return _of(traced, case, STAND_IN, False, "LoRA stands in")
    alone = _of(traced, case, RESTATED, False, "")
    low = _weights(config, four) / _gpus(case)
    how = "between its share of the weights and one GPU without checkpointing"
    return Prediction(low * 0.95, math.sqrt(low * alone.expected), alone.high, False, how)


_DECIDES = (
    *("+ ", "same", "above", "savers", "compile", "offload"),
    *("8-bit", "paged", "in backward", "optimizer_in_bwd", "fsdp"),
)
"""Words for settings that change memory and that the plain loop has not."""


def _other(case: Mapping[str, Any], config: Mapping[str, Any], text: str) -> Prediction:
    """A plain loop with what the case says, as far as it says it."""
    technique = str(case["technique"]).lower()
    told = f"{text} {str(case.get('optimizer') or '').lower()}"
    words = [word.strip() for word in _DECIDES if word in told.replace("full + packed", "packed")]
    quantised: Literal["", "nf4", "nf4-dq"] = "nf4-dq" if "qlora" in technique else ""
    adapter = None
    if "lora" in technique:
        rank = int(case.get("rank") or 16)
        adapter = {"peft_type": "LORA", "r": rank, "target_modules": _targets(technique)}
    known = case["seq"] is not None and case["checkpointing"] is not None and not words
    loop = peer.Loop(
        batch=int(case["batch"]),
        sequence=int(case["seq"] or RAGGED),
        adapter=adapter,
        checkpointing=bool(case["checkpointing"]),
        four_bits=quantised,
        padded="packed" not in text,
        keeps_output=False,
        adapter_dtype="bfloat16" if "torchtune" in str(case["source"]) else "float32",
    )
    traced = peer.trace(config, loop)
    if not words:
        how = "traced" if known else f"traced with rows of {RAGGED} tokens"
        return _of(traced, case, TRACED if known else UNKNOWN, known, how)
    plain = _of(traced, case, TRACED, False, "")
    low = _weights(config, quantised) / _gpus(case)
    how = f"between its weights and a plain loop: {', '.join(words)}"
    return Prediction(low * 0.95, math.sqrt(low * plain.expected), plain.high, False, how)


def _weights(config: Mapping[str, Any], quantised: str) -> float:
    """Bytes of a model's weights in bf16, or with its linear layers in 4 bits."""
    shape = Shape.of(config)
    linear = shape.layers * shape.layer_weights
    return 2 * shape.parameters - (linear * 1.48 if quantised else 0)


def _gpus(case: Mapping[str, Any]) -> int:
    """Over how many GPUs weights may be spread."""
    counts = re.findall(r"(\d+) ?x ", f"{case.get('gpu') or ''} ")
    return max([int(count) for count in counts], default=1)


def _targets(text: str) -> list[str] | str:
    return ["q_proj", "v_proj"] if "q,v" in text else "all-linear"


def _of(
    traced: Traced, case: Mapping[str, Any], bounds: tuple[float, float], known: bool, how: str
) -> Prediction:
    """The prediction, by the counter that was read: bytes in use, or held by the allocator."""
    allocated, held = replay((event for _, event in traced.timeline), Cuda())
    expected = float(held if "reserved" in str(case.get("note")).lower() else allocated)
    low, high = bounds
    return Prediction(expected * low, expected, expected * high, known, how)


# --------------------------------------------------------------------------- the table


def run(cases: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """Every case with its prediction."""
    found = []
    for number, case in enumerate(cases):
        outcome = Outcome(case, predict(case))
        found.append(outcome)
        print(f"{number:3d} {_line(outcome)}", flush=True)
    return found


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Median and 90th percentile of absolute errors, and how often the upper bound was too low."""
    known = [o for o in outcomes if o.prediction is not None and o.prediction.known]
    others = [o for o in outcomes if o.prediction is not None and not o.prediction.known]
    errors = sorted(abs(o.error) for o in known)
    return {
        "known": len(known),
        "median": median(errors) if errors else None,
        "p90": errors[math.ceil(0.9 * len(errors)) - 1] if errors else None,
        "worst": errors[-1] if errors else None,
        "upper_bound_under": sum(o.over for o in known),
        "others": len(others),
        "others_within": sum(_within(o) for o in others),
        "not_language_models": len(outcomes) - len(known) - len(others),
    }


def _within(outcome: Outcome) -> bool:
    prediction = cast(Prediction, outcome.prediction)
    return prediction.low <= outcome.measured <= prediction.high


def _line(outcome: Outcome) -> str:
    case, found = outcome.case, outcome.prediction
    what = f"{str(case['model'])[-22:]:22} {str(case['technique'])[:26]:26} b{case['batch']}"
    if found is None:
        return f"{what}  {case['peak_gib']:6.2f}  not a language model"
    flag = "  ABOVE THE UPPER BOUND" if outcome.over else ""
    interval = f"{found.low / GIB:6.2f} {found.expected / GIB:6.2f} {found.high / GIB:6.2f}"
    mark = "known" if found.known else "     "
    said = f"[{interval}] {outcome.error:+7.1%} {mark} {found.how}{flag}"
    return f"{what} {case['peak_gib']:6.2f} {said}"


def main(arguments: Sequence[str]) -> int:
    """Print the table and its summary."""
    if len(arguments) != 1:
        print("usage: python -m tests.benchmarks.memory_cases FILE.json", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    outcomes = run(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    print(json.dumps(summary(outcomes), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
