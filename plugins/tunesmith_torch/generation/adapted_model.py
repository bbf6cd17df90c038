"""A text model with one of many adapters, which a server answers in the same batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.execution.wrapped_model import R, WrappedModel
from tunesmith.records import Prompt
from tunesmith_torch.generation.row_adapters import RowAdapter
from tunesmith_torch.generation.text_model import TorchTextModel

__all__ = ["AdaptedModel"]


@dataclass(frozen=True, eq=False)
class AdaptedModel(WrappedModel):
    """A text model with an adapter, which may share batches with the model's other adapters."""

    model: TorchTextModel
    adapter: RowAdapter

    def _call(
        self,
        method: Callable[..., Sequence[R]],
        prompts: Sequence[Prompt],
        *arguments: Any,
        **options: Any,
    ) -> Sequence[R]:
        with self.adapter.use([self.adapter]):
            return super()._call(method, prompts, *arguments, **options)
