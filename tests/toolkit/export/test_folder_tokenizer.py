"""The tokenizer of an exported folder reads prompts and answers as transformers does."""

from __future__ import annotations

from pathlib import Path

from tunesmith.records import Message
from tunesmith_torch.export.folder_tokenizer import FolderTokenizer, open_tokenizer
from tunesmith_torch.testing.tiny_model import save_tiny_model

QUESTION = (Message("system", "Be brief."), Message("user", "yes or no?"))


def test_a_folder_with_a_chat_template(tiny_folder: Path) -> None:
    reader = FolderTokenizer(open_tokenizer(tiny_folder))
    text = reader.render(QUESTION)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nyes or no?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert reader.tokenizer.decode(reader.tokenize(text)) == text
    assert reader.render("as it is") == "as it is"


def test_a_folder_without_a_chat_template(tmp_path: Path) -> None:
    reader = FolderTokenizer(open_tokenizer(save_tiny_model(tmp_path / "plain", template=None)))
    assert reader.render(QUESTION[1:]) == "yes or no?"


def test_an_answer_has_stopped_if_it_ends_with_an_end_token(tiny_folder: Path) -> None:
    tokenizer = open_tokenizer(tiny_folder)
    reader, ids = FolderTokenizer(tokenizer), list(tokenizer("yes")["input_ids"])
    ended = reader.read_answer([*ids, tokenizer.eos_token_id], [tokenizer.eos_token_id])
    assert (ended.text, ended.finish_reason, ended.tokens) == ("yes", "stop", len(ids) + 1)
    assert ended.ids == (*ids, tokenizer.eos_token_id)
    cut = reader.read_answer(ids, [tokenizer.eos_token_id])
    assert (cut.text, cut.finish_reason) == ("yes", "length")
    assert reader.read_answer([], [0]).finish_reason == "length"
