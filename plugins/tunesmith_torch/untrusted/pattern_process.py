"""Match regular expressions with names, as PEFT does. A script for a limited process.

It reads JSON from stdin: ``{"patterns": [...], "names": [...]}``. What matches is not used: that it
ends within the limits is what counts. An expression that is none is left to PEFT.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable

FORMS = ("{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.")
"""The forms in which PEFT uses an expression of a config."""


def main(patterns: Iterable[str], names: Iterable[str]) -> None:
    """Match each pattern, in each form, with each name."""
    for pattern in patterns:
        for form in FORMS:
            try:
                compiled = re.compile(form.format(pattern))
            except (re.error, RecursionError, OverflowError):
                continue
            for name in names:
                compiled.match(name)
                compiled.fullmatch(name)


if __name__ == "__main__":
    main(**json.load(sys.stdin))
