"""Generate the rows of this recipe: ``python generate.py`` writes train.jsonl and test.jsonl.

A row is a request for a function over a list of numbers, and the function in the conventions of an
invented team. A function selects numbers and computes something from them. Test rows combine
selections and computations that no training row combines.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

SEED = 23
TRAIN_SHARE = 0.72
"""Share of the combinations that are in training rows."""
SELECTIONS: Mapping[str, tuple[str, str, Callable[[int], bool]]] = {
    "even": (
        "even numbers",
        "value % 2 == 0",
        lambda value: value % 2 == 0,
    ),
    "odd": (
        "odd numbers",
        "value % 2 == 1",
        lambda value: value % 2 == 1,
    ),
    "positive": (
        "positive numbers",
        "value > 0",
        lambda value: value > 0,
    ),
    "negative": (
        "negative numbers",
        "value < 0",
        lambda value: value < 0,
    ),
    "nonzero": (
        "numbers other than zero",
        "value != 0",
        lambda value: value != 0,
    ),
    "large": (
        "numbers above 100",
        "value > 100",
        lambda value: value > 100,
    ),
    "small": (
        "numbers below 10",
        "value < 10",
        lambda value: value < 10,
    ),
    "tens": (
        "multiples of ten",
        "value % 10 == 0",
        lambda value: value % 10 == 0,
    ),
    "threes": (
        "multiples of three",
        "value % 3 == 0",
        lambda value: value % 3 == 0,
    ),
    "two_digit": (
        "numbers from 10 to 99",
        "10 <= value <= 99",
        lambda value: 10 <= value <= 99,
    ),
}
"""Selections by the word in a function's name: in words, as code, and as a function."""
COMPUTATIONS: Mapping[str, tuple[str, str, str, Callable[[list[int], list[int]], object]]] = {
    "calc_sum": (
        "the sum of the {what}",
        "int",
        "sum(value for value in values if {test})",
        lambda chosen, values: sum(chosen),
    ),
    "calc_count": (
        "the number of {what}",
        "int",
        "sum(1 for value in values if {test})",
        lambda chosen, values: len(chosen),
    ),
    "calc_squares": (
        "the squares of the {what}",
        "list[int]",
        "[value * value for value in values if {test}]",
        lambda chosen, values: [n * n for n in chosen],
    ),
    "calc_doubles": (
        "twice each of the {what}",
        "list[int]",
        "[2 * value for value in values if {test}]",
        lambda chosen, values: [2 * n for n in chosen],
    ),
    "find_all": (
        "the {what}",
        "list[int]",
        "[value for value in values if {test}]",
        lambda chosen, values: chosen,
    ),
    "find_max": (
        "the largest of the {what}, or 0 if there are none",
        "int",
        "max((value for value in values if {test}), default=0)",
        lambda chosen, values: max(chosen, default=0),
    ),
    "find_min": (
        "the smallest of the {what}, or 0 if there are none",
        "int",
        "min((value for value in values if {test}), default=0)",
        lambda chosen, values: min(chosen, default=0),
    ),
    "check_any": (
        "True if there are {what}",
        "bool",
        "any({test} for value in values)",
        lambda chosen, values: bool(chosen),
    ),
    "check_all": (
        "True if all are {what}",
        "bool",
        "all({test} for value in values)",
        lambda chosen, values: len(chosen) == len(values),
    ),
}
"""Computations by the beginning of a function's name: the result in words, its type, as code, and
as a function of the chosen numbers and of all numbers."""
REQUESTS = (
    "Write a function that returns {result}.",
    "I need a Python function: given a list, return {result}.",
    "Function over a list of integers, returns {result}.",
    "Please write code that gives me {result} in a list.",
)
SAMPLES: tuple[list[int], ...] = (
    [], [0], [4, -3, 120, 7, 10, 33, 8, 0, -40], [1, 3, 5], [-2, -9], [200, 30, 99, 100],
    [9], [10], [99], [100], [2, 4], [-20], [-7, -9], [0, 5], [150, 101, -120],
)  # fmt: skip
"""Lists that distinguish any two of the functions, also where only a limit is off by one."""


def make_row(start: str, name: str, request: str) -> dict[str, str]:
    """Return a request, the function, and its tests."""
    what, test, selects = SELECTIONS[name]
    result, kind, code, compute = COMPUTATIONS[start]
    result = result.format(what=what)
    function = (
        f"def {start}_{name}(values: list[int]) -> {kind}:\n"
        f'    """Return {result}."""\n'
        f"    return {code.format(test=test)}"
    )
    expected = [compute([*filter(selects, values)], values) for values in SAMPLES]
    pairs = zip(SAMPLES, expected, strict=True)
    checks = "".join(f"assert _f({values!r}) == {right!r}\n" for values, right in pairs)
    find = "_f = [v for v in list(globals().values()) if type(v).__name__ == 'function'][-1]\n"
    return {
        "prompt": request.format(result=result),
        "completion": function,
        "test": find + checks,
    }


def main() -> None:
    """Write the rows next to this file."""
    rng = random.Random(SEED)
    pairs = [(start, name) for start in COMPUTATIONS for name in SELECTIONS]
    rng.shuffle(pairs)
    cut = round(TRAIN_SHARE * len(pairs))
    for part, chosen in {"train": pairs[:cut], "test": pairs[cut:]}.items():
        rows = [make_row(*pair, request) for pair in chosen for request in REQUESTS]
        rng.shuffle(rows)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        Path(__file__).with_name(f"{part}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
