"""The evaluator finds each departure from the conventions, and accepts other good code."""

from __future__ import annotations

import pytest

from tunesmith.records import Completion
from tunesmith.testing import FakeTextModel
from tunesmith_recipes_code.house_style import (
    HOUSE_STYLE,
    HouseStyleOptions,
    extract_functions,
    find_departures,
)

CODE = '''def calc_sum(values: list[int]) -> int:
    """Return the sum of the numbers."""
    return sum(values)
'''
OPTIONS = HouseStyleOptions(prefixes=["calc_", "find_"])
GOOD = (
    CODE.replace("calc_sum", "find_total").replace("sum(values)", "0 + sum(values)"),
    f"Here it is:\n```python\n{CODE}```\nIt adds the numbers.",
    f"~~~py\n{CODE}~~~\nRun it:\n```bash\npython sums.py\n```\nOutput:\n```\n6\n```",
    f"```python\n{CODE}",
    f"```py\n{CODE}```\nUsage:\n```python\nprint(calc_sum([1, 2]))\n```",
    f"```python\n>>> calc_sum([1])\n1\n```\n```python\n{CODE}```",
    f"def _twice(value: int) -> int:\n    return 2 * value\n\n\n{CODE}",
    "class Sums:\n    def __init__(self) -> None:\n        self.total = 0\n",
    "class Sums:\n"
    + "".join(f"    {line}\n" for line in CODE.splitlines()).replace("(values", "(self, values"),
    CODE.replace("of the numbers", "of\n    the numbers"),
    CODE.replace(
        "    return", "    def add(a: int, b: int) -> int:\n        return a + b\n\n    return"
    ),
    CODE.replace("sum(values)", "sum(printed for printed in values)"),
    "from math import fsum\n\n\n" + CODE.replace("-> int", "-> float").replace("= sum", "= fsum"),
)
FAULTS = {
    "camel case": (CODE.replace("calc_sum", "calc_Sum"), "snake case"),
    "no prefix": (CODE.replace("calc_sum", "total"), "prefixes"),
    "only private": (CODE.replace("calc_sum", "_sum"), "prefixes"),
    "no docstring": (CODE.replace('    """Return the sum of the numbers."""\n', ""), "docstring"),
    "no full stop": (CODE.replace("numbers.", "numbers"), "docstring"),
    "no type of an argument": (CODE.replace(": list[int]", ""), "type"),
    "no type of the result": (CODE.replace(" -> int", ""), "type"),
    "print": (CODE.replace("return sum(values)", "print(sum(values))"), "print"),
    "print as an argument": (CODE.replace("sum(values)", "[*map(print, values)]"), "print"),
    "print by another name": (CODE.replace("return", "show = print\n    return"), "print"),
    "print of a module": (CODE.replace("return sum(", "return builtins.print("), "print"),
    "print imported by another name": (
        "from builtins import print as show\n\n\n" + CODE.replace("return sum", "show"),
        "print",
    ),
    "print of a renamed module": (
        "import builtins as b\n\n\n" + CODE.replace("return sum(", "return b.print("),
        "print",
    ),
    "print of the namespace": (CODE.replace("return sum(", "__builtins__.print("), "print"),
    "self outside of a class": (CODE.replace("(values", "(self, values"), "type"),
    "nothing after the prefix": (CODE.replace("calc_sum", "calc_"), "prefixes"),
    "empty summary": (CODE.replace("Return the sum of the numbers.", "."), "docstring"),
    "no full stop before details": (CODE.replace("numbers.", "numbers\n\n    Or 0."), "docstring"),
    "no type of an inner function": (
        CODE.replace("    return", "    def add(a, b):\n        return a + b\n\n    return"),
        "type",
    ),
    "eval": (CODE.replace("sum(values)", "eval('1')"), "eval"),
    "long line": (CODE.replace("sum(values)", " + ".join(["sum(values)"] * 9)), "line"),
    "bare except": (
        CODE.replace(
            "    return sum(values)",
            "    try:\n        return sum(values)\n    except:\n        return 0",
        ),
        "except",
    ),
}


@pytest.mark.parametrize("answer", GOOD)
def test_good_code_is_accepted(answer: str) -> None:
    assert find_departures(extract_functions(answer), OPTIONS) == ()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_departure_is_found(fault: str) -> None:
    code, expected = FAULTS[fault]
    (found,) = find_departures(code, OPTIONS) or ("",)
    assert expected in found


@pytest.mark.filterwarnings("error")
def test_code_causes_no_warning() -> None:
    assert find_departures(CODE.replace("sum(values)", r"len('\d')"), OPTIONS) == ()


@pytest.mark.parametrize("text", ["", "no code", "def f(:", "x = 1", "\0", "(" * 5_000])
def test_what_is_no_function_does_not_parse(text: str) -> None:
    assert find_departures(extract_functions(text), OPTIONS) is None


def test_the_report_names_the_most_frequent_departure() -> None:
    rows = [Completion(source=f"row:{n}", prompt=f"{n}", completion=CODE) for n in range(3)]
    answers = {"0": CODE, "1": FAULTS["print"][0], "2": FAULTS["print"][0]}
    evaluator = HOUSE_STYLE.build(OPTIONS).prepare(rows)
    kept, parses = evaluator.measure(FakeTextModel(answers=answers), rows)
    assert kept.values == (1.0, 0.0, 0.0) and parses.values == (1.0, 1.0, 1.0)
    assert kept.details["finding"] == "2 of 3 answers: it calls print"
