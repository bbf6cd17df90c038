"""Look up the explanation of a run-file key, an exit code or an error."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from tunesmith import errors
from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import CORE_TABLES
from tunesmith.offers import (
    BUILTIN_DISTRIBUTION,
    BaselineOffer,
    ConfiguredOffer,
    DataLoaderOffer,
    EncoderOffer,
    EvaluatorOffer,
    ReporterOffer,
    SplitterOffer,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.options import DataOptions, EvaluatorKeys
from tunesmith_plugins.commands.plugin_list.describe import REQUIRED, UNSET, list_options

TABLES: dict[str, type[Any]] = {
    "data": DataLoaderOffer,
    "split": SplitterOffer,
    "technique": TechniqueOffer,
    "encoder": EncoderOffer,
    "evaluators": EvaluatorOffer,
    "reporters": ReporterOffer,
}
"""Run-file tables where ``use`` names a component, each with the kind of component."""
_EXAMPLES = {"int": "1", "float": "0.1", "bool": "true", "date": "2026-01-31"}


@dataclass(frozen=True)
class Key:
    """A run-file option, with its dotted key and the components that define it."""

    key: str
    option: dict[str, str]
    owners: tuple[str, ...]

    @property
    def example(self) -> str:
        """A line that sets the key, to its default if it has one."""
        value = self.option["default"]
        if value in (REQUIRED, UNSET):
            first = self.option["type"].partition(" | ")[0]
            value = first if first.startswith('"') else _EXAMPLES.get(first, '"..."')
        return f"{self.key} = {value}"


def list_keys(catalog: Catalog) -> list[Key]:
    """Return all keys of run files. A key appears once for each of its definitions."""
    owners: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for key, option, owner in _iterate(catalog):
        owners.setdefault((key, tuple(option.items())), []).append(owner)
    return [Key(key, dict(items), tuple(names)) for (key, items), names in owners.items()]


def _iterate(catalog: Catalog) -> Iterator[tuple[str, dict[str, str], str]]:
    core: dict[str, type[BaseModel]] = {**CORE_TABLES}
    core |= {"data": DataOptions, "evaluators": EvaluatorKeys}
    for table, config in core.items():
        for option in list_options(config):
            yield f"{table}.{option['name']}", option, f"{BUILTIN_DISTRIBUTION} (the core)"
    for table, kind in TABLES.items():
        yield f"{table}.use", _option_use(catalog, kind), f"{BUILTIN_DISTRIBUTION} (the core)"
        for offered in catalog.offers(kind):
            for option in list_options(offered.offer.config):
                yield f"{table}.{option['name']}", option, f"{kind.kind} {offered.full_name}"
    named: list[tuple[str, type[ConfiguredOffer[Any]]]] = [
        ("baselines.", BaselineOffer),
        ("", TableOffer),
    ]
    for prefix, named_kind in named:
        for name, offered in catalog.by_key(named_kind).items():
            for option in list_options(offered.offer.config):
                key = f"{prefix}{name}.{option['name']}"
                yield key, option, f"{named_kind.kind} {offered.full_name}"


def _option_use(catalog: Catalog, kind: type[Any]) -> dict[str, str]:
    names = [*catalog.by_key(kind)]
    return {
        "name": "use",
        "type": " | ".join(f'"{name}"' for name in names) or "str",
        "keys": "",
        "default": REQUIRED if kind is TechniqueOffer else UNSET,
        "bounds": "",
        "help": f"Name of the {kind.kind}. The other keys of the table are its options.",
    }


def find_keys(keys: list[Key], word: str) -> list[Key]:
    """Return the matching keys: the exact key, or else tables, endings or parts of keys."""
    exact = [key for key in keys if key.key == word]
    table = [key for key in keys if key.key.startswith(f"{word}.")]
    ends = [key for key in keys if key.key.endswith(f".{word}")]
    return exact or table or ends or [key for key in keys if f".{word}." in f".{key.key}"]


def explain_exit_code(code: int) -> str | None:
    """Return the meaning of an exit code, or None if tunesmith does not use it."""
    special = {
        0: "Success.",
        1: "This is a bug in tunesmith or a plugin; print the traceback with --debug.",
        75: "The run stopped at a limit; continue it with tunesmith resume.",
    }
    if code in special:
        return special[code]
    for name, error in error_classes().items():
        if vars(error).get("exit_code") == code:
            return f"{name}: {_first_paragraph(error)}"
    if 128 < code < 128 + signal.NSIG and code - 128 in signal.valid_signals():
        name = signal.Signals(code - 128).name
        return f"The run was stopped by signal {name}; continue it with tunesmith resume."
    return None


def error_classes() -> dict[str, type[errors.TunesmithError]]:
    """Return the error classes of tunesmith, by name."""
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, errors.TunesmithError)
        and value is not errors.TunesmithError
    }


def explain_error(word: str) -> str | None:
    """Return the meaning of an error, ignoring case and the suffix ``Error``; None if unknown."""
    wanted = word.casefold().removesuffix("error")
    for name, error in error_classes().items():
        if wanted and name.casefold().removesuffix("error") == wanted:
            return f"{name}: {_first_paragraph(error)} Exit code {error.exit_code}."
    return None


def _first_paragraph(error: type[errors.TunesmithError]) -> str:
    """Return the first paragraph of an error's docstring."""
    return " ".join(inspect.cleandoc(error.__doc__ or "").partition("\n\n")[0].split())
