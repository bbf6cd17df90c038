"""People's choices between two answers: the file, the session in a terminal, and the way back."""

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

from tunesmith.cli.app import app
from tunesmith.errors import DataError, UsageError
from tunesmith.records import Message, Preference
from tunesmith_plugins.commands.annotate.pairs import (
    Pair,
    Tally,
    made_from,
    preferences,
    read,
    write,
)
from tunesmith_plugins.commands.annotate.session import Session
from tunesmith_plugins.loaders.jsonl.offer import JSONL

PROMPT = (Message("system", "be kind"), Message("user", "what now?"))


def pairs(count: int = 4) -> list[Pair]:
    return [Pair(PROMPT, f"left {n}", f"right {n}", f"p{n}") for n in range(count)]


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "annotate", *map(str, arguments)])


# --------------------------------------------------------------------------- the file


def test_sides_are_drawn_and_recorded() -> None:
    made = [made_from((Message("user", str(n)),), ["first", "second"], 0)[0][0] for n in range(200)]
    answers = ("first", "second")
    for pair in made:
        assert (pair.left, pair.right) == (answers[pair.left_sample], answers[pair.right_sample])
    first_on_the_left = sum(pair.left_sample == 0 for pair in made)
    assert 70 < first_on_the_left < 130
    assert made_from(PROMPT, answers, 5) == made_from(PROMPT, answers, 5)


def test_equal_and_empty_answers_are_no_question() -> None:
    made, left_out = made_from(PROMPT, ["a", "a", " ", "b", "\0"], 0)
    assert {frozenset((p.left, p.right)) for p in made} == {frozenset("ab")}
    assert (len(made), left_out) == (2, 8)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    odd = Pair(PROMPT, "a\u2028b\n\x1b[31m", "ü", "x", 3, 1, "tie")
    write(tmp_path / "pairs.jsonl", [*pairs(), odd])
    assert read(tmp_path / "pairs.jsonl") == [*pairs(), odd]


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
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str, cause: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pairs(1)[0].row()) + "\n" + line + "\n")
    with pytest.raises(DataError, match=cause) as caught:
        read(path)
    assert "pairs.jsonl:2" in str(caught.value)


def test_choices_come_back_as_preferences(tmp_path: Path) -> None:
    chosen = ["left", "right", "tie", "skip", ""]
    marked = [pair.chosen(c) for pair, c in zip(pairs(5), chosen, strict=True)]
    (tmp_path / "back.jsonl").write_text("".join(preferences(marked)))
    config = JSONL.config(train=str(tmp_path / "back.jsonl"))
    dataset = JSONL.build(config).load()
    assert not dataset.left_out
    found = [(r.prompt, r.chosen, r.rejected) for r in dataset.train if isinstance(r, Preference)]
    assert found == [(PROMPT, "left 0", "right 0"), (PROMPT, "right 1", "left 1")]
    tally = Tally.of(marked)
    assert (tally.preferences, tally.ties, tally.skipped, tally.open) == (2, 1, 1, 1)
    assert tally.left_share is not None
    assert tally.left_share.value == 0.5


# --------------------------------------------------------------------------- the command


def test_by_hand_through_the_command(tmp_path: Path) -> None:
    path, out = tmp_path / "pairs.jsonl", tmp_path / "preferences.jsonl"
    rows = [pair.row() for pair in pairs(3)]
    rows[0]["choice"], rows[1]["choice"] = "Left ", "tie"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = cli("--read", path, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["preferences"], told["ties"], told["open"]) == (1, 1, 1)
    assert json.loads(out.read_text())["chosen"] == "left 0"
    assert cli("--read", path, "--out", out).exit_code == 2, "choices are not overwritten"


def test_one_thing_at_a_time(tmp_path: Path) -> None:
    assert cli().exit_code == 2
    assert cli("--model", "m", "--ask", "p").exit_code == 2
    assert "terminal" in cli("--ask", tmp_path / "pairs.jsonl").output
    assert "--prompts" in cli("--model", "m", "--out", tmp_path / "o").output


def test_answers_are_drawn_from_a_model(tmp_path: Path) -> None:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    model = save_tiny_model(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "one?"}\n{"prompt": [{"role": "user", "content": "two?"}]}\n'
    )
    asked = ["--model", model, "--prompts", tmp_path / "prompts.jsonl", "--tokens", 8]
    out = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    result = cli(*asked, "--samples", 3, "--out", out[0])
    assert result.exit_code == 0, result.output
    found = read(out[0])
    assert 2 <= len(found) <= 6
    assert {pair.prompt[-1].content for pair in found} == {"one?", "two?"}
    assert not any(pair.choice for pair in found)
    cli(*asked, "--samples", 3, "--out", out[1])
    cli(*asked, "--samples", 3, "--seed", 1, "--out", out[2])
    assert out[0].read_bytes() == out[1].read_bytes() != out[2].read_bytes()


# --------------------------------------------------------------------------- the session


def session(path: Path, typed: list[str]) -> Session:
    pressed = iter(typed)

    def key() -> str:
        try:
            return next(pressed)
        except StopIteration:
            raise EOFError from None

    return Session(path, key)


def choices(path: Path) -> list[str]:
    return [pair.choice for pair in read(path)]


def test_a_session_saves_every_key_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write(path, pairs())
    session(path, ["1", "x", "\x1b[C"]).run()
    assert choices(path) == ["left", "right", "", ""]
    session(path, ["t", "s"]).run()
    assert choices(path) == ["left", "right", "tie", "skip"]
    session(path, ["1"]).run()
    assert choices(path) == ["left", "right", "tie", "skip"], "nothing is open, nothing is asked"


def test_back_changes_what_was_chosen(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write(path, pairs())
    session(path, ["b", "1", "1", "b", "b", "2", "q", "1"]).run()
    assert choices(path) == ["right", "left", "", ""]


def test_another_writer_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write(path, pairs())
    open_one = session(path, ["1"])
    session(path, ["2"]).run()
    with pytest.raises(UsageError, match="somebody else"):
        open_one.run()
    assert choices(path)[0] == "right"


def test_in_a_real_terminal(tmp_path: Path) -> None:
    """Text that would steer the terminal is shown, arrows work, and a hang-up loses nothing."""
    path = tmp_path / "pairs.jsonl"
    write(path, [Pair(PROMPT, "\x1b]0;owned\x07 [bold]a", "b", f"p{n}") for n in range(3)])
    code = "import sys; from tunesmith.cli import main; sys.argv[0] = 'tunesmith'; main()"
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
        shown = until(leader, b"q: quit")
        assert b"\\x1b]0;owned\\x07 [bold]a" in shown.replace(b"\r\n", b"")
        assert b"\x1b]0;" not in shown
        os.write(leader, b"\x1b[D")
        assert b"pair 2 of 3, 1 done" in until(leader, b"q: quit")
        os.write(leader, b"\x1b[C")
        assert b"pair 3 of 3, 2 done" in until(leader, b"q: quit")
        assert choices(path) == ["left", "right", ""]
        os.write(leader, b"q")
        until(leader, b"2 preferences, 0 ties, 0 skipped, 1 still open")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def until(leader: int, wanted: bytes, seconds: float = 20) -> bytes:
    """What the terminal shows until it has shown this."""
    found, limit = b"", time.monotonic() + seconds
    while wanted not in found:
        ready, _, _ = select.select([leader], [], [], limit - time.monotonic())
        assert ready, f"{wanted!r} did not come: {found[-500:]!r}"
        found += os.read(leader, 65536)
    return found
