"""Reporter ``console``: progress on the terminal, as a live display or as plain lines."""

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
