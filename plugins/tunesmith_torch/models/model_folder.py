"""Check model folders without importing torch, so that planning is fast.

This module only reads names, sizes and JSON. A folder that passes may still contain wrong numbers,
which :func:`tunesmith_torch.models.loading.load_base` checks.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.untrusted.foreign_code import read_json_object, refuse_foreign_code

__all__ = [
    "check_config_sizes",
    "check_model_folder",
    "check_safetensors",
    "explain_missing_weights",
    "find_weight_files",
    "read_config",
    "read_context_length",
]

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Weight formats that can run code when they are read, so they are never opened."""

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_INNER_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim")
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Config keys for the number of experts, in Mixtral, in Qwen, and in DeepSeek and GLM."""
_CONFIG_LIMITS = {
    **dict.fromkeys(_LAYERS, 1_000),
    **dict.fromkeys(_WIDTHS, 1_000_000),
    **dict.fromkeys(_INNER_WIDTHS, 10_000_000),
    "vocab_size": 10_000_000,
    "num_attention_heads": 10_000,
    "n_head": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    **dict.fromkeys(EXPERT_COUNTS, 10_000),
    "max_position_embeddings": 1_000_000_000,
    "n_positions": 10_000_000,
    "num_labels": 100_000,  # transformers allocates a table of this size
}
"""Upper bounds of config values.

Larger values are a mistake or an attack: building such a model would take hours or kill the
process.
"""

MAX_TENSORS = 250_000
"""Maximum number of tensors in a file; models with hundreds of experts per layer have 140,000."""
_BITS_OF_FORMAT = {
    **{f"{kind}{bits}": bits for kind in "FIU" for bits in (8, 16, 32, 64)},
    "BF16": 16,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
}
"""Bits per value for the dtypes of a safetensors file; rare dtypes are not checked."""

_QUANTIZED_FORMATS = ("U8", "I8", "U32", "I32")
"""Dtypes of quantized weights: bytes, or several weights packed into one integer, as in MLX."""

_MAX_VALUES_PER_BYTE = 16
"""Maximum weights in the config per byte of the weight files; 4-bit weights have two per byte."""


def read_context_length(config: Mapping[str, Any]) -> int | None:
    """Return the context length in a ``config.json``, or None if it has none.

    XLNet's is -1, which means no limit.
    """
    text = config.get("text_config")
    table = text if isinstance(text, Mapping) else config
    lengths = (table.get(name) for name in ("max_position_embeddings", "n_positions"))
    return next((n for n in lengths if isinstance(n, int) and n > 0), None)


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the folder's ``config.json``, after checking that its numbers are plausible.

    Raises:
        EnvironmentProblem: there is no such folder or file, or a file of the folder contains code
            or would make a library download some.
        IntegrityError: the file is not JSON, or its numbers are implausible.
    """
    if not folder.is_dir():
        raise EnvironmentProblem(f"{folder}: no such folder", hint="check the path of the folder")
    path = folder / "config.json"
    if not path.is_file():
        raise EnvironmentProblem(
            f"{folder}: no config.json, so this is not a model folder",
            hint="use the folder that contains config.json and the *.safetensors files",
        )
    refuse_foreign_code(folder)
    config = read_json_object(path)
    check_config_sizes(config, path)
    return config


def check_config_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Check that the sizes in a config are plausible; ``path`` is for error messages.

    Raises:
        IntegrityError: a size is implausible.
    """
    text = config.get("text_config")
    parts = {"": config, "text_config.": text if isinstance(text, Mapping) else {}}
    for prefix, part in parts.items():
        for key, limit in _CONFIG_LIMITS.items():
            value = part.get(key)
            if value is None:
                continue
            least = 0 if key in EXPERT_COUNTS else 1
            # A list has one value for each layer.
            for number in value if isinstance(value, list) else [value]:
                if type(number) is not int or not least <= number <= limit:
                    raise IntegrityError(
                        f"{path}: {prefix}{key} must be an integer from {least} to {limit}, "
                        f"got {value!r:.40}"
                    )


def _check_promised_weights(config: Mapping[str, Any], files: list[Path], path: Path) -> None:
    """Compare the sizes in a config with those of the files, before memory is allocated for them.

    transformers fills in tensors that the files lack. A large config with a small file would use up
    the memory before anyone notices. Only sizes that all architectures have are compared here;
    :func:`tunesmith_torch.models.loading.load_base` compares all sizes.
    """
    text = config.get("text_config")
    sizes = text if isinstance(text, Mapping) else config

    def size(*names: str) -> int:
        value = next((sizes[name] for name in names if sizes.get(name)), 0)
        return max(value) if isinstance(value, list) else int(value)

    promised = {
        "vocab_size": size("vocab_size") * size(*_WIDTHS),
        "num_hidden_layers": size(*_LAYERS) * size(*_WIDTHS) * size(*_INNER_WIDTHS),
    }
    stored = sum(file.stat().st_size for file in files)
    for key, values in promised.items():
        refuse_empty_promise(f"{path}: {key} and the widths require", values, stored)


def _check_promised_format(config: Mapping[str, Any], files: Sequence[Path], path: Path) -> None:
    """Check that a config with quantization belongs to weights that are stored as integers.

    Raises:
        IntegrityError: the config describes quantized weights, but no weight is an integer.
    """
    if not config.get("quantization_config"):
        return
    for file in files:
        with file.open("rb") as stream:
            header = stream.read(struct.unpack("<Q", stream.read(8))[0])
        if any(f'"{name}"'.encode() in header for name in _QUANTIZED_FORMATS):
            return
    raise IntegrityError(
        f"{path}: has a quantization_config, but none of the weights is quantized",
        hint="remove the key from the file; the `qlora` technique quantizes a base model itself",
    )


def refuse_empty_promise(promise: str, values: int, stored: int) -> None:
    """Check that files with ``stored`` bytes can contain a number of weights.

    Raises:
        IntegrityError: they cannot; ``promise`` is the start of the message.
    """
    if values > _MAX_VALUES_PER_BYTE * stored:
        raise IntegrityError(
            f"{promise} {values:,} weights or more, but the files have only {stored:,} bytes",
            hint="config.json and the weights belong to different models",
        )


def find_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the model, after checking that each is complete.

    Raises:
        EnvironmentProblem: the folder has no weights, or only pickled ones.
        IntegrityError: a file is missing or truncated, or the index points outside the folder.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
    else:
        names = [path.name for path in sorted(folder.glob("*.safetensors"))]
        if (folder / "model.safetensors").is_file():
            names = ["model.safetensors"]
    if not names:
        raise _no_weights_error(folder)
    files = [folder / name for name in names]
    for file in files:
        check_safetensors(file)
    return files


def check_model_folder(folder: Path) -> Mapping[str, Any]:
    """Check the names, sizes and JSON of a model folder, and return its config.

    Raises:
        EnvironmentProblem: see :func:`read_config` and :func:`find_weight_files`.
        IntegrityError: see both functions.
    """
    config = read_config(folder)
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise EnvironmentProblem(
            f"{adapter}: the folder contains a model and an adapter, and transformers would "
            "silently add the adapter to the model",
            hint="move the adapter's files to a separate folder, and set `from` to it",
        )
    files = find_weight_files(folder)
    _check_promised_weights(config, files, folder / "config.json")
    _check_promised_format(config, files, folder / "config.json")
    return config


def explain_missing_weights(folder: Path) -> str:
    """Return an error message if a folder has no weights at all, otherwise "".

    Pickled weights, an index or half a file count as weights; :func:`check_model_folder` checks
    them.
    """
    for path in folder.iterdir():
        if path.suffix in (".safetensors", *PICKLED_SUFFIXES) or path.name.endswith(".index.json"):
            return ""
    return f"{folder}: has a config, but no *.safetensors files"


def check_safetensors(file: Path) -> list[list[int]]:
    """Compare the file's size with its header, and return the shapes of its tensors.

    This detects interrupted downloads quickly. The file has eight bytes with the length of the
    header, the header in JSON, then the tensors. Their ``data_offsets`` count from the end of the
    header.

    Raises:
        IntegrityError: the file is missing or truncated, or its header is inconsistent.
    """
    if not _is_file(file):
        raise IntegrityError(
            f"{file}: the weight index lists this file, but it is missing",
            hint="download the model again",
        )
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8 or length > 100_000_000:
            raise _truncated_error(file, size)
        try:
            header = json.loads(stream.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            spans = sorted(_span(entry) for entry in tensors)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise IntegrityError(
                f"{file}: the safetensors header cannot be read", hint="download the file again"
            ) from None
    if 8 + length + max((end for _, end in spans), default=0) != size:
        raise _truncated_error(file, size)
    if any(end != start for (_, end), (start, _) in pairwise([(0, 0), *spans])):
        raise IntegrityError(
            f"{file}: the tensors overlap, or there are gaps between them",
            hint="download the file again",
        )
    if len(spans) > MAX_TENSORS:
        what = f"the file has {len(spans)} tensors, but at most {MAX_TENSORS} are allowed"
        raise IntegrityError(f"{file}: {what}")
    return [entry["shape"] for entry in tensors]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the file name is too long
        return False


def _span(entry: Mapping[str, Any]) -> tuple[int, int]:
    """Return where the bytes of a tensor start and end, counted from the end of the header.

    Raises:
        ValueError: the number of bytes does not match the tensor's shape and dtype.
    """
    start, end = entry["data_offsets"]
    numbers = [start, end, *entry["shape"]]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("not a valid size")
    bits = _BITS_OF_FORMAT.get(entry["dtype"])
    if bits is not None and (end - start) * 8 != math.prod(entry["shape"]) * bits:
        raise ValueError("the size does not match shape and format")
    return start, end


def _weight_map(index: Path) -> dict[str, str]:
    mapping = read_json_object(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise IntegrityError(f"{index}: no weight_map in the weight index")
    for name in mapping.values():
        if not isinstance(name, str) or PurePosixPath(name).name != name or "\\" in name:
            raise IntegrityError(
                f"{index}: a weight file must be a plain name in the same folder, got {name!r:.60}"
            )
        if not name.endswith(".safetensors"):
            raise EnvironmentProblem(
                f"{index}: only safetensors weights are read, got {name!r:.60}",
                hint="use a revision of the model that has safetensors weights",
            )
    return mapping


def _no_weights_error(folder: Path) -> EnvironmentProblem:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED_SUFFIXES)
    if pickled:
        return EnvironmentProblem(
            f"{folder}: only pickled weights, which can run code when read, got {pickled[0]}",
            hint="convert them to safetensors on an isolated machine, "
            "or use a revision of the model that has model.safetensors",
        )
    return EnvironmentProblem(
        f"{folder}: no *.safetensors files", hint="check that the download is complete"
    )


def _truncated_error(file: Path, size: int) -> IntegrityError:
    return IntegrityError(
        f"{file}: not a complete safetensors file, got {size} bytes",
        hint="the copy or download was interrupted: fetch the file again",
    )
