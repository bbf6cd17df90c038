"""Load base models from folders, and refuse folders that are incomplete or inconsistent.

transformers fills tensors that a file lacks with random numbers and logs one line. A model that is
partly random still trains, only badly, so here a missing tensor is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.models.foreign_code import (
    FLASH_ATTENTION,
    named_attention,
    refuse_foreign_code,
)
from tunesmith_torch.models.model_folder import check_folder

UNLIMITED_CONTEXT = 2**30
"""Context length of a model that sets no limit."""


@dataclass(frozen=True)
class LoadedBase:
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
) -> LoadedBase:
    """Read a model folder. Nothing is downloaded, and no code from the folder is run.

    ``attention`` is the name of an attention implementation that transformers knows. With ``sdpa``,
    the few architectures that do not support it (Gemma 2 caps its scores) get ``eager``. For
    quantized weights, see :func:`tunesmith_torch.models.quantization.load_quantized`. ``tokenizer``
    is the folder's, if it has been loaded before.

    Raises:
        EnvironmentProblem: no such folder, no safetensors weights, or the model needs its own code.
        IntegrityError: a file is truncated, a tensor is missing, unexpected, of another shape, or
            not finite.
    """
    named = named_attention(check_folder(folder))
    # Without the argument transformers follows the config, or chooses what the architecture has.
    # It prefers the name in the file to the argument, unless both are given.
    follow_config = attention == "sdpa" and not named & FLASH_ATTENTION
    config = _config_for_training(folder, None if follow_config else attention)
    options = {} if follow_config else {"attn_implementation": attention}
    tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
    try:
        with no_progress_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                device_map={"": device},
                config=config,
                **options,
                quantization_config=quantization,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # _check_tensor_names reports all of them together
                output_loading_info=True,
            )
    except (SafetensorError, ValueError, RuntimeError, LookupError, AssertionError) as error:
        if isinstance(error, KeyError) and error.args == (attention,):
            # The architecture has a table of its own attentions (Falcon).
            return load_base(
                folder,
                device=device,
                dtype=dtype,
                quantization=quantization,
                tokenizer=tokenizer,
            )
        raise IntegrityError(f"{folder}: the model cannot be built, {error!s:.200}") from error
    _check_tensor_names(folder, info)
    _check_finite(folder, model)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise IntegrityError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, "
            f"the model only {model.get_input_embeddings().num_embeddings}"
        )
    return LoadedBase(model.eval(), tokenizer, model.config, folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the folder's tokenizer.

    Raises:
        EnvironmentProblem: there is none, or it needs its own code.
    """
    refuse_foreign_code(folder)
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
    """Return the model's config without reading weights, for estimates.

    Raises:
        EnvironmentProblem: the installed transformers cannot build a language model of this type.
        IntegrityError: a value is missing or wrong.
    """
    _check_model_type(check_folder(folder).get("model_type"), folder / "config.json")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (StrictDataclassError, AttributeError, LookupError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise IntegrityError(
            f"{folder / 'config.json'}: {text:.200}", hint="correct it, or copy the model again"
        ) from error
    return config


def _check_model_type(name: object, path: Path) -> None:
    """Check that transformers has a language model of the type that a config names.

    Raises:
        EnvironmentProblem: it has none.
    """
    installed = f"transformers {transformers.__version__}"
    if not isinstance(name, str) or name not in CONFIG_MAPPING:
        raise EnvironmentProblem(
            f"{path}: model_type is {name!r:.60}, which {installed} does not know",
            hint="if the model is newer, `pip install --upgrade transformers`; if it needs code of "
            "its own, choose a model that transformers has",
        )
    if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise EnvironmentProblem(
            f"{path}: {installed} has no model of type `{name}` that generates text from left to "
            "right",
            hint="choose a causal language model",
        )


_PLAIN_OUTPUTS = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "output_router_logits": False,
}
"""Keys of a config that change what a forward pass returns. Nothing here reads more than hidden
states and logits, and router logits are compared with a mask that generation does not pass.
"""


def _config_for_training(folder: Path, attention: str | None) -> PretrainedConfig:
    """Return the model's config, with this attention in place of the one that it names."""
    config = load_config(folder)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for key, value in _PLAIN_OUTPUTS.items():
            if getattr(part, key, value) != value:
                setattr(part, key, value)
    if attention is not None:
        config._attn_implementation = attention
    return config


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Keep only each layer's input in the forward pass, and recompute the rest in backward."""
    # transformers 6 renames gradient_checkpointing_enable.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


@contextmanager
def ignore_deprecation(name: str = "is_gradient_checkpointing") -> Iterator[None]:
    """Suppress transformers' warning, inside the block, that PEFT or TRL uses a deprecated name.

    ``name`` is a regular expression.
    """
    with warnings.catch_warnings():
        message = f"`{name}` is deprecated"
        warnings.filterwarnings("ignore", message, FutureWarning)
        yield


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disable transformers' progress bars inside the ``with`` block."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _check_tensor_names(folder: Path, info: Mapping[str, Any]) -> None:
    """Check that every tensor of the model came from the files, and every tensor of the files was
    used.
    """
    problems: list[tuple[str, Iterable[str]]] = [
        ("missing from the files", info["missing_keys"]),
        ("in the files but not in the model", info["unexpected_keys"]),
        ("of another shape than the config says", [name for name, *_ in info["mismatched_keys"]]),
    ]
    for description, names in problems:
        found = sorted(names)
        if found:
            raise IntegrityError(
                f"{folder}: {len(found)} tensors are {description}, the first is {found[0]}",
                hint="config.json and the weights are not of the same model, or a file is missing",
            )
    if info.get("error_msgs"):
        raise IntegrityError(f"{folder}: {info['error_msgs'][0]!s:.200}")


def _check_finite(folder: Path, model: PreTrainedModel) -> None:
    """Check in one pass that all weights are finite.

    The sum of a tensor is finite unless one of its values is not. A sum in float32 can overflow for
    absurdly large weights only; then the slow, exact check decides.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.sum(dtype=torch.float32).isfinite() and not parameter.isfinite().all():
                raise IntegrityError(f"{folder}: {name} holds values that are not finite")


def context_length(base: LoadedBase) -> int:
    """Return the largest number of tokens that the model supports."""
    return config_context_length(base.config)


def config_context_length(config: PretrainedConfig) -> int:
    """Return the largest number of tokens that a model with this config supports.

    Recurrent models set no limit, and their configs have none; that of XLNet is -1.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return UNLIMITED_CONTEXT if limit is None or limit < 1 else int(limit)
