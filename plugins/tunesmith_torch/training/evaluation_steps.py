"""The steps at which the validation loss is evaluated: often enough to choose, and cheap.

The cost is predicted from tokens, not measured, so that a resumed run evaluates at the same steps
as an uninterrupted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesmith_torch.optim.schedule import BatchOrder

EVALUATIONS = 10
"""Evaluations in a run, besides those at the end of each epoch."""
MAX_SHARE = 0.1
"""Largest share of the training that evaluations, and saving the best checkpoint, may cost."""
FULL_FORWARD_SHARE, ADAPTER_FORWARD_SHARE = 1 / 3, 1 / 2
"""Cost of a forward pass, as a share of a training step over the same tokens: backward costs twice
as much where all weights get a gradient, and as much where they are frozen."""
SAVE_TOKENS = {"cpu": 2_500, "cuda": 500_000}
"""Tokens that are trained in the time in which a checkpoint of all weights is saved.

Both times grow with the number of weights. Measured with 135 million of them on two CPU cores: 3.6
seconds for 1.6 GB; on a GPU training is faster, and the disk is not."""


@dataclass(frozen=True)
class EvaluationCosts:
    """Costs in tokens of training."""

    training: float
    """All steps of the run."""
    validation: float
    """Evaluating the validation rows once."""
    sample: float
    """Evaluating the sample of training rows once."""
    save: float
    """Saving the best checkpoint once."""

    @classmethod
    def predict(
        cls,
        order: BatchOrder,
        *,
        validation_tokens: int,
        sample_tokens: int,
        sample_rows: int,
        trainable_share: float,
        device: str,
    ) -> EvaluationCosts:
        """Return the costs; the sample's rows stand for all training rows.

        ``trainable_share``: trainable parameters, as a share of all.
        """
        forward = FULL_FORWARD_SHARE if trainable_share > 0.5 else ADAPTER_FORWARD_SHARE
        rows = order.rows * order.steps / order.steps_per_epoch
        return cls(
            training=rows * sample_tokens / sample_rows,
            validation=forward * validation_tokens,
            sample=forward * sample_tokens,
            save=trainable_share * SAVE_TOKENS.get(device, SAVE_TOKENS["cuda"]),
        )


@dataclass(frozen=True)
class EvaluationSteps:
    """The steps after which the validation loss is evaluated, the last one always."""

    steps: frozenset[int]
    """Numbers of the steps, from 1; 0: before the first one."""
    with_sample: bool
    """True if the loss on the sample of training rows is evaluated, too."""

    @classmethod
    def choose(
        cls, order: BatchOrder, costs: EvaluationCosts, every: int | None
    ) -> EvaluationSteps:
        """Return the steps that ``every`` asks for, or those that the costs permit."""
        last = order.steps
        if every is not None:
            return cls(frozenset({0, *range(every, last, every), last}), with_sample=True)
        interval = math.ceil(last / EVALUATIONS)
        epochs = range(order.steps_per_epoch, last, order.steps_per_epoch)
        steps = frozenset({0, *range(interval, last, interval), *epochs, last})
        budget = MAX_SHARE * costs.training
        # The first step's weights are never the best, and the last step's need no checkpoint.
        saving = (len(steps) - 2) * costs.save
        if len(steps) * (costs.validation + costs.sample) + saving <= budget:
            return cls(steps, with_sample=True)
        if len(steps) * costs.validation + saving <= budget:
            return cls(steps, with_sample=False)
        count = max(1, int((budget + costs.save) / (costs.validation + costs.save)))
        count = min(count, len(steps))
        return cls(frozenset(round(n * last / count) for n in range(1, count + 1)), False)
