"""The work that everybody does: models of known shapes, and ragged rows of known tokens.

Weights are random, because speed does not depend on them; tokens follow Zipf's law, so that there
is something to learn and loss curves can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunesmith.records import Completion, Message, Preference

SEED = 7
SPECIAL = 3
"""``<pad>``, ``<unk>`` and ``<end>`` come before the words."""


@dataclass(frozen=True)
class Shape:
    """A Llama by its numbers."""

    name: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    mlp: int
    vocabulary: int
    tied: bool = True
    dtype: str = "float32"
    """In which the weights are stored."""

    @property
    def body_parameters(self) -> int:
        """Parameters of all matrices but the embedding, which is the head too."""
        return self.layers * self.layer_parameters

    @property
    def layer_parameters(self) -> int:
        width = self.hidden // self.heads
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.key_heads * width
        return attention + 3 * self.hidden * self.mlp

    @property
    def keys_and_values(self) -> int:
        return 2 * self.hidden * self.key_heads * (self.hidden // self.heads)


S40 = Shape("40M Llama", 512, 8, 8, 4, 1408, 32_000)
M135 = Shape("SmolLM2-135M's shape", 576, 30, 9, 3, 1536, 49_152)
TOY = Shape("toy", 64, 2, 4, 2, 128, 1_000)
B1 = Shape("1B Llama", 2048, 16, 32, 8, 8192, 128_256, dtype="bfloat16")
B8 = Shape("8B Llama", 4096, 32, 32, 8, 14_336, 128_256, tied=False, dtype="bfloat16")
SHAPES = {"s40": S40, "m135": M135, "1b": B1, "8b": B8, "toy": TOY}


def rows(shape: Shape, count: int, *, longest: int = 512) -> list[Completion]:
    """Log-normal lengths (median 180, sigma 0.7, 24 to ``longest``), 30 to 40 % of them trained."""
    source = np.random.default_rng(SEED)
    lengths = np.clip(source.lognormal(np.log(180), 0.7, count), 24, longest).astype(int)
    made = []
    for row, length in enumerate(lengths):
        words = np.minimum(source.zipf(1.2, length), shape.vocabulary - SPECIAL)
        cut = int(length * source.uniform(0.6, 0.7))
        prompt, answer = (" ".join(f"w{w}" for w in part) for part in (words[:cut], words[cut:-1]))
        made.append(Completion(source=f"bench:{row}", prompt=prompt, completion=answer))
    return made


def pairs(shape: Shape, count: int, *, longest: int = 512) -> list[Preference]:
    """Prompts as above, each with two answers of lengths that vary by half."""
    source = np.random.default_rng(SEED + 1)
    made = []
    for row in rows(shape, count, longest=longest):
        size = len(row.completion.split())
        length = max(2, int(size * source.uniform(0.75, 1.25)))
        words = np.minimum(source.zipf(1.2, length), shape.vocabulary - SPECIAL)
        made.append(
            Preference(
                source=row.source,
                prompt=(Message("user", row.prompt),),
                chosen=row.completion or "w1",
                rejected=" ".join(f"w{w}" for w in words),
            )
        )
    return made


def build(shape: Shape, folder: Path) -> Path:
    """A model folder as a hub would serve it, with a tokenizer that makes a token of each word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    from tunesmith_torch.models.loading import no_progress_bars

    if (folder / "tokenizer.json").is_file():
        return folder
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(SEED)
    with no_progress_bars():
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype)).save_pretrained(
            folder
        )
    words = ["<pad>", "<unk>", "<end>", *(f"w{n}" for n in range(1, shape.vocabulary - 2))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder
