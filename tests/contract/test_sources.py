"""Laws about the source code, checked on its syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import CORE_TABLES
from tunesmith.offers import KINDS, ConfiguredOffer, TechniqueOffer
from tunesmith.options import DataOptions, EvaluatorKeys, fields_by_key, nested_options
from tunesmith.plugins import Selection, find_plugins

ROOT = Path(__file__).parents[2]
CORE, PLUGINS = ROOT / "core", ROOT / "plugins"
MOST_LINES_OF_CORE = 12_850
CONTRIB = tuple(sorted(ROOT.glob("contrib/*/src")))

FORBIDDEN = {
    "code of a model": re.compile(r"trust_remote_code\s*=\s*(?!False\b)"),
    "pickle": re.compile(r"^\s*(import|from) (pickle|dill|cloudpickle|joblib|marshal|shelve)\b"),
    "pickled weights": re.compile(r"torch\.load\((?!.*weights_only=True)"),
    "evaluated text": re.compile(r"(?<![\w.])(eval|exec)\("),
    "a shell": re.compile(r"shell\s*=\s*True|os\.system\(|os\.popen\("),
}

GETATTR: dict[str, str] = {}
"""Allowed calls of ``getattr`` with a default in the core, each with its reason."""


def sources(*roots: Path) -> Iterator[Path]:
    for root in roots:
        yield from (p for p in sorted(root.rglob("*.py")) if "__pycache__" not in p.parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def location(path: Path, node: ast.AST | int) -> str:
    line = node if isinstance(node, int) else getattr(node, "lineno", 0)
    return f"{path.relative_to(ROOT)}:{line}"


@cache
def catalog() -> Catalog:
    """Return the catalog of the built-in plugins alone."""
    return Catalog(find_plugins(Selection(allowed=frozenset())))


# --------------------------------------------------------------------------- safety


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_source_has_a_forbidden_call(what: str) -> None:
    found = [
        f"{location(path, number)}: {line.strip()}"
        for path in sources(CORE, PLUGINS, *CONTRIB)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FORBIDDEN[what].search(line) and not line.lstrip().startswith("#")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("code of a model", "load(x, trust_remote_code=True)"),
        ("code of a model", "load(x, trust_remote_code=options.trust)"),
        ("pickle", "import pickle"),
        ("pickled weights", "torch.load(path)"),
        ("evaluated text", "value = eval(text)"),
        ("a shell", "run(command, shell=True)"),
    ],
)
def test_a_forbidden_call_is_detected(what: str, line: str) -> None:
    assert FORBIDDEN[what].search(line)


# --------------------------------------------------------------------------- the core


def test_the_core_names_no_technique() -> None:
    """No string is or contains the name of a technique as a word, except docstrings."""
    names = {o.offer.name for o in catalog().offers(TechniqueOffer)} | {"qlora", "rlhf", "dpo"}
    assert "lora" in names
    words = re.compile(rf"\b({'|'.join(sorted(names - {'full', 'preference'}))})\b", re.IGNORECASE)
    found = []
    for path in sources(CORE):
        docstring_ids = {id(node) for node in docstrings(tree(path))}
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if id(node) not in docstring_ids and (node.value in names or words.search(node.value)):
                found.append(f"{location(path, node)}: {node.value[:60]!r}")
    assert not found, "\n".join(found)


def docstrings(module: ast.Module) -> Iterator[ast.Constant]:
    """Yield docstrings: strings that are statements, also those after attributes."""
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def test_the_core_does_not_use_getattr_with_a_default() -> None:
    """``getattr`` with a default hides a misspelled name."""
    found = []
    for path in sources(CORE):
        if "testing" in path.parts:
            continue  # the kit inspects objects of third parties
        for node in ast.walk(tree(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "getattr"
                and len(node.args) == 3
                and location(path, node).partition(":")[0] not in GETATTR
            ):
                found.append(location(path, node))
    assert not found, "\n".join(found)


def test_exceptions_of_any_kind_are_caught_only_around_plugin_code() -> None:
    allowed = {
        "plugins.py": "loading and calling a plugin",
        "emitter.py": "a reporter never stops training",
        "execute.py": "the end of a run is recorded, then the exception is raised again",
        "exit_codes.py": "unexpected errors of the command line",
    }
    found = []
    for path in sources(CORE):
        if path.name in allowed or "testing" in path.parts:
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and not _raises_again(node):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("Exception", "BaseException", "everything"):
                    found.append(f"{location(path, node)}: except {caught}")
    assert not found, "\n".join(found)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def test_source_roots_are_not_packages() -> None:
    assert not (CORE / "__init__.py").exists()
    assert not (PLUGINS / "__init__.py").exists()


def test_no_source_file_is_too_long() -> None:
    """Files have about 400 lines. The limit is an alarm: divide a file by meaning, not to fit."""
    long = {
        location(path, count): count
        for path in sources(CORE, PLUGINS, *CONTRIB)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long


def test_the_core_is_small() -> None:
    """Without its kit the core has at most 10,000 lines, and none of them is packed to fit."""
    paths = [path for path in sources(CORE) if CORE / "tunesmith" / "testing" not in path.parents]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    assert 5_000 < sum(len(text.splitlines()) for text in texts.values()) <= MOST_LINES_OF_CORE
    assert not [path for path, text in texts.items() if "# fmt: " in text]


# --------------------------------------------------------------------------- options


def options_models() -> dict[str, type[BaseModel]]:
    """Return every options class: of the core's tables, of all built-in offers, of inner tables."""
    models: dict[str, type[BaseModel]] = {
        **CORE_TABLES,
        "data": DataOptions,
        "evaluators": EvaluatorKeys,
    }
    for kind in KINDS:
        if not issubclass(kind, ConfiguredOffer):
            continue
        for offered in catalog().offers(kind):
            models[f"{kind.kind} {offered.offer.name}"] = offered.offer.config
    return {path: inner for table in models.items() for path, inner in with_inner_tables(*table)}


def with_inner_tables(
    where: str, options: type[BaseModel]
) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield an options class and those of the tables, and lists of tables, within it."""
    yield where, options
    for key, field in fields_by_key(options).items():
        inner = nested_options(field.annotation)
        if inner is not None:
            yield from with_inner_tables(f"{where}.{key}", inner)


def test_inner_tables_are_found() -> None:
    found = options_models()
    assert {"technique lora.adapter", "technique rlhf.policy.monitor"} <= set(found)
    assert "technique rlhf.policy.rewards" in found


def test_every_option_is_described() -> None:
    undescribed = [
        f"{where}: {name}"
        for where, model in options_models().items()
        for name, info in model.model_fields.items()
        if len((info.description or "").split()) < 3 and not (info.description or "").endswith(".")
    ]
    assert not undescribed


@cache
def attributes_read() -> set[str]:
    """Return the names of all attributes that the code reads."""
    read = set()
    for path in sources(CORE, PLUGINS):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    return read


READ_BY_KEY = {
    ("data", "use"): "the plan removes it from the table before validation",
    ("plugins", "disable"): "plugins are found before there is a plan: api._selection",
}


def test_every_option_is_used() -> None:
    """No option is validated and then ignored."""
    unused = [
        f"{where}: {name}"
        for where, model in options_models().items()
        for name in model.model_fields
        if name not in attributes_read() and (where, name) not in READ_BY_KEY
    ]
    assert not unused


def test_every_hook_has_a_docstring_and_types() -> None:
    from inspect import getdoc, signature

    from tunesmith import hookspecs

    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("tunesmith_")}
    assert len(hooks) == 19
    for name, function in hooks.items():
        lines = (getdoc(function) or "").splitlines()
        assert len(lines) >= 3 and not lines[1], (
            f"{name}: expected a summary line, a blank line and a description"
        )
        signature_ = signature(function)
        assert signature_.return_annotation is not signature_.empty, name
        assert all(p.annotation is not p.empty for p in signature_.parameters.values()), name


def test_hooks_match_the_kinds_of_offers() -> None:
    from tunesmith import hookspecs

    hooks = {name for name in vars(hookspecs) if name.startswith("tunesmith_")}
    registering = {kind.hook for kind in KINDS}
    assert len(registering) == len(KINDS) and registering < hooks
    reviews = {f"tunesmith_review_{part}" for part in ("data", "model", "plan", "use")}
    assert hooks - registering == {"tunesmith_find_model", "tunesmith_verdict", *reviews}
