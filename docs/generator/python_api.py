"""Generate the page on the Python API: the names of the package ``tunesmith``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from generator.source import describe, parsed

ROOT = Path(__file__).parents[2]
INTRODUCTION = """The names of the package `tunesmith`. Importing it loads no tensor library; \
each name is loaded when it is first used. [Use tunesmith from Python](../how-to/python.md) has
recipes, and [In a notebook](../tutorials/notebook.ipynb) shows them in order.
"""
PARTS = {
    "Before a run": ("tunesmith_python/plans.py", ("check", "make_plan", "estimate")),
    "Runs": ("tunesmith_python/runs.py", ("run", "resume", "open_run", "Run")),
    "Measure and compare": ("tunesmith_python/evaluation.py", ("evaluate",)),
    "A model that was fine-tuned elsewhere": ("tunesmith_python/verdict.py", ("verdict",)),
    "A callback for transformers and TRL": ("tunesmith_python/callback.py", ("VerdictCallback",)),
    "Results of a comparison": ("tunesmith_python/comparison.py", ("RunComparison",)),
    "The difference by one metric": ("tunesmith_evidence/comparison.py", ("MetricDifference",)),
}
"""By title: the module below ``plugins/``, and the names in it to show."""


def python_api() -> Iterator[str]:
    """Yield the page: every function and class with its arguments, result and errors."""
    yield "# Python API\n"
    yield INTRODUCTION
    for title, (path, names) in PARTS.items():
        yield f"## {title}\n"
        tree = parsed(ROOT / "plugins" / path)
        nodes = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        for name in names:
            yield from describe(nodes[name], level=3)
    report = parsed(ROOT / "core/tunesmith/execution/report.py")
    (node,) = (n for n in report.body if isinstance(n, ast.ClassDef) and n.name == "Report")
    yield "## The report\n"
    yield from describe(node, level=3)
    api = parsed(ROOT / "core/tunesmith/api.py")
    (node_,) = (n for n in api.body if isinstance(n, ast.FunctionDef) and n.name == "read_report")
    yield from describe(node_, level=3)
    yield (
        "`tunesmith.TunesmithError` is the base of all [errors](exit-codes.md), and "
        "`tunesmith.hookimpl` marks the [hooks](hooks.md) of a plugin.\n"
    )
