"""The independent computation: plain transformers and PEFT in fp32, one row at a time.

Nothing of this project takes part. Attention is transformers' eager one, rows are neither packed
nor padded, and each answer is generated alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

END = "<|im_end|>"
ANSWER = "<|im_start|>assistant\n"
LEARNING_RATE = 1e-3
MAX_GRAD_NORM = 1.0
MAX_NEW_TOKENS = 8

Conversation = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Row:
    """Token ids, and for each the mark that it is trained on."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Answer:
    """A greedy answer: its token ids, and the lead of each over the second best."""

    ids: list[int]
    leads: list[float]


def render(messages: Conversation) -> str:
    """Return the text of a conversation in ChatML."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}{END}\n" for m in messages)


def tokenize(tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> Row:
    """Return a conversation as tokens; its answers and the tokens that end them are trained on."""
    spans, text = [], ""
    for message in messages:
        start = len(text) + len(f"<|im_start|>{message['role']}\n")
        text += render([message])
        if message["role"] == "assistant":
            spans.append((start, len(text) - 1))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = [any(a <= s < b for a, b in spans) for s, _ in encoded["offset_mapping"]]
    return Row(list(encoded["input_ids"]), trained)


def load(folder: Path, artifact: Path | None = None) -> nn.Module:
    """Load a model, or an artifact that was trained from it, with eager attention."""
    full = artifact is not None and not (artifact / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(
        artifact if full else folder, dtype=torch.float32, attn_implementation="eager"
    )
    if artifact is not None and not full:
        model = PeftModel.from_pretrained(model, artifact)
    return model.eval()


@torch.no_grad()
def change_last_bits(model: nn.Module, seed: int) -> None:
    """Change each weight by about its last bit."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.mul_(1 + 2**-24 * torch.randn_like(parameter))


def token_losses(model: nn.Module, row: Row) -> Tensor:
    """Return the negative log-likelihood of each trained token of a row, which runs alone."""
    ids = torch.tensor([row.ids])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    losses = nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return losses[torch.tensor(row.trained[1:])]


def mean_loss(model: nn.Module, rows: Sequence[Row]) -> float:
    """Return the loss per trained token over all rows."""
    with torch.no_grad():
        losses = torch.cat([token_losses(model, row) for row in rows])
    return float(losses.double().mean())


def row_losses(model: nn.Module, rows: Sequence[Row]) -> list[float]:
    """Return the mean loss of each row."""
    with torch.no_grad():
        return [float(token_losses(model, row).double().mean()) for row in rows]


def add_adapter(model: nn.Module, config: PeftConfig, seed: int) -> nn.Module:
    """Return the model with a new LoRA adapter, its values from this seed."""
    config.inference_mode = False
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def train(
    model: nn.Module, rows: Sequence[Row], steps: int, on_step: Callable[[float, float], Any]
) -> None:
    """Train on all rows in every step with AdamW at a constant rate."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    count = sum(sum(row.trained[1:]) for row in rows)
    for _ in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for row in rows:
            loss = token_losses(model, row).sum() / count
            loss.backward()
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        on_step(total, float(norm))


def answer(model: Any, tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> Answer:
    """Generate the last answer of a conversation alone and greedily."""
    prompt = tokenizer(render(messages[:-1]) + ANSWER, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt])
    end = tokenizer.convert_tokens_to_ids(END)
    options = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": MAX_NEW_TOKENS,
        "do_sample": False,
        "num_beams": 1,
        "eos_token_id": end,
        "pad_token_id": end,
        "forced_bos_token_id": None,  # of BART and its relatives: not greedy
        "forced_eos_token_id": None,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    try:
        result = model.generate(input_ids=ids, **options)
    except (RuntimeError, AttributeError, ValueError):  # the cache of a few models is broken
        result = model.generate(input_ids=ids, use_cache=False, **options)
    best = [step[0].float().topk(2).values for step in result.logits]
    new = result.sequences[0, -len(best) :].tolist()
    return Answer(new, [float(top[0] - top[1]) for top in best])
