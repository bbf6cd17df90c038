"""Records of a data loader are accepted, immutable, and the same after each plugin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bench import Bench

from tunesmith.errors import DataError, PluginError
from tunesmith.execution.check_records import check_records
from tunesmith.fence import check_unchanged
from tunesmith.offers import Plugin
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Message, Record, Text, ToolCall

RECORD = Completion(source="f:1", prompt="p", completion="c")
PLUGIN = Plugin(name="odd", distribution="d", version="1", module="m")


def check(records: list[Record], plan: Plan) -> list[Record]:
    return list(check_records(records, "training", plan))


def test_records_that_the_technique_accepts(bench: Bench) -> None:
    assert check([RECORD, RECORD], bench.plan()) == [RECORD, RECORD]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "none of the training rows can be used"),
        ([RECORD, Text(source="f:2", text="t")], "f:2: .* cannot train on Text records"),
    ],
)
def test_records_that_the_user_can_correct(
    bench: Bench, records: list[Record], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check(records, bench.plan())


@pytest.mark.parametrize(
    ("message", "ignored"),
    [
        (Message("assistant", "a", reasoning="r"), "reasoning"),
        (Message("assistant", "a", weight=0.5), "weights"),
        (Message("assistant", "", tool_calls=(ToolCall("f"),), reasoning="r"), "reasoning and too"),
    ],
)
def test_what_a_technique_would_ignore_is_refused(
    bench: Bench, message: Message, ignored: str
) -> None:
    chat = Chat(source="f:1", messages=(Message("user", "q"), message))
    plan = bench.plan()
    offer = replace(plan.technique.offer, accepts=frozenset({Chat}))
    plan = replace(
        plan,
        technique=replace(plan.technique, offered=replace(plan.technique.offered, offer=offer)),
    )
    with pytest.raises(DataError, match=f"f:1: .* does not train on the {ignored}"):
        check([chat], plan)
    aware = replace(offer, trains_on=frozenset({"tools", "reasoning", "weights"}))
    plan = replace(
        plan,
        technique=replace(plan.technique, offered=replace(plan.technique.offered, offer=aware)),
    )
    assert check([chat], plan) == [chat]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (replace(RECORD, completion=["c"]), "created a mutable record: f:1"),  # type: ignore[arg-type]
        ({"prompt": "p"}, "returned a value of type dict instead of a Record"),
    ],
)
def test_records_that_are_a_fault_of_the_loader(bench: Bench, record: Any, message: str) -> None:
    with pytest.raises(PluginError, match=f'"file:bench" {message}'):
        check([RECORD, record], bench.plan())


@pytest.mark.parametrize("completion", ["easier", ["a list"]])
def test_a_changed_record_names_the_plugin(completion: Any) -> None:
    records = [replace(RECORD), replace(RECORD, source="f:2")]
    content = [*map(hash, records)]
    check_unchanged(content, records, PLUGIN)
    object.__setattr__(records[1], "completion", completion)
    with pytest.raises(PluginError, match='"d:odd" changed the record f:2'):
        check_unchanged(content, records, PLUGIN)
