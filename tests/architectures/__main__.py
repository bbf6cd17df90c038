"""Measure the architectures, and write the page of the results.

``python -m tests.architectures [NAME ...] [--write] [--seed N] [--lengths 3,70] [--hidden N]``

Names are model types; without any, all are measured. ``--write`` stores the results of all and
writes ``docs/reference/models.md``; ``--render`` writes the page again from the stored results.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.architectures import page
from tests.architectures.cases import all_cases, fast_cases, select
from tests.architectures.compare import Setting
from tests.architectures.rows import LENGTHS
from tests.architectures.sizes import Sizes
from tests.architectures.workers import PROCESSES, examine_all, prepare


def main() -> int:
    """Measure, print a line for each architecture, and return 1 if one is wrong or crashed."""
    options = parse_options()
    if options.render:
        page.write(page.read())
        return 0
    lengths = tuple(int(words) for words in options.lengths.split(","))
    setting = Setting(options.seed, lengths, Sizes(hidden=options.hidden))
    cases = fast_cases() if options.fast else select(all_cases(setting.sizes), options.names)
    prepare()
    started, results = time.monotonic(), []
    for result in examine_all(cases, setting, processes=options.processes):
        results.append(result)
        seconds = time.monotonic() - started
        reason = " ".join(result.reason.split())
        print(f"{seconds:6.0f} {result.verdict:9} {result.name:30} {reason:.200}", flush=True)
        if options.json:
            stored = {result.name: asdict(result) for result in results}
            options.json.write_text(json.dumps(stored, indent=1, default=str))
    counts = Counter(result.verdict for result in results)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if options.write:
        page.write(page.to_json([page.summarize(r) for r in results], setting, options.checked))
    return int(bool(counts["wrong"] + counts["crash"]))


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="tests.architectures")
    parser.add_argument("names", nargs="*", metavar="NAME", help="model types; default: all")
    parser.add_argument("--fast", action="store_true", help="the architectures of the fast lane")
    parser.add_argument("--seed", type=int, default=0, help="of weights and rows")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="words of the rows")
    parser.add_argument("--hidden", type=int, default=Sizes.hidden, help="width of the models")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="cases at the same time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to a file")
    parser.add_argument("--write", action="store_true", help="store the results, write the page")
    parser.add_argument("--render", action="store_true", help="write the page from stored results")
    parser.add_argument(
        "--checked",
        action="append",
        default=[],
        help="what else was measured with the same verdicts",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
