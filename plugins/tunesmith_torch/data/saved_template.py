"""Check before training that the saved tokenizer will render the prompts used in training.

Users of the trained model render prompts with transformers and the tokenizer in its folder. This
check saves the tokenizer, loads it the way they will, and compares the token ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from tunesmith.errors import DataError
from tunesmith.records import Message, Record, exchanges
from tunesmith_torch.data.large_data import sample_evenly
from tunesmith_torch.data.message_fields import (
    build_message_fields,
    build_tool_fields,
    list_message_texts,
    parse_answer,
)
from tunesmith_torch.data.templates import Template

__all__ = ["check_saved_template"]

SAMPLE_ROWS = 200
"""Number of sampled rows; the rows with the most turns are compared."""
COMPARED_ROWS = 16
"""Number of rows whose prompts are all compared, which takes a fraction of a second."""
_TIME_OF_DAY = re.compile(r"strftime_now\([^)]*%-?[HIMSXcfp]")


def check_saved_template(
    template: Template,
    records: Sequence[Record],
    config: PretrainedConfig | None = None,
    folder: Path | None = None,
) -> None:
    """Check on sampled rows that the saved tokenizer renders the same prompts as training.

    For a complete model, ``config`` is saved next to the tokenizer; an adapter's folder has none.
    Both are written to a temporary folder in ``folder``, or in the system's temporary folder if
    that is None.

    Prompts with typed control tokens are not compared, because training keeps them as text. A
    template that prints a date is compared with today's date. A template that prints the time of
    day is not checked.

    Raises:
        DataError: the token ids of a prompt differ; the message names the first difference.
    """
    chat = template.chat
    if chat is None or _TIME_OF_DAY.search(chat.template.text):
        return
    with TemporaryDirectory(prefix="tunesmith-", dir=folder) as name:
        template.tokenizer.save_pretrained(name)
        if config is not None:
            config.save_pretrained(name)
        saved: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            Path(name), trust_remote_code=False, local_files_only=True
        )
    source_today = replace(chat.template, date=date.today())
    today = replace(template, chat=replace(chat, template=source_today))
    for source, prompt in _sample_prompts(template, records):
        try:
            (trained,) = today.encode_prompts([prompt], [source])
        except DataError:
            continue  # this row is skipped in training
        deployed = render_deployed(saved, prompt, reads_reasoning_key=chat.reads_reasoning_key)
        if trained != deployed:
            raise DataError(source, _describe(saved, trained, deployed), hint=_HINT)


_HINT = (
    "transformers does not load this tokenizer as it was saved: use another base model, or another "
    "technique.chat_template.source"
)


def render_deployed(
    tokenizer: PreTrainedTokenizerBase, prompt: tuple[Message, ...], *, reads_reasoning_key: bool
) -> list[int]:
    """Return the token ids of a prompt as transformers renders it."""
    ids: list[int] = tokenizer.apply_chat_template(
        [_fields(message, reads_reasoning_key) for message in prompt],
        tools=build_tool_fields(prompt),
        add_generation_prompt=True,
        return_dict=False,
        tokenizer_kwargs={"verbose": False},  # too long rows are another check's findings
    )
    return ids


def _fields(message: Message, reads_reasoning_key: bool) -> dict[str, Any]:
    answer = parse_answer(message) if message.role == "assistant" else None
    fields = build_message_fields(message, answer, reads_reasoning_key)
    if answer is not None and not reads_reasoning_key:
        fields["content"] = answer.text
    return fields


def _sample_prompts(
    template: Template, records: Sequence[Record]
) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """Yield the source and each prompt of the sampled rows with the most turns."""
    pattern = template.encoder.control_pattern
    sample = [(record, list(exchanges(record))) for record in sample_evenly(records, SAMPLE_ROWS)]
    sample.sort(key=lambda row: -len(row[1]))
    for record, pairs in sample[:COMPARED_ROWS]:
        for prompt, _ in pairs:
            if isinstance(prompt, str):  # plain text uses no template
                continue
            if not any(pattern.search(text) for m in prompt for text in list_message_texts(m)):
                yield record.source, prompt


def _describe(
    tokenizer: PreTrainedTokenizerBase, trained: Sequence[int], deployed: Sequence[int]
) -> str:
    pairs = enumerate(zip_longest(trained, deployed))
    at, (ours, theirs) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])

    def show(token: int | None) -> str:
        return "missing" if token is None else repr(tokenizer.decode([token]))

    return (
        f"token {at} of a prompt is {show(ours)} in training, but {show(theirs)} when transformers "
        "renders it with the saved chat template: users' prompts would differ from those the model "
        "was trained on"
    )
