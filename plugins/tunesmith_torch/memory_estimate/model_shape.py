"""The sizes of a language model, read from its config.json.

Shapes: D width, F width of the feed-forward, V vocabulary, H heads, K key heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tunesmith.errors import UsageError

_NOT_GATED = frozenset(
    {"gpt2", "gpt_neox", "gptj", "gpt_neo", "opt", "phi", "falcon", "bloom", "starcoder2"}
)
"""Families whose feed-forward is two matrices; all others have a third, the gate."""
_BIASED = frozenset({"gpt2", "gpt_neox", "gptj", "gpt_neo", "opt", "phi", "bloom", "starcoder2"})
"""Families whose linear layers all have a bias."""


class Matrix(NamedTuple):
    """A linear layer of a decoder layer."""

    name: str
    outputs: int
    inputs: int
    copies: int = 1
    """Experts, where there are several."""

    @property
    def weights(self) -> int:
        return self.outputs * self.inputs * self.copies


@dataclass(frozen=True)
class Shape:
    """Sizes that decide about memory and time."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    context: int
    gated: bool
    biased: bool
    query_bias: bool
    experts: int
    active_experts: int
    norms: int
    """Norm weights of a layer, in widths."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Read the sizes; the text part of a config that has several.

        Raises:
            UsageError: a size that memory hangs on is not there.
        """
        inner = config.get("text_config")
        if isinstance(inner, Mapping):
            config = {"tie_word_embeddings": config.get("tie_word_embeddings", True), **inner}
        kind = str(config.get("model_type", "llama"))
        width = _size(config, "hidden_size", "n_embd", "d_model")
        heads = _size(config, "num_attention_heads", "n_head")
        experts = int(config.get("num_local_experts") or config.get("num_experts") or 1)
        inner_width = config.get("intermediate_size") or config.get("n_inner") or 4 * width
        if experts > 1:
            inner_width = config.get("moe_intermediate_size") or inner_width
        return cls(
            layers=_size(config, "num_hidden_layers", "n_layer"),
            width=width,
            feed_forward=int(inner_width),
            heads=heads,
            key_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or width // heads),
            vocabulary=_size(config, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", kind.startswith(("gemma", "gpt2")))),
            context=int(config.get("max_position_embeddings") or config.get("n_positions") or 2048),
            gated=kind not in _NOT_GATED,
            biased=kind in _BIASED,
            query_bias=kind.startswith("qwen2") or bool(config.get("attention_bias")),
            experts=experts,
            active_experts=int(config.get("num_experts_per_tok") or 1),
            norms=4 if kind.startswith(("gemma2", "gemma3")) else 1 if kind == "phi" else 2,
        )

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The linear layers of one decoder layer."""
        D, F, E = self.width, self.feed_forward, self.experts
        query, key = self.heads * self.head_width, self.key_heads * self.head_width
        attention = (
            Matrix("q_proj", query, D),
            Matrix("k_proj", key, D),
            Matrix("v_proj", key, D),
            Matrix("o_proj", D, query),
        )
        gate = (Matrix("gate_proj", F, D, E),) if self.gated else ()
        return (*attention, *gate, Matrix("up_proj", F, D, E), Matrix("down_proj", D, F, E))

    @property
    def layer_weights(self) -> int:
        """Weights of the linear layers of one decoder layer."""
        return sum(matrix.weights for matrix in self.matrices)

    @property
    def layer_rest(self) -> int:
        """Norms, biases and the router of one decoder layer."""
        biases = 0
        if self.biased:
            biases = sum(matrix.outputs * matrix.copies for matrix in self.matrices)
        elif self.query_bias:
            biases = sum(matrix.outputs for matrix in self.matrices[:3])
        router = self.experts * self.width if self.experts > 1 else 0
        return self.norms * self.width * (2 if self.biased else 1) + biases + router

    @property
    def table(self) -> int:
        """Weights of the embeddings, or of the head."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All weights, tied ones once."""
        tables = self.table * (1 if self.tied else 2)
        return tables + self.layers * (self.layer_weights + self.layer_rest) + self.width

    @property
    def active_weights(self) -> int:
        """Weights of decoder layers that one token is multiplied by."""
        shared = sum(matrix.weights for matrix in self.matrices if matrix.copies == 1)
        routed = sum(matrix.weights for matrix in self.matrices if matrix.copies > 1)
        return self.layers * (shared + routed * self.active_experts // self.experts)

    def adapted(self, target_modules: str | list[str]) -> Iterator[Matrix]:
        """The linear layers of one decoder layer that get an adapter."""
        for matrix in self.matrices:
            if target_modules == "all-linear" or matrix.name in target_modules:
                yield matrix


def _size(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise UsageError(
        f"model: config.json has no `{names[0]}`, so nothing can be estimated",
        hint="is it the config of a decoder language model?",
    )
