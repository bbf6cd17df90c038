"""Collect the translation of a configuration: run-file keys, and the outcome of each key."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tunesmith.text import one_line, redact

_SECRET_ENDINGS = ("token", "key", "secret", "password")
FindLoader: TypeAlias = Callable[[Sequence[str]], str | None]
"""Returns the name of the data loader that recognizes all of the files, or None."""
DISABLED_VALUES = (None, False, 0, "", "none", "no", "null", "false")
"""Values that turn a key off."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of translating a key. ``text`` is the new key and value, or the reason."""

    key: str
    value: str
    state: Literal["translated", "no effect", "not translated", "default"]
    text: str


@dataclass
class Translation:
    """Collects run-file keys, and an outcome for each key of the source."""

    source: Mapping[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)
    """Values for the run file, by dotted key."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the source, or the default if it is missing or null."""
        value = self.source.get(key)
        return default if value is None else value

    def is_on(self, key: str) -> bool:
        """Return True if a key is set and not turned off."""
        return not is_disabled(self.source.get(key))

    def number(self, key: str, default: float | None = None) -> float | None:
        """Return a number of the source, even if YAML reads it as text (such as ``1e-5``)."""
        value = self.get(key, default)
        with suppress(TypeError, ValueError, OverflowError):
            number = None if value is None else float(value)
            if number is None or math.isfinite(number):
                return number
        self.refuse(key, "must be a number")
        return default

    def set(self, key: str, target: str, value: Any) -> None:
        """Set a run-file key, as the translation of a source key or of its default."""
        self.keys[target] = value
        state: Literal["translated", "default"] = "translated"
        if self.source.get(key) is None:
            state = "default"
        self._record(key, state, f"{target} = {one_line(reprlib.repr(value))}")

    def accept(self, key: str, reason: str) -> None:
        """Record that tunesmith already does what a key asks for, if the source has the key."""
        if key in self.source:
            self._record(key, "translated", reason)

    def ignore(self, key: str, reason: str) -> None:
        """Record that a key does not affect what is learned, if the source has the key."""
        if key in self.source:
            self._record(key, "no effect", reason)

    def refuse(self, key: str, reason: str) -> None:
        """Record that a key is not translated, although it may affect what is learned."""
        self._record(key, "not translated", reason)

    def rename(self, key: str, target: str, kind: type, default: Any) -> None:
        """Set a number or boolean under another name, with the other tool's default."""
        if kind is bool:
            self.set(key, target, not is_disabled(self.get(key, default)))
            return
        number = self.number(key, default)
        if number is not None and self.outcomes.get(key) is None:
            whole = kind is int and number == int(number)
            self.set(key, target, int(number) if whole else number)

    def finish(
        self, without_effect: Mapping[str, str], refused: Mapping[str, str]
    ) -> list[Outcome]:
        """Give each remaining key an outcome, and return all outcomes, untranslated keys first."""
        for key, value in self.source.items():
            if key in self.outcomes:
                continue
            if key in without_effect or value is None:
                self.ignore(key, without_effect.get(key, "not set"))
            elif key in refused and is_disabled(value):
                self.ignore(key, "turned off")
            else:
                self.refuse(key, refused.get(key, "unknown key"))
        order = ("not translated", "translated", "default", "no effect")
        return sorted(self.outcomes.values(), key=lambda o: (order.index(o.state), o.key))

    def _record(
        self,
        key: str,
        state: Literal["translated", "no effect", "not translated", "default"],
        text: str,
    ) -> None:
        value = one_line(redact(reprlib.repr(self.source.get(key))), 60)
        if key.casefold().endswith(_SECRET_ENDINGS):
            value = "..."
        self.outcomes[key] = Outcome(key, "" if state == "default" else value, state, text)


def is_disabled(value: Any) -> bool:
    """Return True if a value turns its key off."""
    if isinstance(value, str):
        return value.casefold() in DISABLED_VALUES
    if isinstance(value, (list, dict)):
        return not value
    return value in DISABLED_VALUES


def exists(path: Path) -> bool:
    """Return True if the path exists, and False if it is missing or not a valid path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def split_names(value: Any) -> list[str]:
    """Return a list of names, which may be written as one comma-separated text."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return [str(item) for item in value] if isinstance(value, Sequence) else [str(value)]
