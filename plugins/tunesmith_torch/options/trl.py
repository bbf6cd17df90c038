"""Checks of policy options against the limits of TRL; neither torch nor TRL is imported.

An option that TRL's trainers would ignore is refused with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith import distributed
from tunesmith.contracts import Finding
from tunesmith.errors import UsageError
from tunesmith.plugins import missing_requirements

if TYPE_CHECKING:
    from tunesmith_torch.options.rlhf import PolicyStage

TRL_REQUIREMENT = "trl>=1.16"
VLLM_REQUIREMENT = "vllm>=0.22"
_SINGLE_PROCESS_HINT = 'start without torchrun, or set backend = "native"'


def check_vllm(options: PolicyStage, device: str) -> None:
    """Check, before the first stage, that the policy stage can use vLLM.

    ``device``: the device of the run, such as ``cuda`` or ``cpu``.

    Raises:
        UsageError: vLLM is requested, and the policy is not on a CUDA GPU.
    """
    if options.vllm and not options.skip and device != "cuda":
        raise UsageError(
            f"technique.policy.vllm: vLLM generates on the policy's CUDA GPU, and this run is "
            f"on {device}",
            hint="set vllm = false, or run where there is a CUDA GPU",
        )


def check_trl_libraries(options: PolicyStage) -> list[Finding]:
    """Return errors for libraries and settings that the TRL backend needs; nothing is imported."""
    if options.skip or options.backend != "trl":
        return []
    key = "technique.policy.backend"
    errors = [
        (key, text, "pip install 'tunesmith[trl]'")
        for text in missing_requirements([TRL_REQUIREMENT])
    ]
    if distributed.world_size() > 1:
        errors.append(
            (
                key,
                f"TRL trains in one process, torchrun started {distributed.world_size()}",
                _SINGLE_PROCESS_HINT,
            )
        )
    if options.vllm:
        errors += [
            ("technique.policy.vllm", text, "pip install vllm")
            for text in missing_requirements([VLLM_REQUIREMENT])
        ]
    return [
        Finding(level="error", where=key, message=f"{text}: {hint}") for key, text, hint in errors
    ]
