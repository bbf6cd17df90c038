"""Check adapters that vLLM applies to a base model while serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import UsageError
from tunesmith_torch.untrusted.foreign_code import read_json_object

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Allowed values of vLLM's ``--max-lora-rank``."""
PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Initializations that leave the base model unchanged; others move part of it into the adapter."""
_UNKNOWN = (
    "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication",
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config", "target_parameters",
)  # fmt: skip
"""PEFT options that change what an adapter computes, and that vLLM lacks or ignores."""


def check_adapter(adapter: Path) -> None:
    """Check that vLLM computes an adapter in the same way as PEFT.

    Raises:
        UsageError: vLLM would compute the adapter differently. The message states the first reason.
    """
    for reason in _find_reasons(read_json_object(adapter / "adapter_config.json")):
        raise UsageError(
            f"adapter_only: vLLM cannot serve this adapter: {reason}",
            hint="omit adapter_only, so that the adapter is merged into its base model",
        )


def read_max_rank(adapter: Path) -> int:
    """Return the ``--max-lora-rank`` that an adapter needs."""
    rank = _largest_rank(read_json_object(adapter / "adapter_config.json"))
    return next(number for number in RANKS if number >= rank)


def _find_reasons(config: dict[str, Any]) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"its type is {config.get('peft_type')}, not LORA"
    for name in _UNKNOWN:
        if config.get(name):
            yield f"it sets {name}"
    if config.get("bias", "none") != "none":
        yield f"it has bias = {config['bias']}"
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        yield f"its initialization (init_lora_weights = {start}) changes the base model"
    rank = _largest_rank(config)
    if rank > RANKS[-1]:
        yield f"its rank is {rank}, but the maximum is {RANKS[-1]}"


def _largest_rank(config: dict[str, Any]) -> int:
    ranks: list[int] = [config.get("r", 0), *(config.get("rank_pattern") or {}).values()]
    return max(ranks)
