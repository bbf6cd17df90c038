"""Chat with a trained model, with a plugin that needs no tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from tunesmith.contracts import Generation
from tunesmith_plugins.commands.chat.command import Conversation

Tunesmith = Callable[..., Result]


def test_chat_answers_prompts_and_compares(tunesmith: Tunesmith, finished: Path) -> None:
    done = tunesmith("chat", finished, "--prompt", "say alpha", "--prompt", "hello")
    assert done.stdout.splitlines() == ["SAY ALPHA", "HELLO"]
    both = tunesmith("chat", finished, "--compare", "base", "--json", input="one\n\ntwo\n")
    lines = [json.loads(line) for line in both.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == ["one", "two"]
    assert lines[0]["answers"]["tuned"]["text"] == "ONE"
    assert lines[0]["answers"]["base"]["text"] == ""
    base = tunesmith("chat", finished, "--base-only", "--prompt", "say alpha")
    assert base.stdout.strip() == ""


def test_chat_keeps_the_conversation() -> None:
    class Echo:
        def generate(
            self, prompts: list[tuple[object, ...]], max_new_tokens: int
        ) -> list[Generation]:
            return [Generation(str(len(prompt)), 1, "stop") for prompt in prompts]

    talk = Conversation({"tuned": Echo()}, "be brief", 9)  # type: ignore[dict-item]
    assert [talk.ask("x")["tuned"].text for _ in range(3)] == ["2", "4", "6"]
    talk.reset()
    assert talk.ask("x")["tuned"].text == "2"


def test_chat_without_a_trained_model(tunesmith: Tunesmith, tmp_path: Path) -> None:
    assert tunesmith("run", "run.toml", "--set", "technique.mode=raise").exit_code == 8
    (run,) = (tmp_path / "runs").iterdir()
    done = tunesmith("chat", run, "--prompt", "x")
    assert done.exit_code == 2
    assert "no trained model yet" in done.stderr


def test_chat_with_a_run_folder_that_was_moved(
    tunesmith: Tunesmith, finished: Path, tmp_path: Path
) -> None:
    shutil.move(finished, tmp_path / "moved")
    assert tunesmith("chat", "moved", "--prompt", "say alpha").stdout == "SAY ALPHA\n"


def test_the_plugins_of_the_run_are_chosen_after_the_command_too(
    tunesmith: Tunesmith, finished: Path
) -> None:
    """The model of a run is opened with the plugins that the options of ``chat`` choose."""
    done = tunesmith("chat", finished, "--prompt", "x", "--no-plugin", "fake_plugin")
    assert done.exit_code == 2
    assert "fake" in done.stderr
