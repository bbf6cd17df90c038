"""Load the hardware table: GPUs with their memory, throughput and rental prices, and processors.

The table is stored in ``hardware.toml`` in this folder. Rows in the user's files override its rows.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from tunesmith.errors import ConfigError, Problem
from tunesmith.machine import NO_HOME, user_folder
from tunesmith.options import Options, from_table
from tunesmith.text import suggest_name

GIB = 1 << 30

Range = tuple[float, float]
"""The lowest and highest value of a quantity."""


class _GpuRow(Options):
    name: str = Field(min_length=1)
    class_: int = Field(alias="class", ge=1)
    total_gib: float = Field(gt=0)
    bf16_tflops: float = Field(gt=0)
    utilization: Annotated[tuple[float, float], Field(min_length=2)]
    source: str
    date: str


class _ProcessorRow(Options):
    flag: str
    gflops: tuple[float, float]
    source: str
    date: str


class _PriceRow(Options):
    gpu: str
    provider: str
    usd: float = Field(ge=0)
    source: str
    date: str


class _Table(Options):
    gpus: list[_GpuRow] = Field(default_factory=list)
    processors: list[_ProcessorRow] = Field(default_factory=list)
    prices: list[_PriceRow] = Field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of one GPU for one hour, in US dollars."""

    provider: str
    usd: float
    source: str
    date: str


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU model, with its memory, throughput and rental prices."""

    name: str
    gigabytes: int
    """Nominal memory in GB; GPUs with the same number form a class."""
    usable: int
    """Number of bytes that a process can allocate. Estimates include the driver's context."""
    throughput: Range
    """Floating-point operations per second that training achieves."""
    source: str
    date: str
    prices: tuple[Price, ...]

    @property
    def hourly_price(self) -> Range | None:
        """The lowest and the highest hourly price in US dollars, or None if no price is known."""
        asked = [price.usd for price in self.prices]
        return (min(asked), max(asked)) if asked else None


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A kind of processor core, recognized by a CPU flag."""

    flag: str
    throughput: Range
    """Floating-point operations per second that training achieves on one core."""
    source: str
    date: str


@dataclass(frozen=True)
class Hardware:
    """The table of GPUs and processors, including the user's rows."""

    gpus: tuple[Gpu, ...]
    processors: tuple[Processor, ...]
    files: tuple[str, ...] = ()
    """The user's files, whose rows extend or override the packaged table."""

    def gpu_classes(self) -> dict[int, list[Gpu]]:
        """Group the GPUs by nominal gigabytes, smallest first."""
        sizes = sorted({gpu.gigabytes for gpu in self.gpus})
        return {size: [gpu for gpu in self.gpus if gpu.gigabytes == size] for size in sizes}

    def find_gpu(self, name: str) -> Gpu | None:
        """Return the GPU that matches a driver's name ("NVIDIA A100-SXM4-80GB"), or None."""
        reported = _alphanumeric(name)
        matching = [
            gpu
            for gpu in self.gpus
            if all(_alphanumeric(word) in reported for word in gpu.name.split())
        ]
        return max(matching, key=lambda gpu: len(gpu.name), default=None)

    def find_processor(self, flags: frozenset[str]) -> Processor:
        """Return the first processor in the table whose flag this CPU has."""
        return next(p for p in self.processors if not p.flag or p.flag in flags)

    def price_dates(self) -> tuple[str, str]:
        """Return the dates on which the oldest and the newest price were looked up."""
        found = sorted(price.date for gpu in self.gpus for price in gpu.prices) or [""]
        return found[0], found[-1]


def load_hardware(
    prices: str | None = None, environment: Mapping[str, str] | None = None
) -> Hardware:
    """Load the packaged table, and override its rows with those in the user's files.

    The files are ``prices.toml`` in the configuration folder, and then ``prices``, the path set in
    the run file.

    Raises:
        ConfigError: a user's file is missing, is not TOML, contains unknown keys or wrong values,
            or gives a price for an unknown GPU.
    """
    own = config_folder(environment) / "prices.toml"
    files = [own] if own.is_file() else []
    files += [Path(prices)] if prices else []
    table = _packaged()
    for file in files:
        user = _read(file)
        table = _override(table, user)
        _refuse_unknown_gpus(user.prices, sorted(gpu.name for gpu in table.gpus), file)
    return _hardware(table, [str(file) for file in files])


def load_hardware_of_run(prices: str | None) -> tuple[Hardware, list[str]]:
    """Load the table like :func:`load_hardware`, and return it with notes about problems.

    A damaged ``prices.toml`` in the configuration folder must not stop a run, so it only causes a
    note.

    Raises:
        ConfigError: the file set in the run file is invalid.
    """
    try:
        return load_hardware(prices), []
    except ConfigError as error:
        table = load_hardware(prices, {"XDG_CONFIG_HOME": str(NO_HOME)})
        return table, [f"{error.message}; the file is ignored, and the packaged prices apply"]


def config_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return the user's configuration folder: ``$XDG_CONFIG_HOME/tunesmith``.

    ``XDG_CONFIG_HOME`` defaults to ``~/.config``.
    """
    return user_folder("XDG_CONFIG_HOME", "~/.config", environment)


@cache
def _packaged() -> _Table:
    text = resources.files(__package__).joinpath("hardware.toml").read_text("utf-8")
    return from_table(_Table, tomllib.loads(text))


def _read(file: Path) -> _Table:
    try:
        return from_table(_Table, tomllib.loads(file.read_text("utf-8-sig")))
    except ValidationError as error:
        raise ConfigError([_problem(file, item) for item in error.errors()]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([Problem(str(file), f"cannot be read as TOML: {error}")]) from None


def _problem(file: Path, item: Any) -> Problem:
    where = ".".join(str(part) for part in item["loc"])
    return Problem(f"{file}: {where}", str(item["msg"]).lower())


def _override(table: _Table, user: _Table) -> _Table:
    """Return the table with packaged rows replaced by the user's rows for the same GPUs."""
    names = {gpu.name for gpu in user.gpus}
    priced = {price.gpu for price in user.prices}
    return _Table(
        gpus=[gpu for gpu in table.gpus if gpu.name not in names] + user.gpus,
        processors=[*user.processors, *table.processors],
        prices=[price for price in table.prices if price.gpu not in priced] + user.prices,
    )


def _refuse_unknown_gpus(prices: Sequence[_PriceRow], known: Sequence[str], file: Path) -> None:
    """Reject the user's prices for unknown or misspelled GPUs, because they would have no effect.

    Raises:
        ConfigError: some GPUs are unknown. The error lists all of them.
    """
    problems = []
    for number, price in enumerate(prices):
        if price.gpu not in known:
            guess = suggest_name(price.gpu, known)
            hint = f'did you mean "{guess}"?' if guess else f"known GPUs: {', '.join(known)}"
            what = f"unknown GPU `{price.gpu}`"
            problems.append(Problem(f"{file}: prices.{number}.gpu", what, hint))
    if problems:
        raise ConfigError(problems)


def _hardware(table: _Table, files: Sequence[str]) -> Hardware:
    gpus = [_gpu(row, table.prices) for row in table.gpus]
    gpus.sort(key=lambda gpu: (gpu.gigabytes, gpu.usable))
    processors = [
        Processor(
            flag=row.flag,
            throughput=(row.gflops[0] * 1e9, row.gflops[1] * 1e9),
            source=row.source,
            date=row.date,
        )
        for row in table.processors
    ]
    return Hardware(tuple(gpus), tuple(processors), tuple(files))


def _gpu(row: _GpuRow, prices: Sequence[_PriceRow]) -> Gpu:
    low, high = row.utilization
    return Gpu(
        name=row.name,
        gigabytes=row.class_,
        usable=int(row.total_gib * GIB),
        throughput=(low * row.bf16_tflops * 1e12, high * row.bf16_tflops * 1e12),
        source=row.source,
        date=row.date,
        prices=tuple(
            Price(provider=p.provider, usd=p.usd, source=p.source, date=p.date)
            for p in prices
            if p.gpu == row.name
        ),
    )


def _alphanumeric(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
