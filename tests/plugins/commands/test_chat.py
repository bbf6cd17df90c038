"""Chat with a trained model, with a plugin that needs no tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result

from tunesmith.contracts import Generation
from tunesmith.errors import UsageError
from tunesmith.execution.execute import load_report
from tunesmith.records import Message, Part, Prompt
from tunesmith.storage import RunFolder
from tunesmith_plugins.commands.chat.answering import print_stream
from tunesmith_plugins.commands.chat.command import Conversation
from tunesmith_plugins.commands.chat.system_prompt import find_system_prompt

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


def test_media_come_before_the_first_message_of_each_conversation() -> None:
    class Picture(Part):
        pass

    class Listing:
        def generate(self, prompts: list[list[Message]], max_new_tokens: int) -> list[Generation]:
            counts = [" ".join(str(len(m.media)) for m in prompt) for prompt in prompts]
            return [Generation(text, 1, "stop") for text in counts]

    talk = Conversation({"tuned": Listing()}, "be brief", 9, media=(Picture(), Picture()))  # type: ignore[dict-item]
    assert [talk.ask("x")["tuned"].text for _ in range(2)] == ["0 2", "0 2 0 0"]
    talk.reset()
    assert talk.ask("x")["tuned"].text == "0 2"


def test_an_image_needs_a_data_loader_that_reads_images(
    tunesmith: Tunesmith, finished: Path, tmp_path: Path
) -> None:
    done = tunesmith("chat", finished, "--prompt", "x", "--image", tmp_path / "a.png")
    assert done.exit_code == 2
    assert "the data loader lines of this run reads no images" in done.stderr


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


class Typist:
    """A model that gives an answer in parts, and samples by the seed."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def generate(self, prompts: list[Prompt], max_new_tokens: int) -> list[Generation]:
        return [Generation(self.texts[-1], 1, "stop") for _ in prompts]

    def sample(
        self, prompts: list[Prompt], max_new_tokens: int, *, seed: int, temperature: float
    ) -> list[Generation]:
        return [Generation(f"{seed} at {temperature}", 1, "stop") for _ in prompts]

    def score_generations(self, *args: object) -> list[object]:
        return []

    def score(self, *args: object) -> list[object]:
        return []

    def stream(
        self, prompt: Prompt, max_new_tokens: int, *, seed: int = 0, temperature: float = 0.0
    ) -> Iterator[Generation]:
        self.seen = prompt
        for text in self.texts:
            yield Generation(text, 1, "length")


def printed(capsys: pytest.CaptureFixture[str], *texts: str) -> str:
    print_stream(Typist(*texts).stream((), 9), "tuned")
    return capsys.readouterr().out


def test_an_answer_is_printed_while_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(click, "echo", lambda text, nl: pieces.append(text))
    texts = ("He", "Hello", "Hello wor", "Hello world", "Hello world. x")
    print_stream(Typist(*texts).stream((), 9), "tuned")
    assert [piece for piece in pieces if piece] == ["Hello ", "world. ", "x\n"]


def test_a_stream_prints_no_half_secret_and_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = "hf_" + "a1B2" * 8
    texts = ("the key", "the key hf_a1B2a1B2", f"the key {secret}", f"the key {secret} ok")
    out = printed(capsys, *texts)
    assert out == "the key [redacted:hf_token] ok\n"
    assert printed(capsys, "a \x1b[31m", "a \x1b[31m b") == "a \\x1b[31m b\n"
    assert printed(capsys, "one two ", "one\ntwo") == "one two \none\ntwo\n"
    assert printed(capsys, "") == "\n"


def test_a_streamed_answer_is_part_of_the_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    model = Typist("hi ", "hi there")
    talk = Conversation({"tuned": model}, "be brief", 9)  # type: ignore[dict-item]
    assert talk.can_stream and talk.ask_and_print("x")["tuned"].text == "hi there"
    talk.ask_and_print("y")
    assert [message.text for message in model.seen] == ["be brief", "x", "hi there", "y"]
    both = Conversation({"tuned": model, "base": model}, None, 9)  # type: ignore[dict-item]
    assert not both.can_stream


def test_a_message_whose_answer_was_stopped_is_taken_back() -> None:
    class Stopped(Typist):
        def generate(self, prompts: list[Prompt], max_new_tokens: int) -> list[Generation]:
            raise KeyboardInterrupt

    talk = Conversation({"tuned": Stopped("")}, None, 9)  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        talk.ask("x")
    assert talk.turns == {"tuned": []}


def test_samples_have_a_seed_each() -> None:
    talk = Conversation({"tuned": Typist("greedy")}, None, 9, 0.7, 5)  # type: ignore[dict-item]
    assert [talk.ask("x")["tuned"].text for _ in range(2)] == ["5 at 0.7", "6 at 0.7"]


def test_a_model_that_cannot_sample_says_so() -> None:
    talk = Conversation({"tuned": object()}, None, 9, 0.7)  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="sampl"):
        talk.ask("x")


def write_systems(folder: Path, systems: list[str]) -> None:
    lines = [
        {
            "source": "x:1",
            "prompt": [*([["system", text]] if text else []), ["user", "u"]],
            "expected": "",
            "same": {"value": 1, "weight": 1},
        }
        for text in systems
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "evaluations" / "tuned.same.jsonl").write_text(text)


def test_the_system_prompt_of_the_data_is_kept(tunesmith: Tunesmith, finished: Path) -> None:
    write_systems(finished, ["be brief"] * 10)
    done = tunesmith("chat", finished, "--prompt", "say alpha")
    assert "system prompt (from the training data): be brief" in done.stderr
    assert done.stdout == "SAY ALPHA\n"
    own = tunesmith("chat", finished, "--prompt", "x", "--system", "mine")
    assert "from the training data" not in own.stderr
    write_systems(finished, ["be brief", "be long"] * 5)
    done = tunesmith("chat", finished, "--prompt", "say alpha")
    assert "(2 different prompts)" in done.stderr
    write_systems(finished, [""] * 9)
    assert "system" not in tunesmith("chat", finished, "--prompt", "x").stderr


def test_a_system_prompt_of_few_rows_is_none_of_the_data(finished: Path) -> None:
    for count, expected in ((9, "be brief"), (8, "")):
        write_systems(finished, ["be brief"] * count + [""] * (10 - count))
        assert find_system_prompt(finished, load_report(RunFolder(finished))) == (expected, 1)
