"""tunesmith: adapt a pre-trained language model to your data, and measure whether it was worth it.

Importing the package does not import torch or other large libraries. Each name below is imported on
first use, so ``tunesmith --help`` stays fast and a plugin can import the contracts alone.
"""

from __future__ import annotations

from tunesmith._version import __version__

_NAMES = {"TunesmithError": "errors", "hookimpl": "hookspecs", "read_report": "api"}
_FUNCTIONS = (
    "Run",
    "VerdictCallback",
    "check",
    "estimate",
    "evaluate",
    "make_plan",
    "open_run",
    "resume",
    "run",
    "verdict",
)
"""Names of the Python API, which is a layer above the core: entry points load it."""

__all__ = [*_NAMES, *_FUNCTIONS, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    from importlib import import_module

    if name in _NAMES:
        value: object = vars(import_module(f"{__name__}.{_NAMES[name]}"))[name]
    elif name in _FUNCTIONS:
        from importlib import metadata

        points = metadata.distribution(__name__).entry_points
        found = [*points.select(group="tunesmith.python", name=name)]
        if not found:
            raise AttributeError(f"{__name__}.{name} is not in the installed package: reinstall it")
        value = found[0].load()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
