"""``tunesmith chat``: chat with the trained model, or compare it with the base model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tunesmith import api
from tunesmith.contracts import Generation, TextModel, require_sampling
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.fence import fence
from tunesmith.plan import Plan
from tunesmith.records import Message, Part, Prompt, TextPart
from tunesmith.storage import RunFolder
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.winner import WINNER_FOLDER, open_winner
from tunesmith_plugins.commands.chat.answering import (
    StreamingModel,
    print_stream,
    show_spinner,
)
from tunesmith_plugins.commands.chat.system_prompt import find_system_prompt

EMPTY_ANSWER = "(empty answer)"
HELP = "/reset starts a new conversation, /quit (or Ctrl-D) exits"


@dataclass
class Conversation:
    """A conversation with one or more models. Each model sees only its own answers."""

    models: Mapping[str, TextModel]
    system: str | None
    limit: int
    temperature: float = 0.0
    """Sampling temperature; 0 picks the most likely token each time (greedy decoding)."""
    seed: int = 0
    """Seed of the next sampled answer; increases by one with each message."""
    media: tuple[Part, ...] = ()
    """Images before the first message of the user."""
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
            with self._next_turn(name, text) as prompt, show_spinner(name):
                answers[name] = self._generate(model, prompt)
            self.turns[name].append(Message("assistant", answers[name].text))
        self.seed += 1
        return answers

    def ask_and_print(self, text: str) -> dict[str, Generation]:
        """Stream the only model's answer to the next message to stdout, and return the answer."""
        ((name, model),) = self.models.items()
        assert isinstance(model, StreamingModel)
        with self._next_turn(name, text) as prompt:
            parts = model.stream(prompt, self.limit, seed=self.seed, temperature=self.temperature)
            answer = print_stream(parts, name)
        self.turns[name].append(Message("assistant", answer.text))
        self.seed += 1
        return {name: answer}

    @property
    def can_stream(self) -> bool:
        """True if there is exactly one model and it can stream its answers."""
        return len(self.models) == 1 and isinstance(
            next(iter(self.models.values())), StreamingModel
        )

    @contextmanager
    def _next_turn(self, name: str, text: str) -> Iterator[Prompt]:
        """Add a user message for the duration of the block; remove it if the block fails."""
        turns = self.turns[name]
        is_first = all(turn.role == "system" for turn in turns)
        turns.append(Message("user", (*self.media, TextPart(text)) if is_first else text))
        try:
            yield tuple(turns)
        except BaseException:
            turns.pop()
            raise

    def _generate(self, model: TextModel, prompt: Prompt) -> Generation:
        if self.temperature <= 0:
            return model.generate([prompt], self.limit)[0]
        sampled = require_sampling(model).sample(
            [prompt], self.limit, seed=self.seed, temperature=self.temperature
        )
        return sampled[0]


@click.command("chat")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--compare", type=click.Choice(["base"]), help="Also show the answers of the base model."
)
@click.option("--base-only", is_flag=True, help="Chat with the base model only.")
@click.option(
    "--winner",
    is_flag=True,
    help="Chat with the baseline that the verdict found sufficient (a prompt or a classifier).",
)
@click.option("--prompt", "prompts", multiple=True, help="Answer this prompt and exit. Repeatable.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Show this image before the first message of each conversation. Repeatable.",
)
@click.option(
    "--system",
    help="System prompt. Default: the one in the training data, if (nearly) all rows share it.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0.0, 10.0),
    default=0.0,
    show_default=True,
    help="Sampling temperature; 0 decodes greedily, as in the evaluation.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed for sampling."
)
@click.option(
    "--tokens",
    type=click.IntRange(1, 32768),
    default=256,
    show_default=True,
    help="Maximum tokens per answer.",
)
@trust_option
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    compare: str | None,
    base_only: bool,
    winner: bool,
    prompts: tuple[str, ...],
    images: tuple[Path, ...],
    system: str | None,
    temperature: float,
    seed: int,
    tokens: int,
    as_json: bool,
) -> None:
    """Chat with the trained model of a run, or compare it with the base model.

    RUN is the run folder. By default, answers are decoded greedily, as in the evaluation. On a
    terminal, they are streamed. With --prompt, or with one prompt per line on stdin, each prompt
    starts a new conversation.

    All models get the system prompt of the training data. The base model also gets the one in
    [baselines], as in the evaluation. --winner works without the training data.
    """
    folder, plan, _ = api.load_run(run, files=state.files, disabled=state.disabled)
    media = _read_media(plan, images)
    opened = _open_models(folder, plan, compare, base_only, winner)
    if "base" in opened:
        opened["base"] = PromptedModel(opened["base"], plan.baseline_options.system_prompt)
    if system is None:
        system = _choose_system_prompt(folder)
    conversation = Conversation(opened, system, tokens, temperature, seed, media)
    if prompts or not sys.stdin.isatty():
        for text in prompts or _lines(sys.stdin):
            conversation.reset()
            show(text, conversation.ask(text), as_json, one_shot=True)
        return
    render.print_note(f"{one_line(folder.id)}; {HELP}")
    for text in _read_typed_lines(conversation):
        try:
            _answer(conversation, text, as_json)
        except KeyboardInterrupt:
            render.print_note(
                "\nStopped. Your message was removed from the conversation", style="warning"
            )


def _read_media(plan: Plan, files: Sequence[Path]) -> tuple[Part, ...]:
    """Return the parts of messages that these files hold, read as the run's data loader does."""
    read, plugin = plan.data.offer.read_media, plan.data.offered.plugin
    if not files:
        return ()
    if read is None:
        raise UsageError(
            f"--image: the data loader {plan.data.offer.name} of this run reads no images",
            hint="chat with a run that was trained on images",
        )
    with fence(plugin, "read_media", may_take_long=True):
        return tuple(read(plan.data.config, file) for file in files)


def _answer(conversation: Conversation, text: str, as_json: bool) -> None:
    """Answer a typed message, streaming the answer if possible."""
    if as_json or not conversation.can_stream or not sys.stdout.isatty():
        show(text, conversation.ask(text), as_json, one_shot=False)
        return
    answers = conversation.ask_and_print(text)
    render.print_text()
    _note_cut_answers(answers)


def _choose_system_prompt(folder: RunFolder) -> str | None:
    """Return the system prompt of the training data, and print which one is used."""
    found, different = find_system_prompt(folder.path, execute.load_report(folder))
    if found:
        render.print_note(f"system prompt (from the training data): {one_line(found, 200)}")
    elif different:
        render.print_note(
            "no system prompt is used, because none is common to (nearly) all training rows "
            f"({format_count(different, 'different prompt')}); set one with --system",
            style="warning",
        )
    return found or None


def _open_models(
    folder: RunFolder, plan: Plan, compare: str | None, base_only: bool, winner: bool
) -> dict[str, TextModel]:
    if winner and base_only:
        raise UsageError("use either --winner or --base-only, not both")
    opened = {}
    if winner:
        name, opened["winner"] = open_winner(folder, plan)
        render.print_note(f"winner of this run: {one_line(name)}")
    tuned, base = not (base_only or winner), base_only or bool(compare)
    if tuned or base:
        opened |= api.open_models(folder, plan, tuned=tuned, base=base)
    if tuned and (folder.path / WINNER_FOLDER).is_dir():
        run = render.shell_path(folder.path)
        render.print_note(
            "the verdict of this run is that a baseline is sufficient; to chat with the "
            f"baseline: tunesmith chat {run} --winner"
        )
    return opened


def show(text: str, answers: Mapping[str, Generation], as_json: bool, *, one_shot: bool) -> None:
    """Print the answer of one model, or the answers of several models side by side."""
    if as_json:
        by_model = {
            name: {
                "text": answer.text,
                "tokens": answer.tokens,
                "finish_reason": answer.finish_reason,
            }
            for name, answer in answers.items()
        }
        answer_line = {"schema": "tunesmith.chat/1", "prompt": text, "answers": by_model}
        render.print_json(answer_line, indent=None)
    elif len(answers) == 1:
        (answer,) = answers.values()
        render.print_text(answer.text if one_shot else f"{answer.text}\n")
    else:
        if one_shot:
            render.print_text(f"> {text}", style="dim")
        _print_columns({name: answer.text for name, answer in answers.items()})
    _note_cut_answers(answers)


def _note_cut_answers(answers: Mapping[str, Generation]) -> None:
    cut = [name for name, answer in answers.items() if answer.finish_reason == "length"]
    if cut:
        render.print_note(
            f"answer cut off at the limit --tokens; raise the limit to see more: {', '.join(cut)}",
            style="warning",
        )


def _print_columns(answers: Mapping[str, str]) -> None:
    """Print answers side by side under their models' names, or one per line without a terminal."""
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
    """Enable arrow keys and history if Python was built with readline."""
    try:
        import readline  # noqa: F401 - the import enables it
    except ImportError:
        return


def _lines(stream: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in stream if line.strip())
