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
from tunesmith_torch.models.model_folder import (
    check_folder,
    refuse_empty_promise,
    weight_files,
)
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
]

_UNUSUAL_TEXT = "\u2603 \U0001f600\n"
"""A text of which most vocabularies lack something: not every tokenizer can encode that."""
MAX_TABLE_VALUES = 1 << 30
"""Values in buffers of a model, such as the masks of GPT-2, which no file holds."""

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
    _check_size(folder, build_on_meta(folder))
    try:
        with no_progress_bars(), _build_errors(f"{folder}: the model cannot be built, "):
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
    except IntegrityError as error:
        if isinstance(error.__cause__, KeyError) and error.__cause__.args == (attention,):
            # The architecture has a table of its own attentions (Falcon).
            return load_base(
                folder,
                device=device,
                dtype=dtype,
                quantization=quantization,
                tokenizer=tokenizer,
            )
        raise
    _check_tensor_names(folder, info)
    _check_finite(folder, model)
    _check_token_ids(folder, tokenizer, model.get_input_embeddings().num_embeddings)
    model.generation_config = _ids_only(folder, model.generation_config)
    return LoadedBase(model.eval(), tokenizer, model.config, folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the folder's tokenizer.

    Raises:
        EnvironmentProblem: there is none, or it needs its own code.
    """
    refuse_foreign_code(folder)
    check_tokenizer(folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        if not isinstance(tokenizer.model_max_length, (int, float)):
            raise TypeError(f"model_max_length is no number, {tokenizer.model_max_length!r:.40}")
        tokenizer.encode(_UNUSUAL_TEXT)
    # Any error: the library has none of its own for files that it does not understand.
    except Exception as error:
        raise EnvironmentProblem(
            f"{folder}: no usable tokenizer, {_one_line(error):.160}",
            hint="the folder needs tokenizer.json and tokenizer_config.json, and a config.json "
            "that transformers can read",
        ) from error
    return tokenizer


def load_config(folder: Path) -> PretrainedConfig:
    """Return the model's config without reading weights, for estimates.

    Raises:
        EnvironmentProblem: the installed transformers cannot build a language model of this type,
            or the folder has no safetensors weights.
        IntegrityError: a value is missing or wrong.
    """
    _check_model_type(check_folder(folder).get("model_type"), folder / "config.json")
    with _build_errors(f"{folder / 'config.json'}: "):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
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


def build_on_meta(folder: Path) -> PreTrainedModel:
    """Return the model on the meta device: its structure without weights.

    Raises:
        EnvironmentProblem, IntegrityError: see :func:`load_base`.
    """
    config = load_config(folder)
    with torch.device("meta"), _build_errors(f"{folder}: the model cannot be built, "):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config,
            attn_implementation="eager",  # never the config's, which may need a package
            trust_remote_code=False,
        )
    return model


@contextmanager
def _build_errors(prefix: str) -> Iterator[None]:
    """Raise an error of the library inside the block as an :class:`IntegrityError`.

    ``prefix`` begins its message. Any error: with a config that is wrong, the code of the
    architecture raises whatever the first wrong value leads to.
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


def _check_size(folder: Path, meta_model: PreTrainedModel) -> None:
    """Check that the files can hold the weights that the config promises.

    Raises:
        IntegrityError: they cannot.
    """
    stored = sum(file.stat().st_size for file in weight_files(folder))
    weights = sum(parameter.numel() for parameter in meta_model.parameters())
    refuse_empty_promise(f"{folder / 'config.json'}: the sizes promise", weights, stored)
    tables = sum(buffer.numel() for buffer in meta_model.buffers())
    if tables > MAX_TABLE_VALUES:
        raise IntegrityError(
            f"{folder / 'config.json'}: the sizes need tables of {tables:,} values, "
            f"at most {MAX_TABLE_VALUES:,} are allowed"
        )


def _check_token_ids(folder: Path, tokenizer: PreTrainedTokenizerBase, embeddings: int) -> None:
    largest = max(tokenizer.get_vocab().values(), default=0)
    if max(len(tokenizer), largest + 1) > embeddings:
        raise IntegrityError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the largest with id {largest}, "
            f"the model only {embeddings}"
        )


def _ids_only(folder: Path, config: GenerationConfig) -> GenerationConfig:
    """Return a config with the special ids of another one, and without its way to generate.

    Tools that generate would mix the rest, such as a billion beams, into their own config.
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
    """Keep only each layer's input in the forward pass, and recompute the rest in backward.

    Raises:
        EnvironmentProblem: transformers has not prepared the architecture for that.
    """
    if not model.supports_gradient_checkpointing:
        raise EnvironmentProblem(
            f"technique.gradient_checkpointing: {type(model).__name__} of transformers does not "
            "support it",
            hint="set it to false, or choose another base model",
        )
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
