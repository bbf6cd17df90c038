"""What ``tunesmith plugins new`` writes: a plugin that works, with its contract test.

The files are templates beside this module; what stands in them as ``$name`` is filled in.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from string import Template

from tunesmith._version import __version__
from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic

HOOKS = {
    "data-loader": "tunesmith_data_loaders",
    "evaluator": "tunesmith_evaluators",
    "reporter": "tunesmith_reporters",
}
"""The kinds of plugin there is a template for, with the hook that each implements."""
OFFERS = {
    "data-loader": "DataLoaderOffer",
    "evaluator": "EvaluatorOffer",
    "reporter": "ReporterOffer",
}
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "src/$package/__init__.py": "init.py",
    "src/$package/offer.py": "offer-$kind.py",
    "tests/test_contract.py": "contract-$kind.py",
}
"""Files of a new plugin, and the template of each."""


def write_plugin(folder: Path, name: str, kind: str) -> list[Path]:
    """Write a plugin called ``tunesmith-NAME`` into a new or empty folder.

    Raises:
        UsageError: the name is not well formed, there is no such kind, or the folder holds files.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name}: names are lower case letters, digits and hyphens")
    if kind not in HOOKS:
        raise UsageError(f"{kind}: no such kind of plugin", hint=f"kinds: {', '.join(HOOKS)}")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: exists and is not empty", hint="name a new folder")
    plain = name.replace("-", "_")
    values = {
        "name": name,
        "package": f"tunesmith_{plain}",
        "kind": kind,
        "hook": HOOKS[kind],
        "offer": OFFERS[kind],
        "constant": plain.upper(),
        "title": "".join(word.capitalize() for word in name.split("-")),
        "minor": ".".join(__version__.split(".")[:2]),
    }
    written = []
    for target, source in FILES.items():
        path = folder / Template(target).substitute(values)
        template = resources.files("tunesmith.template").joinpath(
            "files", f"{Template(source).substitute(values)}.template"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, Template(template.read_text(encoding="utf-8")).substitute(values))
        written.append(path)
    return written
