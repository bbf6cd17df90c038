"""Encode texts with a BERT-like model: the mean of its tokens' hidden states, at length 1.

Shapes: B rows, T tokens, D width.

Source: Reimers and Gurevych, Sentence-BERT (2019), section 3, MEAN pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.contracts import Progress
from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.data.packing import padded_batches
from tunesmith_torch.models.loading import (
    build_errors,
    check_finite,
    check_size,
    check_tensor_names,
    check_token_ids,
    load_tokenizer,
    no_progress_bars,
)
from tunesmith_torch.models.model_folder import check_model_folder
from tunesmith_torch.untrusted.foreign_code import (
    FLASH_ATTENTION,
    named_attention,
    read_json_object,
)

__all__ = ["SentenceEncoder", "load_sentence_encoder"]

BATCH_TOKENS = 4_096
"""Maximum number of tokens in a forward pass, with padding."""
MAX_CHARACTERS = 100_000
"""Longer texts are truncated to this many characters before they are tokenized."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A model that turns texts into vectors; see :class:`tunesmith.encoders.Encoder`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """Texts are truncated to this many tokens."""

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return a vector of length 1 for each text, shape (texts, D).

        Rows of similar length share a forward pass, which changes a value by at most about 1e-6.
        The order of the texts does not change their vectors.
        """
        ids = self._tokenize(texts)
        order = sorted(range(len(ids)), key=lambda row: (len(ids[row]), ids[row]), reverse=True)
        vectors = np.zeros((len(ids), self.model.config.hidden_size), np.float32)
        finished = 0
        lengths = [len(ids[row]) for row in order]
        for batch in padded_batches(lengths, max([BATCH_TOKENS, *lengths[:1]])):
            rows = [order[number] for number in batch]
            vectors[rows] = self._encode([ids[row] for row in rows]).cpu().numpy()
            finished += len(rows)
            if progress is not None:
                progress(finished)
        return vectors

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        # Lone surrogates are valid in JSON, but not in UTF-8.
        clean = [text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8") for text in texts]
        if not clean:
            return []
        ids: list[list[int]] = self.tokenizer(
            clean, truncation=True, max_length=self.max_length, return_attention_mask=False
        )["input_ids"]
        return [row or [self._pad_id] for row in ids]

    @property
    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _encode(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        padded = chain.from_iterable([*row, *[self._pad_id] * (longest - len(row))] for row in rows)
        device = self.model.device
        ids_BT = torch.tensor([*padded], device=device).view(len(rows), longest)
        lengths_B1 = torch.tensor([[len(row)] for row in rows], device=device)
        mask_BT = (torch.arange(longest, device=device) < lengths_B1).long()
        hidden_BTD = self.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        mean_BD = (hidden_BTD * mask_BT[:, :, None]).sum(1) / lengths_B1
        return normalize(mean_BD, dim=-1)


def load_sentence_encoder(
    folder: Path, device: torch.device, *, max_length: int
) -> SentenceEncoder:
    """Read a model folder in fp32, without downloading anything or running code from the folder.

    Raises:
        EnvironmentProblem: there is no such folder, it has no safetensors weights, it needs its own
            code, or its vectors are not the mean of an encoder's hidden states.
        IntegrityError: a file is truncated, or a tensor is missing, unexpected, not finite or has
            the wrong shape.
    """
    named = named_attention(check_model_folder(folder))
    _check_modules(folder)
    tokenizer = load_tokenizer(folder)
    with no_progress_bars(), build_errors(f"{folder}: the model cannot be built: "):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if config.is_encoder_decoder or not hasattr(config, "hidden_size"):
            raise EnvironmentProblem(
                f"{folder}: a model of type `{config.model_type}` has no plain encoder",
                hint="use a BERT-like model, such as all-MiniLM-L6-v2",
            )
        if named & FLASH_ATTENTION:
            config._attn_implementation = "eager"
        with torch.device("meta"):
            check_size(folder, AutoModel.from_config(config, trust_remote_code=False))
        model, info = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # check_tensor_names reports them all at once
            output_loading_info=True,
        )
    # The pooler computes another vector, which is not used.
    missing = {name for name in info["missing_keys"] if not name.startswith("pooler.")}
    check_tensor_names(folder, {**info, "missing_keys": missing})
    model = model.eval().to(device)
    check_finite(folder, model)
    check_token_ids(folder, tokenizer, model.get_input_embeddings().num_embeddings)
    limits = (max_length, tokenizer.model_max_length, config.max_position_embeddings)
    return SentenceEncoder(model, tokenizer, int(min(limits)))


def _check_modules(folder: Path) -> None:
    """Check that the folder only describes mean pooling and normalization."""
    path = folder / "1_Pooling" / "config.json"
    others = []
    if path.is_file():
        modes = {key for key, value in read_json_object(path).items() if value is True}
        others = sorted(
            key for key in modes if key.startswith("pooling_mode") and "mean_tokens" not in key
        )
    others += [part.name for part in folder.glob("[0-9]_Dense")]
    if others:
        raise EnvironmentProblem(
            f"{folder}: its vectors are not the mean of hidden states, because of {others[0]}",
            hint="use a model with mean pooling, such as all-MiniLM-L6-v2",
        )
