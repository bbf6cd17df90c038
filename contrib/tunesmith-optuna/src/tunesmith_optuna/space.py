"""Read the search space, the possible values of each option, from a run file or command line.

In a run file, ``[tune.search]`` maps dotted keys to values: a list of choices, or a range with
``low``, ``high``, and ``log = true`` or a ``step``. On the command line, users write choices and
ranges as ``4,8,16``, ``1e-5:1e-3``, ``1e-5:1e-3:log`` and ``0:0.2:0.05``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.config.run_file import parse_value

SEARCHED_PREFIX = "technique."
"""Prefix of the searchable keys; other keys would change the data or the seed."""
MAX_STEPS = 100_000
"""Ranges with more values than this are treated as continuous."""
RANGE_KEYS = frozenset({"low", "high", "log", "step"})
Value = str | int | float | bool
"""The types that Optuna can store; all others are stored as JSON."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, inclusive, which are integers if both ends are."""

    key: str
    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    def __post_init__(self) -> None:
        numbers = [self.low, self.high, *([] if self.step is None else [self.step])]
        if not all(_is_number(number) for number in numbers) or not isinstance(self.log, bool):
            raise ValueError(
                f"{self.key}: low, high and step must be numbers, and log must be true or false"
            )
        if not self.low < self.high:
            raise ValueError(f"{self.key}: low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"{self.key}: low must be above 0 for log, got {self.low}")
        if self.log and self.step is not None:
            raise ValueError(f"{self.key}: log and step cannot be combined")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"{self.key}: step must be above 0 and fit into the range")

    @property
    def is_integer(self) -> bool:
        """True if all values are integers."""
        return all(isinstance(x, int) for x in (self.low, self.high, self.step or 0))

    @property
    def last(self) -> int | float:
        """The highest value that the steps reach."""
        if self.step is None:
            return self.high
        count = math.floor((self.high - self.low) / self.step + 1e-9)
        return (
            self.high
            if _is_close(self.low + count * self.step, self.high)
            else (self.low + count * self.step)
        )

    def ends(self) -> list[Value]:
        """Return the lowest and the highest value, which are checked before training."""
        return [self.low, self.last]

    def grid(self) -> list[Value] | None:
        """Return all values, or None if there are more than ``MAX_STEPS``."""
        step = self.step or (1 if self.is_integer else None)
        if step is None or (count := round((self.last - self.low) / step) + 1) > MAX_STEPS:
            return None
        return [self.low + n * step for n in range(count)]

    def contains(self, value: object) -> bool:
        """Return True if the range contains a value."""
        if not isinstance(value, int | float) or not _is_number(value):
            return False
        steps = (value - self.low) / (self.step or (1 if self.is_integer else math.inf))
        return self.low <= value <= self.last and _is_close(steps, round(steps))

    def decode(self, value: Value) -> Any:
        """Return the option's value for a stored value."""
        return value


@dataclass(frozen=True)
class Choices:
    """The choices for an option, which have no order."""

    key: str
    values: tuple[Value, ...]
    """The values; lists and tables as JSON, because Optuna only stores scalars."""
    encoded: frozenset[str] = frozenset()
    """The values that are stored as JSON."""

    def ends(self) -> list[Value]:
        """Return all choices, which are checked before training."""
        return [*self.values]

    def grid(self) -> list[Value] | None:
        """Return all choices."""
        return [*self.values]

    def contains(self, value: object) -> bool:
        """Return True if a value is one of the choices."""
        return any(_is_same(value, choice) for choice in self.values)

    def decode(self, value: Value) -> Any:
        """Return the option's value for a stored value."""
        return json.loads(value) if isinstance(value, str) and value in self.encoded else value


Dimension = Range | Choices


@dataclass(frozen=True)
class Space:
    """The options to search, sorted by key, because a stored run file may change their order."""

    dimensions: tuple[Dimension, ...]

    @property
    def size(self) -> int | None:
        """The number of combinations, or None if it is infinite or above ``MAX_STEPS``."""
        counts = [len(grid) for d in self.dimensions if (grid := d.grid()) is not None]
        total = math.prod(counts)
        is_finite = len(counts) == len(self.dimensions) and total <= MAX_STEPS
        return total if is_finite else None

    def decode(self, params: Mapping[str, Value]) -> dict[str, Any]:
        """Convert Optuna's parameters to options by dotted key."""
        return {d.key: d.decode(params[d.key]) for d in self.dimensions}

    def encode(self, options: Mapping[str, Any]) -> dict[str, Value] | None:
        """Convert options to Optuna's parameters; return None if a value is not in the space."""
        found: dict[str, Value] = {}
        for dimension in self.dimensions:
            value = options.get(dimension.key)
            value = json.dumps(value) if isinstance(value, list | dict) else value
            if not dimension.contains(value):
                return None
            assert isinstance(value, str | int | float)
            is_float = isinstance(dimension, Range) and not dimension.is_integer
            found[dimension.key] = float(value) if is_float else value
        return found


def read_space(table: Mapping[str, Any]) -> Space:
    """Read a search space from the table of a run file, with nested or dotted keys.

    Raises:
        ValueError: a key is not an option of the technique, or its values are not valid.
    """
    return Space(tuple(_read_dimension(key, item) for key, item in sorted(flatten(table).items())))


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the lists and ranges of a search space, by dotted key."""
    found: dict[str, Any] = {}
    for name, item in table.items():
        if isinstance(item, Mapping) and not ({"low", "high"} & item.keys()):
            found |= flatten(item, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = item
    return found


def read_argument(text: str) -> tuple[str, Any]:
    """Parse ``KEY=VALUES`` from the command line; return the key and its run-file value.

    Raises:
        ValueError: the argument has no values.
    """
    key, _, values = text.partition("=")
    if not key.strip() or not values.strip():
        raise ValueError(
            f"{text}: expected KEY=LOW:HIGH, KEY=LOW:HIGH:STEP, KEY=LOW:HIGH:log or KEY=A,B,C"
        )
    ends = [parse_value(part.strip()) for part in values.split(":")]
    if len(ends) in (2, 3) and all(map(_is_number, ends[:2])):
        extra = {} if len(ends) == 2 else {"log": True} if ends[2] == "log" else {"step": ends[2]}
        return key.strip(), {"low": ends[0], "high": ends[1], **extra}
    return key.strip(), [parse_value(part.strip()) for part in values.split(",")]


def _read_dimension(key: str, item: Any) -> Dimension:
    if not key.startswith(SEARCHED_PREFIX):
        raise ValueError(
            f"{key}: only options of the technique can be searched, such as "
            "technique.learning_rate; the data split and the seed must stay the same"
        )
    if isinstance(item, Mapping):
        if unknown := sorted(item.keys() - RANGE_KEYS):
            raise ValueError(
                f"{key}: a range can only have low, high, log and step, got {unknown[0]!r}"
            )
        if missing := sorted({"low", "high"} - item.keys()):
            raise ValueError(f"{key}: the range lacks `{missing[0]}`")
        return Range(key, **item)
    if not isinstance(item, list):
        raise ValueError(f"{key}: must be a list of values or a range, got {item!r:.80}")
    texts = {json.dumps(value, sort_keys=True): value for value in item}
    if len(item) < 2 or len(texts) < len(item):
        raise ValueError(f"{key}: needs at least two different values, got {item!r:.80}")
    if None in item:
        raise ValueError(f"{key}: contains an empty value")
    lists = {text: value for text, value in texts.items() if isinstance(value, list | dict)}
    values = (text if text in lists else value for text, value in texts.items())
    return Choices(key, tuple(values), frozenset(lists))


def list_combinations(space: Space) -> Iterator[dict[str, Value]]:
    """Yield all combinations of a finite space."""
    from itertools import product

    grids: Sequence[Sequence[Value]] = [dimension.grid() or () for dimension in space.dimensions]
    keys = [dimension.key for dimension in space.dimensions]
    for values in product(*grids):
        yield dict(zip(keys, values, strict=True))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_same(value: object, choice: Value) -> bool:
    return (type(value) is type(choice) and value == choice) or (
        _is_number(value) and _is_number(choice) and value == choice
    )


def _is_close(value: float, other: float) -> bool:
    return math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-12)
