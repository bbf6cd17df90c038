"""Load base models from folders, and reject folders that are incomplete or inconsistent.

transformers fills missing tensors with random numbers and only logs a line. A partly random model
still trains, only badly, so here a missing tensor is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithError
from tunesmith.text import format_count
from tunesmith_torch.models.model_folder import (
    check_model_folder,
    find_weight_files,
    refuse_empty_promise,
)
from tunesmith_torch.runtime.device import Precision, pick_precision
from tunesmith_torch.untrusted.foreign_code import (
    FLASH_ATTENTION,
    named_attention,
    refuse_foreign_code,
)
from tunesmith_torch.untrusted.tokenizer_limits import check_tokenizer

__all__ = [
    "LoadedBase",
    "config_context_length",
    "ignore_deprecation",
    "load_base",
    "load_config",
    "load_tokenizer",
    "no_progress_bars",
    "pick_model_precision",
]

_UNUSUAL_TEXT = "\u2603 \U0001f600\n"
"""A test text that some tokenizers cannot encode, because most vocabularies lack its characters."""
MAX_TABLE_VALUES = 1 << 30
"""Maximum number of values in a model's buffers, such as GPT-2's masks, which no file contains."""

UNLIMITED_CONTEXT = 2**30
"""Context length of a model without a limit."""


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
    """Read a model folder without downloading anything or running code from the folder.

    ``attention`` names an attention implementation that transformers knows. With ``sdpa``, the few
    architectures that do not support it (Gemma 2 caps its scores) get ``eager``. For quantized
    weights, see :func:`tunesmith_torch.models.quantization.load_quantized`. ``tokenizer`` is the
    folder's tokenizer, if already loaded.

    Raises:
        EnvironmentProblem: there is no such folder, it has no safetensors weights, or the model
            needs its own code.
        IntegrityError: a file is truncated, or a tensor is missing, unexpected, not finite or has
            the wrong shape.
    """
    named = named_attention(check_model_folder(folder))
    # Without the argument, transformers follows the config or picks what the architecture supports.
    # With the argument alone, the name in the config would win, so both are set.
    follow_config = attention == "sdpa" and not named & FLASH_ATTENTION
    config = _config_for_training(folder, None if follow_config else attention)
    options = {} if follow_config else {"attn_implementation": attention}
    tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
    check_size(folder, build_on_meta(folder))
    try:
        with no_progress_bars(), build_errors(f"{folder}: the model cannot be built: "):
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
                ignore_mismatched_sizes=True,  # check_tensor_names reports them all at once
                output_loading_info=True,
            )
    except IntegrityError as error:
        if isinstance(error.__cause__, KeyError) and error.__cause__.args == (attention,):
            # The architecture has its own table of attentions, which lacks this one (Falcon).
            return load_base(
                folder,
                device=device,
                dtype=dtype,
                quantization=quantization,
                tokenizer=tokenizer,
            )
        raise
    check_tensor_names(folder, info)
    check_finite(folder, model)
    check_token_ids(folder, tokenizer, model.get_input_embeddings().num_embeddings)
    model.generation_config = _ids_only(folder, model.generation_config)
    return LoadedBase(model.eval(), tokenizer, model.config, folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the folder's tokenizer.

    Raises:
        EnvironmentProblem: the folder has no usable tokenizer, or it needs its own code.
    """
    refuse_foreign_code(folder)
    check_tokenizer(folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        if not isinstance(tokenizer.model_max_length, (int, float)):
            found = f"{tokenizer.model_max_length!r:.40}"
            raise TypeError(f"model_max_length must be a number, got {found}")
        tokenizer.encode(_UNUSUAL_TEXT)
    # All exceptions, because the library may raise any kind for files that it does not understand.
    except Exception as error:
        raise EnvironmentProblem(
            f"{folder}: no usable tokenizer: {_one_line(error):.160}",
            hint="the folder needs tokenizer.json and tokenizer_config.json, and a config.json "
            "that transformers can read",
        ) from error
    return tokenizer


def load_config(folder: Path) -> PretrainedConfig:
    """Return the model's config without reading the weights.

    Raises:
        EnvironmentProblem: the installed transformers cannot build a language model of this type,
            or the folder has no safetensors weights.
        IntegrityError: a value is missing or wrong.
    """
    _check_model_type(check_model_folder(folder).get("model_type"), folder / "config.json")
    with build_errors(f"{folder / 'config.json'}: "):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return config


def read_hidden_size(folder: Path) -> int | None:
    """Return the width of the model's hidden states, without reading the weights.

    The result is None if the config does not state it.
    """
    size: int | None = getattr(load_config(folder).get_text_config(), "hidden_size", None)
    return size


def pick_model_precision(
    folder: Path, device: torch.device, precision: Literal["auto", "bf16", "fp32"] = "auto"
) -> Precision:
    """Return the precision for the model in a folder: the requested one, or ``auto``'s choice."""
    return pick_precision(device, precision, hidden_size=read_hidden_size(folder))


def _check_model_type(name: object, path: Path) -> None:
    """Check that transformers has a language model of the config's type.

    Raises:
        EnvironmentProblem: transformers has no such language model.
    """
    installed = f"transformers {transformers.__version__}"
    if not isinstance(name, str) or name not in CONFIG_MAPPING:
        raise EnvironmentProblem(
            f"{path}: model_type is {name!r:.60}, which {installed} does not know",
            hint="if the model is newer, run `pip install --upgrade transformers`; if it needs its "
            "own code, choose a model that transformers supports",
        )
    if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise EnvironmentProblem(
            f"{path}: {installed} has no causal language model of type `{name}`",
            hint="choose a model that generates text, such as Qwen or Llama",
        )


def build_on_meta(folder: Path) -> PreTrainedModel:
    """Return the model on the meta device, which has its structure but no weights.

    Raises:
        EnvironmentProblem, IntegrityError: see :func:`load_base`.
    """
    config = load_config(folder)
    with torch.device("meta"), build_errors(f"{folder}: the model cannot be built: "):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config,
            attn_implementation="eager",  # the config's may need another package
            trust_remote_code=False,
        )
    return model


@contextmanager
def build_errors(prefix: str) -> Iterator[None]:
    """Convert any exception raised in the block to an :class:`IntegrityError`.

    Only tunesmith's own errors are kept. The message starts with ``prefix``. Every type is caught,
    because a model's code may raise any exception for an invalid config value.
    """
    try:
        yield
    except TunesmithError:
        raise
    except Exception as error:
        raise IntegrityError(
            f"{prefix}{_one_line(error):.200}",
            hint="check config.json and the weights: fetch the folder again, "
            "or use another revision of the model",
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_size(folder: Path, meta_model: PreTrainedModel) -> None:
    """Check that the weight files are large enough for the model that the config describes.

    Raises:
        IntegrityError: they are too small, or the config needs implausibly large tables.
    """
    stored = sum(file.stat().st_size for file in find_weight_files(folder))
    weights = sum(parameter.numel() for parameter in meta_model.parameters())
    refuse_empty_promise(f"{folder / 'config.json'}: its sizes require", weights, stored)
    tables = sum(buffer.numel() for buffer in meta_model.buffers())
    if tables > MAX_TABLE_VALUES:
        raise IntegrityError(
            f"{folder / 'config.json'}: its sizes require tables of {tables:,} values, but at most "
            f"{MAX_TABLE_VALUES:,} are allowed",
            hint="use another model, or correct the sizes",
        )


def check_token_ids(folder: Path, tokenizer: PreTrainedTokenizerBase, embeddings: int) -> None:
    """Check that the model has an embedding for each token of the tokenizer.

    Raises:
        IntegrityError: the model has too few embeddings.
    """
    largest = max(tokenizer.get_vocab().values(), default=0)
    if max(len(tokenizer), largest + 1) > embeddings:
        raise IntegrityError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens with ids up to {largest}, but "
            f"the model has only {embeddings} embeddings",
            hint="use the tokenizer that was published with the model",
        )


def _ids_only(folder: Path, config: GenerationConfig) -> GenerationConfig:
    """Return a generation config that keeps only the special token ids.

    Tools that generate would mix the other settings, such as a billion beams, into their own.
    """
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(config, name) for name in names}
    for name, value in ids.items():
        for number in value if isinstance(value, list) else [value]:
            if number is not None and type(number) is not int:
                raise IntegrityError(
                    f"{folder / 'generation_config.json'}: {name} must be an integer or a list of "
                    f"integers, got {value!r:.40}"
                )
    return GenerationConfig(**ids)


_PLAIN_OUTPUTS = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "output_router_logits": False,
}
"""Keys of a config that change what a forward pass returns.

This toolkit reads only hidden states and logits. Models also combine router logits with a mask that
generation does not pass.
"""


def _config_for_training(folder: Path, attention: str | None) -> PretrainedConfig:
    """Return the model's config with plain outputs, and with this attention unless it is None."""
    config = load_config(folder)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for key, value in _PLAIN_OUTPUTS.items():
            if getattr(part, key, value) != value:
                setattr(part, key, value)
    if attention is not None:
        config._attn_implementation = attention
    return config


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Keep only each layer's input in the forward pass, and recompute the rest in backward.

    Raises:
        EnvironmentProblem: transformers does not support this for the architecture.
    """
    if not model.supports_gradient_checkpointing:
        raise EnvironmentProblem(
            f"technique.gradient_checkpointing: transformers does not support it for "
            f"{type(model).__name__}",
            hint="set it to false, or choose another base model",
        )
    # transformers 6 renames gradient_checkpointing_enable.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


@contextmanager
def ignore_deprecation(name: str = "is_gradient_checkpointing") -> Iterator[None]:
    """Suppress warnings inside the block that PEFT or TRL uses a deprecated transformers name.

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


def check_tensor_names(folder: Path, info: Mapping[str, Any]) -> None:
    """Check that the files contain exactly the tensors of the model, with the same shapes."""
    mismatched = [name for name, *_ in info["mismatched_keys"]]
    problems: list[tuple[str, Iterable[str]]] = [
        ("missing from the files", info["missing_keys"]),
        ("in the files but not in the model", info["unexpected_keys"]),
        ("of a different shape than config.json describes", mismatched),
    ]
    for description, names in problems:
        found = sorted(names)
        if found:
            raise IntegrityError(
                f"{folder}: {format_count(len(found), 'tensor')} {description}; the first is "
                f"{found[0]}",
                hint="config.json and the weights belong to different models, or a file is missing",
            )
    if info.get("error_msgs"):
        raise IntegrityError(f"{folder}: {info['error_msgs'][0]!s:.200}")


def check_finite(folder: Path, model: PreTrainedModel) -> None:
    """Check in one pass that all weights are finite.

    A tensor with a non-finite value has a non-finite sum. A float32 sum of finite values only
    overflows for absurdly large weights, and then the slow, exact check decides.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.sum(dtype=torch.float32).isfinite() and not parameter.isfinite().all():
                raise IntegrityError(
                    f"{folder}: {name} contains values that are not finite",
                    hint="download the model again, or use another model",
                )


def context_length(base: LoadedBase) -> int:
    """Return the maximum number of tokens that the model supports."""
    return config_context_length(base.config)


def config_context_length(config: PretrainedConfig) -> int:
    """Return the maximum number of tokens that a model with this config supports.

    Recurrent models have no limit. Their configs do not contain one, and XLNet's contains -1.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return UNLIMITED_CONTEXT if limit is None or limit < 1 else int(limit)
