"""Reject model folders that contain code, or make a library download code or models.

The JSON files of a model can name Python code, a kernel on a hub, or another model. transformers
and PEFT follow several of these keys even with ``trust_remote_code=False``. The functions here read
the files before either library does, without importing torch. All code that passes a model folder
to a library must call them first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError

__all__ = ["read_json_object", "refuse_foreign_code"]

CONFIG_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "added_tokens.json",
    "adapter_config.json",
)
"""The JSON files in a folder whose keys transformers and PEFT follow."""

MAX_CONFIG_BYTES = 64 << 20
"""Maximum size of a config file; the largest published files have a few MB."""
MAX_CONFIG_DEPTH = 32
"""Maximum nesting depth of a config file, which the libraries walk recursively."""

_OWN_CODE = "the model needs its own Python code, which is never run"
_OTHER_MODEL = "another model or file would be read or downloaded"
_KERNEL = "a kernel would be downloaded and run"

_REFUSED_KEYS = {
    "auto_map": _OWN_CODE,
    "trust_remote_code": _OWN_CODE,
    "custom_generate": _OWN_CODE,
    "custom_pipelines": _OWN_CODE,
    # With this key, PEFT imports the module named by `megatron_core`.
    "megatron_config": _OWN_CODE,
    "transformers_weights": _OTHER_MODEL,
    "use_pretrained_backbone": _OTHER_MODEL,
    "tokenizer_name_or_path": _OTHER_MODEL,
    "prompt_tuning_init_state_dict_path": _OTHER_MODEL,
}
"""Keys that are rejected at any depth unless their value is empty or false, with the reason."""

ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_ATTENTION = frozenset({"eager", "sdpa", "flex_attention"})
FLASH_ATTENTION = frozenset({"flash_attention_2", "flash_attention_3", "flash_attention_4"})
"""Names that transformers replaces with a hub kernel if the package is missing.

They are allowed because :func:`tunesmith_torch.models.loading.load_base` never follows them.
"""
_EXPERTS = frozenset({"eager", "grouped_mm", "batched_mm"})
_ALLOWED_NAMES = {
    **dict.fromkeys(ATTENTION_KEYS, _ATTENTION | FLASH_ATTENTION),
    "experts_implementation": _EXPERTS,
    "_experts_implementation": _EXPERTS,
    "_experts_implementation_internal": _EXPERTS,
}
"""Allowed values of these keys; another name may be that of a kernel on a hub."""
_QUANTIZATION_KEYS = ("quantization_config", "compression_config")
_CLASS_KEYS = ("tokenizer_class", "processor_class")
_FREE_KEYS = ("id2label", "label2id", "added_tokens_decoder")
"""Tables whose keys are chosen freely by the model's authors."""


def refuse_foreign_code(folder: Path) -> None:
    """Check every config file in the folder of a model, a tokenizer or an adapter.

    Raises:
        EnvironmentProblem: a key names code, or makes a library download something.
        IntegrityError: a file is not a JSON object, or the folder contains a pipe, a device, or a
            link to a file of another name.
    """
    _refuse_special_files(folder)
    for name in CONFIG_FILES:
        path = folder / name
        if path.is_file():
            refuse_foreign_keys(read_json_object(path), path)


def refuse_foreign_keys(config: Mapping[str, Any], path: Path) -> None:
    """Check the content of one config file; ``path`` is used in error messages.

    Raises:
        EnvironmentProblem: a key names code, or makes a library download something.
    """
    for where, key, value in _walk(config):
        reason = _refusal(key, value)
        if key == "adapters" and path.name == "adapter_config.json" and value:
            reason = _OTHER_MODEL  # a key of X-LoRA, a kind of adapter
        if reason:
            raise EnvironmentProblem(
                f"{path}: {where}: {reason}, got {value!r:.60}",
                hint="use a model whose architecture and weight format transformers supports "
                "itself; if the model works without this key, remove the key from the file",
            )


def named_attention(config: Mapping[str, Any]) -> set[str]:
    """Return the attention implementations that a config names, at any depth."""
    found: set[str] = set()
    for _, key, value in _walk(config):
        if key in ATTENTION_KEYS:
            found |= _names(value)
    return found


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        IntegrityError: the file is missing, not a JSON object, too large, or nested too deeply.
    """
    if not path.is_file():
        raise IntegrityError(f"{path}: missing, or not a regular file")
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise IntegrityError(
                f"{path}: must have at most {MAX_CONFIG_BYTES} bytes, got {size} bytes"
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{path}: invalid JSON: {error!s:.80}", hint="download the file again"
        ) from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: must hold a JSON object, got {type(value).__name__}")
    if _is_deeper_than(MAX_CONFIG_DEPTH, value):
        raise IntegrityError(f"{path}: is nested deeper than {MAX_CONFIG_DEPTH} levels")
    return value


def _is_deeper_than(levels: int, value: Any) -> bool:
    """Return True if objects and lists are nested deeper than this."""
    layer = [value]
    for _ in range(levels + 1):
        inner = [item.values() if isinstance(item, Mapping) else item for item in layer]
        layer = [x for items in inner for x in items if isinstance(x, (Mapping, list))]
    return bool(layer)


def _refuse_special_files(folder: Path) -> None:
    """Check that a folder contains only regular files, folders and harmless links.

    Reading a pipe or a device might never end. A link may only lead to a file of the same name, to
    other weights, or to a file of the hub cache. Otherwise a chat template could be a link to a
    private file, which would become part of all training data.
    """
    blobs = folder.resolve().parent.parent / "blobs"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        target = Path(os.path.realpath(path))
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise IntegrityError(f"{path}: is a pipe, socket or device, not a regular file")
        allowed = target.parent == blobs or target.name == path.name
        allowed = allowed or target.suffix == path.suffix == ".safetensors"
        if path.is_symlink() and not allowed and not target.is_relative_to(folder.resolve()):
            raise IntegrityError(
                f"{path}: is a symbolic link to a file with another name: {target}",
                hint="replace the link with the file itself",
            )


def _walk(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield every key at any depth as its dotted name, the key itself, and its value."""
    pending: list[tuple[str, Any]] = [("", config)]
    while pending:
        prefix, value = pending.pop()
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield f"{prefix}{key}", key, item
                if key not in _FREE_KEYS:
                    pending.append((f"{prefix}{key}.", item))
        elif isinstance(value, list):
            pending += [(prefix, item) for item in value if isinstance(item, (Mapping, list))]


def _refusal(key: str, value: Any) -> str:
    """Return the reason to reject a key with this value; empty if it is harmless."""
    if key in _REFUSED_KEYS:
        return _REFUSED_KEYS[key] if value else ""
    if key in _ALLOWED_NAMES:
        return "" if _names(value) <= _ALLOWED_NAMES[key] else _KERNEL
    if key == "shadow_model":  # of a kind of adapter; "mirror" has the base model's architecture
        return "" if value == "mirror" else _OTHER_MODEL
    if key in _CLASS_KEYS and value is not None:
        plain = isinstance(value, str) and value.isidentifier()
        return "" if plain else _OWN_CODE
    if key in _QUANTIZATION_KEYS and value:
        method = value.get("quant_method", "bitsandbytes") if isinstance(value, Mapping) else value
        return "" if method == "bitsandbytes" else "the weights need another kernel or package"
    return ""


def _names(value: Any) -> set[str]:
    """Return the names in a key's value: one for the model, or one for each of its parts."""
    names = value.values() if isinstance(value, Mapping) else [value]
    return {name if isinstance(name, str) else repr(name) for name in names if name is not None}
