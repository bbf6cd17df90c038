"""Baseline ``fields``: JSON answers field by field, classified or copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.offers import BaselineOffer


@hookimpl
def tunesmith_baselines() -> Sequence[BaselineOffer[Any]]:
    """Offer ``[baselines] use = ["fields"]``."""
    from tunesmith_plugins.baselines.fields.offer import FIELDS

    return [FIELDS]
