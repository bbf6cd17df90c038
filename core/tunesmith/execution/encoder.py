"""Open the encoder of a run when a baseline or a check first needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tunesmith.contracts import Progress
from tunesmith.encoders import Encoder, Vectors
from tunesmith.errors import PluginError
from tunesmith.fence import attribute_errors_to
from tunesmith.offers import EncoderOffer, Plugin
from tunesmith.plan import Component, Plan


@dataclass(frozen=True)
class CheckedEncoder:
    """An encoder that encodes each text once, and whose errors are attributed to its plugin."""

    encoder: Encoder
    plugin: Plugin
    vectors: dict[str, Any] = field(default_factory=dict)

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """Return the vector of each text."""
        new = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        if new:
            with attribute_errors_to(self.plugin, " while it encoded texts"):
                found = self.encoder.encode(new, progress=progress)
            if len(found) != len(new):
                raise PluginError(
                    f'plugin "{self.plugin.full_name}": its encoder returned {len(found)} vectors '
                    f"for {len(new)} texts"
                )
            self.vectors.update((text, found[row]) for row, text in enumerate(new))
        return [self.vectors[text] for text in texts]


def find_encoder(plan: Plan) -> Callable[[], Encoder] | None:
    """Return a function that opens the run's encoder once, or None if there is no encoder."""
    component = plan.encoder
    return None if component is None else cache(lambda: open_checked(component))


def open_checked(component: Component[EncoderOffer[Any]]) -> Encoder:
    """Open an encoder; see :class:`CheckedEncoder`."""
    plugin = component.offered.plugin
    with attribute_errors_to(plugin, " while it opened its encoder"):
        return CheckedEncoder(component.offer.build(component.config), plugin)
