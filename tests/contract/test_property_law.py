"""A property test asserts in at least half of its examples: see ``property_law``."""

from __future__ import annotations

import pytest
from property_law import find_assertions

pytest_plugins = ["pytester"]

TESTS = """
import pytest
from hypothesis import assume, given, settings, strategies as st


@given(n=st.integers(0, 1000))
def test_{name}(n):
    {body}


def check(n):
    assert n >= 0
"""


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("assert n >= 0", ""),
        ("check(n)", ""),
        ("with pytest.raises(ValueError):\n        int('x')", ""),
        ("assume(n % 2 == 0)\n    assert n >= 0", ""),
        ("pass", "0 of 33 traced examples reach an assertion"),
        ("if n != 7:\n        return\n    assert n == 7", " of 33 traced examples reach"),
        ("for m in range(n, 1):\n        assert m >= 0", " of 33 traced examples reach"),
        ("check(n)\n    if n == 1001:\n        assert False", "0 of 33 traced examples reach"),
    ],
    ids=[
        *("assertion", "in a helper", "raises", "assumption"),
        *("none", "early return", "empty loop", "only in the helper"),
    ],
)
def test_a_vacuous_property_test_fails(pytester: pytest.Pytester, body: str, problem: str) -> None:
    pytester.makepyfile(TESTS.format(name="it", body=body))
    result = pytester.runpytest_inprocess("-p", "property_law", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=int(not problem), failed=int(bool(problem)))
    assert problem in result.stdout.str()


def test_a_property_test_that_fails_says_why(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.format(name="it", body="assert n < 3"))
    result = pytester.runpytest_inprocess("-p", "property_law", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    assert "assert 3 < 3" in result.stdout.str()
    assert "traced examples" not in result.stdout.str()


def test_the_lines_of_assertions() -> None:
    source = "x = 1\nassert (\n    x\n)\nwith pytest.raises(E):\n    f()\nwith open(f):\n    pass\n"
    assert find_assertions(source, first_line=10) == {11, 12, 13, 14}
