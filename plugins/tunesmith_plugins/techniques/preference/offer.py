"""Offer the ``preference`` technique."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunesmith.contracts import Technique
from tunesmith.estimates import Estimate, EstimateRequest
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.records import Preference, Record, UnpairedPreference
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_torch.memory_estimate import policies, techniques
from tunesmith_torch.runtime.environment import prepare_environment


def build(options: PreferenceOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_plugins.techniques.preference.technique import PreferenceTuning

    return PreferenceTuning(options)


def estimate(options: PreferenceOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """Yield estimates of memory and compute, each better than the previous one."""
    return policies.estimate_preferences(options, options.loss, request)


def options_for(records: Sequence[Record]) -> Mapping[str, object]:
    """Return options that select KTO if any record is a labeled answer, otherwise no options."""
    has_labels = any(isinstance(record, UnpairedPreference) for record in records)
    return {"loss.type": "kto"} if has_labels else {}


def find_initial_model(options: PreferenceOptions) -> Path | None:
    """Return the path of the model set in `from`, such as a supervised model, or None."""
    from tunesmith_torch.models.initial_model import InitialModel

    initial = InitialModel.from_options(options)
    return None if initial is None else initial.path


PREFERENCE = TechniqueOffer(
    name="preference",
    summary="DPO, IPO, KTO, ORPO or SimPO on pairs of answers; KTO also on labeled answers",
    config=PreferenceOptions,
    build=build,
    accepts=frozenset({Preference, UnpairedPreference}),
    trains_on=frozenset({"tools", "reasoning", "rejected"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(),
    data_parallel=True,
    accepts_additions=True,
    estimate=estimate,
    options_for=options_for,
    find_initial_model=find_initial_model,
    memory_savings=techniques.memory_savings,
)
