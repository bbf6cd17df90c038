"""``tunesmith chat``: chat with the trained model, and compare it with the base model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tunesmith import api
from tunesmith.cli import render
from tunesmith.cli.common import CliState, common_options, json_option, pass_state, trust_option
from tunesmith.contracts import Generation, TextModel
from tunesmith.errors import UsageError
from tunesmith.plan import Plan
from tunesmith.records import Message
from tunesmith.storage import RunFolder
from tunesmith.text import one_line
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.winner import FOLDER, open_winner

EMPTY_ANSWER = "(nothing)"
HELP = "/reset starts a new conversation, /quit (or Ctrl-D) ends the chat"


@dataclass
class Conversation:
    """A conversation with several models, each of which sees only its own answers."""

    models: Mapping[str, TextModel]
    system: str | None
    limit: int
    turns: dict[str, list[Message]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new conversation with the same system prompt."""
        first = [Message("system", self.system)] if self.system else []
        self.turns = {name: list(first) for name in self.models}

    def ask(self, text: str) -> dict[str, Generation]:
        """Return the answer of each model to the next message."""
        answers = {}
        for name, model in self.models.items():
            turns = self.turns[name]
            turns.append(Message("user", text))
            answers[name] = model.generate([tuple(turns)], self.limit)[0]
            turns.append(Message("assistant", answers[name].text))
        return answers


@click.command("chat")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--compare", type=click.Choice(["base"]), help="Also show the answers of the base model."
)
@click.option("--base-only", is_flag=True, help="Chat with the base model only.")
@click.option(
    "--winner",
    is_flag=True,
    help="Chat with the prompt or classifier that the verdict found to be enough.",
)
@click.option("--prompt", "prompts", multiple=True, help="Answer this prompt and exit. Repeatable.")
@click.option("--system", help="System prompt, if the training data has one.")
@click.option(
    "--tokens",
    type=click.IntRange(1, 32768),
    default=256,
    show_default=True,
    help="Maximum number of tokens of an answer.",
)
@trust_option
@json_option
@common_options
@pass_state
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    compare: str | None,
    base_only: bool,
    winner: bool,
    prompts: tuple[str, ...],
    system: str | None,
    tokens: int,
    as_json: bool,
) -> None:
    """Chat with the trained model of a run, or compare it with the base model.

    RUN is the run folder. Answers are generated without sampling, as in the evaluation. With
    --prompt, or with prompts as lines on stdin, each prompt starts a new conversation. The base
    model gets the system prompt of [baselines], as in the evaluation. The winner needs no training
    data: it is below the run folder.
    """
    folder, plan, _ = api.load_run(run, files=state.files, disabled=state.disabled)
    opened = _open_models(folder, plan, compare, base_only, winner)
    if "base" in opened:
        opened["base"] = PromptedModel(opened["base"], plan.baselines.system_prompt)
    conversation = Conversation(opened, system, tokens)
    if prompts or not sys.stdin.isatty():
        for text in prompts or _lines(sys.stdin):
            conversation.reset()
            show(text, conversation.ask(text), as_json, one_shot=True)
        return
    render.print_note(f"{one_line(folder.id)}; {HELP}")
    for text in _read_typed_lines(conversation):
        show(text, conversation.ask(text), as_json, one_shot=False)


def _open_models(
    folder: RunFolder, plan: Plan, compare: str | None, base_only: bool, winner: bool
) -> dict[str, TextModel]:
    if winner and base_only:
        raise UsageError("--winner and --base-only: only one of them is possible")
    opened = {}
    if winner:
        name, opened["winner"] = open_winner(folder, plan)
        render.print_note(f"the winner of the run: {one_line(name)}")
    tuned, base = not (base_only or winner), base_only or bool(compare)
    if tuned or base:
        opened |= api.open_models(folder, plan, tuned=tuned, base=base)
    if tuned and (folder.path / FOLDER).is_dir():
        run = render.shell_path(folder.path)
        render.print_note(
            "by the verdict of this run a solution without tuning is enough: "
            f"tunesmith chat {run} --winner"
        )
    return opened


def show(text: str, answers: Mapping[str, Generation], as_json: bool, *, one_shot: bool) -> None:
    """Print the answer of a model, or the answers of several models side by side."""
    if as_json:
        by_model = {
            name: {
                "text": answer.text,
                "tokens": answer.tokens,
                "finish_reason": answer.finish_reason,
            }
            for name, answer in answers.items()
        }
        render.print_json_line({"schema": "tunesmith.chat/1", "prompt": text, "answers": by_model})
    elif len(answers) == 1:
        (answer,) = answers.values()
        render.print_text(answer.text if one_shot else f"{answer.text}\n")
    else:
        if one_shot:
            render.print_text(f"> {text}", style="dim")
        _print_columns({name: answer.text for name, answer in answers.items()})
    cut = [name for name, answer in answers.items() if answer.finish_reason == "length"]
    if cut:
        render.print_note(
            f"answer cut off at the limit (raise --tokens): {', '.join(cut)}", style="warning"
        )


def _print_columns(answers: Mapping[str, str]) -> None:
    """Print answers side by side under their models, or below each other without a terminal."""
    if not sys.stdout.isatty():
        for name, text in answers.items():
            render.print_text(f"{one_line(name)}: {text}")
        return
    columns = Table(box=SIMPLE_HEAD, show_edge=False, expand=True, header_style="bold")
    for name in answers:
        columns.add_column(render.build_text(name), ratio=1, overflow="fold")
    columns.add_row(*(render.build_text(text or EMPTY_ANSWER) for text in answers.values()))
    render.print_renderable(columns)


def _read_typed_lines(conversation: Conversation) -> Iterator[str]:
    """Yield the prompts that the user types; handle /reset, /quit and end of input."""
    _line_editing()
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            render.print_note("")
            return
        match text:
            case "":
                continue
            case "/quit" | "/exit":
                return
            case "/reset":
                conversation.reset()
                render.print_note("new conversation")
            case _ if text.startswith("/"):
                render.print_note(HELP)
            case _:
                yield text


def _line_editing() -> None:
    """Enable arrow keys and history for input, if Python was built with readline."""
    try:
        import readline  # noqa: F401 - the import enables it
    except ImportError:
        return


def _lines(stream: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in stream if line.strip())
