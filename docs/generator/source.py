"""Read names, signatures and docstrings from source files, without importing them."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

SECTIONS = {
    "Args:": "Arguments",
    "Returns:": "Returns",
    "Yields:": "Yields",
    "Raises:": "Raises",
}
"""Headings of the sections of a docstring, by the line that starts the section."""

MOST_LETTERS = 200
"""Maximum length of a constant's value; if it is longer, only the name is shown."""


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def public_names(module: ast.Module) -> list[str]:
    """Return the public names of a module, which are those in ``__all__``; none without it."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def signature_of(node: ast.FunctionDef | ast.ClassDef, owner: str = "") -> str:
    """Return the signature of a function, or of a class with its constructor arguments."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}{constructor(node)}"
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    name = f"{owner}.{node.name}" if owner else node.name
    if decorators & {"property", "cached_property"}:
        return f"{name}: {ast.unparse(node.returns)}" if node.returns else name
    bound = bool(owner) and "staticmethod" not in decorators
    return f"{name}({arguments_of(node, bound=bound)}){result}"


def constructor(node: ast.ClassDef) -> str:
    """Return constructor arguments in parentheses; empty if callers do not construct the class."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            return f"({arguments_of(method, bound=True)})"
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return ""
    fields = [
        argument(node.target.id, node.annotation, node.value)
        for node in node.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not node.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(node.annotation)
    ]
    return f"({', '.join(fields)})" if fields else ""


def arguments_of(node: ast.FunctionDef, *, bound: bool) -> str:
    """Return the arguments of a function, without ``self`` or ``cls`` if it is bound."""
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + args.defaults
    pairs = list(zip(positional, defaults, strict=True))[1 if bound else 0 :]
    parts = [argument(arg.arg, arg.annotation, value) for arg, value in pairs]
    if args.vararg:
        parts.append("*" + argument(args.vararg.arg, args.vararg.annotation))
    elif args.kwonlyargs:
        parts.append("*")
    named = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    parts += [argument(arg.arg, arg.annotation, value) for arg, value in named]
    if args.kwarg:
        parts.append("**" + argument(args.kwarg.arg, args.kwarg.annotation))
    return ", ".join(parts)


def argument(name: str, annotation: ast.expr | None, default: ast.expr | None = None) -> str:
    """Return one argument or dataclass field in signature notation."""
    text = name if annotation is None else f"{name}: {ast.unparse(annotation)}"
    if default is None:
        return text
    value = ast.unparse(default)
    return f"{text} = {'...' if value.startswith('field(') else value}"


def docstring(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """Return the first paragraph of a docstring as one line of Markdown."""
    paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
    return to_markdown(" ".join(paragraph.split()))


def sections(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """Return a docstring's sections on the result and the errors, one line each."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
        title, _, rest = paragraph.partition("\n")
        if title == "Returns:":
            lines.append("Returns: " + to_markdown(" ".join(rest.split())))
        if title == "Raises:":
            lines.append("Raises " + "; ".join(entries(textwrap.dedent(rest))))
    return lines


def to_markdown(text: str) -> str:
    """Return a docstring's text with names in backticks instead of reStructuredText roles."""
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"``\1``", text)
    return text.replace("``", "`")


def describe(
    node: ast.FunctionDef | ast.ClassDef,
    *,
    level: int,
    owner: str = "",
    texts: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yield the section of a function or a class: signature, docstring, fields and methods.

    Args:
        level: level of the heading; 0 omits the heading and the methods.
        texts: descriptions of fields that have none in the source.
    """
    name = f"{owner}.{node.name}" if owner else node.name
    if level:
        yield f"{'#' * level} `{name}`\n"
    if isinstance(node, ast.FunctionDef):
        yield f"```text\n{wrap_signature(signature_of(node, owner))}\n```\n"
    elif bases := [ast.unparse(base) for base in node.bases]:
        yield f"```text\nclass {node.name}({', '.join(bases)})\n```\n"
    yield from render_docstring(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        yield from fields_of(node, texts or {})
        for method in node.body if level else ():
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                yield from describe(method, level=level + 1, owner=node.name)


def wrap_signature(signature: str, width: int = 88) -> str:
    """Return a signature, with one argument per line if it is wider than ``width``."""
    if len(signature) <= width:
        return signature
    head, _, rest = signature.partition("(")
    inner, _, tail = rest.rpartition(")")
    depth, parts, start = 0, [], 0
    for index, letter in enumerate(inner):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(inner[start:index].strip())
            start = index + 1
    parts.append(inner[start:].strip())
    lines = "".join(f"    {part},\n" for part in parts)
    return f"{head}(\n{lines}){tail}"


def fields_of(node: ast.ClassDef, texts: Mapping[str, str]) -> Iterator[str]:
    """Yield the fields of a dataclass as a list, each with type, default and description."""
    shown = list[str]()
    for index, statement in enumerate(node.body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if statement.target.id.startswith("_") or "ClassVar" in ast.unparse(statement.annotation):
            continue
        after = node.body[index + 1] if index + 1 < len(node.body) else None
        text = texts.get(statement.target.id, "")
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        value = "" if statement.value is None else f" = {field_default(statement.value)}"
        label = f"- `{statement.target.id}: {ast.unparse(statement.annotation)}{value}`"
        shown.append(f"{label}\\\n  {to_markdown(text)}" if text else label)
    if shown:
        yield "Fields:\n"
        yield from shown
        yield ""


def field_default(value: ast.expr) -> str:
    """Return the default of a dataclass field; a factory is shown as a call."""
    text = ast.unparse(value)
    match = re.fullmatch(r"field\(default_factory=(\w+)\)", text)
    return f"{match[1]}()" if match else text


def render_docstring(text: str) -> Iterator[str]:
    """Yield a docstring as Markdown: paragraphs, code, and the sections of arguments and errors."""
    section, code = "", list[str]()
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        title, _, rest = paragraph.partition("\n")
        if title in SECTIONS:
            section, paragraph = title, textwrap.dedent(rest)
        elif section:
            paragraph = textwrap.dedent(paragraph)
        if paragraph.startswith("    "):
            code.append(textwrap.dedent(paragraph))
            continue
        yield from code_block(code)
        code = []
        if title in SECTIONS:
            yield f"**{SECTIONS[title]}**\n"
        if title in ("Args:", "Raises:"):
            yield from (f"- {line}" for line in entries(paragraph))
            yield ""
        elif "=====" in paragraph:
            yield from code_block([paragraph])
        elif paragraph != "::":
            yield re.sub("::$", ":", to_markdown(paragraph)) + "\n"
    yield from code_block(code)


def code_block(parts: list[str]) -> Iterator[str]:
    """Yield paragraphs as one code block; nothing if the list is empty."""
    if parts:
        yield "```text\n" + "\n\n".join(parts) + "\n```\n"


def entries(text: str) -> Iterator[str]:
    """Yield the entries of a section as ``name: text``, with the name in backticks."""
    for entry in re.split(r"\n(?=\S)", text):
        name, _, what = " ".join(entry.split()).partition(": ")
        yield f"`{name}`: {to_markdown(what)}"


def type_aliases(tree: ast.Module) -> Iterator[str]:
    """Yield the public type aliases and constants of a module that have a docstring."""
    shown = list[str]()
    for statement, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign):
            name, value = ast.unparse(statement.target), statement.value
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            name, value = ast.unparse(statement.targets[0]), statement.value
        else:
            continue
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if name.startswith("_") or value is None or not documented:
            continue
        text = to_markdown(" ".join(str(after.value.value).split()))  # type: ignore[attr-defined]
        code = ast.unparse(value)
        label = f"{name} = {code}" if len(code) <= MOST_LETTERS else name
        shown.append(f"- `{label}`\\\n  {text}")
    if shown:
        yield from [*shown, ""]
