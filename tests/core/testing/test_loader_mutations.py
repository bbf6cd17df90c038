"""Silent bugs of data loaders, each with the check of the kit that finds it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mutations import find_failed, specimen
from pydantic import Field

from tunesmith.contracts import Dataset, SkippedRow
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import DataPath, Options
from tunesmith.records import Chat, Completion, Message, Record, UnpairedPreference
from tunesmith.testing import LoaderExample, run_checks


class LoaderOptions(Options):
    """Options of the loader."""

    train: DataPath = Field(description="File with a row on each line.")


@dataclass
class HonestLoader:
    """Reads completions, conversations with weights, and labeled answers."""

    options: Any

    def load(self) -> Dataset:
        path = Path(self.options.train)
        records: list[Record] = []
        skipped = []
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            where = f"{path}:{number}"
            if line and (row := json.loads(line)).get("completion", "x"):
                records.append(self.build(where, row))
            elif line:
                skipped.append(SkippedRow(where=where, cause="answer is empty"))
        return Dataset(train=records, skipped=skipped)

    def build(self, where: str, row: dict[str, Any]) -> Record:
        group = row.get("patient")
        if "messages" in row:
            turns = tuple(Message(m["role"], m["content"], weight=m.get("weight", 1.0))
                          for m in row["messages"])  # fmt: skip
            return Chat(source=where, group=group, messages=turns)
        if "label" in row:
            prompt = (Message("user", row["prompt"]),)
            return UnpairedPreference(source=where, group=group, prompt=prompt,
                                      completion=row["completion"], label=row["label"])  # fmt: skip
        prompt, completion = row["prompt"], row["completion"]
        return Completion(source=where, group=group, prompt=prompt, completion=completion)


LONG = "a long answer " * 40 + "with an end"
ROWS: list[dict[str, Any]] = [
    {"prompt": "one?", "completion": "1", "patient": "Ann"},
    {"prompt": "  two?", "completion": "2 \n"},
    {"prompt": "long?", "completion": LONG},
    {"prompt": "empty?", "completion": ""},
    {"messages": [{"role": "user", "content": "so?"}, {"role": "assistant", "content": "no",
     "weight": 0.25}]},
    {"prompt": "good?", "completion": "yes", "label": True},
    {"prompt": "bad?", "completion": "maybe", "label": False},
]  # fmt: skip
EXPECTED: list[Record] = [
    Completion(source="x", group="Ann", prompt="one?", completion="1"),
    Completion(source="x", prompt="  two?", completion="2 \n"),
    Completion(source="x", prompt="long?", completion=LONG),
    Chat(source="x", messages=(Message("user", "so?"), Message("assistant", "no", weight=0.25))),
    UnpairedPreference(
        source="x", prompt=(Message("user", "good?"),), completion="yes", label=True
    ),
    UnpairedPreference(
        source="x", prompt=(Message("user", "bad?"),), completion="maybe", label=False
    ),
]


def change_records(change: Callable[[list[Any]], Sequence[Any]]) -> type[HonestLoader]:
    """Return a loader whose training records are changed."""

    class Changed(HonestLoader):
        def load(self) -> Dataset:
            dataset = super().load()
            return replace(dataset, train=list(change(list(dataset.train))))

    return Changed


def change_row(change: Callable[[dict[str, Any]], dict[str, Any]]) -> type[HonestLoader]:
    """Return a loader that changes rows before they become records."""

    class Changed(HonestLoader):
        def build(self, where: str, row: dict[str, Any]) -> Record:
            return super().build(where, change(dict(row)))

    return Changed


class SilentLoader(HonestLoader):
    def load(self) -> Dataset:
        return replace(super().load(), skipped=())


class DriftingLoader(HonestLoader):
    loads = 0

    def load(self) -> Dataset:
        type(self).loads += 1
        dataset = super().load()
        return replace(dataset, train=dataset.train[:: (-1) ** self.loads])


def cut(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "completion": row["completion"][:256]} if "completion" in row else row


def strip(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}


def without_weights(row: dict[str, Any]) -> dict[str, Any]:
    turns = [{**m, "weight": 1.0} for m in row.get("messages", ())]
    return {**row, "messages": turns} if turns else row


def without_group(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "patient"}


def always_good(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "label": True} if "label" in row else row


def as_completion(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "label"}


LOADERS: dict[str, tuple[type[HonestLoader], str]] = {
    "drops the first row": (change_records(lambda r: r[1:]), "accounts_for_every_row"),
    "drops the last row": (change_records(lambda r: r[:-1]), "accounts_for_every_row"),
    "drops every third row": (
        change_records(lambda r: [x for n, x in enumerate(r) if n % 3]), "accounts_for_every_row",
    ),
    "says nothing of skipped rows": (SilentLoader, "accounts_for_every_row"),
    "loads a row twice": (change_records(lambda r: [*r, r[0]]), "accounts_for_every_row"),
    "loads rows backwards": (change_records(lambda r: r[::-1]), "loads_its_examples"),
    "sorts rows": (change_records(lambda r: sorted(r, key=repr)), "loads_its_examples"),
    "another order each time": (DriftingLoader, "same_order_twice"),
    "cuts long answers": (change_row(cut), "loads_its_examples"),
    "strips texts": (change_row(strip), "loads_its_examples"),
    "loses weights": (change_row(without_weights), "loads_its_examples"),
    "loses groups": (change_row(without_group), "loads_its_examples"),
    "bad answers become good ones": (change_row(always_good), "loads_its_examples"),
    "loses labels": (change_row(as_completion), "loads_its_examples"),
}  # fmt: skip


def load(loader: type[HonestLoader], folder: Path) -> set[str]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    options = {"train": str(path)}
    offer = DataLoaderOffer(name="rows", summary="rows", config=LoaderOptions, build=loader)
    example = LoaderExample(options=options, train=EXPECTED, skipped=1)
    return find_failed(
        specimen("data_loaders", offer), samples={"rows": options}, examples={"rows": [example]}
    )


def test_an_honest_loader_passes(tmp_path: Path) -> None:
    assert load(HonestLoader, tmp_path) == set()


@pytest.mark.parametrize("bug", LOADERS)
def test_a_bug_of_a_loader_is_found(bug: str, tmp_path: Path) -> None:
    loader, check = LOADERS[bug]
    assert check in load(loader, tmp_path)


def test_rows_of_a_table_may_have_several_lines(tmp_path: Path) -> None:
    from tunesmith_plugins.loaders import TABLE

    path = tmp_path / "rows.csv"
    rows = [f'q{n},"a\nb"' if n == 3 else f"q{n},a" for n in range(8)]
    path.write_text("prompt,completion\n" + "\n".join(rows) + "\n\n", encoding="utf-8")
    results = {r.check: r for r in run_checks(TABLE, samples={"table": {"train": str(path)}})}
    assert results["accounts_for_every_row"].state == "passed"
