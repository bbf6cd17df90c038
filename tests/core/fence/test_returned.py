"""What plugins return is checked when it arrives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import Dataset, Measurement, SkippedRow, Split
from tunesmith.errors import PluginError
from tunesmith.fence import returned
from tunesmith.offers import Metric, Plugin

SHARE = Metric(name="share", higher_is_better=True, bounds=(0.0, 1.0))
LOOP: list[Any] = []
LOOP.append(LOOP)


def measured(*values: float, **more: Any) -> Measurement:
    return Measurement(metric="share", values=values, **more)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 1 + 1e-9, -1e-9])
def test_values_within_the_bounds_up_to_rounding(value: float) -> None:
    returned.check_measured(measured(value), SHARE)


@pytest.mark.parametrize("value", [7.0, 1.001, -0.001])
def test_a_value_out_of_bounds(value: float) -> None:
    with pytest.raises(ValueError, match='for "share", which is outside the bounds 0 to 1'):
        returned.check_measured(measured(0.5, value), SHARE)


def test_contributions_to_a_metric_of_all_rows_may_be_out_of_its_bounds() -> None:
    returned.check_measured(measured(-0.2, 1.3), replace(SHARE, is_row_mean=False))


def test_a_value_whose_square_cannot_be_computed() -> None:
    with pytest.raises(ValueError, match="a value of 1e\\+300"):
        returned.check_measured(measured(1e300), replace(SHARE, bounds=None))


@pytest.mark.parametrize("details", [{"a": object()}, {"a": {1}}, {"a": LOOP}, {(1, 2): 3}])
def test_details_that_are_not_json(details: Any) -> None:
    with pytest.raises(ValueError, match='details of "share" that is not JSON'):
        returned.check_measured(measured(0.5, details=details), SHARE)


@pytest.mark.parametrize(
    ("split", "text"),
    [
        (Split(train=[0, 1]), "each record exactly once"),
        (Split(train=[0, 1, 2], test=[2]), "each record exactly once"),
        (Split(train=[0, 1, 3]), "the row number 3, although there are 3 rows"),
        (Split(train=[0, 1, -1]), "the row number -1"),
        (Split(train=[0, 1, 2.0]), "the row number 2.0"),  # type: ignore[list-item]
        ([0, 1, 2], "list instead of a Split"),
    ],
)
def test_a_split_has_each_record_once(split: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        returned.check_split(split, 3)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ([], "list instead of a Dataset"),
        (Dataset(train=(), description=7), "int as a description"),  # type: ignore[arg-type]
        (Dataset(train=(), warnings="all"), "str as warnings"),
        (Dataset(train=(), warnings=[None]), "NoneType as a warning"),  # type: ignore[list-item]
        (Dataset(train=(), skipped=[7]), "int instead of a SkippedRow"),  # type: ignore[list-item]
        (Dataset(train=(), skipped=[SkippedRow(where=1, cause="")]), "int as a text"),  # type: ignore[arg-type]
    ],
)
def test_the_account_of_a_loader_is_checked(dataset: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        returned.check_dataset(dataset)


def test_the_blame_names_plugin_and_function() -> None:
    odd = Plugin(name="odd", distribution="tunesmith-odd", version="1", module="m")
    message = 'plugin "tunesmith-odd:odd" returned a fish from load'
    with pytest.raises(PluginError, match=message), returned.blame_plugin(odd, "load"):
        raise ValueError("a fish")


def test_a_fetched_model_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert returned.check_fetched_folder(tmp_path) == tmp_path
    for other in (tmp_path / "file", tmp_path / "absent", str(tmp_path)):
        with pytest.raises(ValueError, match="which is not a folder,"):
            returned.check_fetched_folder(other)
