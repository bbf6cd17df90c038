"""Technique ``preference``: direct optimization on pairs of answers (DPO and relatives)."""

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
