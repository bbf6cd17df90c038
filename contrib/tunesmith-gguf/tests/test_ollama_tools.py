"""Tools in Ollama's templates: Go renders what the chat template does, but for spaces in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ollama_template import find_mark, render_with, run_go

from tunesmith.records import Message, ToolCall
from tunesmith_gguf.go_template import write_go
from tunesmith_gguf.tool_turns import ToolsSkippedError, add_tools
from tunesmith_gguf.turns import Turns, find_turns

# As the Qwen models write tools: definitions behind the system message, results as a user's turn.
QWEN = """{%- if tools %}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}Be useful.{% endif %}


# Tools

Call functions if they help. They are in these marks:
<tools>
{%- for tool in tools %}
{{ '\\n' }}{{ tool | tojson }}
{%- endfor %}
{{ '\\n' }}</tools>
Write {"name": <name>, "arguments": <object>} in <tool_call></tool_call>.<|im_end|>
{% elif messages[0].role == 'system' %}
<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% else %}
<|im_start|>system
Be useful.<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first)
    or (m.role == 'assistant' and not m.tool_calls) %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if m.content %}{{- '\\n' + m.content }}{% endif %}
{%- for call in m.tool_calls %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""
# As Llama 3.1 does: indented definitions in the first question, one call, results in JSON.
LLAMA = """<|begin_of_text|>
{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content %}{% set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools %}{{- 'Environment: ipython\\n' }}{% endif %}
{{- system + '<|eot_id|>' }}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}{{- m.content | tojson }}
{{- '<|eot_id|>' }}
{%- elif m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{% endif %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{{- '{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}
{{- m.tool_calls[0].function.arguments | tojson }}{{- '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}
{%- if tools and loop.first %}
{{- 'Answer with a call of one of these functions.\\n\\n' }}
{%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{% endfor %}
{%- endif %}
{{- m.content + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"""
# As Hermes 2 Pro does: a list of functions, arguments before the name, a role for results.
HERMES = """{%- if tools %}
{{- '<|im_start|>system\\nYou may call <tools> ' }}
{{- tools | map(attribute='function') | list | tojson }}
{{- ' </tools><|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.tool_calls %}
{%- for call in m.tool_calls %}
{{- '<tool_call>\\n{"arguments": ' }}{{- call.function.arguments | tojson }}
{{- ', "name": "' + call.function.name + '"}\\n</tool_call>' }}
{%- if not loop.last %}{{- '\\n' }}{% endif %}
{%- endfor %}
{%- elif m.role == 'tool' %}
{{- '<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- else %}{{- m.content }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""
TEMPLATES = {"qwen": QWEN, "llama": LLAMA, "hermes": HERMES}
MARKS = {
    "qwen": '<tool_call>\n{"name": "',
    "llama": '{"name": "',
    "hermes": '<tool_call>\n{"arguments": ',
}
REFUSED = {
    "tool definitions in an unsupported format": QWEN.replace(
        "tool | tojson", "tool.function.name"
    ),
    "tool calls in an unsupported format": QWEN.replace(
        "call.function.arguments | tojson", "call.function.arguments | length"
    ),
    "a part of a conversation": QWEN.replace("+ m.content + '\\n</tool", "+ '</tool"),
    "tool calls or results in an unsupported": QWEN.replace(
        "+ m.content + '\\n</tool", "+ m.content[:20] + '\\n</tool"
    ),
    "must begin the assistant's answer": LLAMA.replace(
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{{- '{", "{{- '{"
    ),
}


def turns_of(template: str) -> Turns:
    def render(messages: Sequence[Message]) -> str:
        return render_with(template, messages)

    return add_tools(find_turns(render), render)


def define(name: str) -> str:
    city = {"type": "string", "description": "A city."}
    parameters = {"type": "object", "required": ["city"], "properties": {"city": city}}
    function = {"name": name, "description": f"Is {name}.", "parameters": parameters}
    return json.dumps({"type": "function", "function": function})


TOOLS = (define("rain"), define("snow"))
CALL = ToolCall("rain", '{"city": "Graz, \\"AT\\""}')
OTHER = ToolCall("snow", '{"city": "Oslo"}')


def conversations(name: str) -> Iterator[list[Message]]:
    asked = Message("user", "Rain? {{ .Tools }}")
    called = [asked, Message("assistant", "", tool_calls=(CALL,)), Message("tool", '{"mm": "3"}')]
    chats = [
        [asked],
        called,
        [*called, Message("assistant", "3 mm."), Message("user", "And snow?")],
        [*called, *called[1:]],
    ]
    if name != "llama":
        both = Message("assistant", "", tool_calls=(CALL, OTHER))
        chats.append([asked, both, Message("tool", "dry"), Message("tool", "cold")])
    if name in ("qwen", "llama"):  # one writes text beside a call, one leaves it out
        chats.append([asked, replace(called[1], content="Wait."), called[2]])
    for chat in chats:
        yield chat
        yield [replace(chat[0], tools=TOOLS), *chat[1:]]
        if name != "hermes":
            yield [Message("system", "Be brief.", tools=TOOLS), *chat]


def as_ollama(name: str, text: str) -> str:
    """Write the JSON of definitions and arguments as Ollama does; replace nothing else."""

    def compact(value: object) -> str:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    for definition in TOOLS:
        tool = json.loads(definition)
        order = ("name", "description", "parameters")
        function = compact({key: tool["function"][key] for key in order})
        whole = f'{{"type": "function", "function": {function}}}'
        text = text.replace(json.dumps(tool, indent=4 if name == "llama" else None), whole)
        text = text.replace(json.dumps(tool["function"]), function)
    for call in (CALL, OTHER):
        arguments = json.loads(call.arguments)
        text = text.replace(json.dumps(arguments), compact(arguments))
    return text


@pytest.mark.parametrize("name", TEMPLATES)
def test_go_renders_tools_as_the_chat_template_does(name: str, go: Path) -> None:
    chats = list(conversations(name))
    trained = [render_with(TEMPLATES[name], chat) for chat in chats]
    turns = turns_of(TEMPLATES[name])
    assert [turns.render(chat) for chat in chats] == trained
    found = run_go(go, write_go(turns), chats)
    expected = [as_ollama(name, text) for text in trained]
    assert any("rain" in text for text in expected)
    assert found == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_ollama_recognizes_the_beginning_of_a_call(name: str, go: Path) -> None:
    assert find_mark(go, write_go(turns_of(TEMPLATES[name]))) == MARKS[name]


@pytest.mark.parametrize("reason", REFUSED)
def test_tools_that_cannot_be_written_are_skipped_with_the_reason(reason: str) -> None:
    assert REFUSED[reason] not in TEMPLATES.values()
    with pytest.raises(ToolsSkippedError, match=reason):
        turns_of(REFUSED[reason])


def test_a_template_without_tools_has_none(go: Path) -> None:
    plain = "{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}assistant "
    turns = turns_of(plain)
    assert turns.tools is None
    assert ".Tool" not in write_go(turns) and find_mark(go, write_go(turns)) == ""


def test_the_bos_of_openings_is_left_to_the_engine() -> None:
    turns = turns_of(LLAMA).without_bos("<|begin_of_text|>")
    for chat in conversations("llama"):
        assert "<|begin_of_text|>" + turns.render(chat) == render_with(LLAMA, chat)
