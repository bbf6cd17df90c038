"""Convert a GGUF file to a model folder.

transformers dequantizes and maps the tensors. This module corrects four shortcomings of this
conversion:

- it does not notice that the tokenizers of some families split off digits first;
- the config that it returns still points to the GGUF file;
- it keeps only one of several tokens that end a turn;
- it refuses to save a dequantized model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunesmith.errors import EnvironmentProblem
from tunesmith_plugins.models.gguf.header import read_header
from tunesmith_torch.models.legacy_config_keys import write_legacy_config_keys
from tunesmith_torch.models.loading import no_progress_bars

MAX_FLOAT32_PARAMETERS = 1_000_000_000
"""Maximum number of parameters for which weights are kept in float32.

A dequantized value is ``scale * q + minimum`` with half-precision factors, which float32 holds
exactly. bfloat16 changes it by up to 0.4 %. Measured on SmolLM2-135M (4 bits), the next-token
distributions then have a KL divergence of 6e-5 nats on average, and of 1e-3 at most. Below a
billion parameters, exact values cost little; above, saving half of the disk space matters more.
"""

_SPLITS_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell"})
"""Values of ``tokenizer.ggml.pre`` for tokenizers like GPT-2's that split off digits first."""
_SPLITS_LIKE_GPT2 = frozenset({"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "exaone"})


def convert_gguf(path: Path, folder: Path) -> None:
    """Write ``config.json``, safetensors weights, tokenizer, template and generation config.

    Raises:
        EnvironmentProblem: the file's architecture or tokenizer is not supported.
    """
    header = read_header(path)
    with _alone(path) as file:
        tokenizer = _load_tokenizer(file, header)
        model = _load_model(file)
    config = model.config
    config._name_or_path = ""
    for leftover in ("quantization_config", "_model_name_or_path"):
        if leftover in config.__dict__:
            delattr(config, leftover)
    ends = sorted(_find_end_ids(header, tokenizer))
    generation = model.generation_config
    generation._from_model_config = False
    generation.eos_token_id = ends if len(ends) > 1 else ends[0] if ends else None
    generation.bos_token_id = tokenizer.bos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    save_file(_unique_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    write_legacy_config_keys(folder)
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Create a link to the file in an otherwise empty folder, and yield its path.

    transformers also reads config files next to a GGUF file, and an ``adapter_config.json`` there
    would make it load a different model.
    """
    with TemporaryDirectory(prefix="tunesmith-gguf-") as folder:
        link = Path(folder) / path.name
        link.symlink_to(path.resolve())
        yield link


def _unique_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the first of each set of tied tensors. Loading the model ties the others to it."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.contiguous()
    return tensors


def _load_tokenizer(path: Path, header: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, trust_remote_code=False, local_files_only=True
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise _unsupported(path, "tokenizer", error) from error
    backend = tokenizer.backend_tokenizer
    kind = header.get("tokenizer.ggml.pre")
    if kind in _SPLITS_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    elif (
        isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
        and kind not in _SPLITS_LIKE_GPT2
    ):
        raise EnvironmentProblem(
            f"{path.resolve()}: unsupported tokenizer with the pre-tokenizer `{kind}`",
            hint="use the model's original folder or its Hub id",
        )
    return tokenizer


def _load_model(path: Path) -> PreTrainedModel:
    try:
        # One progress bar ignores the setting, so stderr is redirected. Warnings still appear,
        # because their handler holds the original stream.
        with no_progress_bars(), redirect_stderr(StringIO()):
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
            )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise _unsupported(path, "model", error) from error
    if model.num_parameters() > MAX_FLOAT32_PARAMETERS:
        model = model.to(torch.bfloat16)
        model.config.dtype = torch.bfloat16
    return model


def _find_end_ids(header: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = {header.get(f"tokenizer.ggml.{key}") for key in keys} | {tokenizer.eos_token_id}
    return {int(i) for i in found if i is not None}


def _unsupported(path: Path, part: str, error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{path.resolve()}: the {part} in this GGUF file is not supported: {error!s:.160}",
        hint="use the model's original folder or its Hub id",
    )
