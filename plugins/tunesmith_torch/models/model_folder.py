"""What a model folder must look like, checked without torch so that planning stays quick.

Everything here reads names, sizes and JSON only. A folder that passes can still hold wrong
numbers; :func:`tunesmith_torch.models.loading.load_base` checks those.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Weight formats that can run code when they are read; they are never opened."""

_LIMITS = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    "max_position_embeddings": 1_000_000_000,
}
"""Numbers beyond which a config is a mistake or an attack: allocating by them ends the process."""


def read_config(folder: Path) -> Mapping[str, Any]:
    """The folder's ``config.json``, with numbers that make sense and no code of its own.

    Raises:
        EnvironmentProblem: there is no such folder or file, or the model wants to run its code.
        IntegrityError: the file is not JSON, or its numbers are absurd.
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
            f"{path}: the model wants to run code of its own (auto_map), which is never done",
            hint="use a model whose architecture transformers knows by itself",
        )
    for key, limit in _LIMITS.items():
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
            raise IntegrityError(
                f"{path}: {key} must be a whole number from 1 to {limit}, got {value!r:.40}"
            )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, each complete.

    Raises:
        EnvironmentProblem: there are none, or only pickled ones.
        IntegrityError: a file is missing or cut short, or the index points out of the folder.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
    else:
        names = [path.name for path in sorted(folder.glob("*.safetensors"))]
        if (folder / "model.safetensors").is_file():
            names = ["model.safetensors"]
    if not names:
        raise _no_weights(folder)
    files = [folder / name for name in names]
    for file in files:
        check_safetensors(file)
    return files


def check_folder(folder: Path) -> Mapping[str, Any]:
    """Everything that names, sizes and JSON can tell. Gives back the config."""
    config = read_config(folder)
    weight_files(folder)
    return config


def lacking_weights(folder: Path) -> str:
    """What keeps a folder with nothing but a config from being run; empty where weights are.

    Pickled weights, an index or half a file count as weights: :func:`check_folder` judges them.
    """
    for path in folder.iterdir():
        if path.suffix in (".safetensors", *PICKLED) or path.name.endswith(".index.json"):
            return ""
    return f"{folder}: no *.safetensors file, the config alone"


def check_safetensors(file: Path) -> None:
    """Hold the file's size against its header: a download that broke off is found in no time.

    The format is eight bytes of header length, the header in JSON, then the tensors, whose
    ``data_offsets`` count from the header's end.
    """
    if not file.is_file():
        raise IntegrityError(f"{file}: named by the weight index, but missing")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8 or length > 100_000_000:
            raise _cut_short(file, size)
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise IntegrityError(f"{file}: the safetensors header cannot be read") from None
    if 8 + length + max(ends, default=0) != size:
        raise _cut_short(file, size)


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


def _no_weights(folder: Path) -> EnvironmentProblem:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        return EnvironmentProblem(
            f"{folder}: only pickled weights, which can run code when read, got {pickled[0]}",
            hint="convert them to safetensors on a machine that you can afford to lose, "
            "or take a revision of the model that has model.safetensors",
        )
    return EnvironmentProblem(f"{folder}: no *.safetensors file", hint="is the download complete?")


def _cut_short(file: Path, size: int) -> IntegrityError:
    return IntegrityError(
        f"{file}: not a complete safetensors file, got {size} bytes",
        hint="the copy or download broke off: fetch the file again",
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read as JSON, {error!s:.80}") from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: must hold a JSON object, got {type(value).__name__}")
    return value
