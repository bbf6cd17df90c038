"""Reasoning: its parts in a text, and the tags at the end of a prompt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message, Record
from tunesmith_torch.data.reasoning import Answer, PromptEnd, join_answer, split_answer
from tunesmith_torch.data.templates import Template
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer

texts = st.lists(
    st.sampled_from(["a", " ", "\n", "<", "/", "<think>", "</think>", "<think>\n"]), max_size=9
).map("".join)


@given(texts)
def test_the_parts_of_an_answer_are_its_text(text: str) -> None:
    assert split_answer(text).text == text


@given(st.text("ab c", min_size=1).filter(str.strip), st.text("ab \n"))
def test_joined_reasoning_is_split_again(reasoning: str, content: str) -> None:
    answer = split_answer(join_answer(reasoning, content))
    assert answer.reasoning == reasoning
    assert answer.content == content.lstrip("\n")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", Answer("plain")),
        ("say </think> now", Answer("say </think> now")),
        ("say <think>a</think>", Answer("say <think>a</think>")),
        ("<think>open", Answer("<think>open")),
        ("<think>a</think>b", Answer("b", "<think>", "a", "</think>")),
        (" <think>\na\n</think>\n\nb", Answer("b", " <think>\n", "a", "\n</think>\n\n")),
    ],
)
def test_only_reasoning_at_the_start_is_reasoning(text: str, parts: Answer) -> None:
    assert split_answer(text) == parts


@pytest.mark.parametrize(
    ("prompt", "end"),
    [
        ("<|im_start|>assistant\n", None),
        ("say <think> now", None),
        ("a\n<think>\n", PromptEnd("</think>", True, True)),
        ("a<think>", PromptEnd("</think>", True, False)),
        ("a[THINK]", PromptEnd("[/THINK]", True, False)),
        ("a<think>\n\n</think>\n\n", PromptEnd("</think>", False, True)),
        ("a</think>", PromptEnd("</think>", False, False)),
    ],
)
def test_the_tag_at_the_end_of_a_prompt(prompt: str, end: PromptEnd | None) -> None:
    assert PromptEnd.of_prompt(prompt) == end


OPENED = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")


def answer_text(source: str, answer: str, **options: Any) -> str:
    template = Template.from_tokenizer(build_tiny_tokenizer(template=source), **options)
    prompt = (Message("user", "q"),)
    return str(template.tokenizer.decode(template.encode_answer(prompt, answer)))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Paris.", "\n</think>\n\nParis.<|im_end|>"),
        ("<think>\nhm\n</think>\n\nParis.", "hm\n</think>\n\nParis.<|im_end|>"),
        ("<think>hm</think>Paris.", "hm\n</think>\n\nParis.<|im_end|>"),
        ("<think>\n\n</think>\n\nParis.", "\n</think>\n\nParis.<|im_end|>"),
    ],
)
def test_an_opened_tag_is_closed_once(answer: str, text: str) -> None:
    assert answer_text(OPENED, answer) == text


def test_tags_that_are_control_tokens_stay_tags() -> None:
    tokenizer = build_tiny_tokenizer(template=CHATML, extra=("<think>", "</think>"))
    template = Template.from_tokenizer(tokenizer)
    ids = template.encode_answer((Message("user", "q"),), "<think>\nhm\n</think>\n\nParis.")
    tags = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert [i for i in ids if i in tags] == tags
    typed = template.encode_answer((Message("user", "q"),), "Write <think> and </think>.")
    assert not set(typed) & set(tags), "text that people wrote has no control tokens"
    in_question = template.encode_prompt((Message("user", "<think>a</think>"),))
    assert not set(in_question) & set(tags)


def test_a_value_of_a_variable_is_the_default_of_the_saved_template() -> None:
    source = "\nA{{ mode | default('none') }}{{ other | default('') }}" + CHATML
    template = Template.from_tokenizer(
        build_tiny_tokenizer(template=source), kwargs={"mode": 'a"b\n%}é', "other": False}
    )
    saved = template.tokenizer
    prompt = (Message("user", "q"),)
    text = saved.decode(template.encode_prompt(prompt))
    messages = [{"role": "user", "content": "q"}]
    render = saved.apply_chat_template
    assert render(messages, tokenize=False, add_generation_prompt=True) == text
    assert text.startswith('\nAa"b\n%}éFalse<|im')
    assert render(messages, tokenize=False, mode="mine").startswith("\nAmineFalse")
    bare = build_tiny_tokenizer(template=source)
    assert bare.chat_template == source
    assert saved.decode(Template.from_tokenizer(bare).encode_prompt(prompt)).startswith(
        "\nAnone<|im"
    )


def test_reasoning_in_a_prompt_that_closed_it_is_refused() -> None:
    closed = CHATML.replace("assistant\n' }}", "assistant\n<think>\n\n</think>\n\n' }}")
    with pytest.raises(DataError, match="has reasoning, but the prompt ends with </think>") as e:
        answer_text(closed, "<think>hm</think>Paris.")
    assert "chat_template.kwargs" in str(e.value.hint)
    assert answer_text(closed, "Paris.") == "Paris.<|im_end|>"


def test_a_dropped_message_is_refused() -> None:
    silent = CHATML.replace("{% for message in messages %}", "{% for message in messages[-2:] %}")
    template = Template.from_tokenizer(build_tiny_tokenizer(template=silent))
    messages = (
        Message("system", "Be brief."), Message("user", "q"), Message("assistant", "a"),
        Message("user", "r"), Message("assistant", "b"),
    )  # fmt: skip
    rows: list[Record] = [
        Chat(source="f:1", messages=messages), Completion(source="f:2", prompt="q", completion="a")
    ]  # fmt: skip
    (problem,) = template.find_problems(rows)
    assert (problem.where, problem.cause) == ("f:1", "the chat template skips a message")


# ------------------------------------------------------------ company and order


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["q", "longer?", "é"]),
            st.sampled_from(["a", "<think>x</think>b", ""]),
        ),
        min_size=1, max_size=5,
    ),
    st.randoms(),
)  # fmt: skip
def test_ids_of_a_row_do_not_depend_on_other_rows(rows: list[tuple[str, str]], random: Any) -> None:
    records = [Completion(source=f"f:{i}", prompt=p, completion=c) for i, (p, c) in enumerate(rows)]

    def ids(some: list[Completion]) -> list[tuple[list[int], list[bool]]]:
        examples = COMPANY.tokenize_records(some, 1000).examples
        return [([*map(int, e.ids)], [*map(bool, e.trained)]) for e in examples]

    alone = [ids([record])[0] for record in records]
    assert ids(records) == alone
    order = list(range(len(records)))
    random.shuffle(order)
    assert ids([records[i] for i in order]) == [alone[i] for i in order]


COMPANY = Template.from_tokenizer(
    build_tiny_tokenizer(template="{{ strftime_now('%f') }}" + OPENED)
)
