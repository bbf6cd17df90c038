"""Checks of every plugin and every offer: light imports, good descriptions, no side effects."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from operator import is_
from pathlib import Path
from types import FunctionType
from typing import Any

import click
from pydantic import BaseModel, ValidationError

from tunesmith.execution.versions import LIBRARIES
from tunesmith.global_state import VARIABLES_SET_BY_LIBRARIES
from tunesmith.import_strings import ImportString
from tunesmith.options import from_table, nested_options
from tunesmith.testing.checks import NotApplicable, Subject, check, require

HEAVY_LIBRARIES = (
    "torch",
    "numpy",
    "transformers",
    "peft",
    "datasets",
    "pandas",
    "pyarrow",
    "pydantic",
    "scipy",
    "sklearn",
)
MAX_SUMMARY_LENGTH = 100
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_UNKNOWN_REFERENCE = "conformance-kit://an unknown reference"


@check("plugin")
def import_is_light(subject: Subject) -> None:
    """Importing the plugin loads no large library, because ``tunesmith --help`` imports it too.

    A single-file plugin may import pydantic, because such a plugin is imported only on request.
    """
    name, file = subject.module.__name__, subject.module.__file__
    program = (
        "import importlib, importlib.util, json, sys\n"
        "name, file, heavy = json.loads(sys.argv[1])\n"
        "if importlib.util.find_spec(name.partition('.')[0]):\n"
        "    importlib.import_module(name)\n"
        "else:\n"
        "    spec = importlib.util.spec_from_file_location(name, file)\n"
        "    spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "print(json.dumps([h for h in heavy if h in sys.modules]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, json.dumps([name, file, HEAVY_LIBRARIES])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    require(result.returncode == 0, f"{name} cannot be imported alone: {result.stderr[-500:]}")
    loaded = json.loads(result.stdout.splitlines()[-1])
    if name.startswith("tunesmith_file_"):  # the module name that plugins.py gives to single files
        loaded = [library for library in loaded if library != "pydantic"]
    require(not loaded, f"importing {name} also imports {', '.join(loaded)}")


@check("plugin")
def unknown_models_are_declined(subject: Subject) -> None:
    """``tunesmith_find_model`` returns None for a reference that the plugin does not recognize."""
    for _, function in subject.plugins.implementations("tunesmith_find_model"):
        found = function(reference=_UNKNOWN_REFERENCE, revision=None)
        require(found is None, f"the plugin recognizes the unknown model {_UNKNOWN_REFERENCE!r}")
        return
    raise NotApplicable("the plugin does not find models")


@check("any offer")
def names_are_well_formed(subject: Subject) -> None:
    """Names consist of lower-case letters and digits, with single hyphens between words.

    The name of a command can be two such names separated by a space.
    """
    command = subject.offer.kind == "command"
    names = subject.offer.name.split(" ") if command else [subject.offer.name]
    if subject.offer.kind == "evaluator":
        names += [metric.name for metric in subject.offer.metrics]
    for name in names:
        require(
            NAME.fullmatch(name.replace("_", "-")) is not None, f"the name {name!r} is not allowed"
        )


@check("any offer")
def summary_is_one_line(subject: Subject) -> None:
    """The summary is one line, without a full stop unless it is the help line of a command."""
    summary = subject.offer.summary
    length = len(summary)
    require(
        0 < length <= MAX_SUMMARY_LENGTH,
        f"the summary has {length} characters, not 1 to {MAX_SUMMARY_LENGTH}",
    )
    require(summary == summary.strip() and summary.isprintable(), "the summary is not one line")
    command = subject.offer.kind == "command"
    require(command or not summary.endswith("."), "the summary ends with a full stop")


@check("any offer")
def imports_are_found(subject: Subject) -> None:
    """The import string of an offer exists; the offer of a command loads a command."""
    offer = subject.offer
    if offer.kind == "command":
        command = offer.load()
        require(
            isinstance(command, click.Command), f"`load` returns {command!r:.80}, not a command"
        )
    elif isinstance(build := getattr(offer, "build", None), ImportString):
        require(callable(build.load()), f"{build} is not callable")


@check("offer")
def config_is_frozen(subject: Subject) -> None:
    """Options are immutable."""
    for model in _models(subject.offer.config):
        require(model.model_config.get("frozen") is True, f"{model.__name__} is not frozen")


@check("offer")
def unknown_keys_are_refused(subject: Subject) -> None:
    """An unknown key is an error in every table of the options."""
    for model in _models(subject.offer.config):
        try:
            model.model_validate({"no_such_option": 1})
        except ValidationError as error:
            refused = any(item["type"] == "extra_forbidden" for item in error.errors())
        else:
            refused = False
        require(refused, f"{model.__name__} accepts an unknown key")


@check("offer")
def every_option_has_help(subject: Subject) -> None:
    """Every option has a description of at least two words."""
    for model in _models(subject.offer.config):
        for name, info in model.model_fields.items():
            require(
                len((info.description or "").split()) >= 2,
                f"{model.__name__}.{name} has no description",
            )


@check("offer")
def defaults_are_valid(subject: Subject) -> None:
    """Every default passes validation."""
    options = subject.options()
    try:
        again = type(options).model_validate(options.model_dump(by_alias=True))
    except ValidationError as error:
        raise AssertionError(f"a default value is not valid: {error}") from None
    require(again == options, f"validation changes the defaults: {again!r}")


@check("offer")
def config_round_trips_toml(subject: Subject) -> None:
    """Options are unchanged when written to a run file and read back."""
    import tomli_w

    options = subject.options()
    table = _without_none(options.model_dump(mode="json", by_alias=True))
    read = tomllib.loads(tomli_w.dumps(table))
    try:
        again = from_table(type(options), read)
    except ValidationError as error:
        raise AssertionError(f"options written to a run file are not valid: {error}") from None
    require(again == options, f"options {options!r} are read back as {again!r}")


@check("table")
def tables_have_defaults(subject: Subject) -> None:
    """Every option of a table has a default, and the defaults add nothing to the training.

    A run file may omit the table.
    """
    missing = [
        name for name, info in subject.offer.config.model_fields.items() if info.is_required()
    ]
    require(not missing, f"options without a default: {', '.join(missing)}")
    added = subject.offer.addition(subject.offer.config())
    require(added is None, "the default options add something to the training")


@check("component")
def needs_are_requirements(subject: Subject) -> None:
    """The entries of ``needs`` are valid requirements."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in subject.offer.needs:
        try:
            Requirement(text)
        except InvalidRequirement as error:
            raise AssertionError(
                f"`needs` contains an invalid requirement, {text!r}: {error}"
            ) from None


@check("component")
def leaves_environment_untouched(subject: Subject) -> None:
    """Building changes no environment variable, folder, signal handler, generator or default.

    A variable that is unset may be set if libraries set it when they are loaded, or if torch reads
    it then (:data:`VARIABLES_SET_BY_LIBRARIES`).
    """
    _import_needs(subject)
    before = dict(global_state())
    _try_to_build(subject)
    require_same_state(before)


@check("component")
def leaves_libraries_untouched(subject: Subject) -> None:
    """Building replaces no function or class of a library: nothing is patched."""
    _import_needs(subject)
    before = library_attributes()
    _try_to_build(subject)
    require_unpatched(before, subject)


# --------------------------------------------------------------------------- global state


_VARIABLES = "environment variables"


def global_state(*, generators: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield each piece of global state that a plugin could change, with its name."""
    yield _VARIABLES, dict(os.environ)
    yield "current folder", os.getcwd()
    yield "signal handlers", [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    root = logging.getLogger()
    yield "root logger", (root.level, list(root.handlers))
    yield "import path", list(sys.path)
    if generators:
        yield "Python's random generator", random.getstate()
    numpy = sys.modules.get("numpy")
    if numpy is not None and generators:
        yield "NumPy's random generator", repr(numpy.random.get_state())
    torch = sys.modules.get("torch")
    if torch is not None:
        yield "torch's default dtype", torch.get_default_dtype()
        yield "torch's gradient mode", torch.is_grad_enabled()
        yield "torch's number of threads", torch.get_num_threads()
        if generators:
            yield "torch's random generator", torch.get_rng_state().tolist()


def require_same_state(before: dict[str, Any], *, generators: bool = True) -> None:
    """Require that the global state is unchanged; the error names each change."""
    after = dict(global_state(generators=generators))
    changed = [name for name, value in before.items() if after.get(name) != value]
    if _VARIABLES in changed:
        changed.remove(_VARIABLES)
        names = _changed_variables(before[_VARIABLES], after[_VARIABLES])
        changed += [f"the environment variable {name}" for name in names]
    require(not changed, f"the plugin changes {', '.join(changed)}")


def _changed_variables(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    """Yield the changed environment variables, except those that libraries set on import."""
    for name in sorted(before.keys() | after.keys()):
        is_of_library = name not in before and name.startswith(VARIABLES_SET_BY_LIBRARIES)
        if before.get(name) != after.get(name) and not is_of_library:
            yield name


Attributes = dict[tuple[str, int], dict[str, Any]]
"""Attributes by name and identity of their module or class, as two classes may share a name."""


def library_attributes() -> Attributes:
    """Return the attributes of loaded library modules, and of the classes in them."""
    found: Attributes = {}
    for name, module in list(sys.modules.items()):
        if module is None or not _is_of_library(name):
            continue
        found[name, id(module)] = attributes = dict(vars(module))
        for attribute, value in attributes.items():
            if attribute.startswith("_") or not callable(value) or not isinstance(value, type):
                continue
            key = f"{value.__module__}.{value.__qualname__}", id(value)
            if key not in found and _is_of_library(value.__module__):
                found[key] = dict(vars(value))
    return found


def _is_of_library(name: str) -> bool:
    return name.partition(".")[0] in LIBRARIES


_DUNDERS = {"__init__", "__call__", "__getattr__"}


def require_unpatched(before: Attributes, subject: Subject) -> None:
    """Require that no function or class of a library was replaced; additions are allowed.

    A replacement made before the check is recognized because its code is in the plugin's folder.
    """
    plugin_folder = str(Path(subject.module.__file__).parent)
    replaced = [
        f"{key[0]}.{name}"
        for key, attributes in library_attributes().items()
        for name in _replaced(before.get(key, attributes), attributes, plugin_folder)
        if not name.startswith("_") or name in _DUNDERS
    ]
    require(not replaced, f"the plugin replaces {', '.join(sorted(replaced)[:5])}")


def _replaced(before: dict[str, Any], after: dict[str, Any], folder: str) -> Iterator[str]:
    """Yield the functions and classes that differ or are defined in the plugin's folder."""
    for name, value in after.items():
        if type(value) is FunctionType and value.__code__.co_filename.startswith(folder):
            yield name
    # There are a hundred thousand attributes, so compare most of them without a Python loop.
    if len(before) != len(after) or not all(map(is_, before.values(), after.values())):
        for name, value in after.items():
            if before.get(name, value) is not value and callable(value):
                yield name


def _import_needs(subject: Subject) -> None:
    """Import the libraries in ``needs`` now, so that the plugin is not blamed for side effects."""
    from importlib import import_module

    from packaging.requirements import Requirement

    for text in subject.offer.needs:
        name = Requirement(text).name.replace("-", "_")
        if find_spec(name) is not None:
            import_module(name)


def _try_to_build(subject: Subject) -> None:
    if subject.offer.kind == "reporter":
        from tunesmith.testing.reporters import open_reporter

        with open_reporter(subject):
            return
    subject.build()


def _models(config: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the options class and, once each, the options classes of its nested tables."""
    found = [config]
    for model in found:  # the list grows
        yield model
        nested = (nested_options(info.annotation) for info in model.model_fields.values())
        found += [inner for inner in dict.fromkeys(nested) if inner and inner not in found]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
