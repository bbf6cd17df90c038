"""Calls in each format become equal records; the others are counted or skipped with the cause."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples import (
    CALLS,
    FORMS,
    JSON,
    answer,
    expected,
    langfuse,
    openai,
    parts,
    spans,
    user,
    write,
)

import tunesmith
from tunesmith.contracts import Dataset
from tunesmith.errors import DataError, UsageError
from tunesmith.records import Record, UnpairedPreference
from tunesmith_data import RowError
from tunesmith_traces.completions import read_langfuse, read_openai
from tunesmith_traces.offer import TRACES, TraceOptions
from tunesmith_traces.otel import read_otel
from tunesmith_traces.trace import read_label, read_time

KEY = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3b"


def load(path: Path, **options: Any) -> Dataset:
    return TRACES.build(TraceOptions(train=str(path), **options)).load()


def plain(records: Any) -> list[Record]:
    return [replace(record, source="") for record in records]


def call(text: str, reply: str, **changes: Any) -> JSON:
    choice = {"message": answer(reply), "finish_reason": "stop"}
    return {"id": "c", "messages": [user(text)], "choices": [choice], **changes}


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_records(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "calls.jsonl", FORMS[form]())
    found = load(path)
    assert plain(found.train) == expected() and not found.skipped
    assert len({record.source for record in found.train}) == len(CALLS)
    assert TRACES.recognizes(str(path))


@pytest.mark.parametrize("form", FORMS)
def test_feedback_becomes_labels_or_a_filter(form: str, tmp_path: Path) -> None:
    rows = FORMS[form]()
    path = write(tmp_path / "calls.jsonl", rows)
    labeled = load(path, feedback="rating")
    assert all(isinstance(record, UnpairedPreference) for record in labeled.train)
    assert [(r.completion, r.label) for r in labeled.train] == [
        ("network", True),
        ("yes", False),
        ("On floor 2", True),
    ]
    assert "1 without feedback" in labeled.warnings[-1]
    good = load(path, feedback="rating", use_feedback="filter")
    assert plain(good.train) == [expected()[0], expected()[3]]
    assert "1 with bad feedback" in good.warnings[-1]


def test_facts_of_a_call_are_labels() -> None:
    reads = (read_openai(openai()[0]), read_langfuse(langfuse()[0]), read_otel(spans()[0]))
    first, second, third = (call() for calls in reads for call in calls)
    assert first and second and third
    assert [trace.labels["model"] for trace in (first, second, third)] == ["m-1"] * 3
    assert [trace.conversation for trace in (first, second, third)] == ["one"] * 3
    assert (first.finish_reason, third.finish_reason) == ("stop", "stop")


def test_arrays_and_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "calls.json.gz"
    path.write_bytes(gzip.compress(json.dumps(openai(), indent=1).encode()))
    assert plain(load(path).train) == expected()


def test_repeated_failed_and_cut_off_calls_are_counted(tmp_path: Path) -> None:
    cut = call("c?", "c")
    cut["choices"][0]["finish_reason"] = "length"
    error = spans()[0]
    error["status"] = {"status_code": "ERROR"}
    del error["attributes"]["gen_ai.output.messages"]
    embedding = spans()[0]
    embedding["attributes"]["gen_ai.operation.name"] = "embeddings"
    rows = [call("a?", "a", id="1"), call("b?", "b"), call("a?", "a", id="2"), cut, error]
    rows += [call("d?", "d", error={"message": "x"}), embedding, call("a?", "other")]
    found = load(write(tmp_path / "calls.jsonl", rows))
    assert len(found.train) == 3 and not found.skipped
    assert found.warnings[-1] == (
        "traces not used: 2 failed, 1 repeated, 1 with an answer that was cut off, 1 other than "
        "calls of a model"
    )


def test_repeated_calls_of_another_file_are_not_used(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [call("a?", "a"), call("b?", "b")])
    test = write(tmp_path / "b.jsonl", [call("b?", "b"), call("c?", "c")])
    found = load(train, test=str(test))
    assert [r.messages[0].text for r in found.test or ()] == ["c?"]


def test_personal_data_is_masked_in_all_texts_but_not_in_ids(tmp_path: Path) -> None:
    mail, name = "anna.meier@firma-meier.de", "anna@mail.com"
    reply = {
        "role": "assistant",
        "content": f"I write to {mail}",
        "tool_calls": [
            {
                "id": name,
                "type": "function",
                "function": {"name": "f", "arguments": f'{{"to":"{mail}"}}'},
            }
        ],
    }
    rows = [call(f"Write to {mail}, key {KEY}", "")]
    rows[0]["choices"][0]["message"] = reply
    path = write(tmp_path / "calls.jsonl", rows)
    (record,) = load(path, mask=True).train
    prompt, done = record.messages
    assert prompt.text == "Write to [EMAIL], key [SECRET]" and done.text == "I write to [EMAIL]"
    assert done.tool_calls[0].arguments == '{"to":"[EMAIL]"}' and done.tool_calls[0].id == name
    (unmasked,) = load(path).train
    assert mail in unmasked.messages[0].text


def test_presidio_masks_more(tmp_path: Path) -> None:
    pytest.importorskip("tunesmith_presidio", reason="is an extra")
    path = write(tmp_path / "calls.jsonl", [call("From 203.0.113.9 by a@firma-meier.de", "ok")])
    (record,) = load(path, mask="presidio").train
    assert record.messages[0].text == "From [IP ADDRESS] by [EMAIL]"
    (record,) = load(path, mask=True).train
    assert record.messages[0].text == "From 203.0.113.9 by [EMAIL]"


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tunesmith_presidio.analyze", None)
    path = write(tmp_path / "calls.jsonl", [call("a?", "a")])
    with pytest.raises(UsageError, match=r"data\.mask = .presidio") as caught:
        load(path, mask="presidio")
    assert "install tunesmith-presidio" in str(caught.value.hint)


MAIL, PHONE, CARD = "anna.meier@firma-meier.de", "+49 30 901820", 4111111111111111


def with_call(arguments: Any, result: str = "done") -> list[JSON]:
    call = {"id": "f1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    tool = {"role": "tool", "tool_call_id": "f1", "content": result}
    return [user("a?"), {**answer(""), "tool_calls": [call]}, tool]


def with_answer(**changes: Any) -> list[JSON]:
    return [user("a?"), {**answer("Hi"), **changes}, user("And?")]


def masked_forms() -> dict[str, list[JSON]]:
    """Messages with personal data in each place that becomes part of a record."""
    content = [{"type": "thinking", "thinking": MAIL}, {"type": "text", "text": "Hi"}]
    return {
        "name": [{**user("Hi"), "name": MAIL}],
        "value": [{"from": "human", "value": f"I am {MAIL}"}],
        "thinking": with_answer(thinking=f"It is {MAIL}"),
        "part": with_answer(content=content),
        "arguments": with_call({"to": MAIL, "list": [{"id": MAIL}], "card": CARD, PHONE: 1}),
        "escaped": with_call(json.dumps({"text": f"Call\n{PHONE} or\n{MAIL}"})),
        "result": with_call("{}", json.dumps({"a": f"x\n{PHONE}", "card": CARD})),
    }


@pytest.mark.parametrize("form", masked_forms())
def test_every_part_of_a_record_is_masked(form: str, tmp_path: Path) -> None:
    rows = [call("", "b", messages=masked_forms()[form], id=PHONE, user=MAIL)]
    path = write(tmp_path / "calls.jsonl", rows)
    found = load(path, mask=True)
    (record,) = found.train
    assert not any(item in repr(record) for item in (MAIL, PHONE, str(CARD)))
    assert any(item in repr([*load(path).train]) for item in (MAIL, PHONE, str(CARD)))


def test_skipped_rows_and_slices_are_masked(tmp_path: Path) -> None:
    broken = call(f"Write to {MAIL}", "x", metadata={"rating": f"call {PHONE}", "user": MAIL})
    good = call(f"Is {MAIL} right?", "no", metadata={"rating": "up", "user": MAIL})
    path = write(tmp_path / "calls.jsonl", [good, broken])
    with path.open("a") as file:
        file.write(f'{{"messages": "{MAIL}\n')
    options = {"feedback": "rating", "max_skipped": 1, "slices": ["user"]}
    found = load(path, mask=True, **options)
    assert [row.where.rpartition(":")[2] for row in found.skipped] == ["2", "3"]
    assert not any(item in repr(found) for item in (MAIL, PHONE))
    assert dict(next(iter(found.train)).slices) == {"user": "[EMAIL]"}
    assert MAIL in repr(load(path, **options).skipped)


@pytest.mark.parametrize("form", ["langfuse_traces", "otlp"])
def test_a_call_with_an_error_does_not_hide_the_others_of_its_row(
    form: str, tmp_path: Path
) -> None:
    rows = FORMS[form]()
    calls = rows[0]["observations"][1:] if form == "langfuse_traces" else (
        rows[0]["resourceSpans"][0]["scopeSpans"][0]["spans"])  # fmt: skip
    calls[0] |= {"output": 7, "attributes": [{"key": "gen_ai.input.messages", "value": 7}]}
    found = load(write(tmp_path / "calls.jsonl", rows), max_skipped=0.5)
    assert plain(found.train) == expected()[1:] and len(found.skipped) == 1


def test_earlier_answers_are_not_trained_whatever_their_role(tmp_path: Path) -> None:
    messages = [user("a?"), {"role": "model", "content": "a"}, user("b?")]
    (record,) = load(write(tmp_path / "calls.jsonl", [call("", "b", messages=messages)])).train
    assert [m.weight for m in record.messages if m.role == "assistant"] == [0, 1]


def test_calls_without_an_id_are_not_one_conversation(tmp_path: Path) -> None:
    rows = [call("a?", "a"), call("b?", "b")]
    for row in rows:
        del row["id"]
    generations = [{"input": f"{n}?", "output": "c"} for n in range(2)]
    span = [{"attributes": spans()[n]["attributes"]} for n in (0, 2)]
    for item in span:
        del item["attributes"]["gen_ai.conversation.id"]
    found = load(write(tmp_path / "calls.jsonl", [*rows, *generations, *span])).train
    assert len({record.group for record in found}) == len(found) == 6


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "length", "content_filter"])
def test_every_form_tells_that_an_answer_was_cut_off(reason: str, tmp_path: Path) -> None:
    choice = {"message": answer("c"), "finish_reason": reason}
    span = spans()[0]
    span["attributes"]["gen_ai.output.messages"] = json.dumps([parts(answer("c"))])
    span["attributes"]["gen_ai.response.finish_reasons"] = [reason]
    rows = [call("a?", "a", choices=[choice]), {"input": "b?", "output": {"choices": [choice]}}]
    found = load(write(tmp_path / "calls.jsonl", [call("a?", "a"), *rows, span]))
    assert len(found.train) == 1 and not found.skipped
    assert "3 with an answer that was cut off" in found.warnings[-1]


def test_the_word_of_a_score_decides_and_the_last_score(tmp_path: Path) -> None:
    span = spans()[0]
    span["events"][0]["attributes"] |= {
        "gen_ai.evaluation.score.label": "fail",
        "gen_ai.evaluation.score.value": 0.9,  # toxicity, of which more is worse
    }
    scores = [
        {"name": "rating", "value": 0, "timestamp": "2026-01-02T00:00:00Z"},
        {"name": "rating", "value": 1, "timestamp": "2026-01-01T00:00:00Z"},
    ]
    row = {**langfuse()[1], "scores": scores}
    found = load(write(tmp_path / "calls.jsonl", [span, row]), feedback="rating")
    assert [record.label for record in found.train] == [False, False]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00.500Z"),
        ("2026-01-01T11:00:00+02:00", "2026-01-01T09:30:00Z"),
        ("2026-01-01T10:00:00", "2026-01-01T09:30:00-02:00"),
        (999_999_999, 1_767_261_600),
        (1_767_261_600, "1767261600001"),
        (1_767_261_600_999, "1767261601000000"),
        ("1767261600000000001", "1767261600000000002"),
        ("2026-01-01T10:00:00Z", 1_767_261_601_000),
        (None, "2026-01-01"),
        ("soon", 1),
    ],
)
def test_the_last_score_is_the_one_with_the_latest_time(
    first: object, last: object, tmp_path: Path
) -> None:
    assert read_time(first) < read_time(last)
    times = {1: last, 0: first}
    scores = [{"name": "rating", "value": n, "timestamp": time} for n, time in times.items()]
    span = spans()[0]
    (event,) = span["events"]
    span["events"] = [
        {**event, "timestamp": time, "attributes": {**event["attributes"], **score_of(n)}}
        for n, time in times.items()
    ]
    rows = [{**langfuse()[1], "scores": scores}, span]
    found = load(write(tmp_path / "calls.jsonl", rows), feedback="rating")
    assert [record.label for record in found.train] == [True, True]


def score_of(value: float) -> JSON:
    """Return the attributes of a score without a word."""
    score = "gen_ai.evaluation.score"
    return {f"{score}.label": None, f"{score}.value": value}


def test_a_word_that_is_unknown_does_not_hide_the_number(tmp_path: Path) -> None:
    scores = [{"name": "rating", "value": 5, "stringValue": "5 stars"}]
    path = write(tmp_path / "calls.jsonl", [{**langfuse()[1], "scores": scores}])
    (record,) = load(path, feedback="rating", good_from=4).train
    assert record.label


def test_a_streamed_answer_is_put_together(tmp_path: Path) -> None:
    def chunk(reason: str | None = None, index: int = 0, **delta: Any) -> JSON:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        return {"id": "s", "model": "m-1", "choices": [choice]}

    def part(number: int, **function: str) -> JSON:
        ids = {"id": f"c{number}"} if "name" in function else {}
        return chunk(tool_calls=[{"index": number, **ids, "function": function}])

    end: JSON = {"id": "s", "choices": [], "usage": {"completion_tokens": 2}}
    texts = [
        chunk(role="assistant", content=""),
        chunk(content="net"),
        chunk(content="other", index=1),
        chunk(content="work"),
        chunk("stop"),
        end,
    ]
    calls = [part(0, name="f", arguments=""), part(1, name="g", arguments="{}")]
    calls += [part(0, arguments='{"a": '), part(0, arguments="1}"), chunk("tool_calls")]
    rows = [
        {"request": {"messages": [user(f"a {n}?")]}, "response": response}
        for n, response in enumerate((texts, calls, texts[:3]))
    ]
    found = load(write(tmp_path / "calls.jsonl", rows), max_skipped=1, slices=["model"])
    spoken, called = (record.messages[-1] for record in found.train)
    assert spoken.text == "network" and dict(found.train[0].slices) == {"model": "m-1"}
    assert [(c.name, json.loads(c.arguments)) for c in called.tool_calls] == [
        ("f", {"a": 1}),
        ("g", {}),
    ]
    assert [row.cause for row in found.skipped] == ["the stream of chunks has no end"]


def test_answers_that_are_json_are_texts(tmp_path: Path) -> None:
    answers = ['["a", "b"]', '{"team": "network"}', "[note] a"]
    rows = [{"input": f"{n}?", "output": text} for n, text in enumerate(answers)]
    found = load(write(tmp_path / "calls.jsonl", rows)).train
    assert [record.messages[-1].text for record in found] == answers


def test_the_system_prompt_beside_the_messages_is_used(tmp_path: Path) -> None:
    given = {"system": "Be brief.", "messages": [user("a?")]}
    (record,) = load(write(tmp_path / "calls.jsonl", [{"input": given, "output": "b"}])).train
    assert [m.role for m in record.messages] == ["system", "user", "assistant"]


def test_multiple_choice_data_is_not_taken_for_traces(tmp_path: Path) -> None:
    row = {"question": "a?", "choices": [{"label": "A", "text": "b"}], "answerKey": "A"}
    assert not TRACES.recognizes(str(write(tmp_path / "arc.jsonl", [row])))


def test_slices_are_labels_of_the_call(tmp_path: Path) -> None:
    rows = [call("a?", "a", model="m-1", metadata={"tier": "free"}), call("b?", "b", model="m-2")]
    found = load(write(tmp_path / "calls.jsonl", rows), slices=["model", "tier"])
    assert [dict(r.slices) for r in found.train] == [
        {"model": "m-1", "tier": "free"},
        {"model": "m-2"},
    ]


@pytest.mark.parametrize(
    ("value", "good_from", "label"),
    [
        (True, 0.5, True), (False, 0.5, False), (None, 0.5, None), (1, 0.5, True), (-1, 0.5, False),
        (3, 4, False), (4, 4, True), ("5", 4, True), (" Up ", 0.5, True), ("NO", 0.5, False),
        ("", 0.5, None), ("incorrect", 0.5, False),
    ],
)  # fmt: skip
def test_feedback_is_a_number_or_a_word(value: object, good_from: float, label: bool) -> None:
    assert read_label(value, good_from) is label


@pytest.mark.parametrize("value", ["so la la", "nan", float("nan"), float("inf")])
def test_unknown_feedback_is_neither_good_nor_bad(value: object) -> None:
    with pytest.raises(RowError, match="unknown value"):
        read_label(value, 0.5)


def test_unknown_feedback_skips_the_row(tmp_path: Path) -> None:
    rows = [call(f"{n}?", "a", metadata={"rating": "up"}) for n in range(3)]
    rows.append(call("x?", "a", metadata={"rating": "so la la"}))
    path = write(tmp_path / "calls.jsonl", rows)
    found = load(path, feedback="rating", max_skipped=0.5)
    (skipped,) = found.skipped
    assert (
        skipped.where.endswith("calls.jsonl:4") and skipped.cause == "feedback has an unknown value"
    )
    assert '"so la la"' in skipped.row


def test_spans_without_content_explain_what_to_set(tmp_path: Path) -> None:
    row = spans()[0]
    del row["attributes"]["gen_ai.input.messages"]
    with pytest.raises(DataError, match="a span of a call has no messages") as caught:
        load(write(tmp_path / "calls.jsonl", [row]))
    assert "CAPTURE_MESSAGE_CONTENT" in str(caught.value.hint)


def test_files_without_usable_calls_name_the_reasons(tmp_path: Path) -> None:
    path = write(tmp_path / "calls.jsonl", [call("a?", "a", error="x")])
    with pytest.raises(DataError, match=r"has no rows\n  traces not used: 1 failed"):
        load(path)


def damage(value: Any, junk: Any) -> Iterator[Any]:
    """Yield copies of a value with one inner value replaced by junk, or with one key removed."""
    yield junk
    if isinstance(value, dict):
        for name, item in value.items():
            yield {key: v for key, v in value.items() if key != name}
            yield from ({**value, name: changed} for changed in damage(item, junk))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            rest = value[:number], value[number + 1 :]
            yield from ([*rest[0], changed, *rest[1]] for changed in damage(item, junk))


@pytest.mark.parametrize("junk", [None, 7, "x", [], {}, [None], {"a": [1]}], ids=repr)
@pytest.mark.parametrize("form", FORMS)
def test_damaged_rows_never_raise(form: str, junk: Any, tmp_path: Path) -> None:
    good = FORMS[form]()
    rows = [damaged for row in good for damaged in damage(row, junk) if isinstance(damaged, dict)]
    lines = [json.dumps(row) for row in [*good, *rows]]
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(lines) + "\n{broken\n", encoding="utf-8")
    found = load(path, max_skipped=1, feedback="rating")
    assert found.train and all(row.cause for row in found.skipped)
    assert found.skipped[-1].cause == "not JSON"


def test_the_readme_runs(readme_run_file: Path, tmp_path: Path) -> None:
    options = {"technique.max_steps": 2, "baselines.use": ["majority"]}
    run = tunesmith.run(readme_run_file, set=options)
    assert run.report.status == "ok" and run.report.data is not None
    assert run.report.data.train == 6 and run.report.data.test == 3
    texts = [path.read_text(errors="replace") for path in run.path.rglob("*.jsonl")]
    assert any("network" in text for text in texts)
    assert not any("+49 30 901820" in text for text in texts), "it is not masked"
