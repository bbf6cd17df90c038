"""Tiny configs of every architecture, derived from the defaults of its config class.

The defaults of a config are walked, its inner configs included, and each integer is replaced by a
small one according to its name, so that all sizes fit together. Windows, chunks and the original
context of a scaled rotary embedding become shorter than the longest rows. :data:`ADJUSTMENTS` holds
what a family needs besides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PretrainedConfig


@dataclass(frozen=True)
class Sizes:
    """Sizes of the tiny models."""

    hidden: int = 32
    heads: int = 4
    layers: int = 4
    window: int = 12
    chunk: int = 16
    original_context: int = 40
    context: int = 224
    vocabulary: int = 448

    @property
    def head(self) -> int:
        """Width of an attention head."""
        return self.hidden // self.heads


NAMES = """
hidden: hidden_size n_embd d_model dim word_embed_proj_dim embedding_size model_dim
    input_embedding_size output_embedding_size lru_width cross_hidden_size text_hidden_size
    projection_dim hidden_dim hidden_size_global emb_dim ple_embed_dim router_hidden_size
    pronunciation_embed_dim shape_embed_dim
double: intermediate_size ffn_dim n_inner dff ffn_hidden_size decoder_ffn_dim encoder_ffn_dim
    intermediate_size_mlp dim_ff block_ff_dim mlp_dim ffn_intermediate_size feed_forward_size
    dense_intermediate_size attention_hidden_size mlp_hidden_size d_inner mamba_d_ssm
single_expert: moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
    expert_ffn_hidden_size moe_shared_expert_intermediate_size moe_ffn_hidden_size
    mamba_intermediate_size
layers: num_hidden_layers n_layer num_layers n_layers encoder_layers decoder_layers
    num_encoder_layers num_decoder_layers
heads: num_attention_heads n_head num_heads n_heads decoder_attention_heads
    encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads
    swa_num_attention_heads linear_num_value_heads linear_num_heads
key_heads: num_key_value_heads num_kv_heads n_head_kv num_swa_key_value_heads
    swa_num_key_value_heads num_attention_groups kv_n_heads num_global_key_value_heads
    linear_num_key_heads
index_heads: index_n_heads indexer_n_heads
head: head_dim attention_head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim global_head_dim
    rotary_dim kv_channels swa_head_dim swa_v_head_dim index_head_dim indexer_head_dim
    attention_head_size dim_head d_head mamba_d_head mamba_head_dim linear_key_head_dim
    linear_value_head_dim linear_head_dim laurel_rank hc_lowrank adapter_rank d_rel
two_heads: q_lora_rank kv_lora_rank o_lora_rank hidden_size_per_layer_input
state_heads: mamba_n_heads mamba_num_heads
experts: num_experts n_routed_experts num_local_experts moe_num_experts num_moe_experts
    n_experts moe_num_primary_experts
two: num_experts_per_tok num_experts_per_token moe_k moe_top_k moe_topk top_k_experts
    num_experts_per_topk experts_per_token n_group num_expert_group n_groups mamba_n_groups
    num_kv_shared_layers zero_expert_num
one: topk_group n_shared_experts num_shared_experts moe_num_shared_experts first_k_dense_replace
    num_dense_layers moe_layer_start_index num_nextn_predict_layers
window: sliding_window sliding_window_size attention_window_size window_size
chunk: attention_chunk_size chunk_size mamba_chunk_size index_topk indexer_budget
context: max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length
    max_target_positions max_source_positions
vocabulary: vocab_size vocab_size_per_layer_input unpadded_vocab_size pronunciation_vocab_size
    shape_vocab_size encoder_hash_byte_group_vocab ngram_vocab_size_base
original_context: original_max_position_embeddings
state: state_size mamba_d_state ssm_state_size
"""
"""Names of integers, after the kind of size that they get."""

KIND = {
    name: kind
    for kind, names in re.findall(r"^(\w+):((?:\s+\w+(?!:))+)$", NAMES, re.MULTILINE)
    for name in names.split()
}
WITHOUT_DEFAULT = {"num_key_value_heads", "head_dim", "num_experts_per_tok"}
"""Names of integers that are set also if their default is None."""
LAYER_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "attention_layers")
START, END = 1, 2


def value_of(kind: str, sizes: Sizes, default: int) -> int:
    """Return the small number for an integer of this kind whose default is given."""
    values = {
        "hidden": sizes.hidden,
        "double": 2 * sizes.hidden,
        "single_expert": sizes.hidden,
        "layers": sizes.layers,
        "heads": sizes.heads,
        "key_heads": 1 if default == 1 else max(1, sizes.heads // 2),
        "head": sizes.head,
        "two_heads": 2 * sizes.head,
        "state_heads": 2 * sizes.hidden // sizes.head,
        # With fewer, many scores are zero after the ReLU, and the choice among them is a tie.
        "index_heads": 16,
        "experts": min(default, 4),
        "two": min(default, 2),
        "one": min(default, 1),
        "window": sizes.window,
        "chunk": sizes.chunk,
        "context": sizes.context,
        "original_context": sizes.original_context,
        "vocabulary": sizes.vocabulary,
        "state": 8,
    }
    return values[kind]


def shrink(config: PretrainedConfig, sizes: Sizes) -> dict[str, Any]:
    """Return small values for the fields of a config, by name; inner configs are dictionaries."""
    small: dict[str, Any] = {}
    fields = config.to_dict()
    heads = fields.get("num_attention_heads")
    for name, value in fields.items():
        if name in config.sub_configs:
            inner = getattr(config, name, None)
            if isinstance(inner, PretrainedConfig):
                small[name] = {**shrink(inner, sizes), "model_type": inner.model_type}
        elif name in KIND and (is_int(value) or (value is None and name in WITHOUT_DEFAULT)):
            small[name] = value_of(KIND[name], sizes, 2 if value is None else value)
            if KIND[name] == "key_heads" and value is not None and value == heads:
                small[name] = sizes.heads
        elif name == "rope_parameters" and isinstance(value, Mapping):
            small[name] = shrink_rope(value, sizes)
        elif name in ("eos_token_id", "pad_token_id", "decoder_start_token_id"):
            small[name] = END
        elif name == "bos_token_id":
            small[name] = START
        elif name == "is_decoder":
            small[name] = True
    return small


def is_int(value: object) -> bool:
    """Return True for a positive integer that is no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def shrink_rope(rope: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Return rotary parameters whose original context is short."""
    small: dict[str, Any] = {}
    for name, value in rope.items():
        if isinstance(value, Mapping):
            small[name] = shrink_rope(value, sizes)
        elif name == "original_max_position_embeddings" and value:
            small[name] = sizes.original_context
        elif name in ("long_factor", "short_factor"):
            small[name] = [1.0 + i for i in range(sizes.head // 2)]
        elif name != "mrope_section":
            small[name] = value
        else:
            small[name] = split_sections(sizes.head // 2, len(value))
    return small


def split_sections(total: int, parts: int) -> list[int]:
    """Split the frequencies of a head over the sections of a multimodal rotary embedding."""
    share = total // parts
    return [total - share * (parts - 1), *[share] * (parts - 1)]


def mix_layers(config: PretrainedConfig, default: PretrainedConfig) -> dict[str, list[Any]]:
    """Return lists of one entry for each layer that hold all kinds of the default's list."""
    mixed = {}
    for name in LAYER_LISTS:
        small, large = getattr(config, name, None), getattr(default, name, None)
        if not isinstance(small, Sequence) or not isinstance(large, Sequence):
            continue
        if isinstance(small, str) or not large or isinstance(large[0], list):
            continue
        if name in config.attribute_map or isinstance(getattr(type(config), name, None), property):
            continue
        kinds = list(dict.fromkeys(large))
        count = getattr(config, "num_hidden_layers", len(small))
        if set(small) != set(kinds) or len(small) != count:
            mixed[name] = [kinds[i % len(kinds)] for i in range(count)]
    return mixed


def tiny_config(model_type: str, sizes: Sizes, changes: Mapping[str, Any]) -> PretrainedConfig:
    """Return a small config of an architecture, with ``changes`` to its text config."""
    config_class = CONFIG_MAPPING[model_type]
    adjust = ADJUSTMENTS.get(model_type)
    adjusted = {} if adjust is None else adjust(sizes)
    default = default_config(config_class, adjusted)
    fields = merged(shrink(default, sizes), adjusted)
    text_name = text_config_name(default)
    if text_name:
        fields[text_name] = merged(fields.get(text_name, {}), changes)
    else:
        fields = merged(fields, changes)
    config = config_class(**fields)
    text, text_default = config.get_text_config(), default.get_text_config()
    given = {*changes, *adjusted, *adjusted.get(text_name, {})}
    mixed = {k: v for k, v in mix_layers(text, text_default).items() if k not in given}
    if mixed:
        target = fields.setdefault(text_name, {}) if text_name else fields
        target.update({k: v for k, v in mixed.items() if k not in target})
        config = config_class(**fields)
    return config


def default_config(
    config_class: type[PretrainedConfig], adjusted: Mapping[str, Any]
) -> PretrainedConfig:
    """Return a config with its defaults, which need adjusting where they contradict each other."""
    try:
        return config_class()
    except StrictDataclassError:
        return config_class(**adjusted)


def text_config_name(config: PretrainedConfig) -> str:
    """Return the name of the inner config of the text model; empty if there is none."""
    text = config.get_text_config()
    if text is config:
        return ""
    return next(n for n in config.sub_configs if getattr(config, n, None) is text)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with changes; dictionaries in both are merged."""
    result = dict(base)
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result


ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
AXIS = 16

Adjust = Callable[[Sizes], dict[str, Any]]

ADJUSTMENTS: dict[str, Adjust] = {
    "bamba": lambda s: {"attn_layer_indices": list(range(1, s.layers, 2))},
    "cohere_compass_text": lambda s: {
        "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
        "layer_types": ["sliding_attention", "full_attention"] * (s.layers // 2),
    },
    "dbrx": lambda s: {
        "attn_config": {"kv_n_heads": s.heads // 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {
            "hidden_size": s.hidden,
            "ffn_hidden_size": 2 * s.hidden,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
    },
    "dots1": lambda s: {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": lambda s: {
        "layer_types": ["indexed_attention"] * 2 + ["sliding_attention"] * (s.layers - 2),
        "per_layer_config": {
            i: {"num_attention_heads": 2, "num_key_value_heads": 2} for i in range(2, s.layers)
        },
        "shared_experts_intermediate_size": s.hidden,
        "head_dim": 2 * s.head,
    },
    "dots3_note": lambda s: {"text_config": ADJUSTMENTS["dots3_note_text"](s)},
    "gemma3n_text": lambda s: {
        "intermediate_size": [2 * s.hidden] * s.layers,
        "activation_sparsity_pattern": [0.95] * (s.layers // 2) + [0.0] * (s.layers // 2),
    },
    "gpt_neo": lambda s: {
        "num_layers": s.layers,
        "attention_types": [[["global", "local"], s.layers // 2]],
    },
    "granitemoehybrid": lambda s: {
        "layer_types": ["linear_attention", "full_attention"] * (s.layers // 2),
    },
    "jamba": lambda s: {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "lfm2_moe": lambda s: {"layer_types": ["conv", "full_attention"] * (s.layers // 2)},
    "mamba2": lambda s: {"num_heads": 2 * s.hidden // s.head},
    "phi4_multimodal": lambda s: {
        "audio_config": {"num_blocks": 1, "nemo_conv_channels": 8, "ext_pw_out_channel": s.hidden},
    },
    "qwen4_exp_text": lambda s: {
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": s.head,
        "indexer_budget": s.chunk,
        "indexer_compress_ratio": 4,
        "output_gate_type": "sigmoid",
    },
    "qwen4_exp": lambda s: {"text_config": ADJUSTMENTS["qwen4_exp_text"](s)},
    "reformer": lambda s: {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"] * (s.layers // 2),
        "axial_pos_shape": [AXIS, AXIS],
        "axial_pos_embds_dim": [s.hidden // 2, s.hidden // 2],
        "max_position_embeddings": AXIS * AXIS,
    },
    "rwkv": lambda s: {"attention_hidden_size": s.hidden},
    # It masks every padding token in a row, so that may not be the token that ends a message.
    "xlm": lambda s: {"causal": True, "pad_token_id": 0},
    "xlnet": lambda s: {"attn_type": "uni"},
    "xmod": lambda s: {"default_language": "en_XX"},
    "zamba": lambda s: {"layers_block_type": ["linear_attention", "hybrid"] * (s.layers // 2)},
    "zamba2": lambda s: {"layers_block_type": ["linear_attention", "hybrid"] * (s.layers // 2)},
    "gemma4_text": lambda s: {"global_head_dim": 2 * s.head},
    "gemma4_unified_text": lambda s: {"global_head_dim": 2 * s.head},
    "gemma4_assistant": lambda s: {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": s.layers,
            "num_hidden_layers": s.layers,
        }
    },
    "gemma4_unified_assistant": lambda s: {
        "text_config": {"num_kv_shared_layers": 0, "global_head_dim": 2 * s.head}
    },
    "gemma4": lambda s: {"text_config": {"global_head_dim": 2 * s.head}},
    "gemma4_unified": lambda s: {"text_config": {"global_head_dim": 2 * s.head}},
}
"""Fields of a family that its defaults lack, or that do not follow from their names."""
