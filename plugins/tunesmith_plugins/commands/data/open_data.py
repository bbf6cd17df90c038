"""Open the data of a run file, or a data file without a run file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.config.problems import convert_problems
from tunesmith.contracts import Dataset
from tunesmith.errors import ConfigError, UsageError
from tunesmith.execution.run_data import load_data
from tunesmith.fence import fence
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import from_table
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
from tunesmith_data import RowLoader
from tunesmith_data.skipped_rows import describe_skipped


@dataclass(frozen=True)
class OpenedData:
    """Records by split (train, validation, test), and the plan if there is a run file."""

    dataset: Dataset
    parts: dict[str, Sequence[Record]]
    plan: Plan | None
    catalog: Catalog

    def records(self, part: str) -> Iterator[Record]:
        """Iterate over the records of one split, or of all splits (``all``)."""
        if part == "all":
            return chain.from_iterable(self.parts.values())
        return iter(self.parts.get(part, ()))


def open_data(path: Path, state: CliState, sets: Sequence[str] = ()) -> OpenedData:
    """Load the data of a run file, or all rows of a data file, folder or pattern.

    Raises:
        UsageError: no data loader recognizes the file.
        DataError: no row is usable.
    """
    if path.suffix == ".toml" and path.is_file():
        plan, catalog = api.load_plan(path, sets=sets, files=state.files, disabled=state.disabled)
        dataset, split = load_data(plan)
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        return OpenedData(dataset, parts, plan, catalog)
    catalog = state.catalog()
    dataset = load_file(path, catalog, {"max_skipped": 1.0})  # show every usable row
    parts = {"train": dataset.train}
    named = {"validation": dataset.validation, "test": dataset.test}
    parts |= {name: part for name, part in named.items() if part is not None}
    return OpenedData(dataset, parts, None, catalog)


def open_rows(path: Path, state: CliState) -> Dataset:
    """Load a file whose rows will be written to another file.

    Raises:
        UsageError: no data loader recognizes the file.
        DataError: the file is unusable, or has more unusable rows than the data loader allows.
    """
    if path.suffix == ".toml" and path.is_file():
        return open_data(path, state).dataset
    return load_file(path, state.catalog())


def count_skipped(dataset: Dataset) -> dict[str, int]:
    """Return the number of unusable rows per cause."""
    return dict(Counter(row.cause for row in dataset.skipped))


def show_skipped(dataset: Dataset) -> None:
    """Print how many rows were skipped for each reason, and where the first one is."""
    first = {row.cause: row.where for row in reversed(dataset.skipped)}
    for cause, count in count_skipped(dataset).items():
        render.print_text(describe_skipped(cause, count, first[cause]), style="warning")


def load_file(path: Path, catalog: Catalog, options: Mapping[str, Any] | None = None) -> Dataset:
    """Load a data file, folder or pattern with the data loader that recognizes it.

    ``options`` that the data loader does not have are ignored.

    Raises:
        UsageError: no data loader recognizes the file.
        DataError: the file is unusable.
    """
    use = catalog.recognize([str(path)])
    if use is None:
        known = ", ".join(o.offer.name for o in catalog.offers(DataLoaderOffer))
        raise UsageError(
            f"{path}: no data loader recognizes this file",
            hint=f"name the data loader in a run file: {known}",
        )
    offered = catalog.find(DataLoaderOffer, use)
    config = offered.offer.config
    given = {"train": str(path), **(options or {})}
    table = {key: value for key, value in given.items() if key in config.model_fields}
    try:
        loader = offered.offer.build(from_table(config, table))
    except ValidationError as error:
        raise ConfigError(list(convert_problems(error, "data", config))) from None
    with fence(offered.plugin, "load"):
        if isinstance(loader, RowLoader) and (columns := loader.guess_columns()):
            loader = offered.offer.build(from_table(config, {**table, "columns": columns}))
        return loader.load()


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
    return "\n".join(filter(None, [message.reasoning, message.text, *calls]))
