"""What TRL's trainers cannot do of what a policy can be asked for; no torch and no TRL here.

An option that is taken and then read by nobody would be a lie, so it is refused, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith import distributed
from tunesmith.contracts import Finding
from tunesmith.errors import UsageError
from tunesmith.plugins import missing

if TYPE_CHECKING:
    from tunesmith_torch.options.rlhf import PolicyStage

TRL = "trl>=1.16"
VLLM = "vllm>=0.22"
_ALONE = 'start it without, or take backend = "native"'


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
    if distributed.count() > 1:
        found.append((key, f"one process trains, torchrun started {distributed.count()}", _ALONE))
    if options.vllm:
        found += [("technique.policy.vllm", text, "pip install vllm") for text in missing([VLLM])]
    return [
        Finding(level="error", where=key, message=f"{text}: {hint}") for key, text, hint in found
    ]
