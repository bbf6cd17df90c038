"""The first batch is described as the model computes it: rows, trained tokens, nothing secret."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tables import build

from tunesmith.contracts import Job
from tunesmith.events import Event, TrainingStarted
from tunesmith.records import (
    Completion,
    Message,
    Preference,
    Prompt,
    Record,
    UnpairedPreference,
)
from tunesmith.storage import Checkpoints
from tunesmith_evidence.report.first_batch import FirstBatch, TokenRow
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.data.packing import Example, MicroBatch, collate, pad_to_multiple
from tunesmith_torch.data.templates import Template
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    collate_final_tokens,
    tokenize_preferences,
)
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer
from tunesmith_torch.training.first_batch import (
    MAX_ROW_TOKENS,
    MAX_TOKENS,
    TokenLayout,
    describe_first_batch,
)
from tunesmith_torch.training.preference_data import PreferenceData
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train

TOKENIZER = build_tiny_tokenizer()
TEMPLATE = Template.from_tokenizer(TOKENIZER)
KEY = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"


@dataclass
class Shown:
    """An objective that has nothing but a layout."""

    layout: TokenLayout

    def micro_batches(self, prepared: Any, budget: int) -> Sequence[Any]:
        raise NotImplementedError

    def token_layout(self, micro_batch: Any) -> TokenLayout:
        return self.layout


def describe(layout: TokenLayout) -> FirstBatch:
    return describe_first_batch(Shown(layout), [layout.batch], TOKENIZER, "stage")


def supervised(texts: Sequence[tuple[str, str]], *, packed: bool = True) -> MicroBatch:
    records = [Completion(source="r", prompt=p, completion=c) for p, c in texts]
    examples: list[Example] = [e for r in records for e in TEMPLATE.tokenize_record(r, 10_000)]
    return collate(examples, range(len(examples)), packed=packed)


def text(row: TokenRow, *roles: str) -> str:
    return "".join(piece for piece, role, _ in row if role in roles)


@pytest.mark.parametrize("packed", [True, False])
def test_rows_are_told_apart_and_completions_are_trained(packed: bool) -> None:
    texts = [("Wie spät?", "zwölf 日本 🙂"), ("a", "b"), ("two\nlines", "done")]
    batch = supervised(texts, packed=packed)
    event = describe(TokenLayout(pad_to_multiple(batch)))
    assert event.layout == ("packed" if packed else "padded")
    assert [row.title for row in event.rows] == ["row 1", "row 2", "row 3"]
    for (prompt, completion), row in zip(texts, event.rows, strict=True):
        assert text(row, "trained") == f"{completion}<|im_end|>"
        assert f"user\n{prompt}<|im_end|>" in text(row, "context")
        assert row.tokens == len(row.pieces) == len(row.marks)
        assert {piece for piece, _, is_special in row if is_special} == {
            "<|im_start|>",
            "<|im_end|>",
        }
    assert event.tokens == sum(row.tokens for row in event.rows)
    assert event.padding == pad_to_multiple(batch).ids_BT.numel() - event.tokens


def test_what_people_type_as_a_control_token_is_not_special() -> None:
    row = describe(TokenLayout(supervised([("say <|im_end|> now", "no")]))).rows[0]
    specials = [piece for piece, _, is_special in row if is_special]
    assert specials.count("<|im_end|>") == 2  # after the prompt and after the answer
    assert "say <|im_end|> now" in text(row, "context")


@pytest.mark.parametrize(
    "layout", [GroupLayout(), GroupLayout(share_prompts=False), GroupLayout(packing=False)]
)
def test_pairs_have_both_answers_trained(layout: GroupLayout) -> None:
    records: list[Record] = [
        Preference(source="r", prompt=prompt("why?"), chosen="good one", rejected="bad"),
        Preference(source="r", prompt=prompt("how?"), chosen="so", rejected="not so at all"),
    ]
    groups = tokenize_preferences(records, TEMPLATE)
    data = PreferenceData(groups, layout)
    batch = layout.collate(groups, [1, 0])
    titles = data.completion_titles(batch.group_indices)
    event = describe(TokenLayout(batch.batch, batch.tree_layout, titles))
    answers = [(row.title, text(row, "trained")) for row in event.rows if row.trained]
    assert answers == [
        ("row 1, chosen", "so<|im_end|>"),
        ("row 1, rejected", "not so at all<|im_end|>"),
        ("row 2, chosen", "good one<|im_end|>"),
        ("row 2, rejected", "bad<|im_end|>"),
    ]
    prefixes = [row.title for row in event.rows if not row.trained]
    shared = layout.packing and layout.share_prompts
    assert prefixes == (["shared prefix 1", "shared prefix 2"] if shared else [])
    if shared:
        assert [row.title for row in event.rows][:3] == [
            "shared prefix 1",
            "row 1, chosen",
            "row 1, rejected",
        ]


def test_labeled_answers_are_good_or_bad() -> None:
    record = UnpairedPreference(source="r", prompt=prompt("why?"), completion="so", label=False)
    data = PreferenceData(tokenize_preferences([record], TEMPLATE), GroupLayout())
    assert data.completion_titles([0]) == ["row 1, bad"]


@pytest.mark.parametrize("layout", [GroupLayout(), GroupLayout(share_prompts=False)])
def test_a_reward_is_read_at_the_last_token(layout: GroupLayout) -> None:
    pair = Preference(source="r", prompt=prompt("why?"), chosen="good one", rejected="bad")
    groups = tokenize_preferences([pair], TEMPLATE)
    [batch] = collate_final_tokens(layout, groups, [0], 1000)
    event = describe(TokenLayout(batch.batch, batch.tree_layout, is_scored=True))
    rows = [row for row in event.rows if text(row, "scored")]
    assert [text(row, "scored") for row in rows] == ["<|im_end|>", "<|im_end|>"]
    assert [row.marks[-1] for row in rows] == ["S", "S"]
    assert text(rows[0], "context").endswith("good one")
    assert not any(row.trained for row in event.rows)


def test_completions_without_a_weight_are_not_trained() -> None:
    group = CompletionGroup([5, 6, 7], ([8, 9], [10, 11]))
    batch = GroupLayout().collate([group], [0])
    weights_N = batch.batch.trained_N.new_tensor([1, 1, 0, 0]).float()
    event = describe(TokenLayout(batch.batch, batch.tree_layout, loss_weights_N=weights_N))
    assert [row.trained for row in event.rows] == [0, 2, 0]


def test_a_secret_is_redacted_although_each_of_its_tokens_is_harmless() -> None:
    batch = supervised([(f"use {KEY} now", "yes"), ("fine", f"it is {KEY}"), ("a", "b")])
    event = describe(TokenLayout(batch))
    stored = json.dumps(event.to_json())
    assert "".join(event.rows[0].pieces).count("[redacted:") == 1
    assert text(event.rows[1], "trained").count("[redacted:") == 1
    for row in event.rows:
        assert KEY not in "".join(row.pieces)
    assert KEY[-8:] not in stored.replace('", "', "")
    assert text(event.rows[0], "trained") == "yes<|im_end|>"


def test_a_secret_that_spans_prompt_and_answer_takes_the_marks_with_it() -> None:
    body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
    begin, end = (f"-----{word} PRIVATE KEY-----" for word in ("BEGIN", "END"))
    row = describe(TokenLayout(supervised([(f"{begin}\n{body}", f"{body}\n{end}")]))).rows[0]
    assert body not in "".join(row.pieces)
    assert row.marks == "co" and "[redacted:" in row.pieces[0]
    assert row.trained > 10, "their number is no secret"


def test_the_event_stays_small() -> None:
    long = "word " * 2_000
    event = describe(TokenLayout(supervised([(long, "end"), *[("a", "b")] * 300])))
    first = event.rows[0]
    assert len(first.pieces) == MAX_ROW_TOKENS + 1
    assert [p for p, role, _ in first if role == "omitted"] == [
        f"{first.tokens - MAX_ROW_TOKENS:,} tokens"
    ]
    assert text(first, "trained") == "end<|im_end|>"
    assert event.hidden_rows + len(event.rows) == 301
    assert sum(len(row.pieces) for row in event.rows) <= MAX_TOKENS
    assert len(json.dumps(event.to_json())) < 8_000


def test_a_training_emits_it_once_after_its_start(tmp_path: Path, tiny_folder: Path) -> None:
    events: list[Event] = []
    options = build(LoraOptions, batch_size=4, precision="fp32", max_steps=2)
    tmp_path.joinpath("job").mkdir()
    records = [Completion(source=f"r:{n}", prompt=f"{n}?", completion="ten") for n in range(8)]
    job: Job[Any] = Job(
        config=options,
        model=tiny_folder,
        train=records,
        validation=(),
        out=tmp_path / "job",
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(tmp_path / "job" / "checkpoints"),
        emit=events.append,
        technique="test",
    )
    train(job, SupervisedTask())
    kinds = [type(event) for event in events]
    assert kinds.count(FirstBatch) == 1
    assert kinds.index(TrainingStarted) < kinds.index(FirstBatch)
    [event] = [event for event in events if isinstance(event, FirstBatch)]
    assert sum(bool(row.trained) for row in event.rows) == 4
    assert {text(row, "trained") for row in event.rows if row.trained} == {"ten<|im_end|>"}


def prompt(content: str) -> Prompt:
    return (Message("user", content),)
