"""Find the vLLM that verifies exports: in this environment, or in one that the options specify."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from tunesmith.errors import EnvironmentProblem

_QUESTION = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


def find_python(wanted: str | None) -> str | None:
    """Return the interpreter with vLLM, or None if the user named none and this one lacks vLLM.

    Raises:
        EnvironmentProblem: the named interpreter lacks vLLM, or cannot run.
    """
    if wanted is None:
        return None if find_spec("vllm") is None else sys.executable
    try:
        done = subprocess.run([wanted, "-c", _QUESTION], capture_output=True, check=False)
    except OSError as error:
        raise EnvironmentProblem(
            f"python: cannot run {wanted}: {error.strerror}",
            hint="pass --set python=PATH, the interpreter of an environment that has vLLM",
        ) from error
    if done.returncode:
        raise EnvironmentProblem(
            f"python: vLLM is not installed for {wanted}", hint=f"{wanted} -m pip install vllm"
        )
    return wanted
