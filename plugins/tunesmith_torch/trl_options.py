"""What TRL's trainers cannot do of what a policy can be asked for; no torch and no TRL here.

An option that is taken and then read by nobody would be a lie, so it is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tunesmith import ranks
from tunesmith.contracts import Finding
from tunesmith.errors import UsageError
from tunesmith.plugins import missing

if TYPE_CHECKING:
    from tunesmith_torch.rlhf_options import PolicyStage

TRL = "trl>=1.16"
VLLM = "vllm>=0.22"
_ALONE = 'start it without, or take backend = "native"'


def refused(options: PolicyStage) -> Iterator[str]:
    """Why the options cannot be honoured by the backend that they ask for."""
    if options.backend != "trl":
        if options.vllm:
            yield '`vllm` is read by backend = "trl" only'
        return
    if options.algorithm == "ppo":
        yield 'backend = "trl" has grpo and rloo, and no ppo'
    if options.adapt != "lora":
        yield (
            f'backend = "trl" trains adapt = "lora" only, got "{options.adapt}": TRL rounds the '
            "adapters of a quantised base to bf16, and has no copy of a start whose weights all "
            "move as its reference"
        )
    if options.dropout > 0:
        yield 'backend = "trl" draws answers with dropout on, so `dropout` must be 0'
    if options.modules_to_save:
        yield 'backend = "trl" reads the untrained head, so `modules_to_save` must be empty'
    if options.kl_weight == 0 and options.kl_budget > 0:
        yield (
            'backend = "trl" measures the divergence only where it has a price: with '
            "kl_weight = 0, `kl_budget` must be 0 too"
        )


def refuse_vllm(options: PolicyStage, device: str) -> None:
    """Say before the first stage what would fail in the last; ``device`` is ``cuda``, ``cpu``...

    Raises:
        UsageError: vLLM is asked for, and the policy will not be on a GPU that it can share.
    """
    if options.vllm and not options.skip and device != "cuda":
        raise UsageError(
            f"technique.policy.vllm: vLLM draws answers on the policy's CUDA GPU, and this run is "
            f"on {device}",
            hint="set vllm = false, or run where there is a CUDA GPU",
        )


def lacking(options: PolicyStage) -> list[Finding]:
    """Errors for libraries that the backend needs; nothing is imported."""
    if options.skip or options.backend != "trl":
        return []
    key = "technique.policy.backend"
    found = [(key, text, "pip install 'tunesmith[trl]'") for text in missing([TRL])]
    if ranks.count() > 1:
        found.append((key, f"one process trains, torchrun started {ranks.count()}", _ALONE))
    if options.vllm:
        found += [("technique.policy.vllm", text, "pip install vllm") for text in missing([VLLM])]
    return [
        Finding(level="error", where=key, message=f"{text}: {hint}") for key, text, hint in found
    ]
