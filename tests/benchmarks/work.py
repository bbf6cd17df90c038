"""Make the models and rows that all programs train on: known sizes, and ragged known tokens.

Weights are random, because speed does not depend on them. Tokens follow Zipf's law, so that there
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
class LlamaShape:
    """The sizes of a Llama."""

    name: str
    hidden_size: int
    layers: int
    attention_heads: int
    key_value_heads: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool = True
    dtype: str = "float32"
    """Format in which the weights are stored."""

    @property
    def body_parameters(self) -> int:
        """Parameters of all matrices except the embedding, which is the head too."""
        return self.layers * self.layer_parameters

    @property
    def parameters(self) -> int:
        """Parameters of all matrices."""
        embeddings = self.hidden_size * self.vocab_size
        return self.body_parameters + embeddings * (1 if self.tied_embeddings else 2)

    @property
    def key_width(self) -> int:
        """Numbers in the keys of a position, and in its values."""
        return self.key_value_heads * (self.hidden_size // self.attention_heads)

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each matrix of one decoder layer."""
        hidden, keys, mlp = self.hidden_size, self.key_width, self.intermediate_size
        attention = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
        return [*attention, (hidden, mlp), (hidden, mlp), (mlp, hidden)]

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        return sum(inputs * outputs for inputs, outputs in self.matrices)

    @property
    def keys_and_values(self) -> int:
        """Parameters of one layer's key and value matrices."""
        return 2 * self.hidden_size * self.key_width

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of adapters on all matrices of one decoder layer."""
        return rank * sum(inputs + outputs for inputs, outputs in self.matrices)


S40 = LlamaShape("40M Llama", 512, 8, 8, 4, 1408, 32_000)
M135 = LlamaShape("SmolLM2-135M's shape", 576, 30, 9, 3, 1536, 49_152)
M360 = LlamaShape("SmolLM2-360M's shape", 960, 32, 15, 5, 2560, 49_152)
TOY = LlamaShape("toy", 64, 2, 4, 2, 128, 1_000)
B1 = LlamaShape("Llama-3.2-1B's shape", 2048, 16, 32, 8, 8192, 128_256, dtype="bfloat16")
B8 = LlamaShape(
    "8B Llama", 4096, 32, 32, 8, 14_336, 128_256, tied_embeddings=False, dtype="bfloat16"
)
SHAPES = {"s40": S40, "m135": M135, "m360": M360, "1b": B1, "8b": B8, "toy": TOY}


def make_rows(shape: LlamaShape, count: int, *, max_length: int = 512) -> list[Completion]:
    """Return rows of log-normal lengths: median 180, sigma 0.7, 24 to ``max_length`` tokens.

    30 to 40 % of the tokens are trained.
    """
    source = np.random.default_rng(SEED)
    lengths = np.clip(source.lognormal(np.log(180), 0.7, count), 24, max_length).astype(int)
    records = []
    for row, length in enumerate(lengths):
        words = np.minimum(source.zipf(1.2, length), shape.vocab_size - SPECIAL)
        cut = int(length * source.uniform(0.6, 0.7))
        prompt, answer = (" ".join(f"w{w}" for w in part) for part in (words[:cut], words[cut:-1]))
        records.append(Completion(source=f"bench:{row}", prompt=prompt, completion=answer))
    return records


def make_pairs(shape: LlamaShape, count: int, *, max_length: int = 512) -> list[Preference]:
    """Return prompts as above, each with a second completion up to a quarter shorter or longer."""
    source = np.random.default_rng(SEED + 1)
    records = []
    for row in make_rows(shape, count, max_length=max_length):
        size = len(row.completion.split())
        length = max(2, int(size * source.uniform(0.75, 1.25)))
        words = np.minimum(source.zipf(1.2, length), shape.vocab_size - SPECIAL)
        records.append(
            Preference(
                source=row.source,
                prompt=(Message("user", row.prompt),),
                chosen=row.completion or "w1",
                rejected=" ".join(f"w{w}" for w in words),
            )
        )
    return records


def build_model(shape: LlamaShape, folder: Path) -> Path:
    """Save a model as in a folder from a hub, with a tokenizer that has one token for each word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    from tunesmith_torch.models.loading import no_progress_bars

    if (folder / "tokenizer.json").is_file():
        return folder
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention_heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=shape.tied_embeddings,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(SEED)
    with no_progress_bars():
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype)).save_pretrained(
            folder
        )
    words = ["<pad>", "<unk>", "<end>", *(f"w{n}" for n in range(1, shape.vocab_size - 2))]
    vocab_size = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab_size, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder
