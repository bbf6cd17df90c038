"""Base models, read from a folder and refused when anything about them is not as it says.

transformers fills tensors that a file lacks with random numbers and goes on with a log line.
A model that is partly noise still trains, only badly, so here that is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.models.model_folder import check_folder


@dataclass(frozen=True)
class Base:
    """A pre-trained model with its tokenizer, in eval mode, on its device."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    folder: Path


def load_base(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: str = "sdpa",
    quantization: BitsAndBytesConfig | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Base:
    """Read a model folder. Nothing is downloaded, asked, or run.

    ``attention`` is a name that transformers knows. With ``sdpa``, the few architectures that
    cannot use it (Gemma 2 caps its scores) get ``eager``. For quantised weights, see
    :func:`tunesmith_torch.models.quantization.load_quantized`. ``tokenizer`` is the folder's, where it has
    been read already.

    Raises:
        EnvironmentProblem: no such folder, no safetensors weights, or the model brings code.
        IntegrityError: a file is cut short, a tensor is missing, left over, of another shape, or
            holds values that are not finite.
    """
    check_folder(folder)
    tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
    try:
        with no_progress_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                device_map={"": device},
                attn_implementation=None if attention == "sdpa" else attention,
                quantization_config=quantization,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # collected below, all of them, in our words
                output_loading_info=True,
            )
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise IntegrityError(f"{folder}: the model cannot be built, {error!s:.200}") from error
    _refuse_holes(folder, info)
    _refuse_not_finite(folder, model)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise IntegrityError(
            f"{folder}: the tokenizer knows {len(tokenizer)} tokens, "
            f"the model only {model.get_input_embeddings().num_embeddings}"
        )
    return Base(model.eval(), tokenizer, model.config, folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; refused where it would bring code of its own."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentProblem(
            f"{folder}: no usable tokenizer, {error!s:.160}",
            hint="the folder needs tokenizer.json and tokenizer_config.json",
        ) from error
    return tokenizer


def load_config(folder: Path) -> PretrainedConfig:
    """The config alone, for estimates: no weights are read."""
    check_folder(folder)
    config: PretrainedConfig = AutoConfig.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    return config


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep each layer's input only, and compute the rest again in backward."""
    # The name that went before goes with transformers 6.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


@contextmanager
def old_name_is_known(name: str = "is_gradient_checkpointing") -> Iterator[None]:
    """Inside, transformers does not warn that peft, or TRL, uses a name (a regex) that will go."""
    with warnings.catch_warnings():
        known = f"`{name}` is deprecated"
        warnings.filterwarnings("ignore", known, FutureWarning)
        yield


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Inside, transformers draws no bars of its own; afterwards all is as it was."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _refuse_holes(folder: Path, info: Mapping[str, Any]) -> None:
    """Every tensor of the model came from the files, and every tensor of the files was used."""
    faults: list[tuple[str, Iterable[str]]] = [
        ("missing from the files", info["missing_keys"]),
        ("in the files but not in the model", info["unexpected_keys"]),
        ("of another shape than the config says", [name for name, *_ in info["mismatched_keys"]]),
    ]
    for what, names in faults:
        found = sorted(names)
        if found:
            raise IntegrityError(
                f"{folder}: {len(found)} tensors are {what}, the first is {found[0]}",
                hint="config.json and the weights are not of the same model, or a file is missing",
            )
    if info.get("error_msgs"):
        raise IntegrityError(f"{folder}: {info['error_msgs'][0]!s:.200}")


def _refuse_not_finite(folder: Path, model: PreTrainedModel) -> None:
    """One pass over the weights: the sum of a tensor is finite unless one of its values is not.

    Summing in float32 cannot overflow by itself for weights of any sane size, and where it does
    the slow and exact check decides.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.sum(dtype=torch.float32).isfinite() and not parameter.isfinite().all():
                raise IntegrityError(f"{folder}: {name} holds values that are not finite")


def context_of(base: Base) -> int:
    """The most tokens that the model was made for."""
    return context_of_config(base.config)


def context_of_config(config: PretrainedConfig) -> int:
    return int(config.get_text_config().max_position_embeddings)
