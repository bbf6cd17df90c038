"""Reporter ``html``: the report of a run as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import ReporterOffer


@hookimpl
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:
    """Offer ``[[reporters]] use = "html"``."""
    from tunesmith_plugins.reporters.html.offer import HTML

    return [HTML]
