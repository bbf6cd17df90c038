"""Add keys to ``config.json`` that other engines read instead of the transformers 5 keys.

transformers 5 writes the parameters of rotary embeddings only as ``rope_parameters``, and the
dtype of the weights as ``dtype``. Earlier versions, mlx-lm, mistral.rs and others read
``rope_theta``, ``rope_scaling`` and ``torch_dtype``. Without ``rope_theta`` they assume 10000 and
generate nonsense without an error. A saved folder therefore has both forms:

- One theta: ``rope_theta``.
- Scaled positions: ``rope_scaling`` with the type, as ``rope_type`` and ``type``, and its
  parameters. For Phi-3 it has exactly ``type``, ``short_factor`` and ``long_factor``.
- Partial rotation: ``partial_rotary_factor``.
- Gemma 3: ``rope_theta`` and ``rope_scaling`` of its global layers, and ``rope_local_base_freq``,
  the theta of its local layers.
- Other models with several thetas: only values that are the same in all layers, because the earlier
  form cannot express others.
- GPT-NeoX: ``rotary_emb_base`` and ``rotary_pct`` as well.
- Experts of Qwen3: ``num_experts``, next to ``num_local_experts``.

transformers prefers ``rope_scaling`` if both are present, so the result is read back. If that does
not give the same parameters, the file stays as transformers wrote it, and a warning is issued.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tunesmith.errors import TunesmithWarning

__all__ = ["write_legacy_config_keys"]

_NOT_SCALING = ("rope_theta", "partial_rotary_factor", "rope_type", "type")
"""Keys of ``rope_parameters`` that do not belong to a scaling."""
_PHI3_SCALING = ("short_factor", "long_factor")


def write_legacy_config_keys(folder: Path) -> None:
    """Add the earlier keys to a saved ``config.json``, unless transformers would misread them."""
    path = folder / "config.json"
    before = _read_rope_parameters(folder)
    text = path.read_text(encoding="utf-8")
    config = json.loads(text)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part.update(build_legacy_keys(part))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if _read_rope_parameters(folder) != before:
        path.write_text(text, encoding="utf-8")
        warnings.warn(
            f"{path}: the earlier form of `rope_parameters` would have a different meaning in "
            f"{config.get('model_type')} models, so it is not written; check that the engine "
            "that serves this model reads `rope_parameters`",
            TunesmithWarning,
            stacklevel=2,
        )


def build_legacy_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the earlier keys for a config that transformers 5 wrote."""
    keys: dict[str, Any] = {}
    if config.get("dtype") is not None:
        keys["torch_dtype"] = config["dtype"]
    family = str(config.get("model_type", ""))
    if family.startswith("qwen3") and config.get("num_local_experts") is not None:
        keys["num_experts"] = config["num_local_experts"]
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return keys
    by_layer_type = {name: p for name, p in parameters.items() if isinstance(p, Mapping)}
    if not by_layer_type:
        return {**keys, **_flat_keys(parameters, family)}
    if family.startswith("gemma3") and {"full_attention", "sliding_attention"} <= {*by_layer_type}:
        global_keys = _flat_keys(by_layer_type["full_attention"], family)
        local_theta = by_layer_type["sliding_attention"]["rope_theta"]
        return {**keys, **global_keys, "rope_local_base_freq": local_theta}
    thetas = {p.get("rope_theta") for p in by_layer_type.values()}
    if len(thetas) == 1:
        keys["rope_theta"] = thetas.pop()
    return keys


def _flat_keys(parameters: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Return the keys for a set of parameters that all layers share."""
    keys = {
        name: parameters[name]
        for name in ("rope_theta", "partial_rotary_factor")
        if parameters.get(name) is not None
    }
    if family == "gpt_neox":
        keys["rotary_emb_base"] = parameters["rope_theta"]
        keys["rotary_pct"] = parameters.get("partial_rotary_factor", 1.0)
    rope_type = str(parameters.get("rope_type", "default"))
    scaling = {name: value for name, value in parameters.items() if name not in _NOT_SCALING}
    if rope_type == "default" and not scaling:
        return keys
    if family.startswith("phi3"):  # earlier versions reject any other keys
        phi3 = {name: value for name, value in scaling.items() if name in _PHI3_SCALING}
        return {**keys, "rope_scaling": {"type": rope_type, **phi3}}
    return {**keys, "rope_scaling": {"rope_type": rope_type, "type": rope_type, **scaling}}


def _read_rope_parameters(folder: Path) -> Any:
    """Return the parameters as transformers reads them, without the duplicate key ``type``."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    parameters = getattr(config.get_text_config(), "rope_parameters", None)
    return _without_type(parameters) if isinstance(parameters, Mapping) else parameters


def _without_type(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_type(value) if isinstance(value, Mapping) else value
        for name, value in parameters.items()
        if name != "type"
    }
