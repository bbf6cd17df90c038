"""Generate the page on the toolkits."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from generator.source import (
    MOST_LETTERS,
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
    """Yield the lines of the page on the toolkits: the public names of every module, by layer.

    Signatures and docstrings are read from the source, without importing torch.
    """
    yield "# Toolkit\n"
    yield (
        "What plugins may use to build techniques (`tunesmith_torch`), data loaders and data "
        "checks (`tunesmith_data`), and verdicts and baselines (`tunesmith_evidence`). This page "
        "lists all public names: those in the `__all__` of a module or package. A module without "
        "`__all__` is internal and may change in any version. The layers are in order: a module "
        "imports only from its own layer and from those further down.\n"
    )
    for package in TOOLKITS:
        home = PLUGINS / package
        yield f"## `{package}`\n"
        yield docstring(parsed(home / "__init__.py")) + "\n"
        yield from public_items(home / "__init__.py")
        for layer in layers_of(package):
            path = home / layer
            if not path.is_dir():
                yield from section(path.with_suffix(".py"), level=3)
                continue
            modules = [line for m in sorted(path.glob("[!_]*.py")) for line in section(m, level=4)]
            own = [*section(path / "__init__.py", level=3)]
            if modules and not own:
                yield f"### `{package}.{layer}`\n"
                yield docstring(parsed(path / "__init__.py")) + "\n"
            yield from (*own, *modules)


def layers_of(package: str) -> list[str]:
    """Return the subpackages or modules of a toolkit, the highest layer first.

    Raises:
        ValueError: a subpackage or module is missing from the layers in pyproject.toml.
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


def section(path: Path, *, level: int) -> Iterator[str]:
    """Yield the section of a module or package; nothing if it has no public name."""
    if items := [*public_items(path)]:
        parts = path.relative_to(PLUGINS).with_suffix("").parts
        yield f"{'#' * level} `{'.'.join(part for part in parts if part != '__init__')}`\n"
        yield docstring(parsed(path)) + "\n"
        yield from items


def public_items(path: Path) -> Iterator[str]:
    """Yield a list item for every public name of a module or package."""
    names = public_names(parsed(path))
    for name in names:
        yield from named_item(name, parsed(path))
    if names:
        yield ""


def named_item(name: str, module: ast.Module) -> Iterator[str]:
    """Yield the item of a name, from the module that defines it."""
    for node, after in zip_longest(module.body, module.body[1:]):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            root = PLUGINS if (node.module or "").startswith(TOOLKITS) else ROOT / "core"
            path = root.joinpath(*(node.module or "").split("."))
            yield from named_item(name, parsed(path.with_suffix(".py")))
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            yield from described(node)
        elif name in assigned_names(node):
            text = text_below(after)
            value = ast.unparse(node.value) if text else ""  # type: ignore[attr-defined]
            yield from item(f"{name} = {value}" if 0 < len(value) <= MOST_LETTERS else name, text)


def described(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    """Yield the item of a function, or of a class with its fields and methods."""
    yield from item(signature_of(node), docstring(node), notes=sections(node))
    yield from documented_fields(node)
    for method in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            text = docstring(method) or inherited(node)
            yield from item(signature_of(method, node.name), text, "    ", sections(method))


def assigned_names(node: ast.stmt) -> list[str]:
    """Return the names that a statement assigns to."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return [ast.unparse(node.target)]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def text_below(after: ast.stmt | None) -> str:
    """Return the docstring below a constant or field, or an empty string."""
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
        return to_markdown(" ".join(str(after.value.value).split()))
    return ""


def documented_fields(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    """Yield the fields of a dataclass that have docstrings; the signature shows all fields."""
    is_dataclass = any("dataclass" in ast.unparse(found) for found in node.decorator_list)
    for statement, after in zip(node.body, node.body[1:], strict=False):
        text = text_below(after)
        if is_dataclass and isinstance(statement, ast.AnnAssign) and text:
            name = ast.unparse(statement.target)
            if not name.startswith("_") and "ClassVar" not in ast.unparse(statement.annotation):
                yield f"    - `{node.name}.{name}`: {text}"


def item(signature: str, text: str, indent: str = "", notes: Sequence[str] = ()) -> Iterator[str]:
    """Yield a list item: a signature, then lines on what it does, returns and raises."""
    lines = [line for line in (text, *notes) if line]
    yield f"{indent}- `{signature}`" + ("\\" if lines else "")
    for line in lines:
        yield f"{indent}  {line}" + ("" if line is lines[-1] else "\\")


def inherited(node: ast.ClassDef) -> str:
    """Return a reference to the classes that document a method without a docstring."""
    bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
    return f"See {' and '.join(f'`{base}`' for base in bases)}." if bases else ""
