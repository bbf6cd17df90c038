"""Technique ``preference``: better answers made likelier than worse ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import TechniqueOffer


@hookimpl
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:
    """Offer ``preference``."""
    from tunesmith_plugins.techniques.preference.offer import PREFERENCE

    return [PREFERENCE]
