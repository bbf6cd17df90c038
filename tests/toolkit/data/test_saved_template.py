"""The ids that are trained are those that the saved files give in bare transformers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.toolkit.data.foreign_templates import FOREIGN, TOKENIZERS, Foreign
from transformers import AutoTokenizer

from tunesmith.errors import DataError
from tunesmith.records import Chat, Message, Preference, ToolCall, exchanges
from tunesmith_torch.data.named_templates import NAMED_TEMPLATES
from tunesmith_torch.data.saved_template import check_saved_template, render_deployed
from tunesmith_torch.data.templates import Template
from tunesmith_torch.prefix.completion_groups import tokenize_preferences

NAMED = {
    name: Foreign(name, system=name != "gemma", tools=name == "chatml") for name in NAMED_TEMPLATES
}
TEMPLATES = {**NAMED, **FOREIGN}
TOOL = '{"type": "function", "function": {"name": "look", "description": "Look it up."}}'
TURNS = [
    (Message("user", "What is the capital of France?"), Message("assistant", "It is Paris.")),
    (Message("user", "And of Spain?\nIn one word."), Message("assistant", "Madrid")),
    (Message("user", "Why?"), Message("assistant", "One two.\nThree four!")),
    (Message("user", " ok "), Message("assistant", "def add(a, b):\n    return a + b")),
]
THOUGHTS = ("So it is.", "Hm,\nyes.", "Three.", "Four?")


def conversations(template: Foreign) -> Iterator[tuple[Message, ...]]:
    """Yield conversations of one to four turns, with what the template takes besides."""
    for count in range(1, 5):
        turns = tuple(message for pair in TURNS[:count] for message in pair)
        yield turns
        if template.system:
            yield (Message("system", "Be kind. "), *turns)
        if template.reasoning:
            yield tuple(
                Message(m.role, f"<think>\n{THOUGHTS[n // 2]}\n</think>\n\n{m.text}")
                if m.role == "assistant"
                else m
                for n, m in enumerate(turns)
            )
        if template.tools:
            call = Message("assistant", "", tool_calls=(ToolCall("look", '{"city": "Graz"}'),))
            result = (Message("tool", "rain"), Message("assistant", "It rains."))
            yield (Message("user", "Rain?", tools=(TOOL,)), call, *result, *turns)


@cache
def open_template(tokenizer: str, name: str) -> Template:
    make, marks = TOKENIZERS[tokenizer]
    source = TEMPLATES[name].source
    if source in NAMED_TEMPLATES:
        from tables import build

        from tunesmith_torch.options.training import SupervisedOptions

        options = build(SupervisedOptions, chat_template__source=source)
        return Template.from_options(make(marks=marks), options)
    return Template.from_tokenizer(make(marks=marks), source, date=date.today())


def bare_fields(message: Message, *, with_key: bool) -> dict[str, Any]:
    """Return a message as people send it to transformers."""
    fields: dict[str, Any] = {"role": message.role, "content": message.text}
    reasoning, closing, content = message.text.partition("\n</think>\n\n")
    if with_key and closing:
        fields["content"] = content
        fields["reasoning_content"] = reasoning.removeprefix("<think>\n")
    if message.tool_calls:
        fields["tool_calls"] = [
            {"type": "function", "function": {"name": "look", "arguments": {"city": "Graz"}}}
        ]
    return fields


def bare_ids(
    saved: Any, messages: tuple[Message, ...], with_key: bool, *, generation: bool
) -> list[int]:
    tools = [{"type": "function", "function": {"name": "look", "description": "Look it up."}}]
    ids: list[int] = saved.apply_chat_template(
        [bare_fields(message, with_key=with_key) for message in messages],
        tools=tools if messages[0].tools else None,
        add_generation_prompt=generation,
        return_dict=False,
    )
    return ids


def every_pair() -> Iterator[Any]:
    """Yield each template with each tokenizer; one of each template is in the quick lane."""
    for number, name in enumerate(TEMPLATES):
        for position, tokenizer in enumerate(TOKENIZERS):
            is_quick = position == number % len(TOKENIZERS)
            marks = [] if is_quick else [pytest.mark.long]
            yield pytest.param(tokenizer, name, marks=marks, id=f"{name}, {tokenizer}")


@pytest.mark.parametrize(("tokenizer", "name"), every_pair())
def test_trained_ids_are_those_of_the_saved_files(
    tmp_path: Path, tokenizer: str, name: str
) -> None:
    foreign, template = TEMPLATES[name], open_template(tokenizer, name)
    assert template.chat is not None
    with_key = template.chat.reads_reasoning_key
    template.tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for messages in conversations(foreign):
        record = Chat(source="f:1", messages=messages)
        examples = template.tokenize_record(record, 10_000)
        rows = [[int(token) for token in example.ids] for example in examples]
        trained = 0
        for prompt, answer in exchanges(record):
            assert not isinstance(prompt, str)
            before = bare_ids(saved, prompt, with_key, generation=True)
            assert template.encode_prompt(prompt) == before
            after = template.encode_answer(prompt, answer)
            stop = len(before) + len(after)
            (row,) = (n for n, ids in enumerate(rows) if ids[:stop] == [*before, *after])
            assert all(examples[row].trained[len(before) : stop])
            assert after[-1] in template.end_ids
            trained += len(after)
            # The answer too is as the template writes it, up to the token that ends it. Where it
            # ends or begins with text, a token could span the border, which none can generate.
            if "<think>" not in answer.text and "<think>" not in saved.decode(before):
                whole = bare_ids(saved, (*prompt, answer), with_key, generation=False)
                end = len(before) + (len(after) if template.chat.end_text else len(after) - 2)
                assert answer.tool_calls or [*before, *after][:end] == whole[:end]
            if not answer.tool_calls:
                assert template.decode_answer(after[:-1]).strip() == answer.text.strip()
                pair = Preference(source="f:2", prompt=prompt, chosen=answer.text, rejected="No.")
                (group,) = tokenize_preferences([pair], template)
                assert (group.prompt, group.completions[0]) == (before, after)
        assert trained == sum(int(sum(example.trained)) for example in examples)
        check_saved_template(template, [record])
    one_row = foreign.writes_end and not foreign.reasoning
    if one_row and TOKENIZERS[tokenizer][1] and "last" not in name:
        assert len(examples) == 1  # a row per conversation, where each prompt continues the last


def test_a_long_prompt_is_compared_without_a_warning_of_transformers() -> None:
    template = open_template("bytes with marks", "chatml")
    saved = copy.deepcopy(template.tokenizer)
    saved.model_max_length = 4
    render_deployed(saved, TURNS[0][:1], reads_reasoning_key=False)
    assert not saved.deprecation_warnings, "this is where transformers notes what it has warned of"


def test_a_tokenizer_that_is_read_back_as_another_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    template = open_template("bytes with marks", "chatml")
    record = Chat(source="rows.jsonl:4", messages=tuple(TURNS[0]))
    other = AutoTokenizer.from_pretrained
    changed = "{{ bos_token }}" + template.tokenizer.chat_template

    def read_back(*args: Any, **kwargs: Any) -> Any:
        tokenizer = other(*args, **kwargs)
        tokenizer.chat_template = changed
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", read_back)
    with pytest.raises(DataError, match=r"rows\.jsonl:4: token 0 of a prompt is '<\|im_start\|>' "):
        check_saved_template(template, [record])
