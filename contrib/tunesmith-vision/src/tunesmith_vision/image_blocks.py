"""Attention in both directions among the tokens of an image, as in Gemma 3.

Each token attends to earlier tokens, and the tokens of an image also to the later ones of the same
image. The sliding window of local layers still limits how far back they attend::

                 keys     a  [ image ]  b
    queries  a            x
             image        x  x  x  x
             image        x  x  x  x
             image        x  x  x  x
             b            x  x  x  x    x

Packed rows and shared prefixes use attention that is strictly causal, so these models are computed
in padded rows with the attention of transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_vision.features import FeatureTable

__all__ = ["ImageBlocks"]


class ImageBlocks:
    """Gives a decoder the attention masks of its images."""

    def __init__(self, decoder: Any, table: FeatureTable) -> None:
        """Add the masks to every pass of the decoder."""
        self.config, self.table = decoder.config, table
        decoder.register_forward_pre_hook(self._add_masks, with_kwargs=True)

    def _add_masks(
        self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the arguments of a pass with masks that it builds from the token ids.

        Raises:
            EnvironmentProblem: the pass does not use the attention of transformers.
        """
        ids_BT, mask_BT = kwargs["input_ids"], kwargs.get("attention_mask")
        if self.config._attn_implementation != "sdpa" or "cu_seq_lens_q" in kwargs:
            raise EnvironmentProblem(
                "the tokens of an image attend to each other in both directions",
                hint="compute padded rows",
            )
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and cache.get_seq_length():
            return args, kwargs  # the text after a prompt, which is causal
        masks = self.masks(ids_BT)
        if mask_BT is not None:
            masks = {name: m & mask_BT.bool()[:, None, None] for name, m in masks.items()}
        return args, {**kwargs, "attention_mask": masks}

    def masks(self, ids_BT: Tensor) -> dict[str, Tensor]:
        """Return the mask of each type of layer, [B, 1, T, T]: True where a query sees a key."""
        at_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        is_causal_TT = at_T <= at_T[:, None]
        is_image_BT = ids_BT >= self.table.vocabulary
        starts_BT = is_image_BT & ~nn.functional.pad(is_image_BT, (1, 0))[:, :-1]
        block_BT = starts_BT.cumsum(1).masked_fill(~is_image_BT, 0)
        is_same_BTT = (block_BT[:, :, None] == block_BT[:, None]) & is_image_BT[:, None]
        full_B1TT = (is_causal_TT | is_same_BTT)[:, None]
        is_near_TT = at_T > at_T[:, None] - self.config.sliding_window
        return {"full_attention": full_B1TT, "sliding_attention": full_B1TT & is_near_TT}
