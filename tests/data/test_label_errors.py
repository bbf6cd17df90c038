"""Wrong labels are found among rows whose label the words tell, and clean rows have none."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from clean_rows import clean_rows, item_rows, plant_wrong_labels

from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_data import label_errors
from tunesmith_data.label_errors import find_label_errors
from tunesmith_plugins.commands.data.label_errors import to_finding


@pytest.mark.parametrize("count", [8, 32, 64])
def test_injected_errors_are_the_most_suspect_rows(count: int) -> None:
    rows, injected = plant_wrong_labels(item_rows(), count)
    found = find_label_errors(rows)
    first = found.suspects[:count]
    assert len(injected.intersection(s.row for s in first)) >= 0.9 * count
    assert found.share - 0.02 <= count / len(rows) <= found.highest_share + 0.02
    right = [row.completion for row in item_rows()]
    assert sum(s.suggested == right[s.row] for s in first) >= 0.9 * count
    assert all(s.label == rows[s.row].completion and s.probability < 0.5 for s in first)


def test_clean_rows_have_none() -> None:
    found = find_label_errors(item_rows())
    assert (found.rows, found.labels, found.share, found.suspects) == (320, 4, 0, [])
    assert (found.agreement, found.highest_share) == (1, 0)


def test_a_share_without_a_single_label_is_not_shown() -> None:
    found = find_label_errors(item_rows())
    for tiny in (0.0, 1.1e-16, 0.4 / found.rows):
        finding = to_finding(replace(found, highest_share=tiny), item_rows())
        assert finding.message.startswith(
            "no label looks wrong, according to a classifier that agrees with "
        )
        assert (finding.level, finding.hint, finding.examples) == ("info", "", ())
    finding = to_finding(replace(found, highest_share=0.012), item_rows())
    assert finding.message.startswith(
        "up to 1.2 % of the labels look wrong, according to a classifier"
    )


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows, _ = plant_wrong_labels(item_rows(), 32)
    order = list(range(len(rows)))
    random.Random(1).shuffle(order)
    one, other = find_label_errors(rows), find_label_errors([rows[i] for i in order])
    assert {s.row for s in one.suspects} == {order[s.row] for s in other.suspects}
    assert one.share == other.share


def test_a_copy_does_not_vouch_for_a_wrong_label() -> None:
    """The copies of a row are in one fold, so that the classifier learns from none of them."""
    rows = item_rows()
    wrong = Completion(source="rows.jsonl:0", prompt="Zz qq vv xx?", completion="lamp")
    right = replace(rows[0], prompt="The parcel zz, please", completion="chair")
    found = find_label_errors([*rows, *[right] * 9, *[wrong] * 9])
    assert {s.row for s in found.suspects} >= set(range(len(rows), len(rows) + 9))


def test_rare_labels_are_skipped() -> None:
    rows = item_rows()
    rare = [replace(row, completion="rare") for row in rows[:4]]
    found = find_label_errors([*rows, *rare])
    assert (found.rows, found.labels) == (320, 4)


def test_too_many_labels_for_the_memory_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_errors, "MAX_PROBABILITIES", 1_000)
    with pytest.raises(DataError, match="4 labels are too many: for 320 rows, 3 fit"):
        find_label_errors(item_rows())


@pytest.mark.parametrize("rows", [clean_rows(), item_rows()[:10], item_rows()[:1]])
def test_answers_that_are_no_labels_are_refused(rows: list[Completion]) -> None:
    with pytest.raises(DataError, match="not labels"):
        find_label_errors(rows)


def test_warnings_stay_on(tmp_path: Path) -> None:
    """Importing cleanlab switches all warnings off."""
    code = (
        "import warnings\n"
        "before = [*warnings.filters]\n"
        "from tunesmith.records import Completion\n"
        "from tunesmith_data.label_errors import find_label_errors\n"
        "rows = [Completion(source=str(n), prompt=f'{n} {n % 2}', completion='ab'[n % 2])\n"
        "        for n in range(80)]\n"
        "find_label_errors(rows)\n"
        "print([f for f in warnings.filters if f == ('ignore', None, Warning, None, 0)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "[]\n"
