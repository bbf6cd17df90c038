"""Streamed examples are those that tokenizing in advance gives, and the same rows are skipped."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message, Record, Text
from tunesmith_torch.data import streamed_examples
from tunesmith_torch.data.streamed_examples import (
    NO_EXAMPLE,
    StreamedExamples,
    TokenizationSettings,
)
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenized_records import TokenizedRecords
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer

WORDS = ["the", "door", "opens", "slowly", "öl", "runs", "<|im_end|>", "down", "冰", "wall"]
REFUSES = CHATML + "{% if 'door' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}"
CHANGES_EARLIER = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
    "{% if m['role'] == 'assistant' and not loop.last %}!{% endif %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
TWO_TURNS = (Message("user", "hi"), Message("assistant", "ho")) * 2


def template(source: str = CHATML) -> Template:
    return Template.from_tokenizer(build_tiny_tokenizer(), source)


def records(count: int = 60, longest: int = 60) -> list[Record]:
    rng = random.Random(0)
    found: list[Record] = []
    for index in range(count):
        words = [rng.choice(WORDS) for _ in range(rng.randrange(1, longest))]
        prompt, answer = " ".join(words), rng.choice(WORDS)
        if index % 3:
            found.append(Completion(source=f"a:{index}", prompt=prompt, completion=answer))
        else:
            turns = (Message("user", prompt), Message("assistant", answer, weight=index % 4 / 2))
            last = (Message("user", "?"), Message("assistant", answer))
            found.append(Chat(source=f"a:{index}", messages=turns * (1 + index % 2) + last))
    return found


def stream(rows: Sequence[Record], limit: int, source: str = CHATML) -> StreamedExamples:
    streamed = StreamedExamples.from_records(TokenizationSettings(template(source), limit), rows)
    assert streamed is not None
    return streamed


def batches_of(count: int, size: int = 7) -> list[list[int]]:
    order = random.Random(1).sample(range(count), count)
    return [order[start : start + size] for start in range(0, count, size)]


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("limit", [130, 200, 100_000])
def test_streamed_examples_are_those_tokenized_in_advance(
    limit: int, truncate: bool, prefetch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed_examples, "ROWS_PER_BLOCK", 20)
    rows = records()
    expected = template().tokenize_records(rows, limit, truncate_prompts=truncate)
    streamed = StreamedExamples.from_records(
        TokenizationSettings(template(), limit, truncate), rows
    )
    assert streamed is not None
    assert bool(streamed.skipped) == (limit < 100_000 and not truncate)
    assert list(streamed.skipped.values()) == list(expected.skipped)
    assert streamed.records.tolist() == expected.examples.records.tolist()
    assert max(map(len, expected.examples)) <= streamed.longest <= limit
    batches = batches_of(len(streamed)) * 2
    if prefetch:
        streamed.prefetch(iter(batches))
    for batch in batches:
        streamed.load(batch)
        for row in batch:
            mine, other = streamed[row], expected.examples[row]
            np.testing.assert_array_equal(mine.ids, other.ids)
            np.testing.assert_array_equal(mine.trained, other.trained)
            np.testing.assert_array_equal(mine.weights, other.weights)
    assert [len(e) for e in streamed[2:9]] == [len(e) for e in expected.examples[2:9]]
    assert streamed.truncated == len(expected.truncated)
    if not streamed.skipped:  # it also counts the rows that are skipped
        assert streamed.with_control_tokens == len(expected.with_control_tokens) > 0
    assert streamed.seen == len(streamed)


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of rows that are tokenized together, for each call."""
    sizes: list[int] = []
    tokenize = TokenizationSettings.tokenize

    def count(self: TokenizationSettings, rows: Sequence[Record]) -> TokenizedRecords:
        sizes.append(len(rows))
        return tokenize(self, rows)

    monkeypatch.setattr(TokenizationSettings, "tokenize", count)
    return sizes


def test_rows_that_are_certain_to_fit_are_not_tokenized_in_advance(tokenized: list[int]) -> None:
    streamed = stream(records(), 100_000)
    in_advance = sum(tokenized)
    assert in_advance <= 6  # one of each kind
    streamed.load([4, 7, 9])
    streamed.load([4, 7, 9])
    assert [len(streamed[row]) > 0 for row in (4, 7, 9)] == [True] * 3
    assert sum(tokenized) == in_advance + 3


def test_batches_are_tokenized_together_and_ahead(
    tokenized: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed_examples, "ROWS_PER_BLOCK", 20)
    streamed = stream(records(), 100_000)
    tokenized.clear()
    batches = batches_of(60)
    streamed.prefetch(iter(batches))
    for batch in batches:
        streamed.load(batch)
    assert tokenized == [21, 21, 18]


def test_long_rows_are_expected_to_fit_if_there_are_too_many(
    tokenized: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed_examples, "LARGE_CHARACTERS", 10)
    rows = records()
    streamed = stream(rows, 130)
    assert sum(tokenized) <= 6 and len(streamed) == len(rows) and not streamed.skipped
    expected = template().tokenize_records(rows, 130)
    streamed.load(range(60))
    unused = [row for row in range(60) if not len(streamed[row])]
    assert unused == sorted(set(range(60)) - set(expected.examples.records.tolist()))
    assert {row.where for row in expected.skipped} == set(streamed.skipped)
    assert streamed[unused[0]] is NO_EXAMPLE


def test_data_with_another_number_of_examples_is_not_streamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    several = [Chat(source="a:1", messages=TWO_TURNS)]
    tokenization = TokenizationSettings(template(CHANGES_EARLIER), 1000)
    assert len(tokenization.tokenize(several).examples) == 2
    assert StreamedExamples.from_records(tokenization, several) is None
    texts = [*records(), Text(source="a:1", text="a long text")]
    assert StreamedExamples.from_records(TokenizationSettings(template(), 9), texts) is None
    assert StreamedExamples.from_records(TokenizationSettings(template(), 300), texts) is not None
    monkeypatch.setattr(streamed_examples, "LARGE_CHARACTERS", 10)
    assert StreamedExamples.from_records(TokenizationSettings(template(), 9), texts) is None
    monkeypatch.setattr(streamed_examples, "MAX_KINDS", 3)
    assert StreamedExamples.from_records(TokenizationSettings(template(), 300), texts) is None


def test_a_row_that_becomes_several_examples_is_skipped() -> None:
    """A template may decide by the text, which cannot be known from the kinds of rows."""
    by_text = (
        "{% if 'door' in messages[0]['content'] %}" + CHANGES_EARLIER + "{% else %}" + CHATML
    ) + "{% endif %}"
    short, long = ("x", "the door, which is long")
    rows = [
        Chat(source=f"a:{text}", messages=(Message("user", text), *TWO_TURNS[1:]))
        for text in (short, long)
    ]
    streamed = stream(rows, 1000, by_text)
    streamed.load([0, 1])
    assert len(streamed[0]) and streamed[1] is NO_EXAMPLE
    assert [(r.where, r.cause) for r in streamed.skipped.values()] == [
        (f"a:{long}", "row becomes several examples")
    ]


def test_a_row_that_the_template_refuses_is_skipped() -> None:
    rows = [
        Completion(source=f"a:{i}", prompt=text, completion="yes")
        for i, text in enumerate(["x", "the door", "long enough"])
    ]
    streamed = stream(rows, 1000, REFUSES)
    streamed.load([0, 2])
    assert not streamed.skipped
    streamed.load([1, 2])
    assert list(streamed.skipped) == ["a:1"]
    assert [len(streamed[row]) > 0 for row in (0, 1, 2)] == [True, False, True]


def test_an_error_in_the_background_reaches_the_reader() -> None:
    class Changed(list[Record]):
        def __getitem__(self, index: object) -> object:  # type: ignore[override]
            raise DataError("rows.jsonl", "changed after it was loaded")

    streamed = stream(records(), 100_000)
    streamed._all_records = Changed(records())
    streamed.prefetch(iter([[1, 2], [3]]))
    with pytest.raises(DataError, match="changed"):
        streamed.load([1, 2])
