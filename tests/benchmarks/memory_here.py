"""Peak memory of runs on this machine, beside what the planner says of them.

``python -m tests.benchmarks.memory_here MODEL_FOLDER [LIST]`` carries out every combination of a
list in a process of its own, with the very techniques that a run file names, and prints predicted
and measured peak resident memory. Lists: ``built`` (the planner was made with them in view),
``fresh`` and ``stages`` (they were set down before they were measured, and nothing was fitted to
them; ``stages`` are whole RLHF trainings), ``ragged`` (rows of many lengths), ``phases`` (loading,
evaluating and merging alone).
Other processes do not disturb it.

``precision`` is ``auto``, so what is measured depends on whether the machine has bf16 arithmetic;
the few combinations in ``bf16`` are small, because it may be emulated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Literal

from tunesmith.contracts import EstimateRequest, Job, Memory, Technique
from tunesmith.options import Options, from_table
from tunesmith.records import Completion, Message, Preference, Record

MIB = 2**20
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")
"""Each is one token behind a space."""
FRAME = 40
"""Tokens of a template with its system prompt, which are taken off the words."""
Phase = Literal["train", "load", "evaluate", "merge"]


@dataclass(frozen=True)
class Combination:
    """One run: rows of about so many tokens, so many of them at once."""

    technique: str
    sequence: int
    rows: int
    options: Mapping[str, Any] = field(default_factory=dict)
    phase: Phase = "train"
    steps: int = 2
    ragged: bool = False
    """Rows of all lengths up to ``sequence``; ``rows`` of the longest are at once at most."""

    def table(self) -> dict[str, Any]:
        """Its options as a run file has them."""
        batch = self.options.get("batch", self.rows)
        at_once = {"batch_size": batch, "micro_batch_tokens": self.sequence * self.rows}
        common = {**at_once, "max_steps": self.steps, "max_length": 4096}
        if self.technique != "rlhf":
            return {**common, **self.options}
        for_all = ("adapt", "gradient_checkpointing")
        common |= {key: self.options[key] for key in for_all if key in self.options}
        policy = {**common, "mask_truncated_completions": False, "monitor_rows": 2, **self.options}
        return {"supervised": common, "reward": {**common, "accept_weak": True}, "policy": policy}

    def records(self) -> list[Record]:
        """Rows for all steps, of one length or, where ragged, log-normal; half of it with loss."""
        source = Random(0)
        pairs = self.technique in ("preference", "rlhf")
        rows = self.steps * self.options.get("batch", self.rows)
        share = [source.lognormvariate(-1.2, 0.7) if self.ragged else 1.0 for _ in range(rows)]
        wanted = [max(4, round(min(part, 1.0) * self.sequence) - FRAME) for part in share]
        return [_record(source, words, n, pairs) for n, words in enumerate(wanted)]


def _record(source: Random, words: int, number: int, pair: bool) -> Record:
    def text(count: int) -> str:
        return " ".join(source.choices(WORDS, k=count))

    if not pair:
        prompt, answer = text(words // 2), text(words - words // 2)
        return Completion(source=f"row {number}", prompt=prompt, completion=answer)
    said = (Message("user", text(words // 2)),)
    chosen, rejected = text(words // 4), text(words // 4)
    return Preference(source=f"row {number}", prompt=said, chosen=chosen, rejected=rejected)


ON, OFF, BF16 = (
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": False},
    {"precision": "bf16"},
)
LISTS: dict[str, tuple[Combination, ...]] = {
    "built": (
        Combination("lora", 512, 8, ON),
        Combination("lora", 256, 4),
        Combination("qlora", 256, 4, ON),
        Combination("full", 256, 2),
        Combination("qlora", 256, 3, OFF),
        Combination("full", 256, 4, ON),
        Combination("lora", 512, 2),
        Combination("qlora", 1024, 1, ON),
        Combination("full", 512, 1),
        Combination("full", 128, 4, {"batch_size": 8}),
        Combination("lora", 128, 2, BF16),
        Combination("qlora", 128, 2, {**ON, **BF16}),
        Combination("full", 96, 2, BF16),
    ),
    "fresh": (
        Combination("lora", 384, 3),
        Combination("lora", 200, 3, {"rank": 64, "alpha": 128.0}),
        Combination("lora", 1536, 1, ON),
        Combination("lora", 200, 3, {"packing": False}),
        Combination("lora", 300, 2, {"fused_kernels": False}),
        Combination("lora", 128, 12, ON),
        Combination("full", 160, 3, {"packing": False, **ON}),
        Combination("full", 96, 5, {"batch_size": 10}),
        Combination("full", 192, 2, {"optimizer": "adamw-8bit"}),
        Combination("qlora", 160, 3, {"bits": 8}),
        Combination("qlora", 224, 3, {"bits": 8, **OFF}),
        Combination("qlora", 350, 3, {"double_quantization": False}),
        Combination("preference", 192, 4),
        Combination("preference", 128, 3, {"adapt": "full", **ON}),
        Combination("preference", 128, 4, {"adapt": "qlora", "loss": "simpo"}),
        Combination("lora", 80, 3, {**BF16, **ON}),
        Combination("full", 72, 2, {**BF16, "optimizer": "adamw-8bit"}),
    ),
    "ragged": (
        Combination("lora", 700, 6, {"batch_size": 16}, steps=12, ragged=True),
        Combination("lora", 400, 5, {"batch_size": 12, **ON}, steps=12, ragged=True),
        Combination("full", 300, 4, {"batch_size": 8}, steps=12, ragged=True),
        Combination("qlora", 300, 4, {"batch_size": 6, **OFF}, steps=8, ragged=True),
        Combination("preference", 500, 4, {"batch_size": 8}, steps=12, ragged=True),
    ),
    "stages": (
        Combination(
            "rlhf", 256, 4, {"algorithm": "rloo", "num_generations": 4, "max_new_tokens": 24}
        ),
        Combination(
            "rlhf", 128, 4, {"algorithm": "grpo", "num_generations": 8, "max_new_tokens": 64}
        ),
        Combination(
            "rlhf", 192, 2, {"algorithm": "ppo", "num_generations": 2, "max_new_tokens": 48, **ON}
        ),
        Combination("rlhf", 96, 2, {"algorithm": "grpo", "max_new_tokens": 16, "adapt": "full"}),
        Combination("rlhf", 128, 3, {"algorithm": "rloo", "max_new_tokens": 24, "adapt": "qlora"}),
    ),
    "phases": (
        Combination("lora", 64, 8, phase="load"),
        Combination("qlora", 64, 8, phase="load"),
        Combination("qlora", 64, 8, {"bits": 8}, phase="load"),
        Combination("lora", 64, 8, BF16, phase="load"),
        Combination("full", 192, 8, phase="evaluate"),
        Combination("lora", 64, 24, phase="evaluate"),
        Combination("qlora", 128, 8, phase="evaluate"),
        Combination("qlora", 128, 8, {"bits": 8}, phase="evaluate"),
        Combination("lora", 64, 8, phase="merge"),
        Combination("qlora", 64, 8, phase="merge"),
        Combination("qlora", 64, 8, {"bits": 8}, phase="merge"),
    ),
}
ANSWER = 32
"""Tokens of an answer where evaluation is measured: what is longer takes time, not memory."""


def main(arguments: Sequence[str]) -> int:
    """Carry out a list, or, called with a combination as JSON, that one alone."""
    if len(arguments) == 3:
        model, one, out = arguments
        print(_measure(Path(model), Combination(**json.loads(one)), Path(out)))
        return 0
    if not 1 <= len(arguments) <= 2 or arguments[-1:] == ["--help"]:
        names = "|".join(LISTS)
        print(f"usage: python -m tests.benchmarks.memory_here FOLDER [{names}]", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    folder = Path(arguments[0])
    errors, over = [], 0
    for combination, measured in _measured(folder, LISTS[(*arguments, "built")[1]]):
        memory = _predicted(folder, combination)
        errors.append(abs(memory.expected / measured - 1))
        over += measured > memory.high
        print(_line(combination, memory, measured), flush=True)
    print(f"median error {median(errors):.1%}, worst {max(errors):.1%}, over {over}")
    return 0


def _line(combination: Combination, memory: Memory, measured: int) -> str:
    own = combination.options.items()
    said = [f"{k}={str(v).lower()}" for k, v in own if k not in ("batch", "alpha")]
    shape = f"{combination.sequence} x {combination.rows}{'~' if combination.ragged else ''}"
    what = f"{combination.technique:10} {combination.phase:8} {shape:8} {' '.join(said):34}"
    low, middle, high = (n / MIB for n in (memory.low, memory.expected, memory.high))
    flag = "  ABOVE THE UPPER BOUND" if measured > memory.high else ""
    interval = f"[{low:6.0f} {middle:6.0f} {high:6.0f}]"
    return (
        f"{what} {measured / MIB:6.0f} MiB {interval} {memory.expected / measured - 1:+6.1%}{flag}"
    )


def _measured(model: Path, chosen: Sequence[Combination]) -> Iterator[tuple[Combination, int]]:
    """Each combination's peak, from a process of its own."""
    for combination in chosen:
        with tempfile.TemporaryDirectory() as out:
            if combination.phase == "merge":
                _process(model, replace(combination, phase="train"), out)
            printed = _process(model, combination, out)
            if printed is not None:
                yield combination, int(printed)


def _process(model: Path, combination: Combination, out: str) -> str | None:
    one, module = json.dumps(asdict(combination)), "tests.benchmarks.memory_here"
    command = [sys.executable, "-W", "ignore", "-m", module, str(model), one, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        print(f"{combination}: {done.stderr[-300:]}", file=sys.stderr)
        return None
    return done.stdout.splitlines()[-1]


def _offer(name: str) -> Any:
    from tunesmith_plugins.techniques.full.offer import FULL
    from tunesmith_plugins.techniques.lora.offer import LORA
    from tunesmith_plugins.techniques.preference.offer import PREFERENCE
    from tunesmith_plugins.techniques.qlora.offer import QLORA
    from tunesmith_plugins.techniques.rlhf.offer import RLHF

    return {offer.name: offer for offer in (FULL, LORA, QLORA, PREFERENCE, RLHF)}[name]


def _predicted(model: Path, combination: Combination) -> Memory:
    """The best estimate of what the process does: a training loads first."""
    offer, records = _offer(combination.technique), combination.records()
    request = EstimateRequest(
        config=json.loads((model / "config.json").read_text(encoding="utf-8")),
        tokenizer=model,
        train=records,
        heldout=records,
        assumed=None,
        device="cpu",
    )
    *_, last = offer.estimate(from_table(offer.config, combination.table()), request)
    if combination.phase == "train":
        phases = [last.memory[name] for name in last.memory if name not in ("evaluate", "merge")]
    else:
        phases = [last.memory["load"], last.memory[combination.phase]]
    worst: Memory = max(phases, key=lambda memory: memory.expected)
    high = max(memory.high for memory in phases)
    return replace(worst, high=high)


# --------------------------------------------------------------------------- one process each


def _measure(model: Path, combination: Combination, out: Path) -> int:
    """Do what the combination says; this process's peak."""
    import torch

    from tunesmith_torch.runtime.memory import peak_bytes

    offer = _offer(combination.technique)
    options = from_table(offer.config, combination.table())
    technique: Technique = offer.build(options)
    match combination.phase:
        case "train":
            _train(technique, options, model, combination, out)
        case "load":
            technique.open(model, None, device="cpu")
        case "evaluate":
            _evaluate(technique, model, combination)
        case "merge":
            _merge(options, model, combination, out)
    return peak_bytes(torch.device("cpu"))


def _train(
    technique: Technique, options: Options, model: Path, combination: Combination, out: Path
) -> None:
    from tunesmith.storage import Checkpoints

    records = combination.records()
    job = Job(
        config=options,
        model=model,
        train=records,
        heldout=records[:2] if combination.technique == "rlhf" else (),
        out=out,
        seed=0,
        device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"),
        emit=lambda event: None,
        technique=combination.technique,
    )
    technique.train(job)


def _evaluate(technique: Technique, model: Path, combination: Combination) -> None:
    """Answers and scores of all rows, as evaluators ask for them."""
    opened = technique.open(model, None, device="cpu")
    rows = [record for record in combination.records() if isinstance(record, Completion)]
    prompts = [(Message("user", row.prompt),) for row in rows]
    opened.generate(prompts, ANSWER)
    opened.score(prompts, [row.completion for row in rows])


def _merge(options: Any, model: Path, combination: Combination, out: Path) -> None:
    import torch

    from tunesmith_torch.models.merging import Merging, merge_adapter
    from tunesmith_torch.models.quantization import Quantization
    from tunesmith_torch.options.training import QloraOptions
    from tunesmith_torch.runtime.device import pick_precision

    device = torch.device("cpu")
    quantization = Quantization.of(options) if isinstance(options, QloraOptions) else None
    how = Merging(device, pick_precision(device, options.precision).dtype, quantization)
    rows = [record for record in combination.records() if isinstance(record, Completion)]
    prompts = [(Message("user", row.prompt),) for row in rows]
    merge_adapter(model, out / "adapter", out / "merged", prompts, how)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
