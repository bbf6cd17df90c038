"""Each streamed text is the beginning of the whole answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.toolkit.data.test_template_matrix import template_of

from tunesmith_plugins.commands.serve.partial_answer import decode_partial_answer

FAMILIES = ("chatml", "llama-2", "qwen3", "qwq", "deepseek-v3.1 thinking", "gpt-oss")
pieces = st.sampled_from(["a", " ", "\n", "é", "🙂", "<think>\n", "\n</think>\n\n", "</think>"])


@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data())
def test_a_partial_answer_is_the_beginning_of_the_answer(name: str, data: st.DataObject) -> None:
    template = template_of(name)
    assert template.chat is not None
    marks = st.sampled_from([part for part in template.chat.parts if part] or [""])
    text = "".join(data.draw(st.lists(st.one_of(pieces, marks), max_size=9)))
    ids = template.tokenizer(text, add_special_tokens=False)["input_ids"]
    whole, before = template.decode_answer(ids), ""
    for count in range(len(ids) + 1):
        partial = decode_partial_answer(template, ids[:count])
        assert partial.startswith(before), "what was streamed stays"
        assert whole.startswith(partial)
        before = partial


def test_characters_come_when_they_are_complete() -> None:
    template = template_of("chatml")
    ids = template.tokenizer("a🙂b", add_special_tokens=False)["input_ids"]
    found = [decode_partial_answer(template, ids[:count]) for count in range(len(ids) + 1)]
    assert list(dict.fromkeys(found)) == ["", "a", "a🙂", "a🙂b"]


def test_reasoning_comes_when_it_is_complete() -> None:
    template = template_of("qwen3")
    text = "<think>\nso\n</think>\n\nMadrid"
    ids = template.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = [decode_partial_answer(template, ids[:count]) for count in range(len(ids) + 1)]
    shown = [partial for partial in dict.fromkeys(found) if partial]
    assert shown[0].endswith("</think>\n\n") and shown[-1].endswith("Madrid")
    assert shown[-1] == template.decode_answer(ids)
