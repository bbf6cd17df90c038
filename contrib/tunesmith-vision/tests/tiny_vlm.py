"""Tiny vision-language models with random weights, and what plain transformers makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    BatchFeature,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    SmolVLMConfig,
)

from tunesmith.records import Message
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder
from tunesmith_vision.images import Image, open_picture

FAMILIES = ("llava", "idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "gemma3")
ROWS = [f"<row_{y}_col_{x}>" for y in (1, 2, 3) for x in (1, 2, 3)]
NAMED = {
    "image_token": "<image>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "fake_token": "<fake_token_around_image>",
    "global_token": "<global-img>",
    "end_token": "<end_of_utterance>",
    **{f"row_{number}": text for number, text in enumerate(ROWS)},
}
SMOL = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ 'IMAGE' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "llava": CHATML.replace("IMAGE", "<image>\n"),
    "idefics3": SMOL,
    "smolvlm": SMOL,
    "qwen2_vl": CHATML.replace("IMAGE", "<|vision_start|><image><|vision_end|>"),
    "qwen2_5_vl": CHATML.replace("IMAGE", "<|vision_start|><image><|vision_end|>"),
    "gemma3": CHATML.replace("IMAGE", "<start_of_image>"),
}
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None,
    "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 7,
}  # fmt: skip
GRID = {"depth": 2, "num_heads": 2, "patch_size": 7, "temporal_patch_size": 2}


def build_config(family: str, tokenizer: Any) -> Any:
    """Return the config of a tiny model."""
    token = tokenizer.convert_tokens_to_ids
    image_id, text = token("<image>"), {**TEXT, "vocab_size": len(tokenizer) + 3}
    if family == "llava":
        return LlavaConfig(
            vision_config=CLIPVisionConfig(**VISION),
            text_config=LlamaConfig(**text, head_dim=8),
            image_token_index=image_id,
        )
    if family in ("qwen2_vl", "qwen2_5_vl"):
        rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
        if family == "qwen2_vl":
            kind: Any = Qwen2VLConfig
            vision = {**GRID, "embed_dim": 16, "hidden_size": 32}
        else:
            kind = Qwen2_5_VLConfig
            vision = {
                **GRID, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32,
                "window_size": 28, "fullatt_block_indexes": [1],
            }  # fmt: skip
        return kind(
            vision_config=vision,
            text_config={**text, "rope_parameters": rope},
            image_token_id=image_id,
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
        )
    if family == "gemma3":
        kinds = ["sliding_attention", "full_attention"]
        return Gemma3Config(
            vision_config=VISION,
            text_config={**text, "head_dim": 8, "sliding_window": 12, "layer_types": kinds},
            mm_tokens_per_image=4,
            image_token_index=image_id,
            boi_token_index=token("<start_of_image>"),
            eoi_token_index=token("<end_of_image>"),
        )
    kind = Idefics3Config if family == "idefics3" else SmolVLMConfig
    return kind(
        vision_config=VISION,
        text_config=LlamaConfig(**text, head_dim=8).to_dict(),
        image_token_id=image_id,
        scale_factor=2,
        pad_token_id=2,
    )


def build_image_processor(family: str) -> Any:
    """Return the image processor of a tiny model."""
    if family == "llava":
        return CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        )
    if family in ("qwen2_vl", "qwen2_5_vl"):
        limits = {"shortest_edge": 14 * 14, "longest_edge": 28 * 56}
        return Qwen2VLImageProcessorPil(size=limits, patch_size=7)
    if family == "gemma3":
        return Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    return Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})


def build_processor(family: str, images: Any, tokenizer: Any) -> Callable[..., Any]:
    """Return the processor of plain transformers."""
    if family == "llava":
        return LlavaProcessor(  # type: ignore[no-any-return]
            images, tokenizer, patch_size=7, vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )  # fmt: skip
    if family in ("qwen2_vl", "qwen2_5_vl"):
        return GridProcessor(images, tokenizer)
    if family == "gemma3":
        return Gemma3Processor(images, tokenizer, image_seq_length=4)  # type: ignore[no-any-return]
    return Idefics3Processor(images, tokenizer, image_seq_len=4)  # type: ignore[no-any-return]


class GridProcessor:
    """Qwen2-VL's processor without videos, which would need torchvision."""

    def __init__(self, images: Any, tokenizer: Any) -> None:
        self.images, self.tokenizer = images, tokenizer

    def __call__(self, text: str, images: Any, return_tensors: str) -> BatchFeature:
        """Return the inputs of the model."""
        found = self.images(images=images, return_tensors="pt") if images else {}
        for grid in found.get("image_grid_thw", ()):
            text = text.replace("<image>", "<placeholder>" * (int(grid.prod()) // 4), 1)
        inputs = self.tokenizer(text.replace("<placeholder>", "<image>"), return_tensors="pt")
        image_id = self.tokenizer.convert_tokens_to_ids("<image>")
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_id).int()
        return BatchFeature({**inputs, **found})


def save_tiny_vlm(folder: Path, family: str) -> Path:
    """Save a model folder like one from a hub, and return it."""
    tokenizer = AutoTokenizer.from_pretrained(get_tiny_model_folder(), extra_special_tokens=NAMED)
    tokenizer.chat_template = TEMPLATES[family]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(
        build_config(family, tokenizer), dtype=torch.float32
    )
    for name, parameter in model.named_parameters():  # large enough to change the answers
        if parameter.ndim > 1 and "text_model" not in name and "language_model" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    build_image_processor(family).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Plain:
    """The model and its processor in plain transformers."""

    def __init__(self, folder: Path, family: str) -> None:
        images = type(build_image_processor(family)).from_pretrained(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.processor = build_processor(family, images, self.tokenizer)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    def inputs(self, messages: tuple[Message, ...], *, prompt: bool = True) -> Any:
        """Return the inputs of a conversation, with the generation prompt if ``prompt``."""
        turns, pictures = [], []
        for message in messages:
            parts: list[dict[str, str]] = []
            for part in message.content if message.media else [None]:
                if isinstance(part, Image):
                    pictures.append(open_picture(part))
                    parts.append({"type": "image"})
                else:
                    text = message.text if part is None else part.text
                    parts.append({"type": "text", "text": text})
            turns.append({"role": message.role, "content": parts})
        text = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=prompt, tokenize=False
        )
        return self.processor(text=text, images=pictures or None, return_tensors="pt")
