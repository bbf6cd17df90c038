"""More rows that are too long than a technique skips are found before the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.catalog import Catalog
from tunesmith.config import run_file
from tunesmith.config.evaluators import default_evaluators
from tunesmith.config.read_plan import make_plan
from tunesmith.contracts import Finding
from tunesmith.errors import PromptTooLongError
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Completion, Message, Preference, Record, Text, last_exchange
from tunesmith_plugins.checks.row_lengths import review_data
from tunesmith_plugins.checks.row_lengths.answers import review_answers
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.models.model_folder import read_context_length
from tunesmith_torch.testing.tiny_model import save_tiny_model

SHORT = [Completion(source=f"rows:{n}", prompt="Who?", completion="Me.") for n in range(1, 40)]
LONG_ANSWER = Completion(source="rows:41", prompt="Who?", completion="word " * 600)
LONG = Completion(source="rows:40", prompt="word " * 60_000, completion="Me.")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def review(
    model: Path,
    rows: Sequence[Record],
    test: Sequence[Record] = (),
    validation: Sequence[Record] = (),
    evaluators: Sequence[dict[str, Any]] = (),
    **technique: Any,
) -> list[Finding]:
    tables = {
        "model": {"base": str(model)},
        "data": {"use": "jsonl", "train": "rows.jsonl"},
        "technique": {"use": "lora"} | technique,
        **({"evaluators": [*evaluators]} if evaluators else {}),
    }
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    plan = make_plan(run_file.RunFile(tables=tables, folder=model, stem="x"), catalog)
    evaluators = plan.evaluators or default_evaluators(catalog, test)
    return list(review_data(plan, evaluators, rows, validation, test))


def test_a_row_longer_than_the_context_is_refused_with_what_helps(model: Path) -> None:
    (finding,) = review(model, [*SHORT, LONG], max_length=4096)
    assert (finding.level, finding.where, finding.count) == ("error", "model.base", 1)
    assert "1 row of 40" in finding.message
    assert "longer than 512 tokens (the model's context)" in finding.message
    assert finding.examples == ("rows:40 has 60,017 tokens",)
    assert "context is longer than 512 tokens" in finding.hint
    assert "max_skipped" in finding.hint
    assert "max_length" not in finding.hint, "it does not change the context"


def test_below_the_context_the_option_is_named(model: Path) -> None:
    row = Completion(source="rows:41", prompt="word " * 60, completion="Me.")
    (finding,) = review(model, [*SHORT, row], max_length=64)
    assert finding.where == "technique.max_length"
    assert "raise technique.max_length" in finding.hint
    assert review(model, [*SHORT, row], max_length=128) == []


def test_rows_that_training_uses_all_the_same_are_no_error(model: Path) -> None:
    assert review(model, SHORT) == []
    assert review(model, [*SHORT, LONG], max_skipped=0.025) == []
    assert review(model, [*SHORT, LONG], truncate_prompts=True) == []
    text: list[Record] = [Text(source="rows:1", text="word " * 60_000)]
    assert review(model, text) == [], "it is split"


def test_many_long_rows_are_counted_as_far_as_needed(model: Path) -> None:
    rows = [Completion(source=f"x:{n}", prompt="word " * 600, completion="Me.") for n in range(9)]
    (finding,) = review(model, [*SHORT, *rows], max_skipped=0.1)
    assert finding.count == 5, "more than a tenth of 48"
    assert review(model, [*SHORT, *rows], max_skipped=0.2) == []


PAIRS = [
    Preference(source=f"rows:{n}", prompt=(Message("user", "Who?"),), chosen="Me.", rejected="No.")
    for n in range(1, 40)
]
LONG_PAIR = replace(PAIRS[0], source="rows:40", rejected="word " * 60)
TWO_HALVES = replace(PAIRS[0], source="rows:41", chosen="word " * 35, rejected="word " * 35)


def test_pairs_that_are_too_long_are_refused(model: Path) -> None:
    """The longer answer of a pair decides, and not both together."""
    rows = [*PAIRS, TWO_HALVES, LONG_PAIR]
    (finding,) = review(model, rows, use="preference", max_length=64)
    assert (finding.where, finding.count) == ("technique.max_length", 1)
    assert "at least 1 row of 41 cannot be learned from" in finding.message
    assert finding.examples[0].startswith("rows:40 has ")
    assert review(model, rows, use="preference", max_length=64, max_skipped=0.05) == []
    assert review(model, rows, use="preference", max_length=128) == []


def test_each_stage_of_rlhf_has_its_limit(model: Path) -> None:
    rows = [*PAIRS, LONG_PAIR]
    (finding,) = review(model, rows, use="rlhf", reward={"max_length": 64})
    assert finding.where == "technique.reward.max_length"
    assert "or raise technique.reward.max_skipped" in finding.hint
    asked = [replace(pair, prompt=(Message("user", pair.source),)) for pair in PAIRS]
    long = replace(PAIRS[0], source="rows:40", prompt=(Message("user", "word " * 20),))
    policy = {"max_length": 64, "generation": {"max_new_tokens": 40}}
    (finding,) = review(model, [*asked, long], use="rlhf", policy=policy)
    assert finding.where == "technique.policy.max_length"
    assert "longer than 24 tokens" in finding.message


def test_a_model_to_begin_with_has_its_own_limit(model: Path) -> None:
    assert review(model, [*SHORT, LONG], **{"from": str(model)}) == []


def test_a_test_prompt_without_room_for_an_answer_is_refused(model: Path) -> None:
    asks, scores = review(model, SHORT, [*SHORT, LONG])
    assert (asks.level, asks.where, asks.count) == ("error", "rows:40", 1)
    assert "exact-match allows 11 more" in asks.message
    assert "the model's context is only 512 tokens" in asks.message
    assert asks.examples == ("rows:40 has 60,013 tokens",)
    assert "max_new_tokens" not in asks.hint, "no limit helps"
    assert (scores.level, scores.where) == ("error", "rows:40") and "by loss" in scores.message


EXACT = {"use": "exact-match", "max_new_tokens": 500}


def test_a_prompt_with_the_longest_answer_must_fit(model: Path) -> None:
    """To the token: the review refuses what the model refuses."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    template = Template.from_tokenizer(load_tokenizer(model))
    text = TorchTextModel(base, template, torch.device("cpu"))
    for words in (20, 21):
        row = Completion(source=f"x:{words}", prompt="word " * words, completion="Me.")
        (prompt, _) = last_exchange(row)
        room = 512 - text.count_tokens(prompt)
        for limit in (room, room + 1):
            found = review(model, SHORT, [row], evaluators=[{**EXACT, "max_new_tokens": limit}])
            if limit == room:
                assert found == [] and text.generate([prompt], limit)
                continue
            (finding,) = found
            assert (finding.level, finding.where) == ("error", f"x:{words}")
            assert f"set max_new_tokens of exact-match to {room} or less" in finding.hint
            with pytest.raises(PromptTooLongError):
                text.generate([prompt], limit)


def test_the_longest_rows_are_named_first(model: Path) -> None:
    rows = [Completion(source=f"x:{n}", prompt="a " * n, completion="b") for n in range(1, 9)]
    (finding,) = review(model, SHORT, rows, evaluators=[{**EXACT, "max_new_tokens": 495}])
    assert finding.count == len(finding.examples) == 3
    assert finding.where == "x:8" and finding.examples[0].startswith("x:8 has")


def test_validation_rows_without_room_are_a_warning(model: Path) -> None:
    """Baselines are compared on them; the tuned model is not asked."""
    found = review(model, SHORT, SHORT, validation=[LONG], evaluators=[{"use": "exact-match"}])
    assert [(f.level, f.where) for f in found] == [("warning", "rows:40")]
    assert "1 validation row cannot be used to choose a prompt" in found[0].message


def test_references_that_are_scored_must_fit(model: Path) -> None:
    long = Completion(source="rows:41", prompt="Who?", completion="word " * 600)
    assert review(model, SHORT, [long], evaluators=[{"use": "length"}]) == []
    (finding,) = review(model, SHORT, [long], evaluators=[{"use": "loss"}])
    assert (finding.level, finding.where) == ("error", "rows:41")
    text: list[Record] = [Text(source="rows:1", text="word " * 60_000)]
    (finding,) = review(model, SHORT, text, evaluators=[{"use": "loss"}])
    assert finding.where == "rows:1"
    pair = Preference(
        source="rows:2", prompt=(Message("user", "q"),), chosen="a", rejected="word " * 600
    )
    (finding,) = review(model, SHORT, [pair], evaluators=[{"use": "preference-accuracy"}])
    assert finding.where == "rows:2"


def test_the_context_is_read_from_the_config() -> None:
    assert read_context_length({"max_position_embeddings": 512}) == 512
    assert read_context_length({"n_positions": 1024}) == 1024
    assert read_context_length({"text_config": {"max_position_embeddings": 128}}) == 128
    assert read_context_length({"max_position_embeddings": -1}) is None
    assert read_context_length({}) is None


def review_limit(model: Path, test: Sequence[Record], **evaluator: Any) -> list[Finding]:
    tables = {
        "model": {"base": str(model)},
        "data": {"use": "jsonl", "train": "rows.jsonl"},
        "technique": {"use": "lora"},
        "evaluators": [{"use": "exact-match", **evaluator}],
    }
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    plan = make_plan(run_file.RunFile(tables=tables, folder=model, stem="x"), catalog)
    return list(review_answers(plan, test))


def test_a_limit_below_the_references_is_found_with_the_one_that_is_needed(model: Path) -> None:
    rows = [*SHORT, Completion(source="rows:40", prompt="Who?", completion="Me and you. " * 9)]
    (finding,) = review_limit(model, rows, max_new_tokens=4)
    assert (finding.level, finding.where) == ("warning", "evaluators.0.max_new_tokens")
    assert finding.count == 1 and finding.examples[0].startswith("rows:40 has ")
    assert "exact-match generates at most 4 tokens" in finding.message
    needed = int(finding.hint.split(" to ")[1].split()[0])
    assert review_limit(model, rows, max_new_tokens=needed) == []
    assert review_limit(model, rows) == [], "auto: the longest reference fits in"
    assert review_limit(model, [*rows, LONG_ANSWER])[0].count == 1, "but no more than 512 tokens"


def test_without_a_tokenizer_words_are_counted(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    rows = [Completion(source="rows:1", prompt="Who?", completion="Me and you and him.")]
    (finding,) = review_limit(tmp_path, rows, max_new_tokens=4)
    assert "up to 5" in finding.message
