"""Refuse chat templates that run without end or print gigabytes.

A chat template is a program from the authors of a model. transformers runs it in Jinja's sandbox,
which has no limits of time and memory. Here it is run once in a process of its own, which has: on a
conversation of many turns, so that a text that doubles with every turn is noticed too.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith_torch.data import template_process
from tunesmith_torch.runtime.limited_process import WALL_SECONDS, run_limited

MAX_SOURCE_CHARACTERS = 1_000_000


@lru_cache(maxsize=64)
def check_template(source: str, wall_seconds: float = WALL_SECONDS) -> None:
    """Run a template within limits. An error that it raises is left to its first real use.

    Raises:
        UsageError: the template is too long, runs too long, or its text needs too much memory.
    """
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise _refusal(
            f"it has {len(source):,} characters, at most {MAX_SOURCE_CHARACTERS:,} are allowed"
        )
    script = Path(template_process.__file__)
    done = run_limited(script, json.dumps(source).encode(), wall_seconds=wall_seconds)
    if done.code == template_process.TOO_LONG:
        raise _refusal(
            f"it makes more than {template_process.MAX_CHARACTERS:,} characters of "
            f"{template_process.TURNS} short turns"
        )
    if done.reason:
        raise _refusal(done.reason)


def _refusal(reason: str) -> UsageError:
    return UsageError(
        f"chat template: {reason}, so it is not used",
        hint="give another template (technique.chat_template), or use another base model",
    )
