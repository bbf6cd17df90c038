"""Measure the peak memory of runs on this machine, and compare it with the planner's estimate.

``python -m tests.benchmarks.memory_here MODEL_FOLDER [LIST]`` runs every combination of a list in a
separate process, with the techniques that a run file names, and prints predicted and measured peak
resident memory. Lists: ``built`` (the planner's authors knew these measurements), ``fresh`` and
``stages`` (chosen before they were measured, and nothing was fitted to them; ``stages`` are
complete RLHF trainings), ``ragged`` (rows of many lengths), ``phases`` (only loading, evaluation or
merging). Other processes do not disturb the measurement.

``precision`` is ``auto``, so the results depend on the machine's bf16 arithmetic. The few
combinations in ``bf16`` are small, because it may be emulated.
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

from tunesmith.config.run_file import set_value
from tunesmith.contracts import Job, Technique
from tunesmith.estimates import EstimateRequest, PhaseMemory
from tunesmith.options import Options, from_table
from tunesmith.records import Completion, Message, Preference, Record, UnpairedPreference

MIB = 2**20
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")
"""Words that are one token each after a space."""
TEMPLATE_TOKENS = 40
"""Tokens of the chat template with its system prompt; a row has this many words less."""
Phase = Literal["train", "load", "evaluate"]


@dataclass(frozen=True)
class Combination:
    """One run to measure."""

    technique: str
    sequence: int
    """Tokens per row, about."""
    rows: int
    """Rows per micro-batch."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the technique by dotted key."""
    phase: Phase = "train"
    steps: int = 2
    ragged: bool = False
    """Rows have all lengths up to ``sequence``, and ``rows`` of the longest fill a micro-batch."""

    def table(self) -> dict[str, Any]:
        """Return the options as in a run file's ``[technique]`` table."""
        batch_size = self.options.get("batch_size", self.rows)
        sizes = {"batch_size": batch_size, "micro_batch_tokens": self.sequence * self.rows}
        common = {**sizes, "max_steps": self.steps, "max_length": 4096}
        if self.technique != "rlhf":
            return _nested({**common, **self.options})
        in_all_stages = ("adapt", "gradient_checkpointing")
        common |= {key: self.options[key] for key in in_all_stages if key in self.options}
        reward = {**common, "gate.accept_weak": True}
        quick = {"loss.mask_truncated_completions": False, "monitor.rows": 2}
        policy = {**common, **quick, **self.options}
        return {"supervised": common, "reward": _nested(reward), "policy": _nested(policy)}

    def records(self) -> list[Record]:
        """Return rows for all steps, of equal or log-normal lengths; half of each has loss."""
        rng = Random(0)
        make = _completion
        if self.technique in ("preference", "rlhf"):
            make = _labeled if self.options.get("loss.type") == "kto" else _pair
        rows = self.steps * self.options.get("batch_size", self.rows)
        share = [rng.lognormvariate(-1.2, 0.7) if self.ragged else 1.0 for _ in range(rows)]
        word_counts = [
            max(4, round(min(part, 1.0) * self.sequence) - TEMPLATE_TOKENS) for part in share
        ]
        return [make(rng, words, n) for n, words in enumerate(word_counts)]


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of options with dotted keys, such as ``adapter.rank``."""
    table: dict[str, Any] = {}
    for key, value in options.items():
        set_value(table, key, value, where=key)
    return table


def _text(rng: Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def _completion(rng: Random, words: int, number: int) -> Record:
    prompt, answer = _text(rng, words // 2), _text(rng, words - words // 2)
    return Completion(source=f"row {number}", prompt=prompt, completion=answer)


def _pair(rng: Random, words: int, number: int) -> Record:
    prompt = (Message("user", _text(rng, words // 2)),)
    chosen, rejected = _text(rng, words // 4), _text(rng, words // 4)
    return Preference(source=f"row {number}", prompt=prompt, chosen=chosen, rejected=rejected)


def _labeled(rng: Random, words: int, number: int) -> Record:
    prompt, answer = (Message("user", _text(rng, words // 2)),), _text(rng, words // 2)
    return UnpairedPreference(
        source=f"row {number}", prompt=prompt, completion=answer, label=number % 2 > 0
    )


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
        Combination("lora", 200, 3, {"adapter.rank": 64, "adapter.alpha": 128.0}),
        Combination("lora", 1536, 1, ON),
        Combination("lora", 200, 3, {"packing": False}),
        Combination("lora", 300, 2, {"fused_kernels": False}),
        Combination("lora", 128, 12, ON),
        Combination("full", 160, 3, {"packing": False, **ON}),
        Combination("full", 96, 5, {"batch_size": 10}),
        Combination("full", 192, 2, {"optimizer.name": "adamw-8bit"}),
        Combination("qlora", 160, 3, {"quantization.bits": 8, **ON}),
        Combination("qlora", 224, 3, {"quantization.bits": 8, **OFF}),
        Combination("qlora", 350, 3, {"quantization.double_quantization": False, **ON}),
        Combination("preference", 192, 4),
        Combination("preference", 128, 3, {"adapt": "full", **ON}),
        Combination("preference", 128, 4, {"adapt": "qlora", "loss.type": "simpo"}),
        Combination("lora", 80, 3, {**BF16, **ON}),
        Combination("full", 72, 2, {**BF16, "optimizer.name": "adamw-8bit"}),
    ),
    "ragged": (
        Combination("lora", 700, 6, {"batch_size": 16}, steps=12, ragged=True),
        Combination("lora", 400, 5, {"batch_size": 12, **ON}, steps=12, ragged=True),
        Combination("full", 300, 4, {"batch_size": 8}, steps=12, ragged=True),
        Combination("qlora", 300, 4, {"batch_size": 6, **OFF}, steps=8, ragged=True),
        Combination("preference", 500, 4, {"batch_size": 8}, steps=12, ragged=True),
    ),
    "labeled": (
        Combination("preference", 192, 6, {"loss.type": "kto"}),
        Combination("preference", 128, 4, {"loss.type": "kto", "adapt": "full", **ON}),
        Combination(
            "preference", 400, 4, {"loss.type": "kto", "batch_size": 8}, steps=6, ragged=True
        ),
    ),
    "stages": (
        Combination(
            "rlhf",
            256,
            4,
            {"algorithm": "rloo", "generation.num_generations": 4, "generation.max_new_tokens": 24},
        ),
        Combination(
            "rlhf",
            128,
            4,
            {"algorithm": "grpo", "generation.num_generations": 8, "generation.max_new_tokens": 64},
        ),
        Combination(
            "rlhf",
            192,
            2,
            {
                "algorithm": "ppo",
                "generation.num_generations": 2,
                "generation.max_new_tokens": 48,
                **ON,
            },
        ),
        Combination(
            "rlhf", 96, 2, {"algorithm": "grpo", "generation.max_new_tokens": 16, "adapt": "full"}
        ),
        Combination(
            "rlhf", 128, 3, {"algorithm": "rloo", "generation.max_new_tokens": 24, "adapt": "qlora"}
        ),
    ),
    "phases": (
        Combination("lora", 64, 8, phase="load"),
        Combination("qlora", 64, 8, phase="load"),
        Combination("qlora", 64, 8, {"quantization.bits": 8}, phase="load"),
        Combination("lora", 64, 8, BF16, phase="load"),
        Combination("full", 192, 8, phase="evaluate"),
        Combination("lora", 64, 24, phase="evaluate"),
        Combination("qlora", 128, 8, phase="evaluate"),
        Combination("qlora", 128, 8, {"quantization.bits": 8}, phase="evaluate"),
    ),
}
MAX_NEW_TOKENS = 32
"""Tokens of an answer when evaluation is measured: more would take time, not memory."""


def main(arguments: Sequence[str]) -> int:
    """Run a list of combinations, or, given a combination as JSON, this one in this process."""
    if len(arguments) == 3:
        model, combination_json, out = arguments
        combination = Combination(**json.loads(combination_json))
        print(_measure_here(Path(model), combination, Path(out)))
        return 0
    if not 1 <= len(arguments) <= 2 or arguments[-1:] == ["--help"]:
        names = "|".join(LISTS)
        print(f"usage: python -m tests.benchmarks.memory_here FOLDER [{names}]", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    folder = Path(arguments[0])
    errors, over = [], 0
    for combination, measured in _measure_all(folder, LISTS[(*arguments, "built")[1]]):
        memory = _predict(folder, combination)
        errors.append(abs(memory.expected / measured - 1))
        over += measured > memory.high
        print(_line(combination, memory, measured), flush=True)
    print(f"median error {median(errors):.1%}, worst {max(errors):.1%}, over {over}")
    return 0


def _line(combination: Combination, memory: PhaseMemory, measured: int) -> str:
    own = combination.options.items()
    shown = [f"{k}={str(v).lower()}" for k, v in own if k not in ("batch_size", "adapter.alpha")]
    shape = f"{combination.sequence} x {combination.rows}{'~' if combination.ragged else ''}"
    what = f"{combination.technique:10} {combination.phase:8} {shape:8} {' '.join(shown):34}"
    low, middle, high = (n / MIB for n in (memory.low, memory.expected, memory.high))
    flag = "  ABOVE THE UPPER BOUND" if measured > memory.high else ""
    interval = f"[{low:6.0f} {middle:6.0f} {high:6.0f}]"
    return (
        f"{what} {measured / MIB:6.0f} MiB {interval} {memory.expected / measured - 1:+6.1%}{flag}"
    )


def _measure_all(model: Path, chosen: Sequence[Combination]) -> Iterator[tuple[Combination, int]]:
    """Yield each combination's peak, measured in a separate process."""
    for combination in chosen:
        with tempfile.TemporaryDirectory() as out:
            printed = _run_process(model, combination, out)
            if printed is not None:
                yield combination, int(printed)


def _run_process(model: Path, combination: Combination, out: str) -> str | None:
    combination_json, module = json.dumps(asdict(combination)), "tests.benchmarks.memory_here"
    command = [sys.executable, "-W", "ignore", "-m", module, str(model), combination_json, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        print(f"{combination}: {done.stderr[-300:]}", file=sys.stderr)
        return None
    return done.stdout.splitlines()[-1]


def _find_offer(name: str) -> Any:
    from tunesmith_plugins.techniques.full.offer import FULL
    from tunesmith_plugins.techniques.lora.offer import LORA
    from tunesmith_plugins.techniques.preference.offer import PREFERENCE
    from tunesmith_plugins.techniques.qlora.offer import QLORA
    from tunesmith_plugins.techniques.rlhf.offer import RLHF

    return {offer.name: offer for offer in (FULL, LORA, QLORA, PREFERENCE, RLHF)}[name]


def _predict(model: Path, combination: Combination) -> PhaseMemory:
    """Return the last estimate of the phases that the process runs; training includes loading."""
    offer, records = _find_offer(combination.technique), combination.records()
    request = EstimateRequest(
        config=json.loads((model / "config.json").read_text(encoding="utf-8")),
        tokenizer=model,
        train=records,
        test=records,
        assumed=None,
        device="cpu",
    )
    *_, last = offer.estimate(from_table(offer.config, combination.table()), request)
    if combination.phase == "train":
        phases = [last.memory[name] for name in last.memory if name != "evaluate"]
    else:
        phases = [last.memory["load"], last.memory[combination.phase]]
    worst: PhaseMemory = max(phases, key=lambda memory: memory.expected)
    high = max(memory.high for memory in phases)
    return replace(worst, high=high)


# --------------------------------------------------------------------------- one process each


def _measure_here(model: Path, combination: Combination, out: Path) -> int:
    """Run the combination, and return this process's peak."""
    import torch

    from tunesmith_torch.runtime.memory import peak_bytes

    offer = _find_offer(combination.technique)
    options = from_table(offer.config, combination.table())
    technique: Technique = offer.build(options)
    match combination.phase:
        case "train":
            _train(technique, options, model, combination, out)
        case "load":
            technique.open(model, None, device="cpu")
        case "evaluate":
            _evaluate(technique, model, combination)
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
        validation=records[:2] if combination.technique == "rlhf" else (),
        out=out,
        seed=0,
        device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"),
        emit=lambda event: None,
        technique=combination.technique,
    )
    technique.train(job)


def _evaluate(technique: Technique, model: Path, combination: Combination) -> None:
    """Generate an answer to every row and score it, as evaluators do."""
    opened = technique.open(model, None, device="cpu")
    rows = [record for record in combination.records() if isinstance(record, Completion)]
    prompts = [(Message("user", row.prompt),) for row in rows]
    opened.generate(prompts, MAX_NEW_TOKENS)
    opened.score(prompts, [row.completion for row in rows])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
