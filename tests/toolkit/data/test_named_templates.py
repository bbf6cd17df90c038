"""Chat templates under names: what each writes, by hand, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from tables import build
from tests.toolkit.data.trained_text import mark_trained

from tunesmith.errors import DataError
from tunesmith.records import Chat, Message, ToolCall
from tunesmith_torch.data.named_templates import NAMED_TEMPLATES
from tunesmith_torch.data.templates import Template
from tunesmith_torch.options.training import CHAT_TEMPLATE_NAMES, SupervisedOptions
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

SPECIAL = (
    *("<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>"),
)
SYSTEM, TURNS = (
    Message("system", "Be kind."),
    (
        *(Message("user", "Hi"), Message("assistant", "Hello.")),
        *(Message("user", "Bye"), Message("assistant", "Ciao.")),
    ),
)
TRAINED = {
    "chatml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello.<|im_end|>⟧\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦Ciao.<|im_end|>⟧"
    ),
    "llama-3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello.<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Ciao.<|eot_id|>⟧"
    ),
    "gemma": (
        "<s><start_of_turn>user\nHi<end_of_turn>\n"
        "<start_of_turn>model\n⟦Hello.<end_of_turn>⟧\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n⟦Ciao.<end_of_turn>⟧"
    ),
    "alpaca": (
        "Be kind.\n\n### Instruction:\nHi\n\n### Response:\n⟦Hello.</s>⟧\n\n"
        "### Instruction:\nBye\n\n### Response:\n⟦Ciao.</s>⟧"
    ),
    "plain": ("Be kind.\n\nUser: Hi\nAssistant:⟦ Hello.</s>⟧\nUser: Bye\nAssistant:⟦ Ciao.</s>⟧"),
}
TOOL = '{"type": "function", "function": {"name": "weather", "description": "Rain?"}}'
WITH_TOOLS = (
    Message("system", "Be kind.", tools=(TOOL,)),
    Message("user", "Rain?"),
    Message(
        "assistant",
        "Wait.",
        reasoning="I need it.",
        tool_calls=(ToolCall("weather", '{"city": "Graz"}'), ToolCall("weather")),
    ),
    Message("tool", "dry"),
    Message("assistant", "No."),
)


def template_of(name: str, special: tuple[str, ...] = SPECIAL) -> Template:
    tokenizer: Any = build_tiny_tokenizer(template=None, extra=special)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    options = build(SupervisedOptions, chat_template__source=name)
    return Template.from_options(tokenizer, options)


def test_all_names_can_be_given() -> None:
    assert {*NAMED_TEMPLATES} == {*CHAT_TEMPLATE_NAMES} == {*TRAINED}
    for name in NAMED_TEMPLATES:
        assert template_of(name).tokenizer.chat_template == NAMED_TEMPLATES[name]


@pytest.mark.parametrize("name", TRAINED)
def test_a_conversation(name: str) -> None:
    messages = TURNS if name == "gemma" else (SYSTEM, *TURNS)
    record = Chat(source="f:1", messages=messages)
    assert mark_trained(template_of(name), record) == TRAINED[name]


def test_gemma_has_no_system_prompt() -> None:
    record = Chat(source="f:1", messages=(SYSTEM, *TURNS))
    with pytest.raises(DataError, match="this template has no role system"):
        template_of("gemma").tokenize_record(record, 1_000)


def test_chatml_writes_tools_and_reasoning() -> None:
    record = Chat(source="f:1", messages=WITH_TOOLS)
    assert mark_trained(template_of("chatml"), record) == (
        "<|im_start|>system\nBe kind.\n\nYou can call these functions:\n<tools>\n" + TOOL
        + "\n</tools>\nTo call one, write a JSON object with its name and arguments:\n"
        '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nI need it.\n</think>\n\nWait.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Graz"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call><|im_end|>⟧\n'
        "<|im_start|>tool\n<tool_response>\ndry\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n⟦No.<|im_end|>⟧"
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted({*TRAINED} - {"chatml"}))
def test_the_others_refuse_tools(name: str) -> None:
    record = Chat(source="f:1", messages=WITH_TOOLS[1:])
    with pytest.raises(DataError, match=r"this template has no role tool|the call of weather"):
        template_of(name).tokenize_record(record, 1_000)


ENDS = {"llama-3": "<|eot_id|>", "gemma": "<end_of_turn>"}


@pytest.mark.parametrize("name", sorted({*TRAINED} - {"chatml"}))
def test_a_tokenizer_without_its_control_tokens_ends_answers_with_eos(name: str) -> None:
    """Every answer, so that the EOS of earlier ones is in the saved template."""
    template = template_of(name, ("<s>", "</s>"))
    expected = TRAINED[name]
    if name in ENDS:
        expected = expected.replace(f"{ENDS[name]}⟧", "</s>⟧")
    messages = TURNS if name == "gemma" else (SYSTEM, *TURNS)
    assert mark_trained(template, Chat(source="f:1", messages=messages)) == expected
    ids = template.encode_answer(TURNS[:1], "Hello.")
    assert template.decode_answer(ids[:-1]).strip() == "Hello."
