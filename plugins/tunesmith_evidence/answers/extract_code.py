"""Extract the program from an answer that also contains prose, examples or several code blocks."""

from __future__ import annotations

import builtins
import re
import symtable
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith_evidence.answers.fenced_blocks import Block, read_fenced_blocks
from tunesmith_evidence.answers.normalize import strip_reasoning

__all__ = ["extract_code"]

_PYTHON = re.compile(r"i?py(?:thon)?[\d.]*")
_IMPORTS_ALL = re.compile(r"^from\s+\S+\s+import\s+\*", re.MULTILINE)
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a piece of code defines and needs."""

    defined: frozenset[str] = frozenset()
    """Names assigned, imported or defined at module level."""
    needed: frozenset[str] = frozenset()
    """Module-level names that the code reads, except built-in names."""
    imports_all: bool = False


def extract_code(answer: str, tests: str = "") -> str:
    """Return the program in an answer: the fenced blocks that the tests need.

    Blocks in a language other than Python are ignored if there are others. The result joins, in
    order,

    * blocks that define a name the tests need,
    * blocks that define a name one of these blocks needs.

    Therefore a later definition replaces an earlier one, and blocks that only show how to use the
    program are skipped. If no block defines a needed name, or if there are no tests, the result
    joins all Python blocks, or all blocks without a language, or all blocks. Without any fenced
    block, the whole answer is the program.
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
    """Return the names in a piece of code, or no names if it is not valid Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes in strings
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
