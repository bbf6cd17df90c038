"""Chat templates that loop, or print gigabytes, are refused in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.errors import DataError, UsageError
from tunesmith.records import Message
from tunesmith_torch.data import template_process
from tunesmith_torch.data.chat_format import ChatFormat
from tunesmith_torch.data.template_limits import MAX_SOURCE_CHARACTERS, check_template
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.testing.tiny_model import CHATML

NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"
WITHOUT_END = {
    "loops": NESTED.replace("BODY", ""),
    "loops over text": (
        "{% set s = 'x' * 99999 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}"
    ),
    "macros": (
        "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}"
    ),
}
TOO_MUCH = {
    "output": (NESTED.replace("BODY", "some text"), "characters"),
    "one long text": ("{{ 'x' * 10 ** 11 }}", "memory"),
    "wide text": ("{{ 'x' | center(10 ** 11) }}", "memory"),
    "a text that doubles": (
        "{% set n = namespace(x='x') %}{% for m in messages %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}{{ n.x }}",
        "memory|characters",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_END)
def test_a_template_without_end_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="chat template: it runs longer than 1 seconds"):
        check_template(WITHOUT_END[name], 1.0)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit addresses")
@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_with_too_much_text_is_refused(name: str) -> None:
    source, reason = TOO_MUCH[name]
    with pytest.raises(UsageError, match=rf"chat template: it .*({reason})"):
        check_template(source)


def test_a_template_that_is_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match="characters"):
        check_template("x" * (MAX_SOURCE_CHARACTERS + 1))


def test_ordinary_templates_pass() -> None:
    for source in (
        CHATML,
        "",
        "{{ bos_token }}{% generation %}x{% endgeneration %}{{ messages | tojson }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}",
        "{{ strftime_now('%Y') }}",
    ):
        check_template(source)
        assert template_process.run(source) == 0
    assert template_process.count_characters("{{ messages | length }}", 2) == 1


def test_errors_of_a_template_are_left_to_its_use() -> None:
    for source in ("{{ raise_exception('no') }}", "{% for %}", "{{ 1 / 0 }}", "{{ x.y.z }}"):
        check_template(source)
        assert template_process.run(source) == 0


def test_the_process_needs_no_tensor() -> None:
    code = (
        "import runpy, sys\n"
        f"module = runpy.run_path({template_process.__file__!r})\n"
        "module['run']('{{ messages }}')\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    process = subprocess.run(
        [sys.executable, "-I", template_process.__file__],
        input=json.dumps("x" * (template_process.MAX_CHARACTERS + 1)).encode(),
        check=False,
    )
    assert process.returncode == template_process.TOO_LONG


# ------------------------------------------------------------ where templates are used


def test_the_template_of_a_tokenizer_is_checked(tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"chat template: it makes more than .* characters"):
        Template.from_tokenizer(load_tokenizer(tiny_folder), TOO_MUCH["output"][0])


@pytest.mark.parametrize(
    "source", ["{{ range(10 ** 9) }}", "{{ 1 / 0 }}", "{{ messages[9] }}", "{{ {}['x'] + 1 }}"]
)
def test_what_a_template_raises_is_no_bug(tiny_folder: Path, source: str) -> None:
    encoder = Template.from_tokenizer(load_tokenizer(tiny_folder)).encoder
    with pytest.raises(DataError, match="the chat template refuses it"):
        ChatFormat(encoder, source + "{{ [][1] + 1 }}").render([Message("user", "x")])
