"""The ``house-style`` evaluator: does the Python code in an answer keep to a team's conventions?

The code is parsed and never executed. Whether it is right is another question, which the ``code``
evaluator answers with tests.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

from pydantic import Field

from tunesmith.contracts import Measurement, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Record
from tunesmith_evidence.answers.extract_code import extract_code
from tunesmith_evidence.answers.generate import (
    AnswerOptions,
    generate_answers,
)

KEPT, PARSES = "conventions-kept", "code-parses"
METRICS = tuple(Metric(name=name, higher_is_better=True, bounds=(0, 1)) for name in (KEPT, PARSES))
NO_PREFIX = "a function's name has none of the prefixes"
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINED = re.compile(r"\bdef (\w+)")
_SNAKE_CASE = re.compile(r"_*[a-z][a-z0-9_]*")


class HouseStyleOptions(AnswerOptions):
    """Options of ``[[evaluators]] use = "house-style"``."""

    prefixes: list[str] = Field(
        [], description='Prefixes of function names, such as `"get_"`. Empty: any name is allowed.'
    )
    docstrings: bool = Field(
        True, description="Each public function has a docstring that ends with a full stop."
    )
    annotations: bool = Field(
        True, description="Each argument and each result of a function has a type."
    )
    max_line_length: int = Field(100, ge=20, description="Maximum length of a line, in characters.")
    banned_calls: list[str] = Field(
        ["eval", "exec", "print"], description="Functions that no code may call."
    )


@dataclass(frozen=True)
class HouseStyle:
    """Measures whether the code in answers keeps to the conventions."""

    options: HouseStyleOptions
    limit: int | None = None
    """Maximum tokens per answer, or None to derive it from the measured rows."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, limit=self.options.answer_limit(references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate code for each record and count what departs from the conventions."""
        answers = generate_answers(model, records, self.limit or self.options.answer_limit(records))
        found = [find_departures(extract_functions(answer), self.options) for answer in answers]
        kinds = sorted({kind for departures in found for kind in departures or ()})
        counts = {kind: sum(kind in (departures or ()) for departures in found) for kind in kinds}
        worst = max(counts, key=lambda kind: counts[kind], default="")
        details = {"departures": counts}
        finding = f"{counts[worst]} of {len(found)} answers: {worst}" if worst else ""
        return [
            Measurement(
                metric=KEPT,
                values=tuple(float(departures == ()) for departures in found),
                outputs=answers,
                details={**details, "finding": finding} if finding else details,
            ),
            Measurement(
                metric=PARSES,
                values=tuple(float(departures is not None) for departures in found),
            ),
        ]


def extract_functions(answer: str) -> str:
    """Return the program in an answer, without blocks that only show how to call its functions."""
    return extract_code(answer, "\n".join(_DEFINED.findall(answer)))


def find_departures(code: str, options: HouseStyleOptions) -> tuple[str, ...] | None:
    """Return the kinds of departures from the conventions, without repetition.

    Returns:
        An empty tuple if the code follows the conventions. None if the code defines no
            function or does not parse.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes in strings
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
    if not functions:
        return None
    methods = {
        part for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for part in node.body
    }
    inner = {node for each in functions for node in ast.walk(each) if node is not each}
    public = [node for node in functions if node not in inner and not node.name.startswith("_")]
    found = [
        kind
        for node in functions
        for kind in _check_function(node, options, is_method=node in methods)
    ]
    found += [kind for node in public for kind in _check_public(node, options)]
    names = [each.name for each in functions if each not in inner and each.name[:2] != "__"]
    if options.prefixes and names and all(name.startswith("_") for name in names):
        found.append(NO_PREFIX)  # only helpers may be private
    found += _check_tree(tree, options)
    if any(len(line) > options.max_line_length for line in code.splitlines()):
        found.append("a line is too long")
    return tuple(dict.fromkeys(found))


def _check_function(
    function: Function, options: HouseStyleOptions, *, is_method: bool
) -> Iterator[str]:
    if not _SNAKE_CASE.fullmatch(function.name):
        yield "a function's name is not in snake case"
    if options.annotations and not _is_annotated(function, is_method=is_method):
        yield "a type is missing"


def _check_public(function: Function, options: HouseStyleOptions) -> Iterator[str]:
    if options.prefixes and not any(
        function.name.startswith(prefix) and function.name != prefix for prefix in options.prefixes
    ):
        yield NO_PREFIX
    if options.docstrings:
        summary = (ast.get_docstring(function) or "").partition("\n\n")[0]  # on one line or more
        if not re.search(r"\w.*\.\Z", summary, re.DOTALL):
            yield "a docstring is missing or has no full stop"


def _is_annotated(function: Function, *, is_method: bool) -> bool:
    given = function.args
    arguments = [*given.posonlyargs, *given.args]
    if is_method and arguments and arguments[0].arg in ("self", "cls"):
        del arguments[0]
    arguments += given.kwonlyargs
    arguments += [each for each in (given.vararg, given.kwarg) if each is not None]
    return all(a.annotation is not None for a in arguments) and function.returns is not None


def _check_tree(tree: ast.AST, options: HouseStyleOptions) -> Iterator[str]:
    modules = {"builtins", "__builtins__"}  # and other names of this module
    modules |= {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname and alias.name == "builtins"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield "an except names no exception"
        for name in _read_builtins(node, modules):  # also if they are passed on to be called
            if name in options.banned_calls:
                yield f"it calls {name}"


def _read_builtins(node: ast.AST, modules: Collection[str]) -> list[str]:
    """Return the names that a node uses, also as attributes and imports of ``builtins``."""
    match node:
        case ast.Name(id=name, ctx=ast.Load()):
            return [name]
        case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules:
            return [name]
        case ast.ImportFrom(module="builtins", names=aliases):
            return [alias.name for alias in aliases]
    return []


SAMPLE_RECORDS = tuple(
    Completion(
        source=f"sample:{number}",
        prompt=f"Write a function that returns {number}.",
        completion=f'def get_{name}() -> int:\n    """Return {number}."""\n    return {number}',
    )
    for number, name in enumerate(("zero", "one", "two"))
)
"""Records for the conformance kit, whose own answers have no code."""

HOUSE_STYLE = EvaluatorOffer(
    name="house-style",
    summary="share of answers whose Python code keeps to a team's conventions",
    config=HouseStyleOptions,
    build=HouseStyle,
    metrics=METRICS,
    accepts=frozenset({Completion, Chat}),
    generates=True,
    answer_limit=HouseStyleOptions.answer_limit,
    sample_records=SAMPLE_RECORDS,
)
