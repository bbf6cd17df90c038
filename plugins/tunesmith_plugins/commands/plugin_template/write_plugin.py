"""Write a plugin project from the template: a working plugin with its contract test.

The template files are in the folder ``files``; placeholders such as ``$name`` are filled in.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from string import Template

from tunesmith import __version__
from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic

HOOKS = {
    "data-loader": "tunesmith_data_loaders",
    "evaluator": "tunesmith_evaluators",
    "reporter": "tunesmith_reporters",
}
"""Hook by kind of plugin, for the kinds that have a template."""
OFFERS = {
    "data-loader": "DataLoaderOffer",
    "evaluator": "EvaluatorOffer",
    "reporter": "ReporterOffer",
}
TEMPLATES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "src/$package/__init__.py": "init.py",
    "src/$package/offer.py": "offer-$kind.py",
    "tests/test_contract.py": "contract-$kind.py",
}
"""Template by file of a new plugin."""


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
    identifier = name.replace("-", "_")
    values = {
        "name": name,
        "package": f"tunesmith_{identifier}",
        "kind": kind,
        "hook": HOOKS[kind],
        "offer": OFFERS[kind],
        "constant": identifier.upper(),
        "title": "".join(word.capitalize() for word in name.split("-")),
        "minor": ".".join(__version__.split(".")[:2]),
    }
    written = []
    for target, source in TEMPLATES.items():
        path = folder / Template(target).substitute(values)
        template = resources.files("tunesmith_plugins.commands.plugin_template").joinpath(
            "files", f"{Template(source).substitute(values)}.template"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, Template(template.read_text(encoding="utf-8")).substitute(values))
        written.append(path)
    return written
