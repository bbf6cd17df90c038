"""Reject adapter configs that would make PEFT compute or allocate without limit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunesmith_torch.runtime import peft_import  # noqa: F401 - must precede peft

# isort: split
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.untrusted import pattern_process
from tunesmith_torch.untrusted.foreign_code import read_json_object
from tunesmith_torch.untrusted.limited_process import run_limited

ADAPTER_CONFIG = "adapter_config.json"
MAX_NUMBER = 10_000_000
"""Maximum number in a config. Token ids are smaller; a larger number is a mistake or an attack."""
MAX_LAYERS = 1_000
MAX_VIRTUAL_TOKENS = 100_000
MAX_SVD_ITERATIONS = 100
_PLAIN = re.compile(r"[\w./@:, -]*")
_PISSA_ITERATIONS = re.compile(r"pissa_niter_(\d+)", re.ASCII)


def check_adapter_config(folder: Path, module_names: Iterable[str], largest: int) -> None:
    """Check the sizes and the regular expressions in an adapter's config, before PEFT reads it.

    ``module_names``: names of the base model's modules, which PEFT matches against the expressions.
    ``largest``: the largest dimension of any tensor in the adapter.

    Raises:
        EnvironmentProblem: this version of PEFT does not know the kind of adapter.
        IntegrityError: a size is implausible, or an expression takes too long.
    """
    path = folder / ADAPTER_CONFIG
    config = read_json_object(path)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise EnvironmentProblem(
            f"{path}: peft_type: this version of PEFT does not know adapters of type {kind!r:.40}",
            hint="upgrade peft, or train an adapter of a type that it knows",
        )
    _check_sizes(config, path, largest)
    patterns = [text for text in _strings(config) if not _PLAIN.fullmatch(text)]
    if not patterns:
        return
    data = json.dumps({"patterns": patterns, "names": list(module_names)}).encode()
    done = run_limited(Path(pattern_process.__file__), data)
    if done.reason:
        raise IntegrityError(
            f"{path}: matching its regular expressions failed ({done.reason}); the first one is "
            f"{patterns[0]!r:.60}",
            hint="replace the expression with a list of module names",
        )


def can_load_on_meta(config: PeftConfig) -> bool:
    """Return True if PEFT can build the adapter on the meta device and fill it from the file.

    Then PEFT allocates only what the file contains. This is not possible in two cases: modules that
    are trained fully would lose their ties to others, and some initializations and kinds compute
    with values, or create parameters only in a forward pass.
    """
    init = getattr(config, "init_lora_weights", True)
    return not (
        config.peft_type in ("ADALORA", "SHADOW")
        or getattr(config, "modules_to_save", None)
        or getattr(config, "trainable_token_indices", None)
        or getattr(config, "monteclora_config", None)
        or init not in (True, False, "gaussian")
    )


def _check_sizes(config: dict[str, Any], path: Path, largest: int) -> None:
    """Check the sizes in a config, given the largest dimension of any stored tensor."""
    layers = config.get("layer_replication") or []
    copies = [max(0, int(end) - int(start)) for start, end in layers] if _are_pairs(layers) else []
    iterations = _PISSA_ITERATIONS.fullmatch(str(config.get("init_lora_weights")))
    patterns = config.get("rank_pattern")
    ranks = [config.get("r"), *(patterns.values() if isinstance(patterns, dict) else [])]
    rank = max((r for r in ranks if isinstance(r, int)), default=0)
    sizes = {
        "r": (rank, largest),
        "layer_replication": (sum(copies), MAX_LAYERS),
        "num_virtual_tokens": (config.get("num_virtual_tokens"), MAX_VIRTUAL_TOKENS),
        "init_lora_weights": (int(iterations[1][:9]) if iterations else 0, MAX_SVD_ITERATIONS),
        "a number": (max(_numbers(config), default=0), MAX_NUMBER),
    }
    for key, (value, limit) in sizes.items():
        if isinstance(value, int) and value > limit:
            raise IntegrityError(f"{path}: {key}: must be at most {limit}, got {value!r:.40}")


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
        for pair in value
    )


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a config, at any depth, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _numbers(value: Any) -> Iterator[int]:
    """Yield the absolute values of all integers in a config, at any depth."""
    if isinstance(value, int):
        yield abs(value)
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
