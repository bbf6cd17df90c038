"""Tiny vision-language models with random weights, and what plain transformers makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    SmolVLMConfig,
)

from tunesmith.records import Message
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder
from tunesmith_vision.images import Image, open_picture

FAMILIES = ("llava", "idefics3", "smolvlm")
ROWS = [f"<row_{y}_col_{x}>" for y in (1, 2, 3) for x in (1, 2, 3)]
SPECIAL = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *ROWS]
SMOL = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_tiny_vlm(folder: Path, family: str) -> Path:
    """Save a model folder like one from a hub, and return it."""
    tokenizer = AutoTokenizer.from_pretrained(get_tiny_model_folder())
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    text = LlamaConfig(
        vocab_size=len(tokenizer) + 3, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 7,
    }  # fmt: skip
    config: Any
    if family == "llava":
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**vision), text_config=text, image_token_index=image_id
        )
        images: Any = CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        )
        processor: Any = LlavaProcessor(
            images, tokenizer, patch_size=7, vision_feature_select_strategy="default",
            num_additional_image_tokens=1, chat_template=CHATML,
        )  # fmt: skip
    else:
        kind = Idefics3Config if family == "idefics3" else SmolVLMConfig
        config = kind(
            vision_config=vision, text_config=text.to_dict(), image_token_id=image_id,
            scale_factor=2, pad_token_id=2,
        )  # fmt: skip
        images = Idefics3ImageProcessorPil(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
        )
        processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=SMOL)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():  # large enough to change the answers
        if parameter.ndim > 1 and "text_model" not in name and "language_model" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    images.save_pretrained(folder)
    tokenizer.chat_template = processor.chat_template
    tokenizer.save_pretrained(folder)
    return folder


class Plain:
    """The model and its processor in plain transformers."""

    def __init__(self, folder: Path, family: str) -> None:
        kind = LlavaProcessor if family == "llava" else Idefics3Processor
        images = CLIPImageProcessorPil if family == "llava" else Idefics3ImageProcessorPil
        tokenizer = AutoTokenizer.from_pretrained(folder)
        template = tokenizer.chat_template
        more: dict[str, Any] = {"image_seq_len": 4}
        if family == "llava":
            more = {
                "patch_size": 7, "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
            }  # fmt: skip
        self.processor: Any = kind(
            images.from_pretrained(folder), tokenizer, chat_template=template, **more
        )
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
        text = self.processor.apply_chat_template(turns, add_generation_prompt=prompt)
        return self.processor(text=text, images=pictures or None, return_tensors="pt")
