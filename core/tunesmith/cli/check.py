"""``tunesmith check``: everything that can be known before a weight is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tunesmith import api
from tunesmith.cli import render, report_view
from tunesmith.cli.common import State, common_options, json_option, pass_state, set_option
from tunesmith.contracts import Dataset
from tunesmith.errors import ConfigError, Problem
from tunesmith.events import DataRead, Noticed
from tunesmith.execution import execute
from tunesmith.execution.execute import Parts
from tunesmith.execution.report import fold
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Preference, Record, Text
from tunesmith.terminal import unicode
from tunesmith.text import one_line, safe_text

EXCERPT = 600
"""Characters of one turn that are shown."""


@click.command("check")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@set_option
@click.option("--origin", is_flag=True, help="Show every value and where it came from.")
@json_option
@common_options
@pass_state
def command(
    state: State, run_file: Path, sets: tuple[str, ...], origin: bool, as_json: bool
) -> None:
    """Say what is wrong or odd with a run file and its data, before anything is trained.

    Reads the run file and the data, asks the reviewing plugins, and shows one row as it will be
    learned. Reads no weights.
    """
    plan, catalog = api.load(run_file, sets=sets, files=state.files, disabled=state.disabled)
    if origin and not as_json:
        show_origins(plan)
    dataset, parts = execute.read_parts(plan)
    event = execute.data_event(dataset, parts)
    found = list(execute.notices(plan, catalog, dataset, parts))
    if as_json:
        render.data(as_object(plan, event, found, parts))
    else:
        show(plan, event, found, dataset, parts)
    errors = [Problem(notice.source, notice.message) for notice in found if notice.level == "error"]
    if errors:
        raise ConfigError(errors)
    render.remark(
        f"nothing stands in the way: tunesmith run {report_view.quoted(run_file.resolve())}"
    )


def show(plan: Plan, event: DataRead, found: list[Noticed], dataset: Dataset, parts: Parts) -> None:
    """The findings for people."""
    render.say(f"model: {one_line(plan.found_model.description, 200)}")
    render.say(f"technique: {plan.technique.offer.name}, {plan.technique.offer.summary}")
    report = fold([event, *found])
    report_view.show_data(report)
    evaluators = [component.offer.name for component in plan.evaluators]
    render.say(f"evaluators: {', '.join(evaluators) or 'those that suit the data'}")
    report_view.show_notices(report)
    if parts.train:
        record = parts.train[0]
        mark = "▌" if unicode(sys.stdout) else "|"
        render.say()
        render.say(f"{one_line(record.source)} as it will be learned ({mark} what carries loss):")
        for label, text, learned in turns(record):
            show_turn(label, text, mark if learned else " ")


def show_turn(label: str, text: str, mark: str) -> None:
    """One turn, its lines marked where they are learned."""
    for number, line in enumerate(safe_text(text, limit=EXCERPT).split("\n")):
        shown = f"{mark} {label if number == 0 else '':<10}{line}".rstrip()
        render.say(f"  {shown}", style="good" if mark.strip() else "dim")


def turns(record: Record) -> list[tuple[str, str, bool]]:
    """Who says what, and whether it is learned."""
    match record:
        case Text():
            return [("text", record.text, True)]
        case Completion():
            return [("user", record.prompt, False), ("assistant", record.completion, True)]
        case Chat():
            return [(m.role, m.content, m.role == "assistant") for m in record.messages]
        case Preference():
            before = [(m.role, m.content, False) for m in record.prompt]
            return [*before, ("chosen", record.chosen, True), ("rejected", record.rejected, True)]
        case _:
            raise TypeError(f"no turns are known for {type(record).__name__}")


def as_object(plan: Plan, event: DataRead, found: list[Noticed], parts: Parts) -> dict[str, Any]:
    """The findings for programs, ``tunesmith.check/1``."""
    example = parts.train[0] if parts.train else None
    return {
        "schema": "tunesmith.check/1",
        "plan": plan.to_json(),
        "origins": origins(plan),
        "model": plan.found_model.description,
        "data": event.to_json(),
        "notices": [notice.to_json() for notice in found],
        "example": None
        if example is None
        else {
            "source": example.source,
            "turns": [
                {"role": role, "text": text, "learned": learned}
                for role, text, learned in turns(example)
            ],
        },
    }


def show_origins(plan: Plan) -> None:
    """Every value of the plan with where it came from."""
    rows = [
        [key, one_line(entry["value"], 60), entry["origin"]] for key, entry in origins(plan).items()
    ]
    render.table(["key", "value", "from"], rows)
    render.say()


def origins(plan: Plan) -> dict[str, dict[str, str]]:
    """Dotted key to value and origin; a whole list or table may have one origin."""
    found = {}
    for key, value in flat(plan.to_json()):
        parts = key.split(".")
        above = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        origin = next((plan.origins[name] for name in above if name in plan.origins), "default")
        found[key] = {"value": repr(value), "origin": origin}
    return found


def flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested tables by dotted key; tables in lists are numbered."""
    if isinstance(value, dict) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        items = [(str(number), item) for number, item in enumerate(value)]
    else:
        return [(prefix, value)]
    return [
        leaf for key, item in items for leaf in flat(item, f"{prefix}.{key}" if prefix else key)
    ]
