"""Measure the memory and time that calls in each format take to load.

    python benchmarks/memory.py                # 50 and 200 MB in each format
    python benchmarks/memory.py --megabytes 20

Each file is written once and loaded in its own process. The calls have random texts; every
tenth call is a copy of an earlier one.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith_traces.offer import TRACES, TraceOptions

FORMATS = ("otel", "openai", "langfuse")
SPANS_PER_LINE = 20


def make_calls(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield prompts and answers without end."""
    words = [f"{''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=6))}" for _ in range(5_000)]
    known: list[tuple[str, str]] = []
    while True:
        texts = " ".join(rng.choices(words, k=80)), " ".join(rng.choices(words, k=30))
        call = rng.choice(known) if known and rng.random() < 0.1 else texts
        known = [*known[-99:], call]
        yield call


def to_row(form: str, number: int, prompt: str, answer: str) -> dict[str, Any]:
    """Return a call as a product records it."""
    given, reply = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
    if form == "openai":
        choice = {"message": reply, "finish_reason": "stop"}
        return {"id": str(number), "model": "m", "messages": [given], "choices": [choice]}
    if form == "langfuse":
        head = {"id": str(number), "traceId": f"t{number}", "type": "GENERATION"}
        return {**head, "input": [given], "output": reply, "scores": []}
    messages = {"input": [given], "output": [reply]}
    texts = {
        f"gen_ai.{name}.messages": json.dumps(
            [
                {"role": m["role"], "parts": [{"type": "text", "content": m["content"]}]}
                for m in items
            ]
        )
        for name, items in messages.items()
    }
    pairs = [{"key": key, "value": {"stringValue": text}} for key, text in texts.items()]
    return {"traceId": f"t{number}", "attributes": pairs}


def write_file(path: Path, form: str, size: int) -> None:
    """Write a file of this many bytes."""
    calls = enumerate(make_calls(random.Random(0)))
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            row = to_row(form, *((item := next(calls))[0], *item[1]))
            if form == "otel":
                spans = [row]
                for number, call in (next(calls) for _ in range(SPANS_PER_LINE - 1)):
                    spans.append(to_row(form, number, *call))
                row = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
            file.write(json.dumps(row) + "\n")


def measure(path: Path) -> None:
    """Load a file, read each record once, and print the result as JSON."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    dataset = TRACES.build(TraceOptions(train=str(path))).load()
    loaded = time.perf_counter() - start
    count = sum(1 for _ in dataset.train)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"rows": count, "seconds": loaded, "megabytes": used}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[50, 200])
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        measure(options.load)
        return
    print("| format | file | rows | load | memory |\n|---|---|---|---|---|")
    for form in FORMATS:
        for size in options.megabytes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "calls.jsonl"
                write_file(path, form, size * 1_000_000)
                words = [sys.executable, __file__, "--load", str(path)]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            print(
                f"| {form} | {size} MB | {found['rows']:,} | {found['seconds']:.0f} s "
                f"| {found['megabytes']:.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
