"""Check model folders without importing torch, so that planning stays quick.

This module reads names, sizes and JSON only. A folder that passes can still hold wrong numbers;
:func:`tunesmith_torch.models.loading.load_base` checks those.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Weight formats that can run code when they are read; they are never opened."""

_CONFIG_LIMITS = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    "max_position_embeddings": 1_000_000_000,
}
"""Upper bounds of config values. Larger ones are a mistake or an attack: allocating by them would
end the process.
"""


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return the folder's ``config.json``, after checking that its numbers are plausible.

    Raises:
        EnvironmentProblem: there is no such folder or file, or the model needs its own code.
        IntegrityError: the file is not JSON, or its numbers are implausible.
    """
    if not folder.is_dir():
        raise EnvironmentProblem(f"{folder}: no such folder")
    path = folder / "config.json"
    if not path.is_file():
        raise EnvironmentProblem(
            f"{folder}: no config.json, so this is not a model folder",
            hint="name the folder that holds config.json and the *.safetensors files",
        )
    config = _read_object(path)
    if config.get("auto_map"):
        raise EnvironmentProblem(
            f"{path}: the model needs its own Python code (auto_map), which is never run",
            hint="use a model whose architecture is part of transformers",
        )
    for key, limit in _CONFIG_LIMITS.items():
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
            raise IntegrityError(
                f"{path}: {key} must be an integer from 1 to {limit}, got {value!r:.40}"
            )
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the model, after checking that each is complete.

    Raises:
        EnvironmentProblem: there are none, or only pickled ones.
        IntegrityError: a file is missing or truncated, or the index points out of the folder.
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


def check_folder(folder: Path) -> Mapping[str, Any]:
    """Check all that names, sizes and JSON can show, and return the config.

    Raises:
        EnvironmentProblem: as for :func:`read_config` and :func:`weight_files`.
        IntegrityError: as for both.
    """
    config = read_config(folder)
    weight_files(folder)
    return config


def missing_weights(folder: Path) -> str:
    """Return why a folder has no weights at all; empty if it has some.

    Pickled weights, an index or half a file count as weights: :func:`check_folder` checks those.
    """
    for path in folder.iterdir():
        if path.suffix in (".safetensors", *PICKLED_SUFFIXES) or path.name.endswith(".index.json"):
            return ""
    return f"{folder}: only a config, no *.safetensors file"


def check_safetensors(file: Path) -> None:
    """Compare the file's size with its header, which finds interrupted downloads quickly.

    The format is eight bytes of header length, the header in JSON, then the tensors, whose
    ``data_offsets`` count from the header's end.

    Raises:
        IntegrityError: the file is missing or truncated, or its header cannot be read.
    """
    if not file.is_file():
        raise IntegrityError(f"{file}: named by the weight index, but missing")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8 or length > 100_000_000:
            raise _truncated_error(file, size)
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise IntegrityError(f"{file}: the safetensors header cannot be read") from None
    if 8 + length + max(ends, default=0) != size:
        raise _truncated_error(file, size)


def _weight_map(index: Path) -> dict[str, str]:
    mapping = _read_object(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise IntegrityError(f"{index}: no weight_map in the weight index")
    for name in mapping.values():
        if not isinstance(name, str) or PurePosixPath(name).name != name or "\\" in name:
            raise IntegrityError(
                f"{index}: a weight file must be a plain name in the same folder, got {name!r:.60}"
            )
        if not name.endswith(".safetensors"):
            raise EnvironmentProblem(
                f"{index}: only safetensors weights are read, got {name!r:.60}"
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
    return EnvironmentProblem(f"{folder}: no *.safetensors file", hint="is the download complete?")


def _truncated_error(file: Path, size: int) -> IntegrityError:
    return IntegrityError(
        f"{file}: not a complete safetensors file, got {size} bytes",
        hint="the copy or download was interrupted: fetch the file again",
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read as JSON, {error!s:.80}") from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: must hold a JSON object, got {type(value).__name__}")
    return value
