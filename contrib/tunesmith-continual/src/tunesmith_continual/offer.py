"""Offer of the table ``[retention]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.additions import Addition
from tunesmith.offers import TableOffer
from tunesmith_continual.options import RetentionOptions

if TYPE_CHECKING:
    from tunesmith_torch.training.additions import AdditionContext, TrainingAddition


def build(options: RetentionOptions, context: AdditionContext) -> TrainingAddition:
    """Build the addition; torch is imported here."""
    from tunesmith_continual.retention import build_retention

    return build_retention(options, context)


def addition(options: RetentionOptions) -> Addition | None:
    """Return the addition, or None if the options ask for nothing."""
    wanted = (options.replay, options.self_replay, options.keep, options.project)
    if not (any(wanted) or options.measures_every):
        return None
    return Addition(build=lambda context: build(options, context))


RETENTION: TableOffer[Any] = TableOffer(
    name="retention",
    summary="keep what the model learned in earlier tasks",
    config=RetentionOptions,
    addition=addition,
)
