"""Data loader ``hub-dataset``: read a dataset from the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import Field

from tunesmith.contracts import DataLoader, Dataset
from tunesmith.errors import DataError, TunesmithError
from tunesmith.offers import DataLoaderOffer
from tunesmith.text import redact
from tunesmith_data import (
    MAX_BYTES_IN_MEMORY,
    FieldOptions,
    Row,
    RowSource,
    find_offline_variable,
    load_sources,
    to_json_fields,
)


class HubDatasetOptions(FieldOptions):
    """Options of ``hub-dataset``: the dataset, its splits, and how many rows to read."""

    train: str = Field(
        pattern=r"^(hf://(datasets/)?)?\w[\w.-]*/\w[\w.-]*$",
        description="Dataset on the Hugging Face Hub: hf://OWNER/NAME.",
    )
    name: str | None = Field(None, min_length=1, description="Configuration of the dataset.")
    split: str = Field("train", min_length=1, description="Split with the training rows.")
    test_split: str | None = Field(
        None,
        min_length=1,
        description="Split with the test rows. Unset: they are split off from `split`.",
    )
    validation_split: str | None = Field(
        None,
        min_length=1,
        description=(
            "Split with the validation rows. Unset: they are split off from `split`; see `[split] "
            "validation_size`."
        ),
    )
    revision: str | None = Field(
        None,
        min_length=1,
        description="Commit, tag or branch. Set a commit for reproducible data.",
    )
    max_rows: int | None = Field(
        None, ge=1, description="Read only the first N rows of each split. Unset: all rows."
    )
    max_row_bytes: int = Field(
        8_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Maximum size of a row, in bytes.",
    )


def open_split(
    repository: str, name: str | None, split: str, revision: str | None
) -> Iterable[Mapping[str, Any]]:
    """Return the rows of a split, streamed from the Hub or, if offline, from the local cache."""
    import datasets
    import huggingface_hub

    offline = find_offline_variable() is not None
    if offline:  # The libraries do not know TUNESMITH_OFFLINE.
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
        repository, name, split=split, revision=revision, streaming=not offline
    )
    return rows


@dataclass(frozen=True)
class HubDatasetLoader:
    """A data loader for the splits of a dataset on the Hub.

    Local files are rejected, because the ``datasets`` library guesses and converts their types.
    """

    options: HubDatasetOptions
    open_split: Callable[..., Iterable[Mapping[str, Any]]] = open_split
    memory: int = MAX_BYTES_IN_MEMORY

    @property
    def repository(self) -> str:
        """The name of the dataset on the Hub, as ``OWNER/NAME``."""
        return self.options.train.removeprefix("hf://").removeprefix("datasets/")

    def load(self) -> Dataset:
        """Read the rows of all configured splits from the Hub.

        Raises:
            DataError: the dataset cannot be read, or more rows are skipped than allowed.
        """
        if os.path.exists(self.repository):
            problem = "is a local path, not a dataset on the Hugging Face Hub"
            hint = 'read local files with another data loader, such as data.use = "jsonl"'
            raise DataError(self.repository, problem, hint=hint)
        options = self.options
        splits = (options.split, options.test_split, options.validation_split)
        parts = ([self._source(split)] if split else [] for split in splits)
        return load_sources(options, *parts, memory=self.memory)

    def _source(self, split: str) -> RowSource:
        name = f"hf://{self.repository}/{split}"
        return RowSource.of_rows(name, lambda: self._read(name, split))

    def _read(self, name: str, split: str) -> Iterator[Row]:
        options = self.options
        number = 0
        try:
            rows = self.open_split(self.repository, options.name, split, options.revision)
            for number, row in enumerate(islice(rows, options.max_rows), 1):
                yield Row(number, to_json_fields(row, options.max_row_bytes))
        except TunesmithError:
            raise
        except Exception as error:  # the library raises whatever its transports raise
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
            where = f"{name}:{number}" if number else name
            hint = "check the name, the split and the network; for a private dataset, set HF_TOKEN"
            raise DataError(where, f"cannot be read: {redact(reason)}", hint=hint) from error


SCHEME = "hf://"


def build(options: HubDatasetOptions) -> DataLoader:
    """Create the data loader from its options."""
    from tunesmith_data import require_library

    require_library("datasets", "data loader hub-dataset", extra="hub")
    return HubDatasetLoader(options)


def recognizes(name: str) -> bool:
    """Return True for a name that starts with ``hf://``."""
    return name.startswith(SCHEME)


HUB_DATASET = DataLoaderOffer(
    name="hub-dataset",
    summary="a dataset from the Hugging Face Hub, streamed",
    config=HubDatasetOptions,
    build=build,
    needs=("datasets>=3",),
    recognizes=recognizes,
)
