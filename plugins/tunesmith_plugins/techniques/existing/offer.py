"""Offer the ``existing`` technique."""

from __future__ import annotations

from tunesmith.contracts import Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.records import Chat, Completion, Preference, Text, UnpairedPreference
from tunesmith_plugins.techniques.existing.options import ExistingOptions
from tunesmith_torch.runtime.environment import prepare_environment


def build(options: ExistingOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_plugins.techniques.existing.technique import ExistingModel

    return ExistingModel(options)


EXISTING = TechniqueOffer(
    name="existing",
    summary="no training: measure a model that was fine-tuned elsewhere",
    config=ExistingOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Preference, Text, UnpairedPreference}),
    trains_on=frozenset({"tools", "reasoning", "weights", "rejected"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(trains=False),
    can_score=lambda options: not options.is_endpoint,
)
