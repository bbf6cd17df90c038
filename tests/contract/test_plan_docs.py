"""The planner gives the usual rules of thumb, in a table of the page on the planner.

The table is generated; that it is up to date is checked with the other generated pages.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "planner.md"


def rows() -> list[tuple[str, tuple[float, float], str, tuple[float, float]]]:
    """Return the rows of the table: options, GiB, GPUs on which it fits, and dollars."""
    rows = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `--set technique.use="):
            options, memory, where, _, _, dollars = (c.strip() for c in line.strip("| ").split("|"))
            rows.append((options, parse_range(memory), where, parse_range(dollars)))
    return rows


def parse_range(text: str) -> tuple[float, float]:
    low, high = re.findall(r"[\d.]+", text.replace(",", ""))
    return float(low), float(high)


def test_7b_takes_80_gb_and_more_about_20_with_adapters_about_10_over_4_bits() -> None:
    full, lora, qlora, *_ = rows()
    assert "technique.use=full" in full[0] and full[1][0] > 80
    assert "technique.use=lora" in lora[0] and lora[1][0] <= 20 <= lora[1][1]
    assert "technique.use=qlora" in qlora[0] and qlora[1][0] <= 10 <= qlora[1][1]


def test_65b_over_4_bits_fits_on_48_gb() -> None:
    options, memory, where, _ = rows()[3]
    assert "use=qlora" in options and "llama-65b" in options
    assert re.search(r"RTX A6000|48 GB and more", where) and memory[1] < 47


def test_costs_are_in_the_hundreds_the_tens_and_under_ten_dollars() -> None:
    full, lora, qlora, *_ = (row[3] for row in rows())
    assert full[0] < 300 and full[1] > 300 and full[1] < 1000
    assert 1 < lora[0] < 30 < lora[1] < 100
    assert qlora[1] < 10


def test_on_the_same_data_quantised_training_is_not_the_cheapest() -> None:
    full, lora, qlora = (row[3] for row in rows()[-3:])
    assert lora[0] < qlora[0] < full[0] and lora[1] < qlora[1] < full[1]
