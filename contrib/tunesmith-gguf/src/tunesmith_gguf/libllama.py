"""Call llama.cpp's library to quantize files, read vocabularies and compute log-probabilities.

Shapes: N scored positions, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.export.logits import normalize_logits

F32, F16 = 0, 1
"""Data types of cached keys and values."""


_ERROR = 4
"""Level of errors in llama.cpp's log."""
_ERRORS = 3
"""Number of error lines to keep."""


class Library(NamedTuple):
    """llama.cpp's functions with the foreign-function interface, and a silent log callback."""

    functions: Any
    ffi: Any
    log: Any
    errors: list[str]
    """Last lines that were logged as errors."""


@cache
def load_library() -> Library:
    """Load the library, and silence its output."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    functions, ffi = get_lib(), get_ffi()
    errors = list[str]()

    def keep(level: int, text: Any, data: Any) -> None:
        if level == _ERROR:
            errors.append(ffi.string(text).decode("utf-8", "replace").strip())
            del errors[:-_ERRORS]

    log = ffi.callback("ggml_log_callback", keep)
    functions.llama_log_set(log, ffi.NULL)
    functions.llama_backend_init()
    return Library(functions, ffi, log, errors)


def quantize(source: Path, target: Path, format_name: str) -> None:
    """Write a GGUF file with quantized weights.

    Raises:
        EnvironmentProblem: llama.cpp cannot quantize the file.
    """
    lib, *_ = load_library()
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{format_name.upper()}")
    parameters.nthread = count_threads()
    with_pointer = load_library().ffi.new("llama_model_quantize_params *", parameters)
    if lib.llama_model_quantize(bytes(source), bytes(target), with_pointer) != 0:
        raise EnvironmentProblem(
            f"gguf: llama.cpp cannot quantize {source.name} to {format_name}",
            hint="choose another format with --quantize",
        )


def count_threads() -> int:
    """Return the number of threads to use: ``OMP_NUM_THREADS``, or all cores."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and int(named) > 0 else os.cpu_count() or 1


def list_end_ids(file: Path) -> frozenset[int]:
    """Return the ids of all tokens that end an answer in llama.cpp."""
    lib, *_ = load_library()
    with load_model(file, vocab_only=True) as model:
        vocabulary = lib.llama_model_get_vocab(model)
        size = lib.llama_vocab_n_tokens(vocabulary)
        return frozenset(i for i in range(size) if lib.llama_vocab_is_eog(vocabulary, i))


def adds_bos(file: Path) -> bool:
    """Return True if the file's tokenizer adds a BOS token in front of a prompt."""
    lib, *_ = load_library()
    with load_model(file, vocab_only=True) as model:
        return bool(lib.llama_vocab_get_add_bos(lib.llama_model_get_vocab(model)))


def has_chat_template(model: Any) -> bool:
    """Return True if the file has a chat template."""
    lib, ffi, *_ = load_library()
    return bool(lib.llama_model_chat_template(model, ffi.NULL) != ffi.NULL)


@contextmanager
def load_model(file: Path, *, vocab_only: bool = False) -> Iterator[Any]:
    """Load a model for the duration of the block.

    Raises:
        IntegrityError: llama.cpp cannot read the file.
    """
    lib, ffi, _, errors = load_library()
    errors.clear()
    parameters = lib.llama_model_default_params()
    parameters.vocab_only, parameters.n_gpu_layers = vocab_only, 0
    parameters.use_extra_bufts = False  # Repacked weights would compute in lower precision.
    model = lib.llama_model_load_from_file(bytes(file), parameters)
    if model == ffi.NULL:
        reason = f": {errors[0]:.300}" if errors else ""
        raise IntegrityError(
            f"{file.name}: llama.cpp cannot load this file{reason}",
            hint="export again, or use safetensors instead",
        )
    try:
        yield model
    finally:
        lib.llama_model_free(model)


def compute_logprobs(model: Any, ids: Sequence[int], first: int, *, exact: bool) -> Any:
    """Return the log-probabilities after each of ``ids[first:]``, [N, V], in float64.

    ``exact`` keeps keys and values in f32 instead of f16.
    """
    lib, ffi, *_ = load_library()
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    parameters = lib.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = max(len(ids), 32)
    parameters.n_threads = parameters.n_threads_batch = count_threads()
    if exact:
        parameters.type_k = parameters.type_v = F32
        parameters.flash_attn_type = 0
    context = lib.llama_init_from_model(model, parameters)
    if context == ffi.NULL:
        raise EnvironmentProblem(
            "gguf: not enough memory for a llama.cpp context",
            hint="free some memory and export again",
        )
    batch = lib.llama_batch_init(len(ids), 0, 1)
    try:
        batch.n_tokens = len(ids)
        for position, token in enumerate(ids):
            batch.token[position], batch.pos[position] = token, position
            batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
            batch.logits[position] = position >= first
        if lib.llama_decode(context, batch) != 0:
            raise EnvironmentProblem("gguf: llama.cpp failed to decode the tokens of a row")
        rows = [
            np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(context, i), size * 4), np.float32)
            for i in range(first, len(ids))
        ]
        logits_NV = np.stack(rows)
    finally:
        lib.llama_batch_free(batch)
        lib.llama_free(context)
    return normalize_logits(logits_NV)
