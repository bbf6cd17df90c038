"""Annotation of pairs: the file, the session in a terminal, and the exported preferences."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunesmith.errors import DataError, UsageError
from tunesmith.records import Message, Preference
from tunesmith_cli.app import app
from tunesmith_plugins.commands.annotate.pairs import (
    ChoiceCounts,
    Pair,
    make_pairs,
    preference_lines,
    read_pairs,
    write_pairs,
)
from tunesmith_plugins.commands.annotate.session import Session
from tunesmith_plugins.loaders.jsonl.offer import JSONL

PROMPT = (Message("system", "be kind"), Message("user", "what now?"))


def pairs(count: int = 4) -> list[Pair]:
    return [Pair(PROMPT, f"left {n}", f"right {n}", f"p{n}") for n in range(count)]


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "annotate", *map(str, arguments)])


# --------------------------------------------------------------------------- file


def test_sides_are_random_and_recorded() -> None:
    sampled = [
        make_pairs((Message("user", str(n)),), ["first", "second"], 0)[0][0] for n in range(200)
    ]
    answers = ("first", "second")
    for pair in sampled:
        assert (pair.left, pair.right) == (answers[pair.left_sample], answers[pair.right_sample])
    first_on_the_left = sum(pair.left_sample == 0 for pair in sampled)
    assert 70 < first_on_the_left < 130
    assert make_pairs(PROMPT, answers, 5) == make_pairs(PROMPT, answers, 5)


def test_equal_and_empty_answers_are_skipped() -> None:
    sampled, skipped = make_pairs(PROMPT, ["a", "a", " ", "b", "\0"], 0)
    assert {frozenset((p.left, p.right)) for p in sampled} == {frozenset("ab")}
    assert (len(sampled), skipped) == (2, 8)


def test_written_pairs_are_read_unchanged(tmp_path: Path) -> None:
    unusual = Pair(PROMPT, "a\u2028b\n\x1b[31m", "ü", "x", 3, 1, "tie")
    write_pairs(tmp_path / "pairs.jsonl", [*pairs(), unusual])
    assert read_pairs(tmp_path / "pairs.jsonl") == [*pairs(), unusual]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("{", "not JSON"),
        ('{"prompt": [], "left": "a", "right": "b"}', "`pair`"),
        (
            '{"prompt": [], "left": "a", "right": "b", "pair": "p", "choice": "up"}',
            "unknown choice",
        ),
        ('{"prompt": "p", "left": "a", "right": "b", "pair": "p"}', "not a list of messages"),
    ],
)
def test_invalid_line_is_reported_with_its_number(tmp_path: Path, line: str, cause: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pairs(1)[0].to_row()) + "\n" + line + "\n")
    with pytest.raises(DataError, match=cause) as caught:
        read_pairs(path)
    assert "pairs.jsonl:2" in str(caught.value)


def test_choices_become_preferences(tmp_path: Path) -> None:
    all_choices = ["left", "right", "tie", "skip", ""]
    annotated = [pair.with_choice(c) for pair, c in zip(pairs(5), all_choices, strict=True)]
    (tmp_path / "back.jsonl").write_text("".join(preference_lines(annotated)))
    config = JSONL.config(train=str(tmp_path / "back.jsonl"))
    dataset = JSONL.build(config).load()
    assert not dataset.skipped
    preferences = [record for record in dataset.train if isinstance(record, Preference)]
    assert [(p.prompt, p.chosen, p.rejected) for p in preferences] == [
        (PROMPT, "left 0", "right 0"),
        (PROMPT, "right 1", "left 1"),
    ]
    counts = ChoiceCounts.of(annotated)
    assert (counts.preferences, counts.ties, counts.skipped, counts.open) == (2, 1, 1, 1)
    assert counts.left_share is not None
    assert counts.left_share.value == 0.5


# --------------------------------------------------------------------------- command


def test_read_exports_choices_made_by_hand(tmp_path: Path) -> None:
    path, out = tmp_path / "pairs.jsonl", tmp_path / "preferences.jsonl"
    rows = [pair.to_row() for pair in pairs(3)]
    rows[0]["choice"], rows[1]["choice"] = "Left ", "tie"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = cli("--read", path, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    result_json = json.loads(result.stdout)
    assert (result_json["preferences"], result_json["ties"], result_json["open"]) == (1, 1, 1)
    assert json.loads(out.read_text())["chosen"] == "left 0"
    assert cli("--read", path, "--out", out).exit_code == 2, "choices are not overwritten"


def test_modes_are_exclusive(tmp_path: Path) -> None:
    assert cli().exit_code == 2
    assert cli("--model", "m", "--ask", "p").exit_code == 2
    assert "terminal" in cli("--ask", tmp_path / "pairs.jsonl").output
    assert "--prompts" in cli("--model", "m", "--out", tmp_path / "o").output


def test_answers_are_sampled_from_a_model(tmp_path: Path) -> None:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    model = save_tiny_model(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "one?"}\n{"prompt": [{"role": "user", "content": "two?"}]}\n'
    )
    arguments = ["--model", model, "--prompts", tmp_path / "prompts.jsonl", "--max-new-tokens", 8]
    out = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    result = cli(*arguments, "--num-samples", 3, "--out", out[0])
    assert result.exit_code == 0, result.output
    pairs_read = read_pairs(out[0])
    assert 2 <= len(pairs_read) <= 6
    assert {pair.prompt[-1].content for pair in pairs_read} == {"one?", "two?"}
    assert not any(pair.choice for pair in pairs_read)
    cli(*arguments, "--num-samples", 3, "--out", out[1])
    cli(*arguments, "--num-samples", 3, "--seed", 1, "--out", out[2])
    assert out[0].read_bytes() == out[1].read_bytes() != out[2].read_bytes()


# --------------------------------------------------------------------------- session


def session(path: Path, typed: list[str]) -> Session:
    pressed = iter(typed)

    def key() -> str:
        try:
            return next(pressed)
        except StopIteration:
            raise EOFError from None

    return Session(path, key)


def choices(path: Path) -> list[str]:
    return [pair.choice for pair in read_pairs(path)]


def test_session_saves_every_choice_and_continues(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, pairs())
    session(path, ["1", "x", "\x1b[C"]).run()
    assert choices(path) == ["left", "right", "", ""]
    session(path, ["t", "s"]).run()
    assert choices(path) == ["left", "right", "tie", "skip"]
    session(path, ["1"]).run()
    assert choices(path) == ["left", "right", "tie", "skip"], "nothing is open, nothing is asked"


def test_back_changes_the_previous_choice(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, pairs())
    session(path, ["b", "1", "1", "b", "b", "2", "q", "1"]).run()
    assert choices(path) == ["right", "left", "", ""]


def test_session_detects_changes_by_another_program(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, pairs())
    first = session(path, ["1"])
    session(path, ["2"]).run()
    with pytest.raises(UsageError, match="another program"):
        first.run()
    assert choices(path)[0] == "right"


def test_session_in_a_real_terminal(tmp_path: Path) -> None:
    """Control sequences are shown as text, arrow keys work, and choices survive a hang-up."""
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [Pair(PROMPT, "\x1b]0;owned\x07 [bold]a", "b", f"p{n}") for n in range(3)])
    code = "import sys; from tunesmith_cli import main; sys.argv[0] = 'tunesmith'; main()"
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "data", "annotate", "--ask", str(path)],
        stdin=follower,
        stdout=follower,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(follower)
    try:
        shown = read_until(leader, b"q: quit")
        assert b"\\x1b]0;owned\\x07 [bold]a" in shown.replace(b"\r\n", b"")
        assert b"\x1b]0;" not in shown
        os.write(leader, b"\x1b[D")
        assert b"pair 2 of 3, 1 done" in read_until(leader, b"q: quit")
        os.write(leader, b"\x1b[C")
        assert b"pair 3 of 3, 2 done" in read_until(leader, b"q: quit")
        assert choices(path) == ["left", "right", ""]
        os.write(leader, b"q")
        read_until(leader, b"2 preferences, 0 ties, 0 skipped, 1 still open")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def read_until(leader: int, expected: bytes, seconds: float = 20) -> bytes:
    """Read the output of the terminal until it contains ``expected``, and return it."""
    output, limit = b"", time.monotonic() + seconds
    while expected not in output:
        ready, _, _ = select.select([leader], [], [], limit - time.monotonic())
        assert ready, f"{expected!r} was not printed: {output[-500:]!r}"
        output += os.read(leader, 65536)
    return output
