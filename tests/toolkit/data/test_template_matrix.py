"""Published template families x conversations: each is exact, or refused with a reason."""

from __future__ import annotations

from datetime import date
from functools import cache
from typing import Any

import pytest
from tests.toolkit.data import reasoning_families, template_families
from tests.toolkit.data.template_families import Family

from tunesmith.records import Chat, Message, Prompt, exchanges
from tunesmith_torch.data.message_fields import parse_answer
from tunesmith_torch.data.templates import Template
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

SPECIAL = (
    "<s>", "</s>", "[INST]", "[/INST]", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>",
    "<|end_of_text|>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "<|im_sep|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>",
    "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>",
    "<|start_of_role|>", "<|end_of_role|>", "<|observation|>", "[gMASK]", "<sop>",
    "<|end_of_turn|>", "<extra_id_0>", "<extra_id_1>", "[|system|]", "[|user|]", "[|assistant|]",
    "[|endofturn|]", "<|start|>", "<|message|>", "<|channel|>", "<|return|>",
)  # fmt: skip
FAMILIES = {**template_families.FAMILIES, **reasoning_families.REASONING_FAMILIES}
ASK, AGAIN, REASONING = "What is the capital?", "And 12?", "France.\nSo it is Paris."


def conversation(*turns: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role, text) for role, text in turns)  # type: ignore[arg-type]


CONVERSATIONS = {
    "plain": conversation(("user", ASK), ("assistant", "Paris.")),
    "system": conversation(("system", "Be brief."), ("user", ASK), ("assistant", "Paris.")),
    "turns": conversation(
        ("user", ASK), ("assistant", "Paris."), ("user", AGAIN), ("assistant", "Twelve.")
    ),
    "system-turns": conversation(
        ("system", "Be brief."), ("user", ASK), ("assistant", "Paris."),
        ("user", AGAIN), ("assistant", "Twelve."),
    ),
    "tool": conversation(
        ("user", ASK), ("assistant", 'look("France")'),
        ("tool", '{"capital": "Paris"}'), ("assistant", "Paris."),
    ),
    "reasoning": conversation(
        ("user", ASK), ("assistant", f"<think>\n{REASONING}\n</think>\n\nParis.")
    ),
    "reasoning-turns": conversation(
        ("user", ASK), ("assistant", f"<think>\n{REASONING}\n</think>\n\nParis."),
        ("user", AGAIN), ("assistant", "<think>\nTen and two.\n</think>\n\nTwelve."),
    ),
    "empty": conversation(("user", ASK), ("assistant", "")),
    "trailing": conversation(("user", ASK), ("assistant", "Paris. \n")),
    "unicode": conversation(("user", "Grüße, 漢字 😀?"), ("assistant", "Ça va, 漢字\u200d 😀")),
}  # fmt: skip


@cache
def base_tokenizer() -> Any:
    tokenizer = build_tiny_tokenizer(template=None, extra=SPECIAL)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


@cache
def template_of(name: str, **changes: Any) -> Template:
    family = FAMILIES[name]
    tokenizer = base_tokenizer()
    tokenizer.bos_token = family.bos or None
    tokenizer.eos_token = tokenizer.pad_token = family.eos
    tokenizer.chat_template = None
    kwargs: dict[str, Any] = {"kwargs": dict(family.kwargs)} if family.kwargs else {}
    return Template.from_tokenizer(tokenizer, family.source, **kwargs, **changes)


def expected_text(family: Family, answer: str) -> str:
    """Return what the model has to generate for an answer, by the format of its family."""
    _, opening, rest = answer.rpartition("<think>\n")
    reasoning, _, content = rest.rpartition("\n</think>\n\n")
    if family.trims:
        content = content.strip()
    if opening:
        text = family.reasoned.format(reasoning=reasoning, content=content)
    else:
        text = family.lead + content
    return text + (family.end or family.eos)


def prompt_text(template: Template, family: Family, prompt: Prompt) -> str:
    """Return what transformers renders for a prompt, with the date of the template."""
    assert template.chat is not None
    fields = [{"role": m.role, "content": m.content} for m in prompt if isinstance(m, Message)]
    for message in fields if template.chat.reads_reasoning_key else ():
        reasoning, closing, content = message["content"].partition("\n</think>\n\n")
        if closing:
            reasoning = reasoning.removeprefix("<think>\n")
            message.update(content=content, thinking=reasoning, reasoning_content=reasoning)
    text = template.tokenizer.apply_chat_template(
        fields,
        tokenize=False,
        add_generation_prompt=True,
        **family.kwargs,
    )
    if family.date_format:
        today, frozen = date.today(), date(2024, 7, 26)
        text = text.replace(today.strftime(family.date_format), frozen.strftime(family.date_format))
    return str(text)


@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_is_exact_or_refused(name: str, kind: str) -> None:
    family, template = FAMILIES[name], template_of(name)
    record = Chat(source="rows.jsonl:7", messages=CONVERSATIONS[kind])
    tokenized = template.tokenize_records([record], 10_000)
    if kind in family.refused:
        (problem,) = tokenized.skipped
        assert problem.where == "rows.jsonl:7"
        assert family.refused[kind] in f"{problem.cause}, {problem.detail}"
        return
    assert not tokenized.skipped
    pairs = list(exchanges(record))
    # The EOS that no template prints is in no prompt, so no row could have several answers.
    is_separate = kind in family.separate or not family.end
    assert len(tokenized.examples) == (len(pairs) if is_separate else 1)
    last_ids = [int(i) for i in tokenized.examples[-1].ids]
    for index, (prompt, answer) in enumerate(pairs):
        prompt_ids = template.encode_prompt(prompt)
        separate = len(tokenized.examples) > 1
        example = tokenized.examples[index if separate else 0]
        ids, trained = [int(i) for i in example.ids], list(map(bool, example.trained))
        # The prompt in training is the one in generation, and the one that transformers renders.
        assert ids[: len(prompt_ids)] == prompt_ids
        text = template.tokenizer.decode(prompt_ids)
        assert text == prompt_text(template, family, prompt)
        # What is trained is the answer and its end token, and nothing else.
        answer_ids = template.encode_answer(prompt, answer)
        stop = len(prompt_ids) + len(answer_ids)
        assert ids[len(prompt_ids) : stop] == answer_ids
        assert all(trained[len(prompt_ids) : stop])
        text = parse_answer(answer).text
        assert template.tokenizer.decode(answer_ids) == expected_text(family, text)
        assert answer_ids[-1] in template.end_ids
        assert not set(answer_ids[:-1]) & {answer_ids[-1]}
        # Evaluation reads the answer as the row has it.
        assert template.decode_answer(answer_ids[:-1]).strip() == text.strip()
    assert len(last_ids) == stop
    assert sum(sum(map(bool, e.trained)) for e in tokenized.examples) == sum(
        len(template.encode_answer(p, a)) for p, a in pairs
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_has_one_bos_at_its_start(name: str) -> None:
    family, template = FAMILIES[name], template_of(name)
    if family.bos and family.bos != family.eos:
        ids = template.encode_prompt(CONVERSATIONS["plain"][:1])
        present = family.source.count("bos_token")
        assert ids.count(template.tokenizer.bos_token_id) == min(present, 1)
        assert not present or ids[0] == template.tokenizer.bos_token_id
