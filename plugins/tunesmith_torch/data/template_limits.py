"""Refuse chat templates that run without end or print gigabytes.

A chat template is a program from the authors of a model. transformers runs it in Jinja's sandbox,
which has no limits of time and memory. Here it is run once in a process of its own, which has: on a
conversation of many turns, so that a text that doubles with every turn is noticed too.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith_torch.data import template_process

MAX_SOURCE_CHARACTERS = 1_000_000
TIME_LIMIT_SECONDS = 20.0
"""Wall time of the process; its CPU time is limited by :mod:`template_process`."""


@lru_cache(maxsize=64)
def check_template(source: str, time_limit: float = TIME_LIMIT_SECONDS) -> None:
    """Run a template within limits. An error that it raises is left to its first real use.

    Raises:
        UsageError: the template is too long, runs too long, or its text needs too much memory.
    """
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise _refusal(
            f"it has {len(source):,} characters, at most {MAX_SOURCE_CHARACTERS:,} are allowed"
        )
    script = str(Path(template_process.__file__))
    try:
        process = subprocess.run(
            # -I: no variable and no file of the working directory changes what is imported.
            [sys.executable, "-I", script],
            input=json.dumps(source).encode(),
            capture_output=True,
            timeout=time_limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refusal(f"it runs longer than {time_limit:g} seconds") from None
    if process.returncode == template_process.TOO_LONG:
        raise _refusal(
            f"it makes more than {template_process.MAX_CHARACTERS:,} characters of "
            f"{template_process.TURNS} short turns"
        )
    if process.returncode == template_process.NO_MEMORY:
        raise _refusal("it needs too much memory")
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _refusal(f"it computes longer than {template_process.CPU_SECONDS} seconds")


def _refusal(reason: str) -> UsageError:
    return UsageError(
        f"chat template: {reason}, so it is not used",
        hint="give another template (technique.chat_template), or use another base model",
    )
