"""Sample several answers to each prompt, and combine them into pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith import api
from tunesmith.contracts import TextModel, require_sampling
from tunesmith.errors import DataError, UsageError
from tunesmith.execution.run_data import load_data
from tunesmith.records import Message, last_exchange
from tunesmith_data import RowError, parse_messages, parse_row, require_text
from tunesmith_plugins.commands.annotate.pairs import Pair, make_pairs

Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class SamplingSettings:
    """The number, maximum length and temperature of the answers sampled for each prompt."""

    num_samples: int = 2
    max_new_tokens: int = 128
    temperature: float = 1.0
    seed: int = 0


def sample_pairs(
    model: TextModel, prompts: Sequence[Conversation], settings: SamplingSettings
) -> tuple[list[Pair], int]:
    """Sample answers to every prompt. Return them as pairs, and the number of skipped pairs.

    See :func:`make_pairs` for the pairs that are skipped.
    """
    count = settings.num_samples
    answers = require_sampling(model).sample(
        [prompt for prompt in prompts for _ in range(count)],
        settings.max_new_tokens,
        seed=settings.seed,
        temperature=settings.temperature,
    )
    pairs: list[Pair] = []
    skipped = 0
    for index, prompt in enumerate(prompts):
        texts = [answer.text for answer in answers[index * count : (index + 1) * count]]
        new_pairs, new_skipped = make_pairs(prompt, texts, settings.seed)
        pairs += new_pairs
        skipped += new_skipped
    return pairs, skipped


def read_run_prompts(folder: Path) -> list[Conversation]:
    """Return the distinct prompts of a run's training rows.

    Raises:
        UsageError: the data has no prompts, or its prompts have tools or reasoning.
    """
    _, plan, _ = api.load_run(folder)
    _, parts = load_data(plan)
    prompts = (last_exchange(record)[0] for record in parts.train)
    unique = list(dict.fromkeys(prompt for prompt in prompts if isinstance(prompt, tuple)))
    if not unique:
        raise UsageError(f"{folder}: the run's data contains no prompts", hint="add --prompts FILE")
    if not all(map(_is_text, unique)):
        hint = "add --prompts FILE with text-only prompts"
        raise UsageError(
            f"{folder}: the prompts use tools or reasoning, which pairs cannot store", hint=hint
        )
    return unique


def read_prompt_file(path: Path) -> list[Conversation]:
    """Return the distinct prompts of a JSON Lines file.

    Each ``prompt`` is a string or a list of messages.

    Raises:
        UsageError: the file cannot be read.
        DataError: the file has no prompts, or a line's prompt is not valid.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the file: {error.strerror}") from None
    prompts: list[Conversation] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                prompts.append(_parse_prompt(parse_row(line).get("prompt")))
            except RowError as error:
                raise DataError(f"{path}:{number}", f"{error}") from None
    if not prompts:
        raise DataError(
            str(path), "contains no prompts", hint="write one JSON object with `prompt` per line"
        )
    return list(dict.fromkeys(prompts))


def _parse_prompt(value: object) -> Conversation:
    if isinstance(value, list):
        messages = parse_messages(value, "`prompt`", split_inline=False)
    else:
        messages = (Message("user", require_text(value, "`prompt`")),)
    if not messages or messages[-1].role != "user":
        raise RowError(
            "the prompt does not end with a user message", hint="end the prompt with a user message"
        )
    if not _is_text(messages):
        raise RowError(
            "the prompt uses tools or reasoning, which pairs cannot store",
            hint="remove this row, or use text-only prompts",
        )
    return messages


def _is_text(prompt: Conversation) -> bool:
    """Return True if a prompt contains neither reasoning nor tools."""
    return not any(m.tools or m.tool_calls or m.tool_call_id or m.reasoning for m in prompt)
