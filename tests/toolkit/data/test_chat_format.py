"""Generated text as a chat format reads it, and the account of records without an example."""

from __future__ import annotations

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Completion, Message
from tunesmith_torch.data.chat_format import ChatFormat
from tunesmith_torch.data.conversation import RenderedConversation
from tunesmith_torch.data.example_store import ExampleStoreBuilder
from tunesmith_torch.data.refusals import HAS_REASONING, REFUSED_BY_TEMPLATE, TEMPLATE_DROPS_MESSAGE
from tunesmith_torch.data.tokenization import SpanEncoder
from tunesmith_torch.data.tokenized_records import TokenizedRecords, build_skipped_row
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer
from tunesmith_torch.untrusted.template_renderer import TemplateSource

OPENED = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
KEYED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("source", "generated", "content"),
    [
        (CHATML, "Paris.", "Paris."),
        (CHATML, "<think>\nhm\n</think>\n\nParis.", "<think>\nhm\n</think>\n\nParis."),
        (OPENED, "\n</think>\n\nParis.", "Paris."),
        (OPENED, "hm\n</think>\n\nParis.", "<think>\nhm\n</think>\n\nParis."),
        (OPENED, "hm, not yet over", "hm, not yet over"),
        (KEYED, "<think>\n\n</think>\n\nParis.", "Paris."),
        (KEYED, "<think>\nhm\n</think>\n\nParis.", "<think>\nhm\n</think>\n\nParis."),
        (KEYED, "Paris.", "Paris."),
    ],
)
def test_generated_text_is_read_as_rows_have_it(source: str, generated: str, content: str) -> None:
    encoder = SpanEncoder.from_tokenizer(build_tiny_tokenizer())
    chat = ChatFormat.from_template(encoder, TemplateSource(source))
    assert chat.content_of(generated) == content
    assert chat.reads_reasoning_key == (source == KEYED)


SPACED = CHATML.replace(
    "message['content']", "message['content'].replace('\U00100000', '\U00100000\n')"
)


def test_a_template_may_write_space_around_media_but_must_keep_the_text() -> None:
    encoder = SpanEncoder.from_tokenizer(build_tiny_tokenizer())
    asked = Message("user", "First \U00100000 Who?")
    chat = ChatFormat.from_template(encoder, TemplateSource(SPACED))
    (rendered,) = chat.render([[asked]], generation=True)
    assert isinstance(rendered, RenderedConversation)
    (span,) = chat.prompt_spans(rendered)
    assert "First \U00100000\n Who?" in span.text
    lost = CHATML.replace("message['content']", "message['content'].replace('Who?', '')")
    dropping = ChatFormat.from_template(encoder, TemplateSource(lost))
    (rendered,) = dropping.render([[asked]], generation=True)
    assert isinstance(rendered, RenderedConversation)
    with pytest.raises(DataError, match="skips a message"):
        dropping.prompt_spans(rendered)


@pytest.mark.parametrize("cause", [REFUSED_BY_TEMPLATE, HAS_REASONING, TEMPLATE_DROPS_MESSAGE])
def test_a_reason_is_split_into_cause_and_detail(cause: str) -> None:
    record = Completion(source="f:1", prompt="q", completion="a")
    account = build_skipped_row(record, DataError("conversation", f"{cause}, because, so"))
    assert (account.where, account.cause, account.detail) == ("f:1", cause, "because, so")
    empty = TokenizedRecords(examples=ExampleStoreBuilder().build(), skipped=[account])
    assert (empty.tokens, empty.trained_tokens) == (0, 0)
