"""Offer the ``qlora`` technique."""

from __future__ import annotations

from tunesmith.contracts import Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.records import Chat, Completion, Preference, Text
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.runtime.environment import prepare_environment


def build(options: QloraOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_plugins.techniques.qlora.technique import Qlora

    return Qlora(options)


QLORA = TechniqueOffer(
    name="qlora",
    summary="LoRA on a base model quantized to 4 or 8 bits; the artifact is a PEFT adapter",
    config=QloraOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Preference, Text}),
    trains_on=frozenset({"tools", "reasoning", "weights"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19", "bitsandbytes>=0.46"),
    promises=Promises(base_weights_unchanged=True),
    data_parallel=True,
    accepts_additions=True,
    estimate=techniques.estimate_supervised,
    memory_savings=techniques.memory_savings,
)
