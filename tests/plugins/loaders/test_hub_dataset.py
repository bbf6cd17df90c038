"""Datasets of the hub, with a stand-in for the library that fetches them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from pydantic import ValidationError

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_plugins.loaders.hub_dataset import (
    HUB_DATASET,
    HubDatasetLoader,
    HubDatasetOptions,
    open_split,
    recognizes,
)


def rows(repository: str, name: str | None, split: str, revision: str | None) -> Iterator[Any]:
    assert (repository, revision) == ("acme/tickets", "0123abc")
    for number in range(10):
        at = datetime.date(2024, 5, number + 1)
        yield {"prompt": f"{name} {split} {number}", "completion": "c", "at": at}


def load(opener: Any = rows, **options: Any) -> Dataset:
    given = HubDatasetOptions(train="hf://acme/tickets", revision="0123abc", **options)
    loader = HUB_DATASET.build(given)
    assert isinstance(loader, HubDatasetLoader)
    loader = replace(loader, open_split=opener)
    dataset = loader.load()
    assert list(replace(loader, memory=0).load().train) == list(dataset.train)
    return dataset


def test_splits_are_the_parts_of_the_data() -> None:
    dataset = load(name="de", test_split="test", max_rows=4, group="at")
    record = dataset.train[3]
    assert isinstance(record, Completion)
    assert (record.prompt, record.group) == ("de train 3", "2024-05-04")
    assert record.source == "hf://acme/tickets/train:4"
    assert dataset.test is not None
    assert [getattr(r, "prompt", "") for r in dataset.test] == [f"de test {n}" for n in range(4)]


def test_an_error_of_the_library_is_reported_without_secrets() -> None:
    def broken(*given: Any) -> Iterator[Any]:
        yield {"prompt": "p", "completion": "c"}
        raise ConnectionError("https://me:hf_abcdefghijklmnopqrstuvwxyz0123456789@hub\nmore")

    with pytest.raises(DataError, match="hf://acme/tickets/train:1: cannot be read") as caught:
        load(broken)
    assert "abcdefghijklm" not in caught.value.message and "HF_TOKEN" in (caught.value.hint or "")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TUNESMITH_OFFLINE"])
@pytest.mark.parametrize(("value", "streams"), [("1", False), ("", True), ("0", True)])
def test_nothing_is_fetched_if_the_hub_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, streams: bool
) -> None:
    for switch in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(switch, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **options: seen.update(options) or [])
    monkeypatch.setenv(variable, value)
    assert list(open_split("acme/tickets", None, "train", None)) == []
    assert huggingface_hub.constants.is_offline_mode() is not streams
    assert datasets.config.HF_HUB_OFFLINE is not streams
    assert seen["streaming"] is streams and "trust_remote_code" not in seen


def test_local_files_are_not_read_by_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "/data/rows", "../rows", "a/b/c"):
        with pytest.raises(ValidationError):
            HubDatasetOptions(train=name)
    (tmp_path / "acme" / "tickets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is a local path"):
        load()


def test_addresses_are_recognized() -> None:
    assert recognizes("hf://acme/tickets") and not recognizes("acme/tickets")
