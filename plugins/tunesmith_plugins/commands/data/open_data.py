"""Open the data of a run file, or a data file without a run file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.contracts import Dataset
from tunesmith.execution.run_data import load_data
from tunesmith.plan import Plan
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    UnpairedPreference,
)
from tunesmith_cli import render
from tunesmith_cli.common import CliState
from tunesmith_cli.data_source import DataSource, load_file, read_keys
from tunesmith_data.skipped_rows import describe_skipped


@dataclass(frozen=True)
class OpenedData:
    """The records by split (train, validation, test), and the plan if there is a run file."""

    dataset: Dataset
    parts: dict[str, Sequence[Record]]
    plan: Plan | None
    catalog: Catalog

    def records(self, part: str) -> Iterator[Record]:
        """Iterate over the records of one split, or of all splits (``all``)."""
        if part == "all":
            return chain.from_iterable(self.parts.values())
        return iter(self.parts.get(part, ()))


def open_data(source: DataSource, state: CliState) -> OpenedData:
    """Load the data of a run file, or every valid row of a data file, folder or pattern.

    Raises:
        UsageError: no data loader recognizes the file.
        DataError: no row is valid.
    """
    if source.is_run_file:
        return _open_run(source, state)
    catalog = state.catalog()
    dataset = load_file(read_keys(source), catalog, {"max_skipped": 1.0}).dataset
    parts = {"train": dataset.train}
    named = {"validation": dataset.validation, "test": dataset.test}
    parts |= {name: part for name, part in named.items() if part is not None}
    return OpenedData(dataset, parts, None, catalog)


def _open_run(source: DataSource, state: CliState) -> OpenedData:
    plan, catalog = load_plan(source, state)
    dataset, split = load_data(plan)
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return OpenedData(dataset, parts, plan, catalog)


def open_rows(source: DataSource, state: CliState) -> Dataset:
    """Load the rows to write to another file. The rows of a run file are not split.

    Raises:
        UsageError: no data loader recognizes the file.
        DataError: the file cannot be read, or has more invalid rows than the data loader allows.
    """
    if source.is_run_file:
        plan, _ = load_plan(source, state)
        return load_data(plan, splits=False)[0]
    return load_file(read_keys(source), state.catalog()).dataset


def load_plan(source: DataSource, state: CliState) -> tuple[Plan, Catalog]:
    """Read a run file, and apply the overrides of the data source."""
    return api.load_plan(source.path, sets=source.sets, files=state.files, disabled=state.disabled)


def count_skipped(dataset: Dataset) -> dict[str, int]:
    """Return the number of skipped rows per reason."""
    return dict(Counter(row.cause for row in dataset.skipped))


def show_skipped(dataset: Dataset) -> None:
    """Print how many rows were skipped for each reason, with the location of the first row."""
    first = {row.cause: row.where for row in reversed(dataset.skipped)}
    for cause, count in count_skipped(dataset).items():
        render.print_text(describe_skipped(cause, count, first[cause]), style="warning")


def text_parts(record: Record) -> list[tuple[str, str, bool]]:
    """Return the parts of a record as (label, text, True if the model is trained on the text).

    A record of a type that a plugin defines has a single part.
    """
    match record:
        case Text():
            return [("text", record.text, True)]
        case Completion():
            return [("user", record.prompt, False), ("assistant", record.completion, True)]
        case Chat():
            return [(m.role, _shown(m), m.is_trained) for m in record.messages]
        case Preference():
            answers = [("chosen", record.chosen, True), ("rejected", record.rejected, True)]
            return [*_prompt(record.prompt), *answers]
        case UnpairedPreference():
            label = "good" if record.label else "bad"
            return [*_prompt(record.prompt), (label, record.completion, True)]
        case _:
            return [("record", repr(record), True)]


def _prompt(messages: Sequence[Message]) -> list[tuple[str, str, bool]]:
    return [(message.role, _shown(message), False) for message in messages]


def _shown(message: Message) -> str:
    """Return the reasoning, text and tool calls of a message, each starting on a new line."""
    calls = (f"{call.name}({call.arguments})" for call in message.tool_calls)
    return "\n".join(filter(None, [message.reasoning, message.readable_text, *calls]))
