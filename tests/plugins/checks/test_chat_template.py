"""A base model without a chat template is refused for conversations, before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pictures import PICTURES

from tunesmith.catalog import Catalog
from tunesmith.config import run_file
from tunesmith.config.read_plan import make_plan
from tunesmith.plan import Plan
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Chat, Completion, Message, Preference, Record, Text, ToolCall
from tunesmith_plugins.checks.chat_template import has_chat_template, review
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer

USER = Message("user", "Who?")
SYSTEM = Message("system", "Be brief.")
ANSWER = Message("assistant", "Me.")
PAIR: list[Record] = [Completion(source="rows:1", prompt="Who?", completion="Me.")]
QUESTION: list[Record] = [Chat(source="rows:1", messages=(USER, ANSWER))]
WITH_SYSTEM: list[Record] = [Chat(source="rows:7", messages=(SYSTEM, USER, ANSWER))]
TURNS: list[Record] = [Chat(source="rows:8", messages=(USER, ANSWER, USER, ANSWER))]
CHOICE: list[Record] = [
    Preference(source="rows:9", prompt=(SYSTEM, USER), chosen="Me.", rejected="You.")
]


def model_folder(folder: Path, template: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    table = {} if template is None else {"chat_template": {"source": template}}
    (folder / "tokenizer_config.json").write_text(json.dumps(table))
    return folder


def plan(model: Path, technique: dict[str, Any] | None = None, **baselines: Any) -> Plan:
    tables = {
        "model": {"base": str(model)},
        "data": {"use": "jsonl", "train": "rows.jsonl"},
        "technique": {"use": "lora", **(technique or {})},
        "baselines": {**baselines},
    }
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    return make_plan(run_file.RunFile(tables=tables, folder=model, stem="x"), catalog)


@pytest.mark.parametrize("rows", [WITH_SYSTEM, TURNS, CHOICE])
def test_conversations_are_refused_with_what_to_do(tmp_path: Path, rows: list[Record]) -> None:
    (finding,) = review(plan(model_folder(tmp_path)), rows, [])
    assert (finding.level, finding.where) == ("error", "technique.chat_template")
    assert f"conversations (1 row, the first is {rows[0].source})" in finding.message
    assert "`prompt` and `completion`" in finding.message
    assert "technique.chat_template" in finding.message


def test_test_conversations_are_refused_too(tmp_path: Path) -> None:
    assert len(review(plan(model_folder(tmp_path)), PAIR, TURNS)) == 1


@pytest.mark.parametrize("rows", [PAIR, QUESTION, [Text(source="rows:1", text="Who? Me.")]])
def test_rows_with_one_question_need_no_template(tmp_path: Path, rows: list[Record]) -> None:
    assert review(plan(model_folder(tmp_path)), rows, rows) == []


@pytest.mark.parametrize(
    ("baselines", "where"),
    [({"system_prompt": "Hi."}, "baselines.system_prompt")],
)
def test_baselines_that_need_a_template_are_refused(
    tmp_path: Path, baselines: dict[str, Any], where: str
) -> None:
    (finding,) = review(plan(model_folder(tmp_path), **baselines), PAIR, PAIR)
    assert (finding.level, finding.where) == ("error", where)
    texts: list[Record] = [Text(source="rows:1", text="Who? Me.")]
    assert review(plan(model_folder(tmp_path), **baselines), texts, texts) == []


def test_a_template_of_the_model_or_of_the_run_file_is_enough(tmp_path: Path) -> None:
    with_template = model_folder(tmp_path / "chat", "{{ messages }}")
    assert review(plan(with_template), TURNS, TURNS) == []
    bare = model_folder(tmp_path / "bare")
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    technique = {"chat_template": {"source": str(tmp_path / "template.jinja")}}
    assert review(plan(bare, technique), TURNS, TURNS) == []


@pytest.mark.parametrize(("text", "problem"), [(None, "cannot read"), (" \n", "is empty")])
def test_a_template_file_that_cannot_be_used_is_found(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    model = model_folder(tmp_path / "model", "{{ messages }}")
    file = tmp_path / "template.jinja"
    if text is not None:
        file.write_text(text)
    (finding,) = review(plan(model, {"chat_template": {"source": str(file)}}), PAIR, PAIR)
    assert (finding.level, finding.where) == ("error", "technique.chat_template")
    assert problem in finding.message


def test_a_stage_without_a_template_is_named(tmp_path: Path) -> None:
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    table = {"chat_template": {"source": str(tmp_path / "template.jinja")}}
    rlhf = {"use": "rlhf", "supervised": table, "reward": {}, "policy": {"skip": True}}
    (finding,) = review(plan(model_folder(tmp_path), rlhf), CHOICE, CHOICE)
    assert finding.where == "technique.reward.chat_template"
    skipped = {**rlhf, "reward": {"skip": True}}
    assert review(plan(model_folder(tmp_path), skipped), CHOICE, CHOICE) == []


def test_a_model_to_begin_with_may_bring_a_template(tmp_path: Path) -> None:
    technique = {"from": str(tmp_path)}
    assert review(plan(model_folder(tmp_path), technique), TURNS, TURNS) == []


def test_of_a_model_without_a_tokenizer_nothing_is_known(tmp_path: Path) -> None:
    (model_folder(tmp_path) / "tokenizer_config.json").unlink()
    assert review(plan(tmp_path), TURNS, TURNS) == []


def test_the_places_of_a_template(tmp_path: Path) -> None:
    assert not has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert not has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{damaged")
    assert has_chat_template(tmp_path), "loading reports that"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default"}]}')
    assert has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_text("x")
    assert has_chat_template(tmp_path)


# ------------------------------------------------------------ rows and the template


def chat_model(folder: Path, template: str) -> Path:
    build_tiny_tokenizer(template=template).save_pretrained(model_folder(folder))
    return folder


CLOSED = CHATML.replace("assistant\n' }}", "assistant\n<think>\n\n</think>\n\n' }}")
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}BODY{% endif %}{% endfor %}" + CHATML
REASONING = Completion(source="rows:5", prompt="Who?", completion="<think>hm</think>Me.")


def test_rows_that_the_template_writes_are_no_finding(tmp_path: Path) -> None:
    rows = [*PAIR, *WITH_SYSTEM, *TURNS, *CHOICE, REASONING]
    assert review(plan(chat_model(tmp_path, CHATML)), rows, rows) == []


def test_rows_with_media_are_left_to_the_technique(tmp_path: Path) -> None:
    rows = [*PICTURES, *PAIR]
    assert review(plan(chat_model(tmp_path, CHATML)), rows, [*PICTURES]) == []
    wrong = [*PICTURES, *WITH_SYSTEM]
    refusing = NO_SYSTEM.replace("BODY", "{{ raise_exception('no system') }}")
    (finding,) = review(plan(chat_model(tmp_path, refusing)), wrong, [])
    assert "1 row" in finding.message


def test_reasoning_after_a_prompt_without_it_is_refused(tmp_path: Path) -> None:
    (finding,) = review(plan(chat_model(tmp_path, CLOSED)), [*PAIR, REASONING], PAIR)
    assert (finding.level, finding.where) == ("error", "technique.chat_template")
    assert "has reasoning, but the prompt ends with </think>" in finding.message
    assert "1 row, the first is rows:5" in finding.message
    assert "technique.chat_template.kwargs" in finding.hint
    switch = CHATML + (
        "{% if add_generation_prompt and thinking is not defined %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    )
    model = chat_model(tmp_path / "switch", switch)
    assert len(review(plan(model), [REASONING], [])) == 1
    table = {"chat_template": {"kwargs": {"thinking": True}}}
    assert review(plan(model, table), [REASONING], []) == [], "the hint helps"


SWITCH = CHATML + (
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
OFF = {"chat_template": {"kwargs": {"enable_thinking": False}}}


def test_rows_without_reasoning_under_a_thinking_template_are_a_warning(tmp_path: Path) -> None:
    model = chat_model(tmp_path, SWITCH)
    (finding,) = review(plan(model), [*PAIR, *TURNS], PAIR)
    assert (finding.level, finding.where) == ("warning", "technique.chat_template")
    assert finding.message.startswith("thinking template: no row has reasoning, but prompts ask")
    assert "kwargs = { enable_thinking = false }" in finding.hint
    assert review(plan(model), [*PAIR, REASONING], PAIR) == []
    texts: list[Record] = [Text(source="rows:1", text="Who? Me.")]
    assert review(plan(model), texts, texts) == []


def test_serving_in_the_other_mode_is_advised_against(tmp_path: Path) -> None:
    """The hint of the warning helps, and a note says what must not change afterwards."""
    (finding,) = review(plan(chat_model(tmp_path, SWITCH), OFF), [*PAIR, *TURNS], PAIR)
    assert finding.level == "info"
    assert "do not serve it with enable_thinking = true" in finding.message


def test_a_message_that_the_template_drops_is_refused(tmp_path: Path) -> None:
    silent = CHATML.replace("in messages %}", "in messages if message.role != 'system' %}")
    (finding,) = review(plan(chat_model(tmp_path, silent)), [*PAIR, *WITH_SYSTEM], TURNS)
    assert finding.level == "error"
    assert "skips a message" in finding.message
    assert "the first is rows:7" in finding.message
    assert "user message" in finding.hint


def test_rows_that_the_template_refuses_are_a_warning_unless_they_are_all(tmp_path: Path) -> None:
    source = NO_SYSTEM.replace("BODY", "{{ raise_exception('no system role') }}")
    model = chat_model(tmp_path, source)
    (finding,) = review(plan(model), [*PAIR, *WITH_SYSTEM, *CHOICE], PAIR)
    assert finding.level == "warning"
    assert "no system role (3 rows, the first is rows:7): skipped in training" in finding.message
    (finding,) = review(plan(model), WITH_SYSTEM, WITH_SYSTEM)
    assert finding.level == "error"


def test_the_row_on_which_a_template_runs_away_is_named(tmp_path: Path) -> None:
    model = chat_model(tmp_path, NO_SYSTEM.replace("BODY", "{% set x = 'x' * 10 ** 11 %}"))
    (finding,) = review(plan(model), [*PAIR, *WITH_SYSTEM], PAIR)
    assert (finding.level, finding.where) == ("error", "rows:7")
    assert "the chat template was stopped, it needs too much memory" in finding.message


def test_a_template_that_cannot_be_used_at_all_is_refused(tmp_path: Path) -> None:
    model = chat_model(tmp_path, "{{ raise_exception('never') }}")
    (finding,) = review(plan(model), PAIR, PAIR)
    assert (finding.level, finding.where) == ("error", "technique.chat_template")
    assert "never" in finding.message


def test_each_template_of_a_run_is_checked_once(tmp_path: Path) -> None:
    model = chat_model(tmp_path, CLOSED)
    (tmp_path / "other.jinja").write_text(CHATML)
    table = {"chat_template": {"source": str(tmp_path / "other.jinja")}}
    stages = {"use": "rlhf", "supervised": table, "reward": {}, "policy": {}}
    (finding,) = review(plan(model, stages), [REASONING], [])
    assert finding.where == "technique.reward.chat_template"


@pytest.mark.parametrize("rows", [WITH_SYSTEM, TURNS, CHOICE])
def test_a_template_by_name_is_enough_and_is_shown(tmp_path: Path, rows: list[Record]) -> None:
    checked = plan(model_folder(tmp_path), {"chat_template": {"source": "chatml"}})
    findings = review(checked, rows, rows)
    assert [(f.level, f.where) for f in findings] == [("info", "technique.chat_template")]
    assert 'chat template "chatml"' in findings[0].message
    assert checked.to_json()["technique"]["chat_template"]["source"] == "chatml"


def test_tools_are_refused_if_the_template_does_not_write_them(tmp_path: Path) -> None:
    call = Message("assistant", "", tool_calls=(ToolCall("weather"),))
    rows: list[Record] = [Chat(source="rows:1", messages=(USER, call))]
    build_tiny_tokenizer(template=CHATML).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (finding,) = review(plan(tmp_path), rows, [])
    assert finding.level == "error"
    assert "skips a message, here the call of weather (1 row" in finding.message
    assert '"chatml"' in finding.hint
    named = review(plan(tmp_path, {"chat_template": {"source": "chatml"}}), rows, [])
    assert [finding.level for finding in named] == ["info"]
