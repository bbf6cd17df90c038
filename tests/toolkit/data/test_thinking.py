"""The modes of thinking templates: found for families that have them, and for no others."""

from __future__ import annotations

from typing import Any

import pytest
from tests.toolkit.data.reasoning_families import REASONING_FAMILIES

from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.data.thinking import find_thinking_modes
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer

EMPTY = "<think>\n\n</think>\n\n"
MODES = {
    "qwen3": ("enable_thinking", "assistant\n", f"assistant\n{EMPTY}", True),
    "qwen3 without thinking": ("enable_thinking", "assistant\n", f"assistant\n{EMPTY}", False),
    "deepseek-v3.1": ("thinking", "<think>", "</think>", False),
    "deepseek-v3.1 thinking": ("thinking", "<think>", "</think>", True),
}
"""The variable, the ends of prompts with and without reasoning, and whether reasoning is on."""


@pytest.mark.parametrize("family", MODES)
def test_both_modes_are_rendered(family: str) -> None:
    given = REASONING_FAMILIES[family]
    options = LoraOptions.model_validate({"chat_template": {"kwargs": dict(given.kwargs)}})
    tokenizer = build_tiny_tokenizer(template=given.source)
    modes = find_thinking_modes(tokenizer, options)
    variable, on, off, is_on = MODES[family]
    assert modes is not None and (modes.variable, modes.is_on) == (variable, is_on)
    assert modes.on.endswith(on) and modes.off.endswith(off) and not modes.on.endswith(off)
    lines = modes.describe()
    assert [" (used here)" in line for line in lines] == [is_on, not is_on]
    assert lines[1].startswith(f"{variable} = false") and "think>" in lines[1]


@pytest.mark.parametrize("family", ["qwq", "deepseek-r1", "gpt-oss", "chatml"])
def test_other_templates_have_one_mode(family: str) -> None:
    source: Any = CHATML if family == "chatml" else REASONING_FAMILIES[family].source
    assert find_thinking_modes(build_tiny_tokenizer(template=source), LoraOptions()) is None
