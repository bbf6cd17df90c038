"""Mixtures: exact shares of the rows, the same ones each time."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tunesmith.contracts import Dataset
from tunesmith.errors import ConfigError, DataError
from tunesmith_plugins.loaders.mixture import MIXTURE, MixtureOptions, apportion


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("a", 100), ("b", 10)):
        lines = (f'{{"prompt": "{name}{n}", "completion": "c"}}\n' for n in range(count))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "c.csv").write_text("question,reply\n" + "q,r\n" * 4)
    return tmp_path


def load(folder: Path, *sources: dict[str, Any], **options: Any) -> Dataset:
    tables = [{**source, "train": str(folder / source["train"])} for source in sources]
    return MIXTURE.build(MixtureOptions(sources=tables, **options)).load()


def counts(dataset: Dataset) -> dict[str, int]:
    return dict(Counter(Path(r.source.rpartition(":")[0]).stem for r in dataset.train))


A, B = {"train": "a.jsonl"}, {"train": "b.jsonl"}


def test_sources_without_weights_are_used_completely(folder: Path) -> None:
    columns = {"prompt": "question", "completion": "reply"}
    table = {"train": "c.csv", "options": {"columns": columns}}
    dataset = load(folder, A, table)
    assert counts(dataset) == {"a": 100, "c": 4}
    assert "c.csv: 4 rows of prompts and completions (question, reply)" in dataset.description
    assert "(100 of 100 rows, 96 %)" in dataset.description


def test_weights_give_exact_shares(folder: Path) -> None:
    weighted = {**A, "weight": 3}, {**B, "weight": 1}
    assert counts(load(folder, *weighted)) == {"a": 30, "b": 10}
    assert counts(load(folder, *weighted, rows=20)) == {"a": 15, "b": 5}
    repeated = load(folder, *weighted, rows=80, repeat=True)
    assert counts(repeated) == {"a": 60, "b": 20}
    assert set(Counter(r.source for r in repeated.train if "b.jsonl" in r.source).values()) == {2}
    with pytest.raises(DataError, match=r"data.sources.1: has 10 rows, but its share .* is 20"):
        load(folder, *weighted, rows=80)


def test_temperature_raises_the_share_of_small_sources(folder: Path) -> None:
    assert counts(load(folder, A, B, temperature=2)) == {"a": 31, "b": 10}
    assert counts(load(folder, A, B, temperature=2, repeat=True)) == {"a": 100, "b": 31}


def test_the_same_rows_are_chosen_each_time(folder: Path) -> None:
    capped = {**A, "max_rows": 20}
    first = [r.source for r in load(folder, capped, B).train]
    assert len(first) == 30 and first == [r.source for r in load(folder, capped, B).train]
    assert first != [r.source for r in load(folder, capped, B, seed=1).train]
    assert len(set(first)) == 30


def test_test_rows_of_sources_are_kept(folder: Path) -> None:
    dataset = load(folder, {**A, "test": str(folder / "b.jsonl")}, {**A, "max_rows": 5})
    assert dataset.test is not None
    assert [r.source.rpartition(":")[2] for r in dataset.test] == [str(n) for n in range(1, 11)]
    assert dataset.train[-1] == list(dataset.train)[-1] and len(dataset.train[:3]) == 3
    with pytest.raises(IndexError):
        dataset.train[105]


def test_warnings_of_sources_are_passed_on_once(folder: Path) -> None:
    (folder / "d.jsonl").write_text('{"prompt": "q", "completion": "a", "id": 7}\n')
    d = {"train": "d.jsonl"}
    (warning,) = load(folder, A, d, d).warnings
    assert warning.endswith("d.jsonl: not used: id")


def test_all_problems_of_the_sources_are_reported(folder: Path) -> None:
    wrong = [{"use": "jsn", "train": "x"}, {"train": "x.jsonl", "options": {"fromat": 1}}, {}]
    with pytest.raises(ConfigError) as caught:
        MIXTURE.build(MixtureOptions(sources=wrong))
    assert [p.where for p in caught.value.problems] == [
        "data.sources.0.use",
        "data.sources.1.fromat",
        "data.sources.2.use",
    ]
    with pytest.raises(ValidationError, match="set `weight` for every source"):
        MixtureOptions(sources=[{**A, "weight": 1}, B])


@given(
    st.integers(0, 1_000),
    st.lists(st.fractions(Fraction(1, 100), 100), min_size=1, max_size=9),
)
@settings(max_examples=200, deadline=None)
def test_apportioned_shares_are_exact(total: int, shares: list[Fraction]) -> None:
    found = apportion(total, shares)
    assert sum(found) == total
    for count, share in zip(found, shares, strict=True):
        assert abs(count - total * share / sum(shares)) < 1
