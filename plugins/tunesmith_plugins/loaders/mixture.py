"""Data loader ``mixture``: combine several sources, each with a fixed share of the rows."""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, chain
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.config.problems import convert_problems
from tunesmith.contracts import DataLoader, Dataset
from tunesmith.data.subset import Subset
from tunesmith.errors import ConfigError, DataError, Problem
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import Options, from_table
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Record
from tunesmith_data import LazyRecords
from tunesmith_evidence.number_text import format_share

Paths = str | list[str]


class SourceOptions(Options):
    """Options of one source of a mixture: its data, and its share of the rows."""

    use: str | None = Field(
        None, min_length=1, description="Data loader. Unset: detected from the file names."
    )
    train: Paths | None = Field(
        None, description="Files with training data.", json_schema_extra={"path": True}
    )
    test: Paths | None = Field(
        None, description="Files with test data.", json_schema_extra={"path": True}
    )
    validation: Paths | None = Field(
        None, description="Files with validation data.", json_schema_extra={"path": True}
    )
    weight: float | None = Field(
        None,
        gt=0,
        description="Share of the training rows, relative to the other sources.",
    )
    max_rows: int | None = Field(
        None, ge=1, description="Maximum number of rows to choose from this source."
    )
    options: dict[str, Any] = Field({}, description="Further options of the data loader.")


class MixtureOptions(Options):
    """Options of ``mixture``: the sources, and how many rows to take from each."""

    sources: Annotated[
        list[SourceOptions],
        Field(
            min_length=1,
            max_length=100,
            description="The sources, each in a table [[data.sources]].",
        ),
    ]
    temperature: float = Field(
        1.0,
        ge=1,
        le=100,
        description=(
            "Without weights, the share of a source with n rows is proportional to "
            "n^(1/temperature). Values above 1 raise the share of small sources."
        ),
    )
    rows: int | None = Field(
        None,
        ge=1,
        description="Number of training rows in the mixture. Unset: as many as the shares allow.",
    )
    repeat: bool = Field(
        False, description="Repeat rows of sources that are too small for their share."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed for choosing the rows.")

    @model_validator(mode="after")
    def _check_weights(self) -> MixtureOptions:
        weights = [source.weight for source in self.sources]
        if None in weights and any(weight is not None for weight in weights):
            raise ValueError("set `weight` for every source or for none")
        return self


def build_sources(options: MixtureOptions, catalog: Catalog | None = None) -> list[DataLoader]:
    """Build the data loader of each source.

    Raises:
        ConfigError: loaders are unknown, or their options are wrong. The error lists all problems.
    """
    catalog = catalog or Catalog(find_plugins(Selection.from_environment()))
    problems: list[Problem] = []
    loaders: list[DataLoader] = []
    for number, source in enumerate(options.sources):
        try:
            loaders.append(_build_source(source, f"data.sources.{number}", catalog))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return loaders


def _build_source(source: SourceOptions, where: str, catalog: Catalog) -> DataLoader:
    names = [source.train] if isinstance(source.train, str) else source.train or []
    use = source.use or catalog.recognize(names)
    if use is None:
        problem = "no data loader recognizes these files: set `use` to the name of a data loader"
        raise ConfigError([Problem(f"{where}.use", problem)])
    table = {
        **source.options,
        **{
            key: value for key in ("train", "test", "validation") if (value := getattr(source, key))
        },
    }
    try:
        offer = catalog.find(DataLoaderOffer, use).offer
        return offer.build(from_table(offer.config, table))
    except OfferNotFoundError as error:
        raise ConfigError([Problem(f"{where}.use", error.what, error.hint)]) from None
    except ValidationError as error:
        problems = list(convert_problems(error, where, offer.config))
        raise ConfigError(problems) from None


class Concatenation(LazyRecords):
    """Several sequences of records, joined without copying them."""

    def __init__(self, parts: Sequence[Sequence[Record]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def make(self, row: int) -> Record:
        part = bisect_right(self._ends, row)
        return self._parts[part][row - (self._ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[Record]:
        return chain.from_iterable(self._parts)


@dataclass(frozen=True)
class MixtureLoader:
    """A data loader that combines several sources."""

    options: MixtureOptions
    loaders: Sequence[DataLoader]

    def load(self) -> Dataset:
        """Read all sources and choose training rows from each.

        Test and validation rows are concatenated from all sources that have any.

        Raises:
            DataError: a source cannot be read, or has too few rows for its share.
        """
        datasets = [loader.load() for loader in self.loaders]
        counts = self._count_rows([len(dataset.train) for dataset in datasets])
        parts = [
            self._choose(dataset.train, count, number)
            for number, (dataset, count) in enumerate(zip(datasets, counts, strict=True))
        ]
        test = [dataset.test for dataset in datasets if dataset.test is not None]
        validation = [dataset.validation for dataset in datasets if dataset.validation is not None]
        total = sum(counts)
        shares = (
            f"{dataset.description} ({count:,} of {len(dataset.train):,} rows, "
            f"{format_share(count / total)})"
            for dataset, count in zip(datasets, counts, strict=True)
        )
        return Dataset(
            train=Concatenation(parts),
            test=Concatenation(test) if test else None,
            validation=Concatenation(validation) if validation else None,
            skipped=[row for dataset in datasets for row in dataset.skipped],
            description="; ".join(shares),
            warnings=list(dict.fromkeys(chain.from_iterable(d.warnings for d in datasets))),
        )

    def _count_rows(self, sizes: Sequence[int]) -> list[int]:
        """Return the number of rows of each source."""
        options = self.options
        caps = [source.max_rows for source in options.sources]
        sizes = [min(size, cap or size) for size, cap in zip(sizes, caps, strict=True)]
        weights = [source.weight for source in options.sources]
        if weights[0] is None and options.temperature == 1 and options.rows is None:
            return sizes
        exponent = 1 / options.temperature
        shares = [
            Fraction(size**exponent if weight is None else weight)
            for size, weight in zip(sizes, weights, strict=True)
        ]
        largest = [size * sum(shares) / share for size, share in zip(sizes, shares, strict=True)]
        total = options.rows or int(max(largest) if options.repeat else min(largest))
        counts = apportion(total, shares)
        for number, (count, size) in enumerate(zip(counts, sizes, strict=True)):
            if count > size and not options.repeat:
                problem = f"has {size:,} rows, but its share of {total:,} rows is {count:,}"
                hint = "set data.repeat = true, take fewer rows, or change the weight"
                raise DataError(f"data.sources.{number}", problem, hint=hint)
        return counts

    def _choose(self, records: Sequence[Record], count: int, number: int) -> Sequence[Record]:
        """Choose ``count`` records at random, from at most ``max_rows`` of source ``number``.

        Repeat records only if there are fewer than ``count``.
        """
        cap = self.options.sources[number].max_rows
        rng = random.Random(f"{self.options.seed} {number}")
        pool = range(len(records))
        limited = sorted(rng.sample(pool, cap)) if cap and cap < len(records) else pool
        times, rest = divmod(count, max(1, len(limited)))
        rows = array("q")
        for _ in range(times):
            rows.extend(limited)
        rows.extend(sorted(rng.sample(limited, rest)))
        return Subset(records, rows)


def apportion(total: int, shares: Sequence[Fraction]) -> list[int]:
    """Divide ``total`` in proportion to shares by the largest-remainder (Hamilton) method."""
    quotas = [total * share / sum(shares) for share in shares]
    counts = [int(quota) for quota in quotas]
    order = sorted(range(len(shares)), key=lambda n: (counts[n] - quotas[n], n))
    for number in order[: total - sum(counts)]:
        counts[number] += 1
    return counts


def build(options: MixtureOptions) -> DataLoader:
    """Create the data loader of all sources."""
    return MixtureLoader(options, build_sources(options))


MIXTURE = DataLoaderOffer(
    name="mixture",
    summary="several sources, each with its own data loader and a fixed share of the rows",
    config=MixtureOptions,
    build=build,
)
