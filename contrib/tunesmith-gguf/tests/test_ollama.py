"""The Modelfile of an export: its template is run by Go itself, if it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ollama_template import render_with, run_go

from tunesmith.errors import UsageError
from tunesmith.records import Message
from tunesmith_gguf.go_template import write_go
from tunesmith_gguf.offer import OLLAMA
from tunesmith_gguf.ollama import build_modelfile
from tunesmith_gguf.options import OllamaOptions
from tunesmith_gguf.turns import Turns, find_turns
from tunesmith_torch.export.export_run import Export, export_run
from tunesmith_torch.testing.exports import train_tiny

TEMPLATES = {
    "chatml": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are \"helpful\".<|im_end|>\n"
        "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    ),
    "llama-3": (
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "\n\n{{ m.content }}<|eot_id|>{% endfor %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "gemma": (
        "<bos>{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}"
        "{% endif %}{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first else '' }}"
        "{{ m.content }}<end_of_turn>\n{% endfor %}<start_of_turn>model\n"
    ),
    "without system": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + '</s>' }}"
        "{% endfor %}"
    ),
}
REFUSED = {
    "counts messages": ("{% for m in messages %}{{ m.content }}{{ loop.length }}{% endfor %}:"),
    "shortens messages": "{% for m in messages %}{{ m.role }} {{ m.content[:9] }}\n{% endfor %}a ",
    "repeats the question": (
        "{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}{{ messages[0].content }}"
    ),
}


def turns_of(template: str) -> Turns:
    return find_turns(lambda messages: render_with(template, messages))


def conversations(system: bool) -> list[list[Message]]:
    chats = [
        [Message("user", 'He said: "{{ .Role }}" \\n\\ <b>')],
        [Message("user", "a\n\nb  "), Message("assistant", "Grüße 🙂"), Message("user", "你好")],
    ]
    return [*chats, *([Message("system", "Be\nbrief."), *chat] for chat in chats if system)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_go_renders_what_the_chat_template_renders(name: str, go: Path) -> None:
    chats = conversations(system=name != "without system")
    expected = [render_with(TEMPLATES[name], chat) for chat in chats]
    turns = turns_of(TEMPLATES[name])
    assert [turns.render(chat) for chat in chats] == expected
    assert run_go(go, write_go(turns), chats) == expected


def test_several_questions_in_a_row_are_rendered_where_the_template_takes_them(go: Path) -> None:
    chat = [Message("user", "a"), Message("user", "b"), Message("assistant", "c")]
    expected = render_with(TEMPLATES["chatml"], chat)
    assert run_go(go, write_go(turns_of(TEMPLATES["chatml"])), [chat]) == [expected]
    assert ("user", "user") not in turns_of(TEMPLATES["gemma"]).between


def test_the_bos_is_left_to_the_engine() -> None:
    turns = turns_of(TEMPLATES["gemma"]).without_bos("<bos>")
    for chat in conversations(system=True):
        assert "<bos>" + turns.render(chat) == render_with(TEMPLATES["gemma"], chat)


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_does_more_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Ollama's template language cannot express"):
        turns_of(REFUSED[name])


def test_a_model_without_a_chat_template_gets_the_prompt_as_it_is() -> None:
    options = OllamaOptions(quantize="q8_0", temperature=0.5, num_ctx=512)
    assert build_modelfile("m.gguf", None, ["</s>", "\n", '"end"'], options).splitlines() == [
        "FROM ./m.gguf",
        'TEMPLATE """{{ .Prompt }}"""',
        'PARAMETER stop "</s>"',
        'PARAMETER stop ""end""',
        "PARAMETER temperature 0.5",
        "PARAMETER repeat_penalty 1",
        "PARAMETER num_ctx 512",
    ]


def test_an_export_has_a_modelfile(tiny_model: Path, tmp_path: Path, go: Path) -> None:
    trained = train_tiny("lora", tiny_model, tmp_path / "run", epochs=4.0)
    options = OllamaOptions(quantize="f32", pre_tokenizer="smollm", system='Say "hi".')
    export = Export.from_offer(OLLAMA, options)
    certificate = export_run(trained, export, tmp_path / "out")
    assert "byte for byte" in certificate["checks"]["rendered prompt"]
    text = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith('FROM ./model-f32.gguf\nTEMPLATE """{{-')
    assert 'SYSTEM """Say "hi"."""\n' in text and "PARAMETER repeat_penalty 1\n" in text
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    from tunesmith.records import last_exchange
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.export.reference import render_prompt
    from tunesmith_torch.models.loading import load_tokenizer

    prompt, _ = last_exchange(trained.test[0])
    assert not isinstance(prompt, str)
    expected = render_prompt(Template.from_tokenizer(load_tokenizer(tiny_model)), prompt)
    assert run_go(go, template, [prompt]) == [expected]
    assert any(line.startswith("PARAMETER stop ") for line in text.splitlines())
