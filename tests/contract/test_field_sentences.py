"""Every number that a public class holds has a sentence with its meaning and unit.

That is a text below the field, its name in the docstring of the class, the description of an
option, or, for events, a sentence in ``docs/generator/event_fields.py``.
"""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "tunesmith"
TOOLKITS = (
    "tunesmith_cli",
    "tunesmith_data",
    "tunesmith_evidence",
    "tunesmith_torch",
    "tunesmith_python",
)
ROOMS = ("data", "statistics", "storage")
"""Rooms of the core with names for plugins: those in the ``__all__`` of their package."""
_NUMBER = re.compile(r"\b(int|float)\b")


def public_classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    """Yield the public classes of the core's contracts, of the kit, and of the toolkits."""
    files = [*CORE.glob("*.py"), *(CORE / "testing").rglob("*.py")]
    files += [path for name in TOOLKITS for path in (ROOT / "plugins" / name).rglob("*.py")]
    exported = {name for room in ROOMS for name in _exports(CORE / room / "__init__.py")}
    for path in sorted(files):
        yield from ((path, node) for node in _classes(path))
    for path in sorted(path for room in ROOMS for path in (CORE / room).glob("*.py")):
        yield from ((path, node) for node in _classes(path) if node.name in exported)


def _classes(path: Path) -> Iterator[ast.ClassDef]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node


def _exports(package: Path) -> list[str]:
    for node in ast.parse(package.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def fields_without_sentence(node: ast.ClassDef) -> list[str]:
    """Return the numeric fields of a dataclass or options class that have no sentence."""
    is_dataclass = any("dataclass" in ast.unparse(found) for found in node.decorator_list)
    is_model = any(ast.unparse(base).endswith(("Options", "BaseModel")) for base in node.bases)
    if not (is_dataclass or is_model):
        return []
    docstring, found = ast.get_docstring(node) or "", []
    for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name, annotation = statement.target.id, ast.unparse(statement.annotation)
        holds_numbers = _NUMBER.search(annotation) and not re.search(
            r"Callable|ClassVar", annotation
        )
        has_sentence = (
            (isinstance(after, ast.Expr) and _is_sentence(after.value))
            or re.search(rf"`{name}`", docstring) is not None
            or (statement.value is not None and "description=" in ast.unparse(statement.value))
        )
        if holds_numbers and not name.startswith("_") and not has_sentence:
            found.append(name)
    return found


def _is_sentence(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and len(str(node.value).split()) >= 2


def test_every_number_has_a_sentence() -> None:
    described = runpy.run_path(str(ROOT / "docs" / "generator" / "event_fields.py"))["FIELDS"]
    without = [
        f"{path.relative_to(ROOT)}: {node.name}.{name}"
        for path, node in public_classes()
        for name in fields_without_sentence(node)
        if name not in described.get(_event_name(node), {})
    ]
    assert not without, "\n".join(without)


def _event_name(node: ast.ClassDef) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", node.name).lower()


def test_the_classes_are_found() -> None:
    names = {node.name for _, node in public_classes()}
    assert {"Measurement", "Interval", "PhaseMemory", "Manifest", "StepFinished"} <= names
    assert {"Endpoint", "ModelShape", "EvaluatorExample", "RowLoader"} <= names


@pytest.mark.parametrize(
    ("fields", "without"),
    [
        ("size: int", ["size"]),
        ("size: int\n    '''Bytes of the file.'''", []),
        ("size: int\n    '''Size.'''", ["size"]),
        ("limit: float = Field(0.5, description='Share of rows.')", []),
        ("limit: float = Field(0.5)", ["limit"]),
        ("rows: tuple[int, ...] = ()", ["rows"]),
        ("seconds: float", []),
        ("name: str", []),
        ("progress: Callable[[int], None]", []),
    ],
)
def test_a_number_without_a_sentence_is_found(fields: str, without: list[str]) -> None:
    source = f"@dataclass\nclass A:\n    '''It takes ``seconds``.'''\n    {fields}\n"
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    assert fields_without_sentence(node) == without
