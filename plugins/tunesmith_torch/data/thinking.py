"""Recognize chat templates that render prompts with or without reasoning, such as Qwen3's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.records import Message
from tunesmith_torch.data.templates import Template, read_chat_template
from tunesmith_torch.options.training import TrainingOptions

__all__ = ["ThinkingModes", "find_thinking_modes", "render_prompt_end"]

VARIABLES = ("enable_thinking", "thinking")
"""Variables of templates that switch reasoning: Qwen3 and SmolLM3; DeepSeek and Granite."""
QUESTION = "What is this?"


@dataclass(frozen=True)
class ThinkingModes:
    """The end of a prompt with reasoning on, and with reasoning off."""

    variable: str
    on: str
    off: str
    is_on: bool
    """True if prompts end as in ``on`` with the options in use."""

    def describe(self) -> list[str]:
        """Return a line for each mode: the value of the variable, and the end of a prompt."""
        return [
            f"{self.variable} = {value}{' (used here)' * (self.is_on == (end == self.on))}: "
            f"prompts end with {json.dumps(end, ensure_ascii=False)}"
            for value, end in (("true", self.on), ("false", self.off))
        ]


def find_thinking_modes(
    tokenizer: PreTrainedTokenizerBase, options: TrainingOptions
) -> ThinkingModes | None:
    """Return the modes of the template that the options select; None if it has only one."""
    source = str(read_chat_template(options, tokenizer) or tokenizer.chat_template)
    for variable in (name for name in VARIABLES if name in source):
        on, off = (render_prompt_end(tokenizer, options, {variable: v}) for v in (True, False))
        if on != off:
            return ThinkingModes(variable, on, off, render_prompt_end(tokenizer, options) == on)
    return None


def render_prompt_end(
    tokenizer: PreTrainedTokenizerBase, options: TrainingOptions, kwargs: Mapping[str, Any] = {}
) -> str:
    """Return the text that follows the user's message in a prompt."""
    template = Template.from_tokenizer(
        tokenizer,
        read_chat_template(options, tokenizer),
        date=options.chat_template.today,
        kwargs={**options.chat_template.kwargs, **kwargs},
    )
    text = template.tokenizer.decode(template.encode_prompt((Message("user", QUESTION),)))
    return str(text).rpartition(QUESTION)[2]
