"""Preferences in flat arrays: the same tokens and micro-batches as from lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith.errors import DataError
from tunesmith.records import Completion, Message, Preference, Record, UnpairedPreference
from tunesmith_torch.data import large_data
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.prefix import group_store
from tunesmith_torch.prefix.completion_groups import GroupLayout, tokenize_preferences
from tunesmith_torch.prefix.group_store import build_group_store

PROMPTS = [(Message("user", f"What is {n}?" * (1 + n % 3)),) for n in range(9)]
RECORDS: list[Record] = [
    Preference(source=f"r:{n}", prompt=prompt, chosen="ten " * (1 + n % 4), rejected="no, ")
    if n % 3
    else UnpairedPreference(source=f"r:{n}", prompt=prompt, completion="yes", label=n % 2 == 0)
    for n, prompt in enumerate(PROMPTS)
]


@pytest.fixture(scope="module")
def template(tiny_folder: Path) -> Template:
    return Template.from_tokenizer(load_tokenizer(tiny_folder))


@pytest.mark.parametrize("large", [False, True])
def test_groups_are_the_same_as_in_a_list(
    template: Template, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_data, "LARGE_CHARACTERS", 10 if large else 10_000)
    monkeypatch.setattr(group_store, "RECORDS_PER_CALL", 4)
    groups = tokenize_preferences(RECORDS, template)
    store = build_group_store(RECORDS, template, limit=10_000)
    assert isinstance(store.parts.ids, np.memmap) == large
    assert list(store) == groups
    assert (store[-1], store[2:5]) == (groups[-1], groups[2:5])
    with pytest.raises(IndexError):
        store[9]
    for packing in (True, False):
        layout = GroupLayout(packing)
        for ours, theirs in zip(
            layout.micro_batches(store, range(9), 60),
            layout.micro_batches(groups, range(9), 60),
            strict=True,
        ):
            assert ours.group_indices == theirs.group_indices
            assert torch.equal(ours.batch.ids_BT, theirs.batch.ids_BT)
            assert torch.equal(ours.batch.targets_N, theirs.batch.targets_N)


def test_groups_above_the_limit_are_skipped(template: Template) -> None:
    groups = tokenize_preferences(RECORDS, template)
    limit = sorted(group.longest_sequence for group in groups)[4]
    fitting = [group for group in groups if group.longest_sequence <= limit]
    assert 0 < len(fitting) < len(groups)
    assert list(build_group_store(RECORDS, template, limit)) == fitting
    assert (
        len(build_group_store(RECORDS, template, limit=1))
        == len(build_group_store([], template, 9))
        == 0
    )


def test_other_records_are_refused(template: Template) -> None:
    record = Completion(source="r:1", prompt="p", completion="c")
    with pytest.raises(DataError, match="r:1: training needs a pair of answers or a labeled"):
        build_group_store([*RECORDS, record], template, 100)
