"""Draw answers from a model, several for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith import api
from tunesmith.contracts import TextModel, sampling
from tunesmith.errors import DataError, UsageError
from tunesmith.execution import execute
from tunesmith.records import Message, last_exchange
from tunesmith_data import Fault
from tunesmith_data.json_line import parse_row
from tunesmith_data.turns import clean, messages_of
from tunesmith_plugins.commands.annotate.pairs import Pair, made_from

Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn."""

    samples: int = 2
    tokens: int = 128
    temperature: float = 1.0
    seed: int = 0


def from_model(
    model: TextModel, prompts: Sequence[Conversation], how: Drawing
) -> tuple[list[Pair], int]:
    """Pairs of drawn answers, and how many pairs were left out as equal or empty."""
    asked = [prompt for prompt in prompts for _ in range(how.samples)]
    drawn = sampling(model).sample(asked, how.tokens, seed=how.seed, temperature=how.temperature)
    pairs: list[Pair] = []
    left_out = 0
    for row, prompt in enumerate(prompts):
        part = drawn[row * how.samples : (row + 1) * how.samples]
        made, lost = made_from(prompt, [answer.text for answer in part], how.seed)
        pairs += made
        left_out += lost
    return pairs, left_out


def of_run(folder: Path) -> list[Conversation]:
    """The prompts of a run's training part, each once."""
    _, plan, _ = api.reopen(folder)
    _, parts = execute.read_parts(plan)
    prompts = (last_exchange(record)[0] for record in parts.train)
    found = list(dict.fromkeys(p for p in prompts if isinstance(p, tuple)))
    if not found:
        raise UsageError(f"{folder}: its data has no prompts", hint="name a file with --prompts")
    return found


def of_file(path: Path) -> list[Conversation]:
    """The prompts of a JSON Lines file: ``prompt`` is text, or a list of messages.

    Raises:
        UsageError: it cannot be read.
        DataError: a line has no prompt.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read, {error.strerror}") from None
    found: list[Conversation] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_prompt(parse_row(line).get("prompt")))
            except Fault as fault:
                raise DataError(f"{path}:{number}", f"{fault}") from None
    if not found:
        raise DataError(str(path), "holds no prompts")
    return list(dict.fromkeys(found))


def _prompt(value: object) -> Conversation:
    if isinstance(value, list):
        messages = messages_of(value, "`prompt`")
    else:
        messages = (Message("user", clean(value, "`prompt`")),)
    if not messages or messages[-1].role != "user":
        raise Fault("prompt does not end with the user's turn")
    return messages
