"""Find the stages of a technique: the tables of its options that are training options."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from tunesmith_torch.options.training import TrainingOptions

__all__ = ["list_stages"]


def list_stages(
    config: BaseModel, where: str = "technique"
) -> Iterator[tuple[str, TrainingOptions]]:
    """Yield key and options of each stage to train, without skipped stages.

    Yield nothing if the technique has no training options.
    """
    if isinstance(config, TrainingOptions):
        if not getattr(config, "skip", False):
            yield where, config
        return
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, TrainingOptions):
            yield from list_stages(value, f"{where}.{name}")
