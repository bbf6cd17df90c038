"""Chat templates that expect content as a list of parts, for content that is text with signs.

Templates of vision-language models print a placeholder, ``<image>``, for each part of type
``image``. Here, content is a text, and one private-use character stands for each image. The
wrapper divides such a text into parts, lets the original template print them, and then replaces
the placeholders with the characters, in order.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from tunesmith.errors import UsageError

__all__ = ["Placeholder", "check_template", "wrap_template"]

_BEFORE = """{%- set signs = namespace(all=[]) -%}
{%- set turns = namespace(all=[]) -%}
{%- for message in messages -%}
{%- set parts = namespace(all=[], rest=message['content']) -%}
{%- if message['content'] is string -%}
{%- for c in message['content'] if c >= '\U00100000' -%}
{%- set pair = parts.rest.split(c, 1) -%}
{%- if pair[0] -%}
{%- set parts.all = parts.all + [{'type': 'text', 'text': pair[0]}] -%}
{%- endif -%}
{%- set parts.all = parts.all + [{'type': 'image'}] -%}
{%- set parts.rest = pair[1] -%}
{%- set signs.all = signs.all + [c] -%}
{%- endfor -%}
{%- if parts.rest or not parts.all -%}
{%- set parts.all = parts.all + [{'type': 'text', 'text': parts.rest}] -%}
{%- endif -%}
{%- else -%}
{%- set parts.all = message['content'] -%}
{%- for part in parts.all if part['type'] == 'image' -%}
{%- set signs.all = signs.all + ['IMAGE'] -%}
{%- endfor -%}
{%- endif -%}
{%- set turns.all = turns.all + [{'role': message['role'], 'content': parts.all}] -%}
{%- endfor -%}
{%- set messages = turns.all -%}
{%- set printed -%}"""
_AFTER = """{%- endset -%}
{%- for piece in printed.split('IMAGE') -%}
{{- piece -}}
{%- if not loop.last -%}
{%- set sign = signs.all[loop.index0] -%}
{{- sign if sign == 'IMAGE' else 'BEFORE' ~ sign ~ 'AFTER' -}}
{%- endif -%}
{%- endfor -%}"""

_SIGNS = "\U00100000\U00100001\U00100002"
_TEXTS = ("{0}Which?", "Which?{0}", "{0} and {1}: same?", "Which?")


class Placeholder(NamedTuple):
    """The text of an image in a chat template, and the texts that its processor puts around it."""

    text: str
    before: str = ""
    """Text before the features of an image, which replaces the placeholder."""
    after: str = ""
    """Text after them."""


def wrap_template(template: str, placeholder: Placeholder) -> str:
    """Return the template for content that is text with one private-use character per image."""
    texts = {"IMAGE": placeholder.text, "BEFORE": placeholder.before, "AFTER": placeholder.after}
    before, after = _BEFORE, _AFTER
    for name, text in texts.items():
        quoted = text.replace("\n", "\\n")
        before, after = before.replace(name, quoted), after.replace(name, quoted)
    # Whitespace control of the wrapper must not strip the template's own first and last lines.
    return f"{before}{{{{- '' }}}}{template.removesuffix(chr(10))}{{{{ '' -}}}}{after}"


def check_template(tokenizer: Any, wrapped: str, placeholder: Placeholder) -> None:
    """Compare the wrapped template with the original one on conversations of several shapes.

    Raises:
        UsageError: the two differ, so prompts would not be those of transformers.
    """
    for texts in product(_TEXTS, repeat=2):
        plain, listed = [], []
        for number, text in enumerate(texts):
            signs = [_SIGNS[number], _SIGNS[2]]
            content = text.format(*signs)
            plain += [{"role": "user", "content": content}]
            listed += [{"role": "user", "content": _as_parts(content)}]
            plain += [{"role": "assistant", "content": "This one."}]
            listed += [{"role": "assistant", "content": _as_parts("This one.")}]
        for length, prompt in ((1, True), (2, False), (3, True), (4, False)):
            options = {"tokenize": False, "add_generation_prompt": prompt}
            expected = tokenizer.apply_chat_template(listed[:length], **options)
            given = tokenizer.apply_chat_template(plain[:length], chat_template=wrapped, **options)
            for sign in _SIGNS:
                around = f"{placeholder.before}{sign}{placeholder.after}"
                given = given.replace(around, placeholder.text)
            if given != expected:
                raise UsageError(
                    "the chat template cannot be used: with images in a text, it prints "
                    f"{given!r:.120}, but with parts {expected!r:.120}",
                    hint="use a model whose template prints its parts in order",
                )


def _as_parts(text: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for character in text:
        if character in _SIGNS:
            parts.append({"type": "image"})
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += character
        else:
            parts.append({"type": "text", "text": character})
    return parts
