"""Measure how well wrong labels are found that were injected into published data.

``python -m tests.benchmarks.label_errors FOLDER`` reads the training part of banking77 (PolyAI, CC
BY 4.0) and the intents of Bitext's smaller customer support set (CDLA-Sharing 1.0) in FOLDER, and
gives 0, 5, 10 and 20 % of the rows another label at random. It prints the table of
``docs/reference/data-checks.md``: precision at k, the share of injected rows among the k most
suspect ones, with k the number injected; and the estimated shares of wrong labels. Nothing is known
about the labels that were wrong before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.data_checks import CHOSEN_ON
from tests.fixtures.python.clean_rows import plant_wrong_labels

from tunesmith.records import Completion, Record
from tunesmith_data.label_errors import find_label_errors

SETS = ("banking77, training part", "Bitext, intents")
SHARES = (0.0, 0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.label_errors")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| set | injected | precision at k | estimated wrong | agreement | CPU seconds |")
    print("|---|---|---|---|---|---|")
    for name in SETS:
        file, read = CHOSEN_ON[name]
        records = list(read(options.folder / file))
        for share in SHARES:
            print(f"| {name} | {measure(records, share, options.seed)} |", flush=True)


def measure(records: Sequence[Record], share: float, seed: int) -> str:
    """Inject wrong labels and return the cells of a line of the table."""
    rows = [record for record in records if isinstance(record, Completion)]
    flipped, injected = plant_wrong_labels(rows, round(share * len(rows)), seed)
    start = time.process_time()
    found = find_label_errors(flipped)
    seconds = time.process_time() - start
    first = [suspect.row for suspect in found.suspects[: len(injected)]]
    precision = f"{len(injected.intersection(first)) / len(injected):.3f}" if injected else ""
    return (
        f"{100 * share:.0f} % ({len(injected):,}) | {precision} | {100 * found.share:.1f} to "
        f"{100 * found.highest_share:.1f} % | {100 * found.agreement:.0f} % | {seconds:.0f}"
    )


if __name__ == "__main__":
    main()
