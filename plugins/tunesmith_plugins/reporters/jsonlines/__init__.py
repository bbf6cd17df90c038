"""Reporter ``jsonlines``: the events of a run as JSON lines, to a file or to stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import ReporterOffer


@hookimpl
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:
    """Offer ``[[reporters]] use = "jsonlines"``."""
    from tunesmith_plugins.reporters.jsonlines.offer import JSONLINES

    return [JSONLINES]
