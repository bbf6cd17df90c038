"""Technique ``qlora``: low-rank adapters on a base model that is quantized to 4 or 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import TechniqueOffer


@hookimpl
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:
    """Offer ``qlora``."""
    from tunesmith_plugins.techniques.qlora.offer import QLORA

    return [QLORA]
