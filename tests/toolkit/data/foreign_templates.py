"""Chat templates in the styles of published ones, and tokenizers that they meet.

Each template has its own habits: who writes BOS, where the system prompt and the tools go, what
ends an answer, what the generation prompt opens, and what happens to reasoning of earlier turns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from tunesmith_torch.testing.tiny_model import SENTENCES, build_tiny_tokenizer


@dataclass(frozen=True)
class Foreign:
    """A template, and what it can write."""

    source: str
    system: bool = True
    tools: bool = False
    reasoning: bool = False
    """True if rows with reasoning are tested with it."""
    writes_end: bool = True
    """True if it writes a token at the end of an answer, where the tokenizer has that token."""


CALLS = (
    "{% for c in m.tool_calls or [] %}{{ '\n<call>' + c.function.name + ' '"
    " + c.function.arguments | tojson + '</call>' }}{% endfor %}"
)
DEFINITIONS = "{% for t in tools or [] %}{{ t | tojson + '\n' }}{% endfor %}"

FOREIGN = {
    "headers, BOS, a date, tools with the system prompt": Foreign(
        "{{ bos_token }}{{ '<|head|>system<|/head|>\n\nToday is ' + strftime_now('%d %b %Y') }}"
        "{% if messages[0].role == 'system' %}{{ '\n\n' + messages[0].content | trim }}{% endif %}"
        "{{ '\n\n' }}" + DEFINITIONS + "{{ '<|eot|>' }}{% for m in messages %}"
        "{% if m.role != 'system' %}{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim }}"
        + CALLS
        + "{{ '<|eot|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}",
        tools=True,
    ),
    "instruction tags, the system prompt in the last question": Foreign(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' }}"
        "{% if loop.index0 >= messages | length - 2 and messages[0].role == 'system' %}"
        "{{ messages[0].content + '\n\n' }}{% endif %}{{ m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    ),
    "marks, with reasoning of the last answer alone": Foreign(
        "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
        "{% set text = m.content %}{% if m.role == 'assistant' and loop.index0 < ns.last"
        " and '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\n') %}"
        "{% endif %}{{ '<|im_start|>' + m.role + '\n' + text }}" + CALLS + "{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        reasoning=True,
    ),
    "a prompt that opens reasoning": Foreign(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ '<|A|>' + m.content.split('</think>')[-1].lstrip('\n') + eos_token }}"
        "{% elif m.role == 'user' %}{{ '<|U|>' + m.content }}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|A|><think>\n' }}{% endif %}",
        reasoning=True,
    ),
    "model turns, without a system prompt": Foreign(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('no system prompts') }}{% endif %}"
        "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{ m.content | trim + '<end>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}",
        system=False,
    ),
    "EOS after every turn": Foreign(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "words, and EOS on the same line": Foreign(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}"
        "{% endif %}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ 'USER: ' + m.content + ' ' }}{% elif m.role == 'assistant' %}"
        "{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "words alone, with nothing at the end of an answer": Foreign(
        "{% for m in messages %}{{ m.role | capitalize + ': ' + m.content + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        writes_end=False,
    ),
    "words alone, without a generation prompt": Foreign(
        "{% for m in messages %}{{ '### ' + m.role + '\n' + m.content + '\n\n' }}{% endfor %}\n",
        writes_end=False,
    ),
    "EOS after the last answer alone": Foreign(
        "{% for m in messages %}{{ m.role + '> ' + m.content }}"
        "{% if loop.last and m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant>' }}{% endif %}"
    ),
    "reasoning in a key, tools as a turn": Foreign(
        "{% if tools %}{{ '<|im_start|>tools\n' }}" + DEFINITIONS + "{{ '<|im_end|>\n' }}"
        "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and m.reasoning_content %}"
        "{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}{{ m.content }}"
        + CALLS
        + "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        tools=True,
        reasoning=True,
    ),
}
CONTROL_TOKENS = (
    *("<s>", "</s>", "<|head|>", "<|/head|>", "<|eot|>", "<|U|>", "<|A|>", "<turn>", "<end>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"),
)
TEXTS = [*SENTENCES, "Yes.\n\nNo.\n\n\nUser: a\n\nAssistant: b.\n", "### one\nTwo.\n\n### two\n"]


def byte_tokenizer(*, marks: bool) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer; without ``marks`` it has no control tokens but BOS and EOS."""
    tokenizer = build_tiny_tokenizer(
        template=None, extra=CONTROL_TOKENS if marks else ("<s>", "</s>")
    )
    return _with_ends(tokenizer)


def line_break_tokenizer(*, marks: bool) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with tokens of punctuation and the line breaks after it."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, marks, pre_tokenizers.ByteLevel.alphabet())


def space_tokenizer(*, marks: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer in the way of SentencePiece: a space in front of each piece of text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁*[^▁\n]+|\n"), "isolated")
    trained = _train(tokenizer, marks, [], ["<unk>", *(f"<0x{n:02X}>" for n in range(256))])
    trained.backend_tokenizer.pre_tokenizer = None  # as published ones: no token spans two words
    return trained


def _train(
    tokenizer: Tokenizer, marks: bool, alphabet: list[str], first: list[str] | None = None
) -> PreTrainedTokenizerFast:
    names = CONTROL_TOKENS if marks else ("<s>", "</s>")
    special = [*(["<|im_start|>", "<|im_end|>"] if marks else []), *names]
    trainer = BpeTrainer(
        vocab_size=800,
        special_tokens=[
            *(first or []),
            *(AddedToken(t, special=True, normalized=False) for t in special),
        ],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *TEXTS], trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    return _with_ends(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def _with_ends(tokenizer: Any) -> PreTrainedTokenizerFast:
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<s>", "</s>", "</s>"
    result: PreTrainedTokenizerFast = tokenizer
    return result


TOKENIZERS = {
    f"{kind} {'with' if marks else 'without'} marks": (make, marks)
    for kind, make in {
        "bytes": byte_tokenizer,
        "line breaks": line_break_tokenizer,
        "spaces": space_tokenizer,
    }.items()
    for marks in (True, False)
}
