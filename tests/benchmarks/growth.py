"""Measure how time and memory grow with rows, tokens, parameters and runs, and fit exponents.

``python -m tests.benchmarks.growth TABLE... [--largest]`` measures some of the tables, or all.
Tables: ``check``, ``run``, ``steps``, ``parameters``, ``runs``.
Each cost is that of a new process. The smallest size of each table gives the fixed cost, such as
imports. With ``c`` the cost at ``n`` rows beside the fixed cost, the exponent is the slope of
``log c`` over ``log n`` between the two largest sizes: 1 for a linear cost, 2 for a quadratic one.
``--largest`` measures ten times larger files and ten times as many runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.startup import REPORTER
from tests.benchmarks.step_profile import Steps
from tests.benchmarks.texts import make_rows_of_words
from tests.benchmarks.training import ROOT
from tests.benchmarks.work import S40, SEED, SHAPES, TOY, build_model

ROUNDS = 2
STEP_TOKENS = 4096
RUN = """[model]
base = "toy"
[data]
use = "jsonl"
train = "{name}"
test_size = 20
[baselines]
use = {baselines}
[technique]
use = "lora"
batch_size = 8
max_steps = 1
[plugins]
files = ["first_step.py"]
[[evaluators]]
use = "{evaluator}"
[[reporters]]
use = "first-step"
"""


class Cost(NamedTuple):
    """The least CPU seconds and the least peak memory of some rounds."""

    seconds: float
    mb: float


def measure(command: Sequence[Any], folder: Path) -> Cost:
    """Run a command some times, each in a new process.

    Raises:
        RuntimeError: the command failed.
    """
    costs = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *map(str, command)], cwd=folder, stdout=output, stderr=output
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            if process.returncode:
                raise RuntimeError(f"{command} failed: {output.read()[-2000:]}")
        costs.append(Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    return Cost(*map(min, zip(*costs, strict=True)))


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Return the exponent between the two largest sizes, without the cost of the smallest."""
    few, many = (cost - costs[0] for cost in costs[-2:])
    if few <= 0 or many <= 0:
        return 0.0  # no measurable growth
    return math.log(many / few) / math.log((sizes[-1] - sizes[0]) / (sizes[-2] - sizes[0]))


def show(title: str, sizes: Sequence[int], measure_at: Callable[[int], Cost]) -> None:
    """Measure each size, and print a row of the table."""
    costs = [measure_at(size) for size in sizes]
    seconds, megabytes = zip(*costs, strict=True)
    shown = [
        f"{', '.join(f'{value:.{digits}f}' for value in values)} | {exponent(sizes, values):.2f}"
        for values, digits in ((seconds, 1), (megabytes, 0))
    ]
    print(f"| {title} | {', '.join(f'{n:,}' for n in sizes)} | {' | '.join(shown)} |", flush=True)


def write_rows(folder: Path, rows: int, words: int = 70) -> str:
    """Write rows with this many words each; return the file's name. No two rows are similar."""
    name = f"rows-{rows}-{words}.jsonl"
    source = make_rows_of_words()
    pool: list[str] = []
    with (folder / name).open("w", encoding="utf-8") as file:
        for _ in range(rows):
            while len(pool) < words:
                row = next(source)
                pool += f"{row['prompt']} {row['completion']}".split()
            text, pool = pool[:words], pool[words:]
            cut = words * 3 // 4
            parts = {"prompt": " ".join(text[:cut]), "completion": " ".join(text[cut:])}
            file.write(json.dumps(parts) + "\n")
    return name


def measure_check(folder: Path, factor: int) -> None:
    """Measure the check of files with more rows, and with longer ones."""

    def check(rows: int, words: int = 70) -> Cost:
        name = write_rows(folder, rows, words)
        return measure(["tunesmith", "data", "check", name, "--json"], folder)

    show("`data check`, rows", [100, 1_000, 10_000, 100_000 * factor], check)
    show(
        "`data check` of 300 rows, words per row",
        [70, 700, 7_000 * factor],
        lambda words: check(300, words),
    )


def measure_run(folder: Path, factor: int) -> None:
    """Measure runs of one step, without and with a baseline."""
    in_new_process(build_model, SHAPES["toy"], folder / "toy")
    (folder / "first_step.py").write_text(REPORTER, encoding="utf-8")

    def run(rows: int, baselines: str, evaluator: str) -> Cost:
        text = RUN.format(name=write_rows(folder, rows), baselines=baselines, evaluator=evaluator)
        (folder / "run.toml").write_text(text, encoding="utf-8")
        return measure(["tunesmith", "run", "run.toml"], folder)

    sizes = [100, 1_000, 5_000, 20_000 * factor]
    show("a run with one step, rows", sizes, lambda n: run(n, "[]", "loss"))
    show("the same with `nearest`, rows", sizes, lambda n: run(n, '["nearest"]', "exact-match"))


def measure_steps(folder: Path, factor: int) -> None:
    """Measure training steps of equally many tokens, in longer rows."""
    in_new_process(build_model, S40, folder / "s40")
    show(
        f"a training step of {STEP_TOKENS:,} tokens, tokens per row",
        [128, 2_048, 4_096],
        lambda n: measure(["tests.benchmarks.growth", "--step", n, folder / "s40"], ROOT),
    )


def measure_parameters(folder: Path, factor: int) -> None:
    """Measure a training step of all weights in larger models."""
    models = {SHAPES[name].parameters: name for name in ("toy", "s40", "m135", "m360")}

    def step(parameters: int) -> Cost:
        name = models[parameters]
        in_new_process(build_model, SHAPES[name], folder / name)
        return measure(["tests.benchmarks.growth", "--step", 128, folder / name], ROOT)

    show(f"a training step of {STEP_TOKENS:,} tokens, parameters", [*models], step)


def measure_runs(folder: Path, factor: int) -> None:
    """Measure the comparison of many runs."""
    sizes = [2, 20, 200 * factor]
    folders = in_new_process(make_runs, folder, sizes[-1])
    show(
        "`compare`, runs", sizes, lambda n: measure(["tunesmith", "compare", *folders[:n]], folder)
    )


def make_runs(folder: Path, count: int) -> list[Path]:
    """Train once, and make this many run folders of that run."""
    from tests.benchmarks.run_lists import copy_run, train_once  # imports torch

    run = train_once(folder)
    folders = [folder / "runs" / f"run-{number:04}" for number in range(count)]
    folders[0].parent.mkdir()
    for number, path in enumerate(folders):
        copy_run(run, path, number)
    return folders


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, since a child's peak includes that of its parent."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def train_steps(row_tokens: int, model: str) -> None:
    """Take a step on rows of ``row_tokens`` tokens in this process."""
    import numpy as np

    from tunesmith_torch.data.packing import Example

    count = STEP_TOKENS // row_tokens
    ids = np.random.default_rng(SEED).integers(3, TOY.vocab_size, (count, row_tokens))
    trained = np.arange(row_tokens) >= row_tokens * 2 // 3
    steps = Steps(Path(model), [Example(row, trained) for row in ids], "full", "auto")
    steps.take(range(count))


TABLES = {
    "check": measure_check,
    "run": measure_run,
    "steps": measure_steps,
    "parameters": measure_parameters,
    "runs": measure_runs,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.growth")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--largest", action="store_true", help="ten times larger sizes")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        train_steps(int(options.step[0]), options.step[1])
        return
    print("| cost of | sizes | CPU seconds | exponent | peak MB | exponent |")
    print("|---|---|---|---|---|---|")
    for name in options.tables or TABLES:
        with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
            TABLES[name](Path(folder), 10 if options.largest else 1)


if __name__ == "__main__":
    main()
