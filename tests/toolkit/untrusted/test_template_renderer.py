"""Chat templates that loop, or print gigabytes, are stopped in seconds, also for single rows."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.errors import DataError, UsageError
from tunesmith.records import Chat, Completion, Message, Preference, Record, UnpairedPreference
from tunesmith_torch.data.conversation import TemplateLimitError
from tunesmith_torch.data.templates import Template
from tunesmith_torch.prefix.completion_groups import tokenize_pairs
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer
from tunesmith_torch.untrusted import template_process
from tunesmith_torch.untrusted.template_renderer import (
    MAX_SOURCE_CHARACTERS,
    Conversation,
    Failure,
    TemplateRenderer,
    TemplateSource,
)

NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"
WITHOUT_END = {
    "loops": NESTED.replace("BODY", ""),
    "loops over text": (
        "{% set s = 'x' * 99999 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}"
    ),
    "macros": (
        "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}"
    ),
    "one comparison": (  # without a byte code in between, so no exception stops it
        "{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
        "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}"
    ),
}
TOO_MUCH = {
    "output": (NESTED.replace("BODY", "some text"), "characters"),
    "one long text": ("{{ 'x' * 10 ** 11 }}", "memory"),
    "wide text": ("{{ 'x' | center(10 ** 11) }}", "memory"),
    "a text that doubles": (
        "{% set n = namespace(x='x') %}{% for m in range(64) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}{{ n.x }}",
        "memory|characters",
    ),
}
HELLO = Conversation([{"role": "user", "content": "hello"}], [(1, True)])
no_memory_limit = pytest.mark.skipif(
    sys.platform == "darwin", reason="macOS does not limit addresses"
)


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    renderer = TemplateRenderer(seconds=0.2)
    yield renderer
    renderer.close()


def failure(renderer: TemplateRenderer, source: str) -> Failure:
    (result,) = renderer.render(TemplateSource(source), [HELLO])
    assert isinstance(result, Failure)
    return result


@pytest.mark.parametrize("name", WITHOUT_END)
def test_a_template_without_end_is_stopped(renderer: TemplateRenderer, name: str) -> None:
    result = failure(renderer, WITHOUT_END[name])
    assert result.over_limit
    reason = "it computes longer than 0.2 seconds"
    if name == "one comparison":
        reason += ", or needs too much memory"  # the system has ended the process
    assert result.reason == reason


@no_memory_limit
@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_with_too_much_text_is_stopped(renderer: TemplateRenderer, name: str) -> None:
    source, reason = TOO_MUCH[name]
    renderer = TemplateRenderer()  # with its usual limit of time: another one is tested here
    result = failure(renderer, source)
    renderer.close()
    assert result.over_limit
    assert any(part in result.reason for part in reason.split("|"))


def test_a_template_that_is_too_long_is_refused(renderer: TemplateRenderer) -> None:
    assert "characters" in failure(renderer, "x" * (MAX_SOURCE_CHARACTERS + 1)).reason


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("{% generation %}x{% endgeneration %}{{ messages | tojson }}",
         'x[{"role": "user", "content": "hello"}]'),
        ("{% for m in [1, 2] %}{% if loop.first %}{% continue %}{% endif %}{{ m }}{% endfor %}",
         "2"),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ tools is none and documents is none }}", "True"),
        ("{% if x %}\n  a\n  {%- endif %}b\n", "b"),
        ("{{ '<é>' | tojson(indent=2) }}", '"<é>"'),
        ("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}{{ bos_token }}", "2<s>"),
    ],
)  # fmt: skip
def test_texts_are_those_of_transformers(
    renderer: TemplateRenderer, source: str, text: str
) -> None:
    (result,) = renderer.render(TemplateSource(source, {"bos_token": "<s>"}), [HELLO])
    assert result == [text]
    if source and "strftime" not in source:
        tokenizer = build_tiny_tokenizer(template=source)
        tokenizer.bos_token = "<s>"
        assert text == tokenizer.apply_chat_template(
            [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
        )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('no') }}", "no"), ("{% for %}", "Expected"), ("{{ 1 / 0 }}", "zero"),
        ("{{ x.y.z }}", "undefined"), ("{{ range(10 ** 9) }}", "Range too big"),
        ("{{ messages[9].content + 1 }}", "no element 9"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
        ("{% set n = namespace() %}{% set n.__x = 1 %}", "underscore"),
        ("{{ ''.__class__.__mro__ }}", "__class__"),
        ("{{ cycler.__init__.__globals__ }}", "__init__"),
    ],
)  # fmt: skip
def test_what_a_template_raises_is_no_limit(
    renderer: TemplateRenderer, source: str, reason: str
) -> None:
    result = failure(renderer, source)
    assert not result.over_limit
    assert reason in result.reason


# ------------------------------------------------------------ the process


def test_the_process_needs_no_tensor() -> None:
    code = (
        "import runpy, sys\n"
        f"runpy.run_path({template_process.__file__!r})['compile_template']('x')\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_results_keep_their_order_across_requests_and_failures(renderer: TemplateRenderer) -> None:
    source = (
        "{% if messages[0].content == 'no' %}{{ raise_exception('refused') }}{% endif %}"
        "{% if messages[0].content == 'loop' %}" + NESTED.replace("BODY", "") + "{% endif %}"
        "{{ messages[0].content }}{{ add_generation_prompt }}"
    )
    contents = [str(i) for i in range(600)]
    contents[3], contents[300], contents[301] = "no", "loop", "x" * 1_100_000
    rows = [Conversation([{"content": c}], [(1, True), (1, False)]) for c in contents]
    results = renderer.render(TemplateSource(source), rows)
    for content, result in zip(contents, results, strict=True):
        if content in ("no", "loop"):
            assert isinstance(result, Failure)
            assert result.over_limit == (content == "loop")
        else:
            assert result == [content + "True", content + "False"]


def test_a_process_that_ended_is_replaced(renderer: TemplateRenderer) -> None:
    source = TemplateSource("{{ messages[0].content }}")
    assert renderer.render(source, [HELLO]) == [["hello"]]
    renderer.close()
    assert renderer.render(source, [HELLO]) == [["hello"]]


def test_an_interrupted_request_does_not_mix_with_the_next(renderer: TemplateRenderer) -> None:
    broken: Any = Conversation([{"role": "user", "content": object()}], [(1, True)])
    with pytest.raises(TypeError):
        renderer.render(TemplateSource("x"), [SimpleNamespace(**vars(broken), characters=0)])  # type: ignore[list-item]
    assert renderer.render(TemplateSource("y"), [HELLO]) == [["y"]]


def test_a_forked_process_uses_a_process_of_its_own(renderer: TemplateRenderer) -> None:
    source = TemplateSource("{{ messages[0].content }}")
    renderer.render(source, [HELLO])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        result = renderer.render(source, [HELLO])
        renderer.close()
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with io.FileIO(reader) as stream:
        assert json.loads(stream.read(100)) == [["hello"]]
    assert renderer.render(source, [HELLO]) == [["hello"]]


# ------------------------------------------------------------ where templates are used


def template(source: str, renderer: TemplateRenderer, **options: Any) -> Template:
    return Template.from_tokenizer(build_tiny_tokenizer(), source, renderer=renderer, **options)


def test_the_template_of_a_tokenizer_is_checked(renderer: TemplateRenderer) -> None:
    with pytest.raises(UsageError, match=r"chat template: it .*, so it is not used") as caught:
        template(TOO_MUCH["output"][0], renderer)
    assert "another base model" in str(caught.value.hint)


ON_SOME_ROWS = (
    "{% for m in messages %}{% if 'now' in m.content %}BODY{% endif %}{% endfor %}" + CHATML
)
BAD_ROWS: list[Record] = [
    Completion(source="rows:2", prompt="now", completion="yes"),
    Chat(source="rows:2", messages=(Message("user", "x"), Message("assistant", "now"))),
    Preference(source="rows:2", prompt=(Message("user", "x"),), chosen="a", rejected="now"),
]
GOOD = {
    Completion: Completion(source="rows:1", prompt="x", completion="y"),
    Chat: Chat(source="rows:1", messages=(Message("user", "x"), Message("assistant", "y"))),
    Preference: Preference(
        source="rows:1", prompt=(Message("user", "x"),), chosen="a", rejected="b"
    ),
}


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda row: type(row).__name__)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (NESTED.replace("BODY", ""), "computes longer than 0.2 seconds"),
        pytest.param(
            "{% set x = 'x' * 10 ** 11 %}", "needs too much memory", marks=no_memory_limit
        ),
    ],
)
def test_the_row_on_which_a_template_runs_away_is_named(
    renderer: TemplateRenderer, bad: Record, body: str, reason: str
) -> None:
    rows = [GOOD[type(bad)], bad]  # type: ignore[index]
    chat = template(ON_SOME_ROWS.replace("BODY", body), renderer)
    started = time.process_time()
    with pytest.raises(TemplateLimitError, match=f"the chat template was stopped.*{reason}"):
        if isinstance(bad, Preference):
            tokenize_pairs(rows, chat)
        else:
            chat.tokenize_records(rows, 100)
    assert time.process_time() - started < 1, "the work is in the other process"
    with pytest.raises(TemplateLimitError, match="rows:2"):
        list(chat.find_problems(rows))


def test_a_row_that_a_template_refuses_is_skipped(renderer: TemplateRenderer) -> None:
    chat = template(ON_SOME_ROWS.replace("BODY", "{{ raise_exception('not now') }}"), renderer)
    rows = [GOOD[Chat], BAD_ROWS[1]]
    tokenized = chat.tokenize_records(rows, 100)
    assert len(tokenized.examples) == 1
    (problem,) = tokenized.skipped
    assert (problem.where, problem.detail) == ("rows:2", "not now")
    assert list(chat.find_problems(rows)) == [problem]
    pair = BAD_ROWS[2]
    assert isinstance(pair, Preference)
    labeled = UnpairedPreference(
        source="f:3", prompt=pair.prompt, completion=pair.rejected, label=False
    )
    (problem,) = chat.find_problems([rows[0], labeled])
    assert (problem.where, problem.detail) == ("f:3", "not now")
    pairs = [GOOD[Preference], pair]
    with pytest.raises(DataError, match="rows:2: rejected by the chat template, not now"):
        tokenize_pairs(pairs, chat)


def test_a_template_prints_the_date_of_the_run(renderer: TemplateRenderer) -> None:
    source = "{{ strftime_now('%d.%m.%Y') }}" + CHATML
    prompt = (Message("user", "x"),)
    first = template(source, renderer, date=date(2024, 2, 29))
    assert first.tokenizer.decode(first.encode_prompt(prompt)).startswith("29.02.2024")
    other = template(source, renderer, date=date(2025, 1, 1))
    assert first.sha256 != other.sha256


def test_script_answers_one_line_per_conversation() -> None:
    request = {
        "source": "{{ messages[0].content }}", "date": "2024-07-26", "variables": {}, "seconds": 5,
        "conversations": [vars(HELLO), {"messages": [], "prefixes": [(1, True)]}],
    }  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-P", str(Path(template_process.__file__))],
        input=json.dumps(request).encode() + b"\n", capture_output=True, check=True,
    )  # fmt: skip
    first, second = map(json.loads, process.stdout.splitlines())
    assert first == {"texts": ["hello"]}
    assert second["limit"] is False
