"""Tokenized records are kept: the same come back, never others, and never damaged ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from tunesmith.contracts import Job
from tunesmith.estimates import EstimateRequest
from tunesmith.records import Completion, Record, Text
from tunesmith.storage import Checkpoints, verify_folder
from tunesmith_torch.data import tokenization_cache
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenization import SpanEncoder
from tunesmith_torch.data.tokenization_cache import delete_oldest, tokenize_cached
from tunesmith_torch.data.tokenized_records import TokenizedRecords
from tunesmith_torch.memory_estimate import token_lengths
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.options.training import SupervisedOptions
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_config, build_tiny_tokenizer
from tunesmith_torch.training.supervised import SupervisedTask

ROWS: list[Record] = [
    *(Completion(source=f"r:{n}", prompt=f"{n}? " * n, completion="ten") for n in range(1, 20)),
    Completion(source="r:mark", prompt="<|im_end|>", completion="ten"),
    Text(source="r:text", text="a long text " * 20),
]
LIMIT = 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the entries; rows of any size are kept there."""
    monkeypatch.setattr(tokenization_cache, "MIN_CHARACTERS", 0)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return one item for each tokenization that was computed."""
    computed: list[int] = []
    tokenize = Template.tokenize_records

    def count(*args: Any, **options: Any) -> TokenizedRecords:
        computed.append(1)
        return tokenize(*args, **options)

    monkeypatch.setattr(Template, "tokenize_records", count)
    return computed


def template(source: str = CHATML, **options: Any) -> Template:
    return Template.from_tokenizer(build_tiny_tokenizer(**options), source)


def assert_equal(one: TokenizedRecords, other: TokenizedRecords) -> None:
    for name in ("ids", "trained", "weights", "lengths", "records"):
        a, b = getattr(one.examples, name), getattr(other.examples, name)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    for name in ("skipped", "truncated", "split_texts", "with_control_tokens"):
        assert list(getattr(one, name)) == list(getattr(other, name))


@pytest.mark.parametrize("truncate", [False, True])
def test_the_same_records_are_tokenized_once(calls: list[int], truncate: bool) -> None:
    first = tokenize_cached(template(), ROWS, LIMIT, truncate_prompts=truncate)
    assert bool(first.skipped) != bool(first.truncated)
    assert first.split_texts and first.with_control_tokens
    again = tokenize_cached(template(), list(ROWS), LIMIT, truncate_prompts=truncate)
    assert calls == [1]
    assert_equal(first, again)


def test_whatever_changes_the_tokens_is_another_entry(calls: list[int], cache: Path) -> None:
    changed: Iterator[tuple[Template, list[Record], int, bool]] = iter(
        [
            (template(), ROWS, LIMIT, False),
            (template(CHATML + " "), ROWS, LIMIT, False),
            (template(vocabulary=400), ROWS, LIMIT, False),
            (template(extra=["<|x|>"]), ROWS, LIMIT, False),
            (template(), ROWS[1:], LIMIT, False),
            (template(), [replace(ROWS[0], source="other:1"), *ROWS[1:]], LIMIT, False),
            (template(), ROWS, LIMIT + 1, False),
            (template(), ROWS, LIMIT, True),
        ]
    )
    for count, (one, rows, limit, truncate) in enumerate(changed, 1):
        tokenized = tokenize_cached(one, rows, limit, truncate_prompts=truncate)
        expected = one.tokenize_records(rows, limit, truncate_prompts=truncate)
        assert_equal(tokenized, expected)
        assert len(calls) == 2 * count and len(list(cache.iterdir())) == count


class OtherEncoder(SpanEncoder):
    """An encoder whose ids may depend on anything."""


def test_tokens_of_other_encoders_are_not_kept(calls: list[int], cache: Path) -> None:
    one = template()
    other = replace(one, encoder=OtherEncoder(**vars(one.encoder)))
    for _ in range(2):
        tokenize_cached(other, ROWS, LIMIT)
    assert calls == [1, 1] and not cache.exists()


@pytest.mark.parametrize("file", ["ids.bin", "accounts.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_entry_is_made_again(
    calls: list[int], cache: Path, file: str, damage: str
) -> None:
    first = tokenize_cached(template(), ROWS, LIMIT)
    (entry,) = cache.iterdir()
    path = entry / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content if damage == "bit" else content[: len(content) // 2])
    assert_equal(tokenize_cached(template(), ROWS, LIMIT), first)
    assert calls == [1, 1] and not verify_folder(entry)
    tokenize_cached(template(), ROWS, LIMIT)
    assert calls == [1, 1]


def test_two_that_make_the_same_entry_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    expected = template().tokenize_records(ROWS, LIMIT)
    barrier = Barrier(2, timeout=60)
    write = tokenization_cache._write

    def meet(folder: Path, tokenized: TokenizedRecords) -> None:
        write(folder, tokenized)
        barrier.wait()

    monkeypatch.setattr(tokenization_cache, "_write", meet)
    with ThreadPoolExecutor(2) as both:
        results = [both.submit(tokenize_cached, template(), ROWS, LIMIT) for _ in range(2)]
    for result in results:
        assert_equal(result.result(), expected)
    (entry,) = cache.iterdir()
    assert not verify_folder(entry)


def test_records_are_tokenized_without_a_usable_folder(
    monkeypatch: pytest.MonkeyPatch, calls: list[int], cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "file"))
    assert len(tokenize_cached(template(), ROWS, LIMIT).examples)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNESMITH_TOKEN_CACHE", "0")
    assert len(tokenize_cached(template(), ROWS, LIMIT).examples)
    monkeypatch.delenv("TUNESMITH_TOKEN_CACHE")
    monkeypatch.setattr(tokenization_cache, "MIN_CHARACTERS", 1_000_000)
    assert len(tokenize_cached(template(), ROWS, LIMIT).examples)
    assert calls == [1, 1, 1] and not cache.exists()


def test_entries_that_were_not_used_for_longest_are_deleted(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old", ".staging-1-x"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(100))
        now = (tmp_path / name).stat().st_mtime
        os.utime(tmp_path / name, (now - age * 50_000,) * 2)
    delete_oldest(tmp_path, 1000)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle", "old"}
    delete_oldest(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}


def test_a_plan_and_a_training_share_an_entry(calls: list[int], tiny_folder: Path) -> None:
    options = SupervisedOptions(max_length=300, max_skipped=1)
    request = EstimateRequest(
        config=build_tiny_config().to_dict(),
        tokenizer=tiny_folder,
        train=ROWS,
        test=ROWS[:1],
        assumed=None,
        device="cpu",
    )
    assert token_lengths.exact_workload(options, request, 512) is not None
    assert calls == [1, 1]  # the training and the test rows
    job: Job[Any] = Job(
        config=options,
        model=tiny_folder,
        train=ROWS,
        validation=(),
        out=tiny_folder / "out",
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(tiny_folder / "out"),
        emit=lambda event: None,
        technique="test",
    )
    tokenizer = load_tokenizer(tiny_folder)
    tokenized = SupervisedTask().tokenize(job, Template.from_options(tokenizer, options), 300)
    assert calls == [1, 1] and isinstance(tokenized, TokenizedRecords)
    assert tokenized.examples.records[-1] == len(ROWS) - 1
