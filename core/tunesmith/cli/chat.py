"""``tunesmith chat``: talk to what a run made, and see what the base model would have said."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

from tunesmith import api
from tunesmith.cli import render
from tunesmith.cli.common import State, common_options, json_option, pass_state
from tunesmith.contracts import Generation, TextModel
from tunesmith.execution.baselines import Prompted
from tunesmith.records import Message
from tunesmith.text import one_line

HELP = "/reset forgets the conversation, /quit (or Ctrl-D) leaves"


@dataclass
class Conversation:
    """One conversation, held with each of several models: every one sees its own answers."""

    models: Mapping[str, TextModel]
    system: str | None
    limit: int
    turns: dict[str, list[Message]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        first = [Message("system", self.system)] if self.system else []
        self.turns = {name: list(first) for name in self.models}

    def ask(self, text: str) -> dict[str, Generation]:
        """What each model answers."""
        answers = {}
        for name, model in self.models.items():
            turns = self.turns[name]
            turns.append(Message("user", text))
            answers[name] = model.generate([tuple(turns)], self.limit)[0]
            turns.append(Message("assistant", answers[name].text))
        return answers


@click.command("chat")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--compare", type=click.Choice(["base"]), help="Show the base model's answer beside.")
@click.option("--base-only", is_flag=True, help="Talk to the base model alone.")
@click.option("--prompt", "prompts", multiple=True, help="Ask this and leave. Repeatable.")
@click.option("--system", help="A system prompt, for data that was learned with one.")
@click.option(
    "--tokens",
    type=click.IntRange(1, 32768),
    default=256,
    show_default=True,
    help="Most tokens of an answer.",
)
@json_option
@common_options
@pass_state
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: State,
    run: Path,
    compare: str | None,
    base_only: bool,
    prompts: tuple[str, ...],
    system: str | None,
    tokens: int,
    as_json: bool,
) -> None:
    """Talk to a run's model, read back from disk. Answers are greedy, as in the evaluation.

    With --prompt, or lines on stdin, each prompt starts a conversation of its own. The base model
    gets the instruction of [baselines], as it did when it was measured.
    """
    folder, plan, _ = api.reopen(run, files=state.files, disabled=state.disabled)
    opened = api.open_models(folder, plan, tuned=not base_only, base=base_only or bool(compare))
    if "base" in opened:
        opened["base"] = Prompted(opened["base"], plan.baselines.system_prompt)
    talk = Conversation(opened, system, tokens)
    if prompts or not sys.stdin.isatty():
        for text in prompts or _lines(sys.stdin):
            talk.reset()
            show(text, talk.ask(text), as_json, alone=True)
        return
    render.remark(f"{one_line(folder.id)}; {HELP}")
    for text in _typed(talk):
        show(text, talk.ask(text), as_json, alone=False)


def show(text: str, answers: Mapping[str, Generation], as_json: bool, *, alone: bool) -> None:
    """One answer, or several beside each other."""
    if as_json:
        said = {
            name: {"text": answer.text, "tokens": answer.tokens, "stopped": answer.stopped}
            for name, answer in answers.items()
        }
        render.data_line({"schema": "tunesmith.chat/1", "prompt": text, "answers": said})
    elif len(answers) == 1:
        (answer,) = answers.values()
        render.say(answer.text if alone else f"{answer.text}\n")
    else:
        if alone:
            render.say(f"> {text}", style="dim")
        render.beside({name: answer.text for name, answer in answers.items()})
    cut = [name for name, answer in answers.items() if answer.stopped == "limit"]
    if cut:
        render.remark(f"cut off by --tokens: {', '.join(cut)}", style="odd")


def _typed(talk: Conversation) -> Iterator[str]:
    """What a person types, until they leave."""
    _line_editing()
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            render.remark("")
            return
        match text:
            case "":
                continue
            case "/quit" | "/exit":
                return
            case "/reset":
                talk.reset()
                render.remark("the conversation is forgotten")
            case _ if text.startswith("/"):
                render.remark(HELP)
            case _:
                yield text


def _line_editing() -> None:
    """Arrow keys and history while typing, where Python has them."""
    try:
        import readline  # noqa: F401 - importing it is what switches it on
    except ImportError:
        return


def _lines(stream: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in stream if line.strip())
