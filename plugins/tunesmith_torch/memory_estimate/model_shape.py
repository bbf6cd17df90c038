"""The sizes of a language model, read from its config.json.

Shapes: D hidden size, F intermediate size of the feed-forward, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tunesmith.errors import UsageError
from tunesmith_torch.models.model_folder import EXPERT_COUNTS, read_context_length

__all__ = ["ModelShape"]

_UNGATED_FAMILIES = frozenset(
    {"gpt2", "gpt_neox", "gptj", "gpt_neo", "opt", "phi", "falcon", "bloom", "starcoder2"}
)
"""Families whose feed-forward has two matrices; other families have a third, the gate."""
_BIASED_FAMILIES = frozenset(
    {"gpt2", "gpt_neox", "gptj", "gpt_neo", "opt", "phi", "bloom", "starcoder2"}
)
"""Families with a bias in every linear layer."""


class LinearShape(NamedTuple):
    """Name and size of a linear layer in each decoder layer."""

    name: str
    out_features: int
    in_features: int
    experts: int = 1
    """Number of experts with such a layer; 1 in a dense model."""

    @property
    def path(self) -> str:
        """Name of the module within a decoder layer of Llama; other families differ."""
        is_attention = self.name in ("q_proj", "k_proj", "v_proj", "o_proj")
        return f"{'self_attn' if is_attention else 'mlp'}.{self.name}"

    @property
    def weights(self) -> int:
        """Number of weights that this layer has in all experts together."""
        return self.out_features * self.in_features * self.experts


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that determine its memory and time."""

    layers: int
    """Number of decoder layers."""
    hidden_size: int
    """Width of the hidden states."""
    intermediate_size: int
    """Width of the feed-forward layer, or of one expert."""
    attention_heads: int
    """Number of query heads in a layer."""
    key_value_heads: int
    """Number of key and value heads in a layer."""
    head_dim: int
    """Width of an attention head."""
    vocab_size: int
    """Number of rows of the embedding matrix."""
    tied_embeddings: bool
    context_length: int
    """Maximum number of tokens in a row."""
    has_gated_mlp: bool
    has_biases: bool
    """True if all linear layers have a bias."""
    has_qkv_bias: bool
    """True if queries, keys and values have a bias."""
    experts: int
    """Number of experts in a layer; 1 in a dense model."""
    active_experts: int
    """Number of experts that compute each token."""
    norms_per_layer: int
    """Number of norms in a decoder layer, each with ``hidden_size`` weights."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read the sizes from a ``config.json``; for a multimodal model, from its text part.

        Raises:
            UsageError: a required size is missing.
        """
        text_config = config.get("text_config")
        if isinstance(text_config, Mapping):
            config = {"tie_word_embeddings": config.get("tie_word_embeddings", True), **text_config}
        family = str(config.get("model_type", "llama"))
        hidden_size = _read_size(config, "hidden_size", "n_embd", "d_model")
        heads = _read_size(config, "num_attention_heads", "n_head")
        experts = next((int(config[name]) for name in EXPERT_COUNTS if config.get(name)), 1)
        intermediate_size = (
            config.get("intermediate_size") or config.get("n_inner") or 4 * hidden_size
        )
        if experts > 1:
            intermediate_size = config.get("moe_intermediate_size") or intermediate_size
        return cls(
            layers=_read_size(config, "num_hidden_layers", "n_layer"),
            hidden_size=hidden_size,
            intermediate_size=int(intermediate_size),
            attention_heads=heads,
            key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden_size // heads),
            vocab_size=_read_size(config, "vocab_size"),
            tied_embeddings=bool(
                config.get("tie_word_embeddings", family.startswith(("gemma", "gpt2")))
            ),
            context_length=read_context_length(config) or 2048,
            has_gated_mlp=family not in _UNGATED_FAMILIES,
            has_biases=family in _BIASED_FAMILIES,
            has_qkv_bias=family.startswith("qwen2") or bool(config.get("attention_bias")),
            experts=experts,
            active_experts=int(config.get("num_experts_per_tok") or 1),
            norms_per_layer=_norms_per_layer(family),
        )

    @property
    def linear_layers(self) -> tuple[LinearShape, ...]:
        """Linear layers of one decoder layer: attention, then feed-forward."""
        D, F, E = self.hidden_size, self.intermediate_size, self.experts
        query, key = self.attention_heads * self.head_dim, self.key_value_heads * self.head_dim
        attention = (
            LinearShape("q_proj", query, D),
            LinearShape("k_proj", key, D),
            LinearShape("v_proj", key, D),
            LinearShape("o_proj", D, query),
        )
        gate = (LinearShape("gate_proj", F, D, E),) if self.has_gated_mlp else ()
        up, down = LinearShape("up_proj", F, D, E), LinearShape("down_proj", D, F, E)
        return (*attention, *gate, up, down)

    @property
    def layer_linear_weights(self) -> int:
        """Number of weights in the linear layers of one decoder layer."""
        return sum(linear.weights for linear in self.linear_layers)

    @property
    def layer_other_weights(self) -> int:
        """Number of weights in the norms, biases and router of one decoder layer."""
        biases = 0
        if self.has_biases:
            biases = sum(linear.out_features * linear.experts for linear in self.linear_layers)
        elif self.has_qkv_bias:
            biases = sum(linear.out_features for linear in self.linear_layers[:3])
        router = self.experts * self.hidden_size if self.experts > 1 else 0
        # Families with biases use LayerNorm, which also has a bias.
        norm_weights = self.norms_per_layer * self.hidden_size * (2 if self.has_biases else 1)
        return norm_weights + biases + router

    @property
    def embedding_weights(self) -> int:
        """Number of weights of the input embeddings; the output head has the same number."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Number of all weights; tied weights count once."""
        embeddings = self.embedding_weights * (1 if self.tied_embeddings else 2)
        layers = self.layers * (self.layer_linear_weights + self.layer_other_weights)
        return embeddings + layers + self.hidden_size

    @property
    def active_layer_weights(self) -> int:
        """Number of weights in all linear layers that are used to compute one token."""
        shared = sum(linear.weights for linear in self.linear_layers if linear.experts == 1)
        routed = sum(linear.weights for linear in self.linear_layers if linear.experts > 1)
        return self.layers * (shared + routed * self.active_experts // self.experts)

    def targeted_layers(self, target_modules: str | list[str]) -> Iterator[LinearShape]:
        """Yield the linear layers of one decoder layer that get an adapter.

        Experts are stacked parameters, not linear layers: see :meth:`targeted_experts`.
        """
        for linear in self.linear_layers:
            is_named = target_modules == "all-linear" or linear.name in target_modules
            if is_named and linear.experts == 1:
                yield linear

    def targeted_experts(self, target_parameters: list[str]) -> Iterator[LinearShape]:
        """Yield the stacked expert parameters of one decoder layer that get an adapter."""
        D, F, E = self.hidden_size, self.intermediate_size, self.experts
        names = {target.rsplit(".", 1)[-1] for target in target_parameters}
        for stacked in (
            LinearShape("gate_up_proj", 2 * F, D, E),
            LinearShape("down_proj", D, F, E),
        ):
            if stacked.name in names and E > 1:
                yield stacked


def _norms_per_layer(family: str) -> int:
    if family.startswith(("gemma2", "gemma3")):
        return 4
    return 1 if family == "phi" else 2


def _read_size(config: Mapping[str, Any], *names: str) -> int:
    """Return the first integer under one of these keys; families have different keys for a size.

    Raises:
        UsageError: the config has none of the keys.
    """
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise UsageError(
        f"model: config.json has no `{names[0]}`, so memory cannot be estimated",
        hint="check that it is the config of a decoder language model",
    )
