"""Train every method of the installed PEFT on a tiny model, and compare what must be equal.

``python tests/verify_methods.py [METHOD ...]`` prints the table of the README.

===========  ===============================================================================
trains       the loss of the training rows falls
packed       the first losses and gradients equal those of padded rows
resume       a run that was stopped in the middle ends with the same bits
PEFT alone   PEFT loads the artifact and computes the trained model's logits
off          PEFT without the adapter computes the base model's logits
merge        the merged model computes the trained model's logits
4 bit        it trains on a base model in 4 bits
to LoRA      PEFT can convert it
===========  ===============================================================================
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Job
from tunesmith.errors import RunStopped
from tunesmith.events import Event, StepFinished
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_peft.methods import Method, find_method
from tunesmith_peft.options import PeftOptions
from tunesmith_peft.peft_source import list_methods
from tunesmith_peft.technique import Peft
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS_FILE
from tunesmith_torch.models.merging import MergeOptions, save_merged
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.adaptation import QuantizationOptions
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

# isort: split
import contextlib

from peft import PeftModel

COLUMNS = ("trains", "packed", "resume", "PEFT alone", "off", "merge", "4 bit", "to LoRA")
LEAST_DECREASE = 0.015
"""Decrease of the mean loss of an epoch, in nats, that shows learning."""
TOLERANCE = 1e-4
"""Largest difference of equal logits, as a share of the largest logit."""
_VIRTUAL = {"num_virtual_tokens": 16}
_RANKED = (
    *("adamss", "gralora", "hira", "miss", "peanut"),
    *("psoft", "pvera", "randlora", "vera"),
)
SMALL: dict[str, dict[str, Any]] = {
    **{name: {"r": 8} for name in _RANKED},
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
    "c3a": {"block_size": 16},
    "cartridge": _VIRTUAL,
    "cpt": {
        "cpt_token_ids": [*range(5, 21)],
        "opt_projection_epsilon": 50.0,
        "opt_projection_format_epsilon": 50.0,
    },
    "fourierft": {"n_frequency": 64},
    "oft": {"oft_block_size": 8},
    "p_tuning": {**_VIRTUAL, "encoder_hidden_size": 32},
    "prefix_tuning": _VIRTUAL,
    "prompt_tuning": _VIRTUAL,
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "trainable_tokens": {"token_indices": [1, 2]},
    "vblora": {"vector_length": 16, "num_vectors": 8},
    "waveft": {"n_frequency": 64},
}  # fmt: skip
"""Options for a model whose layers are smaller than PEFT's default sizes."""
RATES = {
    **dict.fromkeys(
        [
            "adalora",
            "adaption_prompt",
            "boft",
            "c3a",
            "cartridge",
            "frod",
            "hira",
            "ln_tuning",
            "prefix_tuning",
            "psoft",
            "pvera",
            "road",
            "supertuning",
            "tinylora",
            "unilora",
            "vera",
        ],
        0.2,
    ),
    **dict.fromkeys(["cpt", "ia3", "trainable_tokens"], 0.5),
    "fourierft": 0.02,
    "prompt_tuning": 1.0,
    "vblora": 0.1,
}
"""Learning rates of methods that train few or small numbers; the others use 1e-2."""


@dataclass
class Outcome:
    """The results of training with a method."""

    parameters: int = 0
    results: dict[str, str] = field(default_factory=dict)
    """``yes``, ``no`` or a reason, by column."""


@dataclass
class _Run:
    out: Path
    steps: list[StepFinished]
    artifact: Path

    @property
    def weights(self) -> bytes:
        return (self.artifact / ADAPTER_WEIGHTS_FILE).read_bytes()


def verify_method(method: str, model: Path, options: Mapping[str, Any] | None = None) -> Outcome:
    """Train a method on a model in a temporary folder, and return what holds."""
    outcome = Outcome()
    found = find_method(method)
    if found is not None and found.refused:
        outcome.results["trains"] = f"refused: {found.refused}"
        return outcome
    given = {**SMALL.get(method, {}), **(options or {})}
    config = PeftOptions(
        method=method, options=given, precision="fp32", batch_size=4, epochs=6.0,
        learning_rate=RATES.get(method, 1e-2),
    )  # fmt: skip
    with TemporaryDirectory(prefix="tunesmith-peft-") as folder:
        _verify(config, model, Path(folder), outcome)
    return outcome


def _verify(config: PeftOptions, model: Path, folder: Path, outcome: Outcome) -> None:
    run = _train(config, model, folder / "run")
    results = outcome.results
    losses = [step.loss for step in run.steps]
    results["trains"] = _say(sum(losses[-2:]) < sum(losses[:2]) - 2 * LEAST_DECREASE)
    padded = _train(config.model_copy(update={"packing": False}), model, folder / "padded")
    pairs = list(zip(run.steps[:2], padded.steps[:2], strict=True))
    results["packed"] = _say(
        all(
            abs(a.loss - b.loss) < 1e-3
            and math.isclose(a.gradient_norm, b.gradient_norm, rel_tol=0.01)
            for a, b in pairs
        )
    )
    method = find_method(config.method) or Method()
    if method.uses_forward or method.is_random:
        results["packed"] = "one row at a time" if method.uses_forward else "random"
    resumed = _train(config, model, folder / "resumed", stop_after=len(run.steps) // 2)
    results["resume"] = _say(resumed.weights == run.weights)
    ids_1T = torch.arange(3, 15)[None]
    expected, base = _logits_of_technique(config, model, run.artifact, ids_1T)
    adapted: Any = PeftModel.from_pretrained(_load(model), str(run.artifact)).eval()
    outcome.parameters = sum(_count(run.artifact))
    results["PEFT alone"] = _say(_is_close(_logits(adapted, ids_1T), expected))
    results["off"] = _try(lambda: _is_close(_off(adapted, ids_1T), base))
    results["to LoRA"] = _say(_converts(adapted))
    results["merge"] = _try(lambda: _is_close(_logits(_merged(adapted), ids_1T), expected))
    quantized = config.model_copy(update={"quantization": QuantizationOptions(), "epochs": 2.0})
    results["4 bit"] = _try(lambda: _is_same_in_4_bits(quantized, model, folder, ids_1T))


def _is_same_in_4_bits(config: PeftOptions, model: Path, folder: Path, ids_1T: Tensor) -> bool:
    """Return True if a model in 4 bits computes as with its dequantized weights and the adapter."""
    artifact = _train(config, model, folder / "4bit").artifact
    expected, _ = _logits_of_technique(config, model, artifact, ids_1T)
    quantization = Quantization.from_options(config.quantization)
    merge = MergeOptions(torch.device("cpu"), torch.float32, quantization)
    (folder / "merged").mkdir()
    try:
        save_merged(model, artifact, folder / "merged", merge, torch.float32)
    except (AttributeError, NotImplementedError, ValueError):
        return bool(torch.isfinite(expected).all())  # a method that cannot be merged
    return _is_close(_logits(_load(folder / "merged"), ids_1T), expected)


def _train(config: PeftOptions, model: Path, out: Path, *, stop_after: int | None = None) -> _Run:
    steps: list[StepFinished] = []
    out.mkdir()

    def emit(event: Event) -> None:
        if isinstance(event, StepFinished):
            steps.append(event)
            if len(steps) == stop_after:
                raise RunStopped("stopped in the middle")

    job: Job[Any] = Job(
        config=config, model=model, train=ROWS, validation=(), out=out, seed=3, device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"), emit=emit, technique="peft",
    )  # fmt: skip
    technique = Peft(config)
    if stop_after is not None:
        with contextlib.suppress(RunStopped):
            technique.train(job)
    return _Run(out, steps, technique.train(job).path)


ROWS = tuple(
    Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two three")
    for n in range(8)
)


def _logits_of_technique(
    config: PeftOptions, model: Path, artifact: Path, ids_1T: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits that the toolkit computes with the adapter, and without one."""
    text_model: Any = Peft(config).open(model, artifact, device="cpu")
    return _logits(text_model.model, ids_1T), _logits(_load(model), ids_1T)


def _load(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


@torch.no_grad()
def _logits(model: Any, ids_1T: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids_1T, use_cache=False).logits
    return logits[:, -ids_1T.shape[1] :]


def _off(adapted: Any, ids_1T: Tensor) -> Tensor:
    with adapted.disable_adapter():
        return _logits(adapted, ids_1T)


def _merged(adapted: Any) -> Any:
    return copy.deepcopy(adapted).merge_and_unload()


def _converts(adapted: Any) -> bool:
    check = getattr(adapted, "supports_lora_conversion", None)
    return bool(check and check())


def _count(artifact: Path) -> list[int]:
    from safetensors.torch import load_file

    return [tensor.numel() for tensor in load_file(artifact / ADAPTER_WEIGHTS_FILE).values()]


def _is_close(first: Tensor, second: Tensor) -> bool:
    return float((first - second).abs().max()) <= TOLERANCE * float(second.abs().max())


def _try(check: Callable[[], bool]) -> str:
    try:
        return _say(check())
    except Exception:  # whatever a method raises that cannot do this
        return "no"


def _say(holds: bool) -> str:
    return "yes" if holds else "no"


def main(names: Sequence[str]) -> None:
    """Print the table as Markdown."""
    warnings.simplefilter("ignore")  # PEFT's advice on options
    heads = ["method", "values", *COLUMNS]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in names or [*list_methods()]:
        outcome = verify_method(name, get_tiny_model_folder())
        found = [outcome.results.get(column, "") for column in COLUMNS]
        print(f"| {' | '.join([name, str(outcome.parameters or ''), *found])} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
