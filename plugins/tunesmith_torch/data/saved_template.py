"""Compare trained prompts with those that the saved files render, before anything is trained.

Whoever uses the trained model renders prompts with transformers and the tokenizer in its folder.
Here the tokenizer is saved, read back as they will do it, and has to give the ids of training.
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
from tunesmith_torch.data.message_fields import answer_of, message_fields, texts_of, tool_fields
from tunesmith_torch.data.templates import Template

__all__ = ["check_saved_template"]

SAMPLE_ROWS = 200
"""Rows among which those with most turns are chosen."""
COMPARED_ROWS = 16
"""Rows whose prompts are compared, all prompts of each: a fraction of a second."""
_TIME_OF_DAY = re.compile(r"strftime_now\([^)]*%-?[HIMSXcfp]")


def check_saved_template(
    template: Template,
    records: Sequence[Record],
    config: PretrainedConfig | None = None,
    folder: Path | None = None,
) -> None:
    """Check that the saved tokenizer renders the prompts of a sample of rows as training does.

    ``config`` is saved beside it, as in the folder of a complete model; the folder of an adapter
    has none. Both are written below ``folder`` for a moment; None: the system's temporary folder.
    Prompts with typed control tokens are passed over: they stay text in training.

    Dates are those of today, where a template prints them; one that prints the time is not checked.

    Raises:
        DataError: a prompt has other ids; the message has the first position.
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
            continue  # it is left out of training
        deployed = render_deployed(saved, prompt, reads_reasoning_key=chat.reads_reasoning_key)
        if trained != deployed:
            raise DataError(source, _describe(saved, trained, deployed), hint=_HINT)


_HINT = (
    "the files of this tokenizer are read back as another one: use a base model whose tokenizer "
    "transformers saves and loads unchanged, or another technique.chat_template.source"
)


def render_deployed(
    tokenizer: PreTrainedTokenizerBase, prompt: tuple[Message, ...], *, reads_reasoning_key: bool
) -> list[int]:
    """Return the ids of a prompt as transformers renders it today."""
    ids: list[int] = tokenizer.apply_chat_template(
        [_fields(message, reads_reasoning_key) for message in prompt],
        tools=tool_fields(prompt),
        add_generation_prompt=True,
        return_dict=False,
    )
    return ids


def _fields(message: Message, reads_reasoning_key: bool) -> dict[str, Any]:
    answer = answer_of(message) if message.role == "assistant" else None
    fields = message_fields(message, answer, reads_reasoning_key)
    if answer is not None and not reads_reasoning_key:
        fields["content"] = answer.text
    return fields


def _sample_prompts(
    template: Template, records: Sequence[Record]
) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """Yield prompts with their sources, of the rows with most turns."""
    pattern = template.encoder.control_pattern
    sample = [(record, list(exchanges(record))) for record in sample_evenly(records, SAMPLE_ROWS)]
    sample.sort(key=lambda row: -len(row[1]))
    for record, pairs in sample[:COMPARED_ROWS]:
        for prompt, _ in pairs:
            if isinstance(prompt, str):  # a text has no template
                continue
            if not any(pattern.search(text) for m in prompt for text in texts_of(m)):
                yield record.source, prompt


def _describe(
    tokenizer: PreTrainedTokenizerBase, trained: Sequence[int], deployed: Sequence[int]
) -> str:
    pairs = enumerate(zip_longest(trained, deployed))
    at, (ours, theirs) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])

    def show(token: int | None) -> str:
        return "missing" if token is None else repr(tokenizer.decode([token]))

    return (
        f"token {at} of a prompt is {show(ours)} in training, and {show(theirs)} as transformers "
        "renders it with the chat template that is saved: the trained model would be asked in "
        "another way than it was trained"
    )
