"""Tiny models for tests: real architectures with random weights and a real tokenizer.

They train in milliseconds and need no network. Their folders have the files of published models.
Tests use them, and so does the conformance kit, for built-in and third-party plugins.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tunesmith_torch.models.loading import no_progress_bars

__all__ = ["build_tiny_model", "get_tiny_model_folder", "save_tiny_model"]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of Qwen, SmolLM and many others."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

SENTENCES = (
    "The capital of France is Paris. The capital of Italy is Rome.",
    "What is the capital of Spain? Please answer in one word.",
    "My card has not arrived yet, and I would like to have a refund.",
    "user assistant system tool question answer yes no true false",
    "One two three four five six seven eight nine ten: 0123456789.",
    "def add(a, b):\n    return a + b\n",
    "This ticket is about the delivery. That ticket is about the invoice.",
)
"""Text on which the tokenizer is trained."""


def build_tiny_tokenizer(
    *, template: str | None = CHATML, vocabulary: int = 512, extra: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Train and return a byte-level BPE tokenizer, which can encode any text.

    ``<|im_end|>`` ends answers and is also the padding token, as in SmolLM2. This lets tests find
    code that confuses the two.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in (*SPECIAL, *extra)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        chat_template=template,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_tiny_config(
    family: str = "llama", *, vocabulary: int = 512, changes: Mapping[str, object] | None = None
) -> PretrainedConfig:
    """Return a small config of a model family, with the usual features.

    It has several layers and heads, fewer key-value heads than query heads, and tied embeddings.
    ``family`` is a ``model_type``; ``changes`` overrides attributes by name.
    """
    config: PretrainedConfig = CONFIG_MAPPING[family](
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=2,
    )
    for name, value in (changes or {}).items():
        setattr(config, name, value)
    return config


def build_tiny_model(
    family: str = "llama",
    *,
    seed: int = 0,
    vocabulary: int = 512,
    changes: Mapping[str, object] | None = None,
) -> PreTrainedModel:
    """Return a causal language model with about 30,000 random weights.

    ``changes`` overrides config attributes. torch's global random state is not changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            build_tiny_config(family, vocabulary=vocabulary, changes=changes), dtype=torch.float32
        )
    return model.eval()


def save_tiny_model(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    template: str | None = CHATML,
    changes: Mapping[str, object] | None = None,
) -> Path:
    """Save a model folder like one from a hub: config, safetensors, tokenizer and chat template.

    ``changes`` overrides config attributes.
    """
    tokenizer = build_tiny_tokenizer(template=template)
    model = build_tiny_model(family, seed=seed, vocabulary=len(tokenizer), changes=changes)
    with no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def get_tiny_model_folder(save: Callable[[Path], Path] = save_tiny_model) -> Path:
    """Return a tiny Llama's folder, which is saved once and deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save(folder / "llama")
