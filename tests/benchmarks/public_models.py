"""Sizes of public language models, from their config.json files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ModelRow = tuple[str, int, int, int, int, int, int, bool]
"""model_type, hidden, feed-forward, layers, heads, key-value heads, vocabulary, tied."""

_MODELS: dict[str, _ModelRow] = {
    "llama 3.2 1b": ("llama", 2048, 8192, 16, 32, 8, 128256, True),
    "llama 3.2 3b": ("llama", 3072, 8192, 28, 24, 8, 128256, True),
    "llama 3 8b": ("llama", 4096, 14336, 32, 32, 8, 128256, False),
    "llama 3 70b": ("llama", 8192, 28672, 80, 64, 8, 128256, False),
    "llama 3 405b": ("llama", 16384, 53248, 126, 128, 8, 128256, False),
    "llama 7b": ("llama", 4096, 11008, 32, 32, 32, 32000, False),
    "llama 13b": ("llama", 5120, 13824, 40, 40, 40, 32000, False),
    "llama 33b": ("llama", 6656, 17920, 60, 52, 52, 32000, False),
    "llama 65b": ("llama", 8192, 22016, 80, 64, 64, 32000, False),
    "llama 2 70b": ("llama", 8192, 28672, 80, 64, 8, 32000, False),
    "tinyllama 1.1b": ("llama", 2048, 5632, 22, 32, 4, 32000, False),
    "mistral 7b": ("mistral", 4096, 14336, 32, 32, 8, 32000, False),
    "phi 1.5": ("phi", 2048, 8192, 24, 32, 32, 51200, False),
    "phi 2": ("phi", 2560, 10240, 32, 32, 32, 51200, False),
    "phi 3 mini": ("phi3", 3072, 8192, 32, 32, 32, 32064, False),
    "stablelm alpha 3b": ("gpt_neox", 4096, 16384, 16, 32, 32, 50688, False),
    "stablelm alpha 7b": ("gpt_neox", 6144, 24576, 16, 48, 48, 50432, False),
    "pythia 1b": ("gpt_neox", 2048, 8192, 16, 8, 8, 50304, False),
    "pythia 1.4b": ("gpt_neox", 2048, 8192, 24, 16, 16, 50304, False),
    "pythia 2.8b": ("gpt_neox", 2560, 10240, 32, 32, 32, 50304, False),
    "pythia 6.9b": ("gpt_neox", 4096, 16384, 32, 32, 32, 50432, False),
    "pythia 12b": ("gpt_neox", 5120, 20480, 36, 40, 40, 50688, False),
    "falcon 7b": ("falcon", 4544, 18176, 32, 71, 1, 65024, True),
    "gemma 2b": ("gemma", 2048, 16384, 18, 8, 1, 256000, True),
    "gemma 7b": ("gemma", 3072, 24576, 28, 16, 16, 256000, True),
    "gemma 2 2b": ("gemma2", 2304, 9216, 26, 8, 4, 256000, True),
    "gemma 2 9b": ("gemma2", 3584, 14336, 42, 16, 8, 256000, True),
    "qwen2.5 0.5b": ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "qwen2.5 1.5b": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "qwen2.5 3b": ("qwen2", 2048, 11008, 36, 16, 2, 151936, True),
    "qwen2.5 7b": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "qwen2.5 14b": ("qwen2", 5120, 13824, 48, 40, 8, 152064, False),
    "qwen2.5 32b": ("qwen2", 5120, 27648, 64, 40, 8, 152064, False),
    "qwen2.5 72b": ("qwen2", 8192, 29568, 80, 64, 8, 152064, False),
    "qwen3 0.6b": ("qwen3", 1024, 3072, 28, 16, 8, 151936, True),
    "qwen3 1.7b": ("qwen3", 2048, 6144, 28, 16, 8, 151936, True),
    "qwen3 4b": ("qwen3", 2560, 9728, 36, 32, 8, 151936, True),
    "qwen3 8b": ("qwen3", 4096, 12288, 36, 32, 8, 151936, False),
    "qwen3 14b": ("qwen3", 5120, 17408, 40, 40, 8, 151936, False),
    "smollm2 135m": ("llama", 576, 1536, 30, 9, 3, 49152, True),
    "smollm2 1.7b": ("llama", 2048, 8192, 24, 32, 32, 49152, True),
}
_ALIASES = {
    "llama 3.1 8b": "llama 3 8b",
    "llama 3.1 70b": "llama 3 70b",
    "llama 3.1 405b": "llama 3 405b",
    "llama 3.3 70b": "llama 3 70b",
    "llama 2 7b": "llama 7b",
    "llama 2 13b": "llama 13b",
    "codellama 7b": "llama 7b",
    "stablelm base alpha 3b": "stablelm alpha 3b",
    "stablelm base alpha 7b": "stablelm alpha 7b",
    "qwen2 7b": "qwen2.5 7b",
    "qwen2 1.5b": "qwen2.5 1.5b",
}
_HEAD_DIM = {"gemma": 256, "gemma2": 256, "qwen3": 128}
_IGNORED_WORDS = {
    "meta",
    "instruct",
    "hf",
    "base",
    "chat",
    "it",
    "v0.1",
    "v0.3",
    "v1.0",
    "bnb",
    "4bit",
}


def config_of(model: str) -> Mapping[str, Any] | None:
    """Return the config of a model by its usual name, or None for an unknown one."""
    words = re.split(r"[\s/_-]+", model.rpartition("/")[2].lower())
    name = " ".join(word for word in words if word not in _IGNORED_WORDS)
    row = _MODELS.get(_ALIASES.get(name, name))
    if row is None:
        return None
    kind, hidden, inner, layers, heads, key_heads, vocabulary, tied = row
    config: dict[str, Any] = {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
    }
    if kind in _HEAD_DIM:
        config["head_dim"] = _HEAD_DIM[kind]
    return config


def config_like(parameters: float) -> Mapping[str, Any]:
    """Return a config for a model of which only the size is known: the nearest Llama, scaled."""
    name = min(
        (n for n, row in _MODELS.items() if row[0] == "llama"),
        key=lambda n: abs(_parameter_count(n) - parameters),
    )
    config = dict(config_of(name) or {})
    layers = config["num_hidden_layers"]
    config["num_hidden_layers"] = max(2, round(layers * parameters / _parameter_count(name)))
    return config


def _parameter_count(name: str) -> float:
    _, hidden, inner, layers, heads, key_heads, vocabulary, tied = _MODELS[name]
    attention = hidden * hidden * (2 + 2 * key_heads / heads)
    return layers * (attention + 3 * hidden * inner) + vocabulary * hidden * (1 if tied else 2)
