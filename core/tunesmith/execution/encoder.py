"""Open the encoder of a run when a baseline or a check first needs it, and encode texts once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tunesmith.contracts import BaselineTask, Progress, TextModel
from tunesmith.encoders import Encoder, Vectors
from tunesmith.errors import PluginError
from tunesmith.fence import attribute_errors_to
from tunesmith.offers import EncoderOffer, Plugin
from tunesmith.plan import Component, Plan
from tunesmith.records import Record


@dataclass(frozen=True)
class CheckedEncoder:
    """An encoder that encodes each text once, and attributes its errors to its plugin."""

    encoder: Encoder
    plugin: Plugin
    vectors: dict[str, Any] = field(default_factory=dict)

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """Return the vector of each text."""

        def encode_new(new: Sequence[str]) -> Vectors:
            with attribute_errors_to(self.plugin, " while it encoded texts"):
                found = self.encoder.encode(new, progress=progress)
            if len(found) != len(new):
                raise PluginError(
                    f'plugin "{self.plugin.full_name}": its encoder returned {len(found)} vectors '
                    f"for {len(new)} texts"
                )
            return found

        return encode_once(self.vectors, texts, encode_new)


def encode_once(
    known: dict[str, Any], texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors]
) -> list[Any]:
    """Return the vector of each text; encode only texts that are not ``known``, and add them."""
    new = [text for text in dict.fromkeys(texts) if text not in known]
    if new:
        found = encode(new)
        known.update((text, found[row]) for row, text in enumerate(new))
    return [known[text] for text in texts]


def find_encoder(plan: Plan) -> Callable[[], Encoder] | None:
    """Return a function that opens the run's encoder once, or None if there is no encoder."""
    component = plan.encoder
    return None if component is None else cache(lambda: open_checked(component))


def build_baseline_task(
    plan: Plan, train: Sequence[Record], base: Callable[[], TextModel]
) -> BaselineTask:
    """Return the task that the baselines of a plan solve, with these training rows."""
    return BaselineTask(
        train=train,
        base=base,
        seed=plan.run.seed,
        system_prompt=plan.baseline_options.system_prompt,
        encoder=find_encoder(plan),
        encodes_everywhere=plan.encodes_everywhere,
    )


def open_checked(component: Component[EncoderOffer[Any]]) -> Encoder:
    """Open an encoder; see :class:`CheckedEncoder`."""
    plugin = component.offered.plugin
    with attribute_errors_to(plugin, " while it opened its encoder"):
        return CheckedEncoder(component.offer.build(component.config), plugin)
