"""Pairs as training data: what fits, its counts, and the layout that a model allows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tunesmith.errors import DataError
from tunesmith.events import Event, FindingReported
from tunesmith.records import Completion, Message, Preference, Record
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import adapt_full
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.preference import PairOptions
from tunesmith_torch.prefix.completion_groups import GroupLayout, tokenize_pairs
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training.preference_data import PreferenceData, tokenize_fitting_pairs
from tunesmith_torch.training.skipped_rows import SKIPPED_FILE

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
PAIRS = tuple(
    Preference(
        source=f"rows:{n}",
        prompt=(Message("user", f"What is {n}?" * (1 + n % 3)),),
        chosen="ten " * (1 + n % 4),
        rejected="no, " * (1 + n % 3),
    )
    for n in range(12)
)


@pytest.fixture(scope="module")
def template(tiny_folder: Path) -> Template:
    return Template.from_tokenizer(load_tokenizer(tiny_folder))


def make_job(
    records: tuple[Record, ...], events: list[Event], out: Path, max_skipped: float = 1.0
) -> Any:
    config = SimpleNamespace(max_length=1024, max_skipped=max_skipped)
    return SimpleNamespace(train=records, emit=events.append, config=config, out=out)


def test_pairs_that_do_not_fit_are_reported(tmp_path: Path, template: Template) -> None:
    groups = tokenize_pairs(PAIRS, template)
    lengths = [len(g.prompt) + max(map(len, g.completions)) for g in groups]
    limit = sorted(lengths)[5]
    events: list[Event] = []
    fitting = tokenize_fitting_pairs(make_job(PAIRS, events, tmp_path), template, limit)
    expected = [g for g, length in zip(groups, lengths, strict=True) if length <= limit]
    assert list(fitting) == expected and 0 < len(fitting) < len(PAIRS)
    (finding,) = [event for event in events if isinstance(event, FindingReported)]
    count = 12 - len(fitting)
    assert f"skipped {count} rows: row is too long; first: rows:" in finding.message
    lines = (tmp_path / SKIPPED_FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["where"] for line in lines] == [r.where for r in fitting.skipped]
    events.clear()
    complete = tokenize_fitting_pairs(make_job(PAIRS, events, tmp_path), template, max(lengths))
    assert list(complete) == groups
    assert not events


def test_more_long_pairs_than_are_allowed_are_refused(tmp_path: Path, template: Template) -> None:
    groups = tokenize_pairs(PAIRS, template)
    lengths = sorted(group.longest_sequence for group in groups)
    assert lengths[-2] < lengths[-1]
    job = make_job(PAIRS, [], tmp_path, max_skipped=0.01)
    with pytest.raises(DataError, match="skipped 1 of 12 rows") as caught:
        tokenize_fitting_pairs(job, template, lengths[-2])
    assert [row.where for row in caught.value.skipped] == ["rows:11"]
    job = make_job(PAIRS, [], tmp_path, max_skipped=0.1)
    assert len(tokenize_fitting_pairs(job, template, lengths[-2])) == 11


def test_data_of_which_no_pair_fits_is_refused(tmp_path: Path, template: Template) -> None:
    with pytest.raises(DataError, match="rows:0: no rows can be used: 12 rows"):
        tokenize_fitting_pairs(make_job(PAIRS, [], tmp_path), template, 4)


def test_a_record_that_is_not_a_pair_is_refused(tmp_path: Path, template: Template) -> None:
    record = Completion(source="rows:0", prompt="a", completion="b")
    with pytest.raises(DataError, match="rows:0: training needs a pair of answers"):
        tokenize_fitting_pairs(make_job((record,), [], tmp_path), template, 512)


def test_a_shared_prompt_is_counted_once(template: Template) -> None:
    pairs = tokenize_pairs(PAIRS, template)
    shared, repeated = (PreferenceData(pairs, GroupLayout(share_prompts=s)) for s in (True, False))
    rows = [1, 4]
    prompts = sum(len(pairs[row].prompt) for row in rows)
    completions = sum(len(c) for row in rows for c in pairs[row].completions)
    # A shared prompt is laid out without its last token, which opens each of its completions.
    once = prompts - len(rows)
    for data, tokens in ((shared, once + completions), (repeated, 2 * prompts + completions)):
        counts = data.counts(rows)
        assert (counts.tokens, counts.trained_tokens) == (tokens, completions)
        assert counts.loss_divisor == len(rows)
        assert data.details == {"shared_prompts": data is shared}
        assert data.totals == data.counts(range(12))


@pytest.mark.parametrize(
    ("family", "options", "shared"),
    [
        ("llama", {}, True),
        ("llama", {"share_prompts": False}, False),
        ("llama", {"packing": False}, False),
        ("gemma2", {}, False),  # softcapped attention cannot share prompts
    ],
)
def test_prompts_are_shared_if_options_and_model_allow_it(
    tmp_path: Path, template: Template, family: str, options: dict[str, Any], shared: bool
) -> None:
    base = load_model(save_tiny_model(tmp_path / family, family), CPU, FP32, packing=True)
    pairs = tokenize_pairs(PAIRS, template)
    data = PreferenceData.for_model(pairs, adapt_full(base, FP32), PairOptions(**options))
    assert data.layout == GroupLayout(options.get("packing", True), shared)
