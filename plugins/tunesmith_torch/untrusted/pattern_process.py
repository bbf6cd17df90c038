"""Match regular expressions against module names, as PEFT does. A script for a limited process.

It reads JSON from stdin: ``{"patterns": [...], "names": [...]}``. The matches do not matter, only
that the script ends within its limits. Invalid expressions are left for PEFT to report.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable

PATTERN_FORMS = ("{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.")
"""Forms of the expressions that PEFT builds from an expression in a config."""


def main(patterns: Iterable[str], names: Iterable[str]) -> None:
    """Match every pattern, in every form, against every name."""
    for pattern in patterns:
        for form in PATTERN_FORMS:
            try:
                compiled = re.compile(form.format(pattern))
            except (re.error, RecursionError, OverflowError):
                continue
            for name in names:
                compiled.match(name)
                compiled.fullmatch(name)


if __name__ == "__main__":
    main(**json.load(sys.stdin))
