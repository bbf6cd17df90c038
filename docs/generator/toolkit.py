"""The page on the toolkits."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from generator.source import (
    docstring,
    parsed,
    public_names,
    sections,
    signature_of,
    to_markdown,
)

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
TOOLKITS = ("tunesmith_torch", "tunesmith_data", "tunesmith_evidence")


def toolkit() -> Iterator[str]:
    """Yield the page on the toolkits: the public functions and classes of every module, by layer.

    Signatures and docstrings are read from the source, so that torch is not imported.
    """
    yield "# Toolkit\n"
    yield (
        "The functions and classes that plugins may use to build techniques (`tunesmith_torch`), "
        "data loaders and checks of data (`tunesmith_data`), and verdicts and baselines "
        "(`tunesmith_evidence`). The layers are in order: a module imports from its own layer "
        "and from those further down. A module's public names are those in its "
        "`__all__`; without one, the functions and classes that it defines and whose names do not "
        "begin with an underscore.\n"
    )
    for package in TOOLKITS:
        home = PLUGINS / package
        yield f"## `{package}`\n"
        yield docstring(parsed(home / "__init__.py")) + "\n"
        yield from exports(parsed(home / "__init__.py"))
        for layer in layers_of(package):
            path = home / layer
            if not path.is_dir():
                yield from module_section(path.with_suffix(".py"), level=3)
                continue
            yield f"### `{package}.{layer}`\n"
            yield docstring(parsed(path / "__init__.py")) + "\n"
            for module in sorted(path.glob("[!_]*.py")):
                yield from module_section(module, level=4)


def layers_of(package: str) -> list[str]:
    """Return the rooms or modules of a toolkit, the highest layer first.

    Raises:
        ValueError: a room or module of the package is in no layer of pyproject.toml.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c.get("containers") == [package])
    names = [name.strip() for layer in layers for name in layer.split("|")]
    home = PLUGINS / package
    found = {p.stem for p in home.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    if missing := {name for name in found if not name.startswith("_")} - set(names):
        raise ValueError(f"{package}: in no layer of pyproject.toml: {', '.join(sorted(missing))}")
    return names


def exports(package: ast.Module) -> Iterator[str]:
    """Yield the names that a package re-exports, each with the module that defines it."""
    homes = {
        alias.name: node.module
        for node in package.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names = [name for name in public_names(package) if name in homes]
    if names:
        yield "Importable from the package itself:\n"
        yield from (f"- `{name}`, from `{homes[name]}`" for name in names)
        yield ""


def module_section(path: Path, *, level: int) -> Iterator[str]:
    """Yield the section of one module; nothing if it has no public function or class."""
    module = parsed(path)
    nodes = {n.name: n for n in module.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    shown = [nodes[name] for name in public_names(module) if name in nodes]
    if not shown:
        return
    name = ".".join(path.relative_to(PLUGINS).with_suffix("").parts)
    yield f"{'#' * level} `{name}`\n"
    yield docstring(module) + "\n"
    for node in shown:
        yield from item(signature_of(node), docstring(node), notes=sections(node))
        yield from documented_fields(node)
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                text = docstring(method) or inherited(node)
                yield from item(signature_of(method, node.name), text, "    ", sections(method))
    yield ""


def documented_fields(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    """Yield the fields of a dataclass that have a text below them; the signature has all."""
    is_dataclass = any("dataclass" in ast.unparse(found) for found in node.decorator_list)
    for statement, after in zip(node.body, node.body[1:], strict=False):
        has_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if is_dataclass and isinstance(statement, ast.AnnAssign) and has_text:
            name = ast.unparse(statement.target)
            text = to_markdown(" ".join(str(after.value.value).split()))  # type: ignore[attr-defined]
            if not name.startswith("_") and "ClassVar" not in ast.unparse(statement.annotation):
                yield f"    - `{node.name}.{name}`: {text}"


def item(signature: str, text: str, indent: str = "", notes: Sequence[str] = ()) -> Iterator[str]:
    """Yield a list item: a signature and, on the next lines, what it does, returns and raises."""
    lines = [line for line in (text, *notes) if line]
    yield f"{indent}- `{signature}`" + ("\\" if lines else "")
    for line in lines:
        yield f"{indent}  {line}" + ("" if line is lines[-1] else "\\")


def inherited(node: ast.ClassDef) -> str:
    """Return a reference to the classes that document a method without a docstring."""
    bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
    return f"See {' and '.join(f'`{base}`' for base in bases)}." if bases else ""
