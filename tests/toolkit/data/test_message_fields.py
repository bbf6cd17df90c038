"""Tools, reasoning and weights reach the tokens: the trained text of documented formats, by hand.

The templates are short versions of their own, in the formats that the families document.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.toolkit.data.trained_text import mark_trained

from tunesmith.errors import DataError
from tunesmith.records import Chat, Message, TextPart, ToolCall, exchanges
from tunesmith_torch.data.message_fields import find_missing_calls, find_missing_tool
from tunesmith_torch.data.templates import Template
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer

SPECIAL = (
    "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>",
)  # fmt: skip
TOOL = (
    '{"type": "function", "function": {"name": "weather", "description": "Weather in a city.", '
    '"parameters": {"type": "object"}}}'
)
CALL = ToolCall("weather", '{"city": "Graz"}', "call00001")
TURNS = (
    Message("user", "Rain?", tools=(TOOL,)),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", "clear", name="weather", tool_call_id="call00001"),
    Message("assistant", "No."),
)

HERMES = (  # Qwen 2.5 and the Hermes models
    "{% if tools %}{{ '<|im_start|>system\n<tools>' }}{% for tool in tools %}{{ '\n' }}"
    "{{ tool | tojson }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role }}{% if m.content %}{{ '\n' + m.content }}{% endif %}"
    '{% for call in m.tool_calls or [] %}{{ \'\n<tool_call>\n{"name": "\' + call.function.name'
    " + '\", \"arguments\": ' }}{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA31 = (  # the tools are in the first user turn, a call is JSON with `parameters`
    "{{ bos_token }}{% for m in messages %}"
    "{% set role = 'ipython' if m.role == 'tool' else m.role %}"
    "{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}"
    "{% if loop.first and tools %}{% for tool in tools %}{{ tool | tojson }}{{ '\n\n' }}"
    "{% endfor %}{% endif %}"
    "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}"
    "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' }}{{ f.arguments | tojson }}{{ '}' }}"
    "{% elif m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content | trim }}{% endif %}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (  # calls are a JSON list with ids
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools %}{{ '[AVAILABLE_TOOLS]' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}"
    "{% endif %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}"
    '{{ \'{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ ', \"id\": \"' + call.id + '\"}' }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]{\"content\": ' }}{{ m.content | tojson }}"
    "{{ ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
TRAINED = {
    HERMES: (
        "<|im_start|>system\n<tools>\n" + TOOL + "\n</tools><|im_end|>\n"
        "<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n"
        '⟦<tool_call>\n{"name": "weather", "arguments": {"city": "Graz"}}\n</tool_call><|im_end|>⟧'
        "\n<|im_start|>user\n<tool_response>\nclear\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n⟦No.<|im_end|>⟧"
    ),
    LLAMA31: (
        "<s><|start_header_id|>user<|end_header_id|>\n\n" + TOOL + "\n\nRain?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '⟦{"name": "weather", "parameters": {"city": "Graz"}}<|eot_id|>⟧'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"clear"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦No.<|eot_id|>⟧"
    ),
    MISTRAL: (
        "<s>[AVAILABLE_TOOLS][" + TOOL + "][/AVAILABLE_TOOLS][INST]Rain?[/INST]"
        '⟦[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Graz"}, "id": "call00001"}]</s>⟧'
        '[TOOL_RESULTS]{"content": "clear", "call_id": "call00001"}[/TOOL_RESULTS]⟦No.</s>⟧'
    ),
}


def template_of(source: str, eos: str = "</s>") -> Template:
    tokenizer: Any = build_tiny_tokenizer(template=source, extra=SPECIAL)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", eos
    return Template.from_tokenizer(tokenizer)


TEMPLATES = {source: template_of(source) for source in TRAINED}
NAMES = {HERMES: "hermes", LLAMA31: "llama-3.1", MISTRAL: "mistral"}
each_template = pytest.mark.parametrize("source", TRAINED, ids=NAMES.values())


def chat(*messages: Message) -> Chat:
    return Chat(source="f:1", messages=messages)


@each_template
def test_the_calls_of_the_assistant_are_trained_and_nothing_else(source: str) -> None:
    assert mark_trained(TEMPLATES[source], chat(*TURNS)) == TRAINED[source]


@each_template
def test_prompts_and_answers_are_those_of_inference(source: str) -> None:
    template = TEMPLATES[source]
    (example,) = template.tokenize_record(chat(*TURNS), 10_000)
    for prompt, answer in exchanges(chat(*TURNS)):
        ids = template.encode_prompt(prompt) + template.encode_answer(prompt, answer)
        assert list(example.ids[: len(ids)]) == ids
    assert len(example) == len(ids)


def test_a_template_may_refuse_two_calls_at_once() -> None:
    twice = Message("assistant", "", tool_calls=(CALL, CALL))
    with pytest.raises(DataError, match=r"rejected by the chat template, .* single tool-calls"):
        TEMPLATES[LLAMA31].tokenize_record(chat(TURNS[0], twice), 10_000)


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        (TURNS, "the call of weather"),
        ((Message("user", "q"), TURNS[1]), "the call of weather"),
        ((TURNS[0], TURNS[3]), "the definition of weather"),
    ],
)
def test_a_template_that_drops_tools_is_refused(messages: tuple[Message, ...], part: str) -> None:
    template = template_of(CHATML, eos="<|im_end|>")
    with pytest.raises(DataError, match=f"f:1: the chat template skips a message, here {part}"):
        template.tokenize_record(chat(*messages), 10_000)
    with pytest.raises(DataError, match=part):
        template.encode_answer(messages[:-1], messages[-1])


def test_a_template_that_drops_the_arguments_is_refused() -> None:
    source = HERMES.replace("{{ call.function.arguments | tojson }}", "{{ '{}' }}")
    with pytest.raises(DataError, match="the call of weather"):
        template_of(source).tokenize_record(chat(*TURNS), 10_000)


def test_control_tokens_in_tools_stay_plain_text() -> None:
    template = TEMPLATES[HERMES]
    evil = "</s><|im_end|>"
    messages = (
        Message("user", "q", tools=(TOOL.replace("Weather in a city.", f"See {evil}"),)),
        # Escaped in JSON, it is the same text.
        Message("assistant", "", tool_calls=(ToolCall("f", '{"x": "\\u003c/s><|im_end|>"}'),)),
        Message("tool", evil),
        Message("assistant", "a", reasoning=evil),
    )
    (example,) = template.tokenize_record(chat(*messages), 10_000)
    ids = [int(token) for token in example.ids]
    end, eos = (template.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "</s>"))
    assert ids.count(end) == 5  # one for each turn, and the system prompt with the tools
    assert eos not in ids
    assert template.tokenizer.decode(ids).count("<|im_end|>") == 9


def test_a_model_without_template_takes_no_tools() -> None:
    tokenizer: Any = build_tiny_tokenizer(template=None)
    template = Template.from_tokenizer(tokenizer)
    for message in (
        Message("user", "q", tools=(TOOL,)),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("assistant", (TextPart("a"), TextPart("b", 0.5))),
    ):
        turns = (message, TURNS[3]) if message.role == "user" else (Message("user", "q"), message)
        with pytest.raises(DataError, match="a row cannot have tools or weighted parts"):
            template.tokenize_record(chat(*turns), 10_000)
    assert mark_trained(template, chat(Message("user", "q"), Message("assistant", "a"))) == (
        "q⟦a<|im_end|>⟧"
    )


@pytest.mark.parametrize(
    ("messages", "trained"),
    [
        (
            (
                *(Message("user", "q"), Message("assistant", "bad", weight=0.0)),
                *(Message("user", "q2"), Message("assistant", "a")),
            ),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nbad<|im_end|>\n"
            "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n⟦a<|im_end|>⟧",
        ),
        (
            (
                *(Message("user", "q"), Message("assistant", "a", weight=2.0)),
                *(Message("user", "q2"), Message("assistant", "b", weight=0.5)),
            ),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦×2 a<|im_end|>⟧\n"
            "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n⟦×0.5 b<|im_end|>⟧",
        ),
        (  # what follows the last trained answer is not needed
            (
                *(Message("user", "q"), Message("assistant", "a")),
                *(Message("user", "q2"), Message("assistant", "bad", weight=0.0)),
            ),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦a<|im_end|>⟧",
        ),
        (
            (
                Message("user", "q"),
                Message("assistant", (TextPart("a"), TextPart("b", 0.0), TextPart("c", 0.5))),
            ),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦a⟧b⟦×0.5 c⟧⟦<|im_end|>⟧",
        ),
        (  # the reasoning has the text of a part, too
            (
                Message("user", "q"),
                Message("assistant", (TextPart("a", 0.0), TextPart("c")), reasoning="ac a"),
            ),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
            "⟦<think>\nac a\n</think>\n\n⟧a⟦c<|im_end|>⟧",
        ),
    ],
)
def test_weights_are_those_of_the_tokens(messages: tuple[Message, ...], trained: str) -> None:
    assert mark_trained(template_of(CHATML, eos="<|im_end|>"), chat(*messages)) == trained


def test_the_weight_of_a_part_is_not_that_of_marks_in_front_of_the_answer() -> None:
    opened = CHATML.replace("message['content'] +", "mark + message['content'] +").replace(
        "{{ '<|im_start|>' + message",
        "{% set mark = '<think>\n\n</think>\n\n' if message.role == 'assistant' else '' %}"
        "{{ '<|im_start|>' + message",
    )
    answer = Message("assistant", (TextPart("i", 0.0), TextPart(" a")))
    found = mark_trained(template_of(opened, eos="<|im_end|>"), chat(Message("user", "q"), answer))
    assert found.endswith("assistant\n⟦<think>\n\n</think>\n\n⟧i⟦ a<|im_end|>⟧")


def test_a_template_that_changes_a_weighted_part_is_refused() -> None:
    upper = CHATML.replace("message['content']", "message['content'] | trim")
    parts = Message("assistant", (TextPart("a "), TextPart("b\n", 0.5)))
    with pytest.raises(DataError, match="a weighted part of an answer"):
        template_of(upper, eos="<|im_end|>").tokenize_record(
            chat(Message("user", "q"), parts), 10_000
        )


texts = st.text('ab <|im_end|>\n"\\é😀{}', min_size=1, max_size=8).filter(str.strip)
weights = st.sampled_from([0.0, 0.5, 1.0])
calls = st.builds(
    lambda name, value: ToolCall(name, f'{{"x": {value}}}'),
    st.sampled_from(["f", "g_2"]),
    st.sampled_from(['"a\\n\\"b"', "[1, 2]", '{"y": null}', '"<|im_end|>"', "true"]),
)
answers = st.builds(
    lambda text, reasoning, found, weight: Message(
        "assistant", text, reasoning=reasoning, tool_calls=tuple(found), weight=weight
    ),
    texts,
    st.one_of(st.just(""), texts),
    st.lists(calls, max_size=2),
    weights,
)


@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.tuples(texts, answers), min_size=1, max_size=3))
def test_every_exchange_of_any_conversation_is_that_of_inference(
    turns: list[tuple[str, Message]],
) -> None:
    """Prompt and answer have the ids of inference, and every token of an answer its weight."""
    template = Template.from_tokenizer(
        build_tiny_tokenizer(template=None, extra=SPECIAL), CHATML_TOOLS
    )
    record = chat(*(m for text, answer in turns for m in (Message("user", text), answer)))
    pairs = list(exchanges(record))
    if not pairs:
        with pytest.raises(DataError, match="no assistant turn to train on"):
            template.tokenize_record(record, 100_000)
        return
    (example,) = template.tokenize_record(record, 100_000)
    ids = [int(token) for token in example.ids]
    expected = [0.0] * len(ids)
    for prompt, answer in pairs:
        before, after = template.encode_prompt(prompt), template.encode_answer(prompt, answer)
        end = len(before) + len(after)
        assert ids[:end] == before + after
        expected[len(before) : end] = [answer.weight] * len(after)
    assert len(ids) == end
    found = example.weights if example.weights is not None else [1.0] * len(ids)
    pairs_of = zip(found, example.trained, strict=True)
    assert [float(weight) if trained else 0.0 for weight, trained in pairs_of] == expected


CHATML_TOOLS = HERMES.replace(
    "{% if m.content %}{{ '\n' + m.content }}{% endif %}", "{{ '\n' + m.content }}"
)


def test_a_name_alone_is_not_the_call() -> None:
    message = Message("assistant", "", tool_calls=(CALL,))
    assert find_missing_calls(message, 'weather({"city": "Graz"})') == ""
    assert find_missing_calls(message, "weather") == "weather"
    assert find_missing_tool(TURNS, TOOL) == ""
    assert find_missing_tool(TURNS, "weather") == "weather"
    assert find_missing_tool(TURNS[1:], "") == ""
