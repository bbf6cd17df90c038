"""The code on the page that walks through a run is the code that runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.toolkit.data.trained_text import mark_trained

from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions
from tunesmith_torch.data.named_templates import NAMED_TEMPLATES
from tunesmith_torch.data.templates import Template
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/walk.md").read_text(encoding="utf-8")
EXCERPTS = re.findall(r"^`([\w/]+\.py)`, `([\w.]+)`:\n\n```python\n(.*?)```", PAGE, re.M | re.S)
ROW = re.search(r"```json\n(.*?)\n```", PAGE)
RENDERED = re.search(r"```text\n(<\|im_start\|>.*?)\n```", PAGE, re.S)


def find_function(tree: ast.Module, name: str) -> ast.AST:
    """Return the function or method with a dotted name.

    Raises:
        LookupError: the module does not define it.
    """
    node: ast.AST = tree
    for part in name.split("."):
        found = [child for child in ast.iter_child_nodes(node) if named(child, part)]
        if not found:
            raise LookupError(f"{name} is not defined")
        node = found[0]
    return node


def named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name


def list_statements(node: ast.AST) -> str:
    """Return the code of a function without its docstring, comments and layout."""
    for inner in ast.walk(node):
        body: Any = getattr(inner, "body", None)
        if isinstance(inner, ast.FunctionDef) and ast.get_docstring(inner) is not None:
            body[0] = ast.Pass()
    return squeeze(ast.unparse(node))


def squeeze(code: str) -> str:
    """Return code without white space, quotes' kind, and what only the formatter adds."""
    plain = re.sub(r"\s+", "", code.replace('"', "'"))
    return re.sub(r",(?=[)\]}])", "", plain)


def split_excerpt(excerpt: str) -> Iterator[str]:
    """Yield the parts of an excerpt between lines of three dots.

    The first line of a block whose body follows is normalized alone, as is a chain of statements.
    """
    for part in re.split(r"^[ ]*\.\.\.\n", excerpt, flags=re.M):
        if part.strip():
            yield normalize(part)


def normalize(part: str) -> str:
    """Return the part as :func:`list_statements` returns it: as Python itself would write it."""
    lines = part.rstrip().splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    dedented = [line[indent:] for line in lines]
    if dedented[-1].endswith(":"):
        dedented.append(" " * (len(dedented[-1]) - len(dedented[-1].lstrip()) + 4) + "pass")
    text = "\n".join(f"    {line}" for line in dedented)
    tree = ast.parse(f"def f():\n{text}\n")
    squeezed = squeeze(ast.unparse(tree)).removeprefix("deff():")
    return squeezed.removesuffix("pass")


def check(file: str, name: str, excerpt: str) -> None:
    """Fail if a part of an excerpt is not in the function, or not after the part before it."""
    source = (ROOT / file).read_text(encoding="utf-8")
    code, position = list_statements(find_function(ast.parse(source), name)), 0
    for part in split_excerpt(excerpt):
        found = code.find(part, position)
        assert found >= 0, f"{file}, {name}: not there, or not in this order: {part}"
        position = found + len(part)


@pytest.mark.parametrize(
    ("file", "name", "excerpt"), EXCERPTS, ids=[name for _, name, _ in EXCERPTS]
)
def test_an_excerpt_is_in_its_function(file: str, name: str, excerpt: str) -> None:
    check(file, name, excerpt)


def test_every_block_of_code_is_an_excerpt_and_short() -> None:
    assert len(EXCERPTS) == PAGE.count("```python") >= 18
    for _, name, excerpt in EXCERPTS:
        assert len(excerpt.splitlines()) <= 15, name


@pytest.mark.parametrize(
    ("old", "new"),
    [("loss.backward()", "loss.forward()"), ("/ divisor", "* divisor")],
)
def test_a_changed_excerpt_is_detected(old: str, new: str) -> None:
    file, name, excerpt = next(e for e in EXCERPTS if e[1].endswith("._accumulate"))
    assert old in excerpt
    with pytest.raises(AssertionError, match="not there"):
        check(file, name, excerpt.replace(old, new))


def test_the_row_is_rendered_as_the_page_shows_it(tmp_path: Path) -> None:
    assert ROW and RENDERED
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW[1], encoding="utf-8")
    (record,) = JSONL.build(JsonlOptions(train=str(path))).load().train
    tokenizer: Any = build_tiny_tokenizer(template=None, extra=("</s>",))
    tokenizer.eos_token = "</s>"
    template = Template.from_tokenizer(tokenizer, NAMED_TEMPLATES["chatml"])
    assert mark_trained(template, record) == RENDERED[1]


def test_the_folders_of_the_last_table_exist() -> None:
    table = PAGE.rpartition("\n## ")[2]
    folders = re.findall(r"^\| `([\w/*.-]+)`", table, re.M)
    assert len(folders) > 20
    assert [folder for folder in folders if not [*ROOT.glob(folder)]] == []
