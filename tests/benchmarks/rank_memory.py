"""Predicted and measured memory of each process that trains with others.

``python -m tests.benchmarks.rank_memory --ranks 1 2 4`` trains random models of several shapes for
two steps, on copies and with sharded weights, over gloo processes on a CPU. It prints for the
process with the most memory what the planner predicts and what was measured:

stored    bytes of weights and optimizer state between two steps
step      most bytes of tensors in the second step, as torch's profiler sees them, by address
resident  most resident memory in it, libraries included
peak      most resident memory from loading to the saved artifact
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures" / "python"))

import rank_cases
import torch
from tables import build
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.distributed import rank, world_size
from tunesmith.estimates import Estimate, EstimateRequest
from tunesmith.events import StepFinished
from tunesmith.records import Completion
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.memory_estimate import analytic, techniques
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.runtime import machine, sharding
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer
from tunesmith_torch.training.trainer import train

MIB = 2**20
STEPS = 2
SHAPES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024},
    "deep": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12,
             "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096},
    "wide": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 2,
             "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 32768},
}  # fmt: skip
"""Random Llamas: of 0.2 million weights, and of 40 million in layers or in embeddings."""
UNTRACKED = ("framework", "fragmentation")


@dataclass(frozen=True)
class Training:
    """A training to predict and to measure."""

    shape: str
    technique: str
    parallel: str
    ranks: int

    def options(self) -> Any:
        """Return the options of the technique."""
        keys = {**rank_cases.BASE_OPTIONS, "epochs": 100, "max_steps": STEPS, "batch_size": 4}
        keys |= {"micro_batch_tokens": 128, "parallel": self.parallel}
        config = FullOptions if self.technique == "full" else LoraOptions
        return build(config, **keys)

    def run(self, folder: Path) -> list[dict[str, int]]:
        """Train; return what each rank has measured."""
        out = folder / "-".join((self.shape, self.technique, self.parallel, str(self.ranks)))
        out.mkdir()
        module = [__spec__.name, "--worker", str(folder), str(out)]
        torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={self.ranks}"]
        launcher = torchrun if self.ranks > 1 else []
        what = [self.shape, self.technique, self.parallel]
        command = [sys.executable, "-W", "ignore", *launcher, "-m", *module, *what]
        subprocess.run(command, check=True, capture_output=True)
        return [json.loads((out / f"{n}.json").read_text()) for n in range(self.ranks)]


def rows() -> tuple[Completion, ...]:
    """Return rows of equal length, about 40 tokens each."""
    return tuple(
        Completion(source=f"row {n}", prompt=f"{n % 10} question", completion="ten " * 16)
        for n in range(16)
    )


def save_model(folder: Path, shape: Mapping[str, int]) -> None:
    """Save a random model in bf16, so that training in fp32 does not map its weights from disk."""
    config = LlamaConfig(
        **shape, max_position_embeddings=1024, tie_word_embeddings=True, eos_token_id=2
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)


# --------------------------------------------------------------------------- predicted


def predict(training: Training, model: Path) -> tuple[dict[str, int], Estimate]:
    """Return the predicted bytes of a process, by the names of what is measured."""
    request = EstimateRequest(
        config=json.loads((model / "config.json").read_text()),
        tokenizer=model,
        train=rows(),
        test=(),
        assumed=None,
        device="cpu",
        processes=training.ranks,
    )
    options = training.options()
    *_, estimate = techniques.estimate_supervised(options, request)
    step = estimate.memory["train"]
    in_training = [m for name, m in estimate.memory.items() if name != "evaluate"]
    setting = EstimateSetting.from_request(options, request)
    return {
        "stored": sum(analytic.stored_memory(setting).values()),
        "step": sum(size for name, size in step.components.items() if name not in UNTRACKED),
        "resident": step.expected,
        "peak": max(memory.expected for memory in in_training),
    }, estimate


# --------------------------------------------------------------------------- measured


class MemoryLog(list[Any]):
    """The events of a training; at the end of each step it reads this process's memory."""

    def __init__(self, case: rank_cases.Case) -> None:
        super().__init__()
        self.case = case
        self.stored: list[int] = []
        self.times: list[int] = []
        self.peaks: list[int] = []
        """Peak resident memory up to the end of each step, since the one before."""

    def append(self, event: Any) -> None:
        super().append(event)
        if not isinstance(event, StepFinished) or self.case.adapted is None:
            return
        self.times.append(time.time_ns())
        self.peaks.append(machine.peak_resident_memory())
        self.stored.append(_stored_bytes(self.case.adapted.model))
        machine.reset_peak_resident_memory()


def measure(model: Path, out: Path, training: Training) -> None:
    """Train as this rank, and write its memory."""
    torch.set_num_threads(1)
    resident = _train(out / "resident", model, training)
    last = machine.peak_resident_memory()
    # Once more: the profiler, which counts tensors, takes memory itself.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        log = _train(out / "profiled", model, training)
    result = {
        "stored": log.stored[0],
        "step": log.stored[0] + _growth_of_tensors(profiled, log.times[0], log.times[1]),
        "resident": max(resident.peaks[1:]),
        "peak": max(*resident.peaks, last),
    }
    (out / f"{rank()}.json").write_text(json.dumps(result))


def _train(folder: Path, model: Path, training: Training) -> MemoryLog:
    case = rank_cases.Case(folder, model)
    log = case.events = MemoryLog(case)
    train(case.job(training.options(), rows()), rank_cases.RecordingTask(case))
    return log


def _growth_of_tensors(profiled: Any, begin: int, end: int) -> int:
    """Return the most bytes that torch allocated between two times, in nanoseconds.

    They are counted by address: gloo frees blocks on threads of its own, which the profiler does
    not see. Such a block counts until another one has its address.
    """
    found, left = [], [*profiled.profiler.kineto_results.experimental_event_tree()]
    while left:
        event = left.pop()
        left += event.children
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields))
    live: dict[int, tuple[int, bool]] = {}
    growth = peak = 0
    for when, block in sorted(found, key=lambda each: each[0]):
        size, is_new = live.pop(block.ptr, (0, False))
        if begin <= when <= end:
            # An older block whose address is used again was freed unseen, perhaps before.
            growth -= size if is_new or block.alloc_size < 0 else 0
            growth += max(0, block.alloc_size)
            peak = max(peak, growth)
        if block.alloc_size > 0:
            live[block.ptr] = block.alloc_size, when >= begin
    return peak


def _stored_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of this rank's parts of the weights and of the optimizer's state."""
    tensors: list[Any] = list(model.parameters())
    for found in gc.get_objects():
        if isinstance(found, torch.optim.Optimizer):
            tensors += [value for state in found.state.values() for value in state.values()]
    return sum(sharding.get_local_part(tensor).nbytes for tensor in tensors)


def main() -> None:
    """Print the table, or train as one of the ranks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES], choices=[*SHAPES])
    parser.add_argument("--techniques", nargs="+", default=["full", "lora"])
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, out, shape, technique, parallel = options.worker
        training = Training(shape, technique, parallel, world_size())
        measure(Path(folder) / shape, Path(out), training)
        return
    print("| model | technique | processes | stored | step | resident | peak |")
    print("|---" * 7 + "|")
    with TemporaryDirectory() as name:
        for shape in options.shapes:
            save_model(Path(name) / shape, SHAPES[shape])
            for training in _trainings(shape, options.techniques, options.ranks):
                print(_line(training, Path(name)), flush=True)


def _trainings(shape: str, used: list[str], ranks: list[int]) -> Iterator[Training]:
    for technique in used:
        for count in ranks:
            for parallel in ("data", "sharded") if count > 1 else ("data",):
                yield Training(shape, technique, parallel, count)


def _line(training: Training, folder: Path) -> str:
    predicted, _ = predict(training, folder / training.shape)
    found = training.run(folder)
    most = {name: max(each[name] for each in found) for name in predicted}
    cells = [f"{predicted[k] / MIB:.1f} / {most[k] / MIB:.1f}" for k in predicted]
    how = f"{training.ranks}" + (f", {training.parallel}" if training.ranks > 1 else "")
    return "| " + " | ".join((training.shape, training.technique, how, *cells)) + " |"


if __name__ == "__main__":
    main()
