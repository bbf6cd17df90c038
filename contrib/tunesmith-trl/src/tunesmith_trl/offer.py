"""Offer the ``trl-grpo`` and ``trl-rloo`` techniques, and review plans that use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tunesmith.contracts import Finding, Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.plugins import missing_requirements
from tunesmith.records import Chat, Completion, Preference
from tunesmith_torch.options import checks
from tunesmith_trl import estimate
from tunesmith_trl.options import GrpoOptions, RlooOptions, TrlOptions

NEEDS = ("trl>=1.16", "torch>=2.11", "transformers>=5.17", "peft>=0.19")
VLLM_REQUIREMENT = "vllm>=0.22"
_RECORDS = frozenset({Chat, Completion, Preference})
_PROMISES = Promises(base_weights_unchanged=True)


def build(options: TrlOptions) -> Technique:
    """Create the technique, importing torch. TRL is only imported when training starts."""
    from tunesmith_torch.runtime import bitsandbytes
    from tunesmith_trl.technique import TrlTechnique

    bitsandbytes.preload_bitsandbytes()  # TRL's trainers would import it during training.
    return TrlTechnique(options)


GRPO = TechniqueOffer(
    name="trl-grpo",
    summary="GRPO with TRL's trainer, on reward functions or a reward model",
    config=GrpoOptions,
    build=build,
    accepts=_RECORDS,
    trains_on=frozenset({"tools", "reasoning"}),
    needs_validation=True,
    needs=NEEDS,
    promises=_PROMISES,
    estimate=estimate.estimate,
    memory_savings=estimate.memory_savings,
)
RLOO = TechniqueOffer(
    name="trl-rloo",
    summary="RLOO with TRL's trainer, on reward functions or a reward model",
    config=RlooOptions,
    build=build,
    accepts=_RECORDS,
    trains_on=frozenset({"tools", "reasoning"}),
    needs_validation=True,
    needs=NEEDS,
    promises=_PROMISES,
    estimate=estimate.estimate,
    memory_savings=estimate.memory_savings,
)


def review_plan(plan: Plan, offer: TechniqueOffer[Any]) -> Sequence[Finding]:
    """Return errors for missing libraries, and for devices that the libraries do not support.

    ``offer`` is the technique whose plans are reviewed.
    """
    options = plan.technique.config
    if plan.technique.offer is not offer or not isinstance(options, TrlOptions):
        return []
    return [
        *checks.check_optimizer(options, plan.run.device),
        *check_vllm(options, plan.run.device),
    ]


review_grpo = partial(review_plan, offer=GRPO)
review_rloo = partial(review_plan, offer=RLOO)


def check_vllm(options: TrlOptions, device: str) -> Iterator[Finding]:
    """Yield errors if vLLM is requested but cannot be used, without importing anything.

    ``device`` is the device of the run, such as ``cuda``, ``cpu`` or ``auto``.
    """
    if not options.vllm:
        return
    problems = [f"{text}: pip install vllm" for text in missing_requirements([VLLM_REQUIREMENT])]
    if device in ("cpu", "mps"):
        problems.append(
            f"vLLM generates on the policy's CUDA GPU, but this run uses {device}: set "
            "vllm = false, or run on a machine with a CUDA GPU"
        )
    for text in problems:
        yield Finding(level="error", where="technique.vllm", message=text)
