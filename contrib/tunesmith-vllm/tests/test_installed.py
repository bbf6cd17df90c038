"""vLLM is looked for in this environment, or with the Python that is named."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from tunesmith.errors import EnvironmentProblem
from tunesmith_vllm.installed import find_python

HAS_VLLM = find_spec("vllm") is not None


def test_the_python_of_this_environment_is_used_if_it_has_vllm() -> None:
    assert find_python(None) == (sys.executable if HAS_VLLM else None)


@pytest.mark.usefixtures("stand_in")
def test_a_python_that_has_it_is_used() -> None:
    assert find_python(sys.executable) == sys.executable


@pytest.mark.skipif(HAS_VLLM, reason="this environment has vLLM")
def test_a_python_without_it_is_an_error() -> None:
    with pytest.raises(EnvironmentProblem, match="has no vLLM") as caught:
        find_python(sys.executable)
    assert caught.value.hint == f"{sys.executable} -m pip install vllm"


def test_a_python_that_is_missing_is_an_error() -> None:
    with pytest.raises(EnvironmentProblem, match="cannot run /no/python: No such file"):
        find_python("/no/python")
