"""``python -m tests.benchmarks [--only NAME] [--rounds N] [--peers FOLDER]``: measure, and write.

The page is written anew after each table, so that a run that is broken off leaves what it has.
``--only`` measures some tables and keeps the others that the page's file has, if they were taken on
this machine and with these versions; each says when.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import machine, peers, report
from tests.benchmarks.training import CASES, GPU_CASES, ROOT, run, useful_flops
from tests.benchmarks.work import S40, SHAPES, build

PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
OTHERS = ("generation", "imports")
QUICK = ("sft-full", "sft-lora", *OTHERS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks")
    parser.add_argument(
        "--only", choices=[*CASES, *GPU_CASES, *OTHERS, "peers"], action="append", default=[]
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps, rounds and tables")
    parser.add_argument("--rounds", type=int, help="of each training, instead of its own number")
    parser.add_argument("--toy", action="store_true", help="toy models: to try the harness itself")
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="FOLDER",
        help="other tools, too, each installed below this folder (8 GB together, once)",
    )
    parser.add_argument("--peer", choices=peers.PEERS, action="append", default=[])
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write the page")
    options = parser.parse_args()
    everything = (*CASES, *(GPU_CASES if machine.has_gpu() else ()), *OTHERS)
    wanted = options.only or list(QUICK if options.quick else everything)
    here: dict[str, Any] = machine.describe()
    here |= {"quick": options.quick, "matrix_rate": machine.matrix_rate()}
    found = {**(kept(options.out, here) if options.only else {}), "machine": here}
    with tempfile.TemporaryDirectory() as folder:
        measure(found, wanted, Path(folder), options)
        if options.peers is not None:
            asked = options.peer or list(peers.PEERS)
            cache = options.peers.resolve()
            rounds = options.rounds or (1 if options.quick or options.toy else 2)
            found["peers"] = peers.measure(
                cache, Path(folder), asked, shape=_shape(options), rounds=rounds
            )
            found["peers"]["load"] = [round(number, 2) for number in os.getloadavg()]
    write(found, options.out)
    print(f"written: {options.out}")


SAME = ("cpu", "cores", "gpu", "flags", "python", "versions", "quick")
"""What must not have changed for numbers to stand on one page."""


def kept(page: Path, here: dict[str, Any]) -> dict[str, Any]:
    """What the page's file has from this machine and these versions."""
    try:
        before: dict[str, Any] = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    same = all(before["machine"].get(name) == here.get(name) for name in SAME)
    return before if same else {}


def write(found: dict[str, Any], page: Path) -> None:
    """What there is so far, as a page and as raw numbers."""
    found["machine"]["load_after"] = [round(number, 2) for number in os.getloadavg()]
    page.parent.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(found, indent=1) + "\n"
    numbers = page.with_suffix(".json")
    numbers.write_text(raw, encoding="utf-8")
    page.write_text(report.page(found, numbers.name), encoding="utf-8")


def measure(
    found: dict[str, Any], wanted: list[str], models: Path, options: argparse.Namespace
) -> None:
    """Fill in what is wanted; a table that fails says so and the others go on."""
    shape = _shape(options)
    if "generation" in wanted:
        rounds = options.rounds or (1 if options.quick else 3)
        found["generation"] = machine.now() | generation(models / shape, shape, rounds)
    if "imports" in wanted:
        found["imports"] = machine.imports(1 if options.quick else 3)
    found.setdefault("training", {})
    cases = CASES | GPU_CASES
    for name in (name for name in cases if name in wanted):
        case = cases[name]
        if options.toy:
            case = type(case)(**{**vars(case), "shape": "toy"})
        rounds, steps = (1, 3) if options.quick else (case.rounds, case.steps)
        try:
            rounds = options.rounds or rounds
            when = machine.now()
            found["training"][name] = when | run(case, models, rounds=rounds, steps=steps)
        except RuntimeError as error:
            print(f"  {name}: {error}", file=sys.stderr)
            found["training"][name] = {"title": case.title, "error": str(error)[-300:]}
        full = found["training"][name]
        if name == "sft-full" and "runs" in full and not options.toy:
            found["utilisation"] = utilisation(full, found["machine"]["matrix_rate"])
        write(found, options.out)


def _shape(options: argparse.Namespace) -> str:
    return "toy" if options.toy else "s40"


def generation(folder: Path, shape: str, rounds: int) -> dict[str, Any]:
    """In a process of its own, like everything."""
    build(SHAPES[shape], folder)
    out = folder.parent / "generation.json"
    command = [sys.executable, "-m", "tests.benchmarks.generation", folder, str(rounds), out]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def utilisation(full: dict[str, Any], rates: dict[str, Any]) -> dict[str, Any]:
    """The median run's useful operations against plain products."""
    achieved = []
    for one in full["runs"]["tunesmith"]:
        numbers = list(zip(one["tokens"][1:], one["trained"][1:], strict=True))
        work = sum(useful_flops(S40, tokens, trained, 8) for tokens, trained in numbers)
        achieved.append(1e-9 * work / (one["wall"][-1] - one["wall"][0]))
    again = machine.matrix_rate()
    name = max(rates, key=lambda name: float(rates[name]["best"]))
    best = max(rates[name]["best"], again[name]["best"])
    usual = (rates[name]["usual"] + again[name]["usual"]) / 2
    gflops = median(achieved)
    shares = {"share": gflops / best, "share_of_usual": gflops / usual}
    return {"gflops": gflops, "format": name, **shares}


if __name__ == "__main__":
    main()
