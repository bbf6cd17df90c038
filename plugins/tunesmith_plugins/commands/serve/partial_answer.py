"""Decode an answer while it is being generated."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith_torch.data.templates import Template

REPLACEMENT_CHARACTER = "\ufffd"
"""Placeholder for bytes that are not a character, or not a complete one yet."""


def decode_partial_answer(template: Template, ids: Sequence[int]) -> str:
    """Decode the start of an answer that is being generated, for streaming.

    The result is a prefix of the text that
    :meth:`~tunesmith_torch.data.templates.Template.decode_answer` will return for more ids. It
    excludes incomplete characters, and text that may still change, such as markers that the
    template puts in front of an answer.
    """
    chat = template.chat
    if chat is not None and chat.has_marks:
        text = template.tokenizer.decode(
            list(ids),
            skip_special_tokens=not chat.has_control_tokens_in_answers,
            clean_up_tokenization_spaces=False,
        )
        if not chat.has_settled(text):
            return ""
    return template.decode_answer(ids).rstrip(REPLACEMENT_CHARACTER)
