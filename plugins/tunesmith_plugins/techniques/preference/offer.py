"""Offer of ``preference``."""

from __future__ import annotations

from tunesmith.contracts import Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.records import Preference, UnpairedPreference
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_torch.memory_estimate import policies, techniques
from tunesmith_torch.runtime.environment import prepare_environment


def build(options: PreferenceOptions) -> Technique:
    """Build the technique; torch is imported here."""
    prepare_environment()
    from tunesmith_plugins.techniques.preference.technique import PreferenceTuning

    return PreferenceTuning(options)


PREFERENCE = TechniqueOffer(
    name="preference",
    summary="train on pairs of answers by DPO, IPO, KTO, ORPO or SimPO; on labelled ones by KTO",
    config=PreferenceOptions,
    build=build,
    accepts=frozenset({Preference, UnpairedPreference}),
    trains_on=frozenset({"tools", "reasoning", "rejected"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(),
    data_parallel=True,
    estimate=policies.estimate_pairs,
    memory_savings=techniques.memory_savings,
)
