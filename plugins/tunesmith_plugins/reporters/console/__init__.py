"""Shows a run on the terminal: moving where it can, plain lines where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import ReporterOffer


@hookimpl
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:
    """Offer ``[[reporters]] use = "console"``."""
    from tunesmith_plugins.reporters.console.offer import CONSOLE

    return [CONSOLE]
