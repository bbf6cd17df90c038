"""The tokenizer of an exported folder, for engines without their own tokenizer.

It uses plain transformers, not this toolkit's templates, so an export's checks verify the files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from tunesmith.contracts import Generation
from tunesmith.records import Prompt

__all__ = ["FolderTokenizer", "open_tokenizer"]


class FolderTokenizer:
    """The part of an engine that renders, tokenizes and decodes text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def render(self, prompt: Prompt) -> str:
        """Return the prompt, rendered with the folder's chat template."""
        if isinstance(prompt, str) or self.tokenizer.chat_template is None:
            return prompt if isinstance(prompt, str) else prompt[0].text
        turns = [{"role": message.role, "content": message.text} for message in prompt]
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )

    def tokenize(self, text: str) -> Sequence[int]:
        """Return the token ids of a rendered prompt; a chat template writes its own BOS."""
        special = self.tokenizer.chat_template is None
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=special)
        return ids

    def read_answer(self, ids: Sequence[int], end_ids: Collection[int]) -> Generation:
        """Return generated ids as an answer; it counts as stopped if it ends with an end token."""
        stopped = bool(ids) and ids[-1] in end_ids
        text = str(self.tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=True))
        return Generation(text, len(ids), "stop" if stopped else "length", tuple(ids))


def open_tokenizer(folder: Path) -> Tokenizer:
    """Load a folder's tokenizer without remote code and without network access."""
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    return tokenizer
