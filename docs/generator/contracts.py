"""Generate the pages for plugin authors: contracts, offers, checks, events, errors."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType

from generator.event_fields import FIELDS
from generator.source import (
    describe,
    parsed,
    render_docstring,
    to_markdown,
    type_aliases,
)
from tunesmith import (
    additions,
    command_offers,
    contracts,
    encoders,
    errors,
    estimates,
    events,
    generators,
    offers,
    options,
    plan,
    prepared,
    records,
    testing,
)
from tunesmith.testing import fixtures
from tunesmith.testing.checks import REGISTERED_CHECKS
from tunesmith_cli import common, launch, render, serving

CONTRACTS = {
    "Records": records,
    "Components and what they exchange": contracts,
    "Encoders": encoders,
    "Generators": generators,
    "Extensions of the server": serving,
    "Evaluators with rules derived from rows": prepared,
    "Estimates": estimates,
    "Additions to training": additions,
    "Plans and evidence": plan,
}
"""Modules on the page about contracts, by title."""
KIT = ("kit", "worked_examples", "fakes", "sample_run")
"""Modules of the conformance kit from which tests import."""
SUBJECTS = {
    "plugin": "Every plugin",
    "review of data": "Plugins that review data",
    "any offer": "Every offer",
    "offer": "Every offer with options",
    "component": (
        "Every component: loaders, splitters, techniques, evaluators, baselines, encoders, "
        "generators, reporters"
    ),
    "technique": "Techniques",
    "data loader": "Data loaders",
    "splitter": "Splitters",
    "evaluator": "Evaluators",
    "baseline": "Baselines",
    "encoder": "Encoders",
    "generator": "Generators",
    "reporter": "Reporters",
    "reporter of every run": "Reporters that every run uses",
    "table": "Run-file tables",
}
"""Headings of the checks, by subject."""


def contract_page() -> Iterator[str]:
    """Yield the lines of the page on contracts: every class and function, in module order."""
    yield "# Contracts\n"
    yield (
        "The data that plugins receive and return, and the protocols that they implement. "
        "This is plain data: tensors exist only inside techniques. All classes are immutable "
        "unless stated otherwise. [Offers](offers.md) describe components to tunesmith, and "
        "[hooks](hooks.md) return the offers.\n"
    )
    for title, module in CONTRACTS.items():
        yield f"## {title}: `{module.__name__}`\n"
        yield from render_docstring(inspect.cleandoc(module.__doc__ or ""))
        yield from type_aliases(parsed(Path(inspect.getfile(module))))
        for node in public_nodes(module):
            yield from describe(node, level=3)


class _AsGiven(ast.NodeTransformer):
    """A field that accepts an import string, shown with its types."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        """Replace the descriptor that the field's type annotation names."""
        if node.value is not None and ast.unparse(node.value) == "Imported()":
            assert isinstance(node.annotation, ast.Subscript)
            given = f"{ast.unparse(node.annotation.slice)} | str"
            node.annotation, node.value = ast.parse(given, mode="eval").body, None
        return node


def offer_page() -> Iterator[str]:
    """Yield the lines of the page on offers and the base class of options."""
    yield "# Offers\n"
    yield from render_docstring(inspect.cleandoc(offers.__doc__ or ""))
    yield (
        "A hook of the [same kind](hooks.md) returns a list of offers. `tunesmith plugins new` "
        "writes an example of each kind.\n"
    )
    modules = command_offers, offers
    for module in modules:
        yield from type_aliases(parsed(Path(inspect.getfile(module))))
    for node in chain(*map(public_nodes, modules)):
        yield from describe(_AsGiven().visit(node), level=2)
    yield "## What commands build on\n"
    yield (
        "`tunesmith_cli.common` has options that commands share, `tunesmith_cli.render` has "
        "functions that print, and `tunesmith_cli.launch` has parts of commands that start runs on "
        "clusters. Results go to stdout, notes and errors to stderr. A command raises a [tunesmith "
        "error](exit-codes.md), which determines the exit code.\n"
    )
    for module in (common, render, launch):
        yield f"### `{module.__name__}`\n"
        for node in public_nodes(module):
            yield from describe(node, level=4)
    yield f"## Options: `{options.__name__}`\n"
    yield from render_docstring(inspect.cleandoc(options.__doc__ or ""))
    for node in public_nodes(options):
        if isinstance(node, ast.ClassDef) and node.name == "Options":
            yield from describe(node, level=3)
    yield (
        "An option of the type `DataPath` is a path, resolved against the run file's folder. "
        "All other types are pydantic types. Each option has a `Field` with a `description` and "
        "bounds.\n"
    )


def check_page() -> Iterator[str]:
    """Yield the lines of the page on the conformance kit: its functions and every check."""
    yield "# Conformance kit\n"
    yield from render_docstring(inspect.cleandoc(testing.__doc__ or ""))
    public = set(testing.__all__)
    for name in KIT:
        module = importlib.import_module(f"{testing.__name__}.{name}")
        for node in public_nodes(module):
            if node.name in public:
                yield from describe(node, level=2)
    yield from fixture_section()
    yield "## Checks\n"
    yield (
        "`tunesmith plugins check NAME` runs all checks that apply to a plugin, and prints whether "
        "the plugin passes each one.\n"
    )
    for subject in dict.fromkeys([*SUBJECTS, *(check.kind for check in REGISTERED_CHECKS)]):
        yield f"### {SUBJECTS.get(subject, f'{subject.capitalize()}s')}\n"
        yield "| check | promise |"
        yield "|---|---|"
        for check in REGISTERED_CHECKS:
            if check.kind == subject:
                text = (inspect.getdoc(check.function) or "").partition("\n\n")[0]
                yield f"| `{check.name}` | {to_markdown(' '.join(text.split()))} |"
        yield ""


def fixture_section() -> Iterator[str]:
    """Yield the section on the fixtures for pytest, each with its docstring."""
    yield "## Fixtures\n"
    yield from render_docstring(inspect.cleandoc(fixtures.__doc__ or ""))
    for node in public_nodes(fixtures):
        if isinstance(node, ast.FunctionDef):
            yield f"### `{node.name}`\n"
            yield from render_docstring(ast.get_docstring(node) or "")


def event_page() -> Iterator[str]:
    """Yield the lines of the page on events: every event with its fields.

    Raises:
        ValueError: a field has no description or two, or a description has no field.
    """
    yield "# Events\n"
    yield from render_docstring(inspect.cleandoc(events.__doc__ or ""))
    nodes = {n.name: n for n in public_nodes(events) if isinstance(n, ast.ClassDef)}
    yield (
        "Each line of `events.jsonl` has the kind of the event under `event`, and the event's "
        "fields. A reporter receives the event as an object.\n"
    )
    for name, cls in events.EVENT_TYPES.items():
        if cls.__module__ == events.__name__:
            yield f"## `{name}`\n"
            texts = FIELDS.get(name, {})
            if wrong := set(texts) ^ fields_without_text(nodes[cls.__name__]):
                raise ValueError(f"event_fields.py: {name}: {', '.join(sorted(wrong))}")
            yield from describe(nodes[cls.__name__], level=0, texts=texts)


def fields_without_text(node: ast.ClassDef) -> set[str]:
    """Return the fields of a class that have no docstring in the source."""
    return {
        ast.unparse(statement.target)
        for statement, after in zip(node.body, [*node.body[1:], None], strict=True)
        if isinstance(statement, ast.AnnAssign)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    }


CODES = (
    "## Exit codes in CI and in scripts\n\n"
    "| code | command | meaning |\n"
    "|---|---|---|\n"
    "| 0 | all | success. Without [`[gate]`](run-file.md#gate), no verdict makes a run fail |\n"
    "| 1 | all | a bug in tunesmith or a plugin, or a plugin's hook that hangs |\n"
    "| 6 | `run`, `resume` | a criterion of [`[gate]`](run-file.md#gate) or `--strict` was not "
    "met; or in [RLHF](../explanation/rlhf.md#the-checks), the reward model failed its check or "
    "the policy diverged |\n"
    "| 6 | `export` | the export [differs too much](../how-to/export.md#export-checks) from the "
    "trained model |\n"
    "| 6, 10, 11 | `monitor`, `ab`, `retrain` | see "
    "[Monitor a model in service](../how-to/monitor.md#exit-codes) |\n"
)


def error_page() -> Iterator[str]:
    """Yield the lines of the page on exit codes and their errors."""
    yield "# Exit codes\n"
    yield from render_docstring(inspect.cleandoc(errors.__doc__ or ""))
    yield CODES
    yield "## Error classes\n"
    for node in public_nodes(errors):
        yield from describe(node, level=3)


def public_nodes(module: ModuleType) -> list[ast.FunctionDef | ast.ClassDef]:
    """Return the public functions and classes that a module defines, in source order."""
    return [
        node
        for node in parsed(Path(inspect.getfile(module))).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
