"""Fuzz tests of the loader: written rows are read back, and damaged files never crash it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from damage import mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Record
from tunesmith.text import one_line
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
NOT_BLANK = TEXT.filter(lambda text: not text.isspace())
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["cut", "turn", "role", "content", "from", "value", "weight"]),
        ANYTHING | st.sampled_from(["user", "assistant", "tool", "system"]),
    ),
    max_size=2,
)
"""Numbers of turns, where the conversation is cut, or what takes the place of a turn or a key."""

SEEDS = {
    "completions": b"".join(
        json.dumps({"prompt": f"q{n} é", "completion": "a \U0001f600 " * n, "id": n}).encode()
        + b"\n"
        for n in range(1, 9)
    ),
    "raw text": '{"question": "naïve — “quoted”", "answer": "日本語"}\n'.encode() * 6,
    "chat": json.dumps(
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": "a"},
            ]
        }
    ).encode()
    + b"\n",
    "pairs": b'{"prompt": "q", "chosen": "good", "rejected": "bad", "score": 1e3}\r\n' * 5,
    "array": json.dumps([{"instruction": "do", "input": "", "output": "x"}] * 4, indent=1).encode(),
    "gzip": gzip.compress(b'{"text": "t", "x": [[{"y": null}]]}\n' * 40),
}


def load(path: Path, max_skipped: float = 1.0) -> list[Record]:
    options = JsonlOptions(train=str(path), max_skipped=max_skipped)
    dataset = JSONL.build(options).load()
    for item in dataset.skipped:
        assert item.cause
        assert len(item.detail) <= 80
        assert item.detail == one_line(item.detail)
    return list(dataset.train)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(NOT_BLANK, NOT_BLANK), min_size=1),
    escaped=st.booleans(),
    layout=st.integers(0, 3),
)
def test_written_rows_are_read_unchanged(
    tmp_path: Path, rows: list[tuple[str, str]], escaped: bool, layout: int
) -> None:
    values = [{"prompt": prompt, "completion": completion} for prompt, completion in rows]
    lines = "\n".join(json.dumps(value, ensure_ascii=escaped) for value in values)
    data = [
        lines,
        lines.replace("\n", "\r\n"),
        json.dumps(values, ensure_ascii=escaped),
        json.dumps(values, ensure_ascii=escaped, indent=2),
    ][layout]
    path = tmp_path / "data.jsonl"
    path.write_bytes(data.encode())
    found = load(path, max_skipped=0)
    assert [(r.prompt, r.completion) for r in found if isinstance(r, Completion)] == rows


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(NOT_BLANK, min_size=2, max_size=6), damage=DAMAGE)
def test_any_conversation_is_used_or_skipped(
    tmp_path: Path, texts: list[str], damage: list[tuple[int, str, object]]
) -> None:
    """One that is valid is read unchanged; of any other, the rows beside it are read."""
    texts = texts[: len(texts) // 2 * 2]
    turns: list[object] = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * 3, texts, strict=False)
    ]
    for number, key, value in damage:
        place = number % len(turns)
        turn = turns[place]
        if key == "cut":
            del turns[max(1, place) :]
        elif key == "turn":
            turns[place] = value
        elif isinstance(turn, dict):
            turn[key] = value
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, (good, {"messages": turns}, good))))
    first, *found, last = load(path)
    assert isinstance(first, Chat) and isinstance(last, Chat)
    assert first.messages == last.messages and first.messages[-1].text == "a"
    assert len(found) == 1 if not damage else len(found) <= 1
    for record in found:
        assert isinstance(record, Chat)
        assert record.messages[-1].role == "assistant"
        assert damage or [message.text for message in record.messages] == texts


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_files_never_crash_the_loader(tmp_path: Path, seed: str) -> None:
    rng = random.Random(seed)
    path = tmp_path / "data.jsonl"
    outcomes = set()
    for _ in range(300):
        path.write_bytes(mutate(SEEDS[seed], rng))
        try:
            outcomes.add(len(load(path)) > 0)
        except DataError:
            outcomes.add(False)
    assert outcomes == {True, False}, "the mutations are too small or too large to test anything"
