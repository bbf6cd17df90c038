"""Open the encoder of a run when a baseline or a check first needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tunesmith.contracts import Encoder
from tunesmith.fence import attribute_errors_to
from tunesmith.plan import Plan


def find_encoder(plan: Plan) -> Callable[[], Encoder] | None:
    """Return a function that opens the run's encoder once, or None if there is no encoder."""
    component = plan.encoder
    if component is None:
        return None

    @cache
    def open_encoder() -> Encoder:
        with attribute_errors_to(component.offered.plugin, " while it opened its encoder"):
            encoder: Encoder = component.offer.build(component.config)
            return encoder

    return open_encoder
