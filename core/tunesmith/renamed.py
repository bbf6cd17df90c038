"""Names that plugins used before version 0.1, with their current names.

If a plugin still uses an old name, the error mentions both names.
"""

from __future__ import annotations

import re
from collections.abc import Collection

EXACT = {
    "Notice": "FindingReported",
    "to_notice": "to_event",
    "LeftOut": "SkippedRow",
    "Rung": "MeasuredBaseline",
    "NotProvenError": "NotVerifiedError",
    "dev_rows": "count_validation_rows",
    "holdout_rows": "count_test_rows",
}
PARTS = {
    "rival": "baseline",
    "rivals": "baselines",
    "heldout": "test",
    "holdout": "test_size",
    "dev": "validation",
    "left_out": "skipped",
    "notice": "finding",
    "notices": "findings",
    "twin_free": "leakage_free",
    "memorisation": "memorization",
    "proven": "verified",
    "ladder": "baselines",
    "rungs": "baselines",
}
COMMANDS = {
    "completion": "tunesmith --show-completion SHELL",
    "data coverage": "tunesmith data check RUN.toml --against FILE",
    "plugins search": "tunesmith plugins list --available WORD",
    "schema": "tunesmith explain --schema",
    "unlock": "tunesmith runs --unlock RUN",
}
"""Former commands, with the option of another command that replaced each."""
PYTHON_SAYS = {
    "Promises.__init__() got an unexpected keyword argument 'mergeable'": "remove it",
    "TableOffer.__init__() got an unexpected keyword argument 'earlier_names'": "remove it",
    "'tuple' object has no attribute 'use'": "Plan.baselines.use is Plan.baseline_options.use now",
}
"""Maps the start of a Python error message to advice, where a new name is not enough."""
_WORDS = [form(part) for part in PARTS for form in (str.lower, str.upper, str.capitalize)]
_PART = re.compile(rf"(?<![a-z])({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![a-z])")
_QUOTED = re.compile(r"""['"`]([A-Za-z_][\w.]*)['"`]""")


def present_name(name: str) -> str:
    """Return the current form of a name; the name itself if it has not been renamed."""
    if name in EXACT:
        return EXACT[name]

    def replace_part(match: re.Match[str]) -> str:
        old, new = match[0], PARTS[match[0].lower()]
        return new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new

    return _PART.sub(replace_part, name)


def find_present_name(name: str, known: Collection[str]) -> str | None:
    """Return the known name that replaced an old name, such as ``validation_size`` for ``dev``.

    If the name was not renamed to a known name, return None.
    """
    new = present_name(name)
    return next((key for key in (new, f"{new}_size") if key != name and key in known), None)


def explain_renaming(message: str) -> str:
    """Return a clause such as ``; RivalOffer is now BaselineOffer`` for a Python error message.

    Python quotes the name of an unknown import, attribute or argument. The clause is empty if no
    quoted name was renamed.
    """
    for start, what in PYTHON_SAYS.items():
        if message.startswith(start):
            return f"; {what}"
    names = dict.fromkeys(_QUOTED.findall(message))
    new = [f"{name} is now {present_name(name)}" for name in names if present_name(name) != name]
    return f"; {', '.join(new)}" if new else ""
