"""Named chat templates for base models without one: ``chat_template.source = "chatml"``.

A base model has only seen plain text, so it can learn any template. The template is saved with the
trained model. ``chatml`` writes tools in the format of the Hermes models, and reasoning between
``<think>`` tags. Control tokens that a tokenizer lacks are written as plain text. If the token that
ends an answer is missing, the tokenizer's EOS replaces it, even after earlier answers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

_CHATML = """\
{%- set end = '<|im_end|>' -%}
{%- set first = messages[0] -%}
{%- set system = first.content if first.role == 'system' else '' -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {{- system + '\\n\\n' if system else '' -}}
    {{- 'You can call these functions:\\n<tools>\\n' -}}
    {%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}
    {{- '</tools>\\nTo call one, write a JSON object with its name and arguments:\\n' -}}
    {{- '<tool_call>\\n{"name": "...", "arguments": {...}}\\n</tool_call><|im_end|>\\n' -}}
{%- elif system -%}
    {{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' -%}
        {{- '<|im_start|>tool\\n<tool_response>\\n' + message.content -}}
        {{- '\\n</tool_response><|im_end|>\\n' -}}
    {%- elif message.role != 'system' -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content -}}
        {%- for call in message.tool_calls or [] -%}
            {{- '\\n' if message.content or not loop.first else '' -}}
            {{- '<tool_call>\\n{"name": ' + call.function.name | tojson -}}
            {{- ', "arguments": ' + call.function.arguments | tojson + '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- (end if message.role == 'assistant' else '<|im_end|>') + '\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def _by_role(first: str, prompt: str, **roles: tuple[str, str]) -> str:
    """Return a template with fixed text around each role's content; it rejects unknown roles."""
    branches = "".join(
        f"{{%- elif message.role == {role!r} -%}}{{{{- {before!r} + message.content + {after} -}}}}"
        for role, (before, after) in roles.items()
    ).replace("elif", "if", 1)
    return (
        f"{first}{{%- for message in messages -%}}{branches}{{%- else -%}}"
        "{{- raise_exception('this template has no role ' + message.role) -}}"
        "{%- endif -%}{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{- {prompt!r} -}}}}{{%- endif -%}}"
    )


def _llama3_header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


NAMED_TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "chatml": _CHATML,
        "llama-3": _by_role(
            "{%- set end = '<|eot_id|>' -%}{{- bos_token -}}",
            _llama3_header("assistant"),
            **{
                role: (_llama3_header(name), "'<|eot_id|>'")
                for role, name in {"system": "system", "user": "user", "tool": "ipython"}.items()
            },
            assistant=(_llama3_header("assistant"), "end"),
        ),
        "gemma": _by_role(
            "{%- set end = '<end_of_turn>' -%}{{- bos_token -}}",
            "<start_of_turn>model\n",
            user=("<start_of_turn>user\n", "'<end_of_turn>\n'"),
            assistant=("<start_of_turn>model\n", "end + '\n'"),
        ),
        "alpaca": _by_role(
            "",
            "### Response:\n",
            system=("", "'\n\n'"),
            user=("### Instruction:\n", "'\n\n'"),
            assistant=("### Response:\n", "eos_token + '\n\n'"),
        ),
        "plain": _by_role(
            "",
            "Assistant:",
            system=("", "'\n\n'"),
            user=("User: ", "'\n'"),
            assistant=("Assistant: ", "eos_token + '\n'"),
        ),
    }
)
"""The templates by name; only ``chatml`` supports tools."""
_END = re.compile(r"{%- set end = '(.*?)' -%}")


def named_template(name: str, control_tokens: Collection[str]) -> str:
    """Return the named template, adapted to a tokenizer with these control tokens.

    If the tokenizer lacks the template's end token, its EOS replaces this token: written as plain
    text, the end token would become part of the answer.
    """
    source = NAMED_TEMPLATES[name]
    end = _END.search(source)
    if end is None or end[1] in control_tokens:
        return source
    return source.replace(end[0], "{%- set end = eos_token -%}")
