"""Measure speed and memory, and write the page of the results.

``python -m tests.benchmarks [--only NAME] [--rounds N] [--peers FOLDER]``

The page is written again after each table, so an interrupted run leaves its finished tables.
``--only`` measures some tables and keeps the page's others, if they were measured on this machine
and with these versions; each has its date.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import large_data, machine, peers, report, startup
from tests.benchmarks.training import (
    ALL_CASES,
    CASES,
    FLOAT32_CASES,
    GPU_CASES,
    ROOT,
    run_case,
)
from tests.benchmarks.work import SHAPES, build_model

from tunesmith_plugins.models.gguf.find import find_gguf

PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
QUICK_OTHER_TABLES = ("generation", "overhead", "imports", "first-step", "preparation")
OTHER_TABLES = (*QUICK_OTHER_TABLES, "large-data")
QUICK_TABLES = ("sft-full", "sft-lora", *QUICK_OTHER_TABLES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks")
    parser.add_argument(
        "--only", choices=[*ALL_CASES, *OTHER_TABLES, "peers"], action="append", default=[]
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps, rounds and tables")
    parser.add_argument(
        "--rounds", type=int, help="rounds of each training, instead of its default"
    )
    parser.add_argument("--toy", action="store_true", help="toy models, to test the harness itself")
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="FOLDER",
        help="measure other tools too; each is installed once below this folder (8 GB in total)",
    )
    parser.add_argument("--peer", choices=peers.PEERS, action="append", default=[])
    parser.add_argument(
        "--data-mb", type=int, default=1000, help="size of the file of the table large-data"
    )
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write the page")
    options = parser.parse_args()
    on_gpu = GPU_CASES if machine.has_gpu() else ()
    in_float32 = FLOAT32_CASES if machine.has_bf16_arithmetic() else ()
    everything = (*CASES, *in_float32, *on_gpu, *OTHER_TABLES)
    tables = options.only or list(QUICK_TABLES if options.quick else everything)
    this_machine: dict[str, Any] = machine.describe_machine()
    this_machine |= {"quick": options.quick, "matrix_rate": machine.measure_matrix_rate()}
    results = {
        **(kept_results(options.out, this_machine) if options.only else {}),
        "machine": this_machine,
    }
    with tempfile.TemporaryDirectory() as folder:
        measure(results, tables, Path(folder), options)
        if options.peers is not None:
            names = options.peer or list(peers.PEERS)
            cache = options.peers.resolve()
            rounds = options.rounds or (1 if options.quick or options.toy else 2)
            results["peers"] = peers.measure(
                cache, Path(folder), names, shape=_shape_name(options), rounds=rounds
            )
            results["peers"]["load"] = [round(number, 2) for number in os.getloadavg()]
    write_results(results, options.out)
    print(f"written: {options.out}")


COMPARABLE_KEYS = ("cpu", "cores", "gpu", "flags", "python", "versions", "quick")
"""Properties of the machine that must be equal for all numbers of a page."""


def kept_results(page: Path, this_machine: dict[str, Any]) -> dict[str, Any]:
    """Return the page's earlier results, if they are from this machine and these versions."""
    try:
        before: dict[str, Any] = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    same = all(before["machine"].get(name) == this_machine.get(name) for name in COMPARABLE_KEYS)
    return before if same else {}


def write_results(results: dict[str, Any], page: Path) -> None:
    """Write the results so far, as a page and as raw numbers."""
    results["machine"]["load_after"] = [round(number, 2) for number in os.getloadavg()]
    page.parent.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(results, indent=1) + "\n"
    numbers = page.with_suffix(".json")
    numbers.write_text(raw, encoding="utf-8")
    page.write_text(report.render_page(results, numbers.name), encoding="utf-8")


def measure(
    results: dict[str, Any], tables: list[str], models: Path, options: argparse.Namespace
) -> None:
    """Measure these tables into ``results``. A table that fails has its error; the others go on."""
    shape = _shape_name(options)
    if "generation" in tables:
        rounds = options.rounds or (1 if options.quick else 3)
        shapes = [shape] if options.quick or options.toy else [shape, "m135"]
        results["generation"] = [
            machine.date_and_load() | measure_generation(models / name, name, precision, rounds)
            for name in shapes
            for precision in ("fp32", *(["bf16"] if machine.has_bf16_arithmetic() else []))
        ]
    if "overhead" in tables:
        rounds = options.rounds or (3 if options.quick else 11)
        results["overhead"] = machine.date_and_load() | measure_overhead(models / "toy", rounds)
    if "first-step" in tables:
        rounds = options.rounds or (1 if options.quick else 5)
        model = build_model(SHAPES["toy"], models / "toy")
        results["first-step"] = machine.date_and_load() | startup.measure(
            model, models / "first-step", rounds
        )
    measure_data(results, tables, models, options)
    if "imports" in tables:
        results["imports"] = machine.measure_imports(1 if options.quick else 3)
    results.setdefault("training", {})
    for name in (name for name in ALL_CASES if name in tables):
        case = ALL_CASES[name]
        if options.toy:
            case = type(case)(**{**vars(case), "shape": "toy"})
        rounds, steps = (1, 3) if options.quick else (case.rounds, case.steps)
        try:
            rounds = options.rounds or rounds
            about = machine.date_and_load() | {"matrix_rate": machine.measure_matrix_rate()}
            results["training"][name] = about | run_case(case, models, rounds=rounds, steps=steps)
        except RuntimeError as error:
            print(f"  {name}: {error}", file=sys.stderr)
            results["training"][name] = {"title": case.title, "error": str(error)[-300:]}
        write_results(results, options.out)


def measure_data(
    results: dict[str, Any], tables: list[str], models: Path, options: argparse.Namespace
) -> None:
    """Measure the tables about the preparation of rows into ``results``."""
    if "preparation" in tables:
        rounds = options.rounds or (3 if options.quick else 7)
        results["preparation"] = machine.date_and_load() | measure_preparation(models, rounds)
    if "large-data" in tables:
        results["large-data"] = machine.date_and_load() | large_data.measure(
            models / "large-data", options.data_mb * 1_000_000, quick=options.quick or options.toy
        )


def _shape_name(options: argparse.Namespace) -> str:
    return "toy" if options.toy else "s40"


def measure_generation(folder: Path, shape: str, precision: str, rounds: int) -> dict[str, Any]:
    """Measure generation in a separate process, like everything."""
    build_model(SHAPES[shape], folder)
    out = folder.parent / "generation.json"
    arguments = [str(folder), precision, str(rounds), str(out)]
    command = [sys.executable, "-m", "tests.benchmarks.generation", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return {"model": SHAPES[shape].name, **result}


def measure_preparation(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure tokenizing and packing in a separate process, with the tokenizer of SmolLM2."""
    model = find_gguf(large_data.SMOLLM2).fetch()
    out = folder / "preparation.json"
    arguments = [str(model), str(rounds), "4000", str(out)]
    command = [sys.executable, "-m", "tests.benchmarks.preparation", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def measure_overhead(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure the training loop beside a plain one, in a separate process."""
    build_model(SHAPES["toy"], folder)
    out = folder.parent / "overhead.json"
    command = [sys.executable, "-m", "tests.benchmarks.overhead", folder, str(rounds), out]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    main()
