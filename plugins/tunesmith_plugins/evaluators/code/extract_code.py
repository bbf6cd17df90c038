"""Find the program in an answer that has words, examples of use, or several blocks of code."""

from __future__ import annotations

import builtins
import re
import symtable
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith_evidence.answers.normalize import strip_reasoning
from tunesmith_plugins.evaluators.code.fences import Block, read_fenced_blocks

_PYTHON = re.compile(r"i?py(?:thon)?[\d.]*")
_IMPORTS_ALL = re.compile(r"^from\s+\S+\s+import\s+\*", re.MULTILINE)
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a piece of code."""

    defined: frozenset[str] = frozenset()
    """Names that the module assigns, imports or defines."""
    needed: frozenset[str] = frozenset()
    """Names of a module that the code reads, apart from built-in ones."""
    imports_all: bool = False


def extract_code(answer: str, tests: str) -> str:
    """Return the program of an answer: the fenced blocks that the tests need, or all without one.

    Blocks of another language than Python do not count. Of the others, those are joined that define
    a name that the tests need, or that such a block needs in turn: of two definitions the last one
    holds, and a block that only shows the use of the program is skipped. If no block defines such
    a name, all are joined.
    """
    answer = strip_reasoning(answer)
    blocks = read_fenced_blocks(answer)
    if not blocks:
        return answer
    python = [block for block in blocks if _PYTHON.fullmatch(block.language)]
    usable = [block for block in blocks if block in python or not block.language]
    chosen = _choose_needed(usable, read_names(tests)) or python or usable or blocks
    return "\n\n".join(block.text for block in chosen)


def _choose_needed(blocks: Sequence[Block], tests: Names) -> list[Block]:
    names = [read_names(block.text) for block in blocks]
    wanted, chosen = set(tests.needed - tests.defined), set[int]()
    while True:
        new = {
            row
            for row, found in enumerate(names)
            if row not in chosen and (found.defined & wanted or (chosen and found.imports_all))
        }
        if not new:
            return [blocks[row] for row in sorted(chosen)]
        chosen |= new
        wanted.update(*(names[row].needed for row in new))


def read_names(code: str) -> Names:
    """Return the names of a piece of code; none if it is no Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in strings
            table = symtable.symtable(code, "<answer>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Names()
    defined, needed, tables = set(), set(), [table]
    while tables:
        scope = tables.pop()
        tables += scope.get_children()
        for symbol in scope.get_symbols():
            if scope is table and (symbol.is_assigned() or symbol.is_imported()):
                defined.add(symbol.get_name())
            if symbol.is_referenced() and (scope is table or symbol.is_global()):
                needed.add(symbol.get_name())
    imports_all = _IMPORTS_ALL.search(code) is not None
    return Names(frozenset(defined), frozenset(needed - _BUILTINS), imports_all)
