"""Choose the steps at which the validation loss is computed, at a limited share of the time.

The cost is predicted from token counts, not measured. A resumed run therefore evaluates at the same
steps as an uninterrupted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesmith_torch.optim.schedule import BatchOrder

NUM_EVALUATIONS = 10
"""Number of evaluations in a run, in addition to those at the end of each epoch."""
MAX_SHARE = 0.1
"""Maximum cost of evaluations and of saving the best checkpoint, as a share of the training."""
FULL_FORWARD_SHARE, ADAPTER_FORWARD_SHARE = 1 / 3, 1 / 2
"""Cost of a forward pass, as a share of a training step over the same tokens.

Backward costs twice as much as forward if all weights get a gradient, and the same if the base is
frozen.
"""
SAVE_TOKENS = {"cpu": 2_500, "cuda": 500_000}
"""Number of tokens that training computes in the time of saving a checkpoint of all weights.

Both times grow with the number of weights. The CPU value was measured with 135 million weights on
two cores, where saving 1.6 GB took 3.6 seconds. On a GPU, training is faster but the disk is not.
"""


@dataclass(frozen=True)
class EvaluationCosts:
    """Predicted costs, each as the number of tokens that training computes in the same time."""

    training: float
    """Cost of all steps of the run."""
    validation: float
    """Cost of evaluating the validation rows once."""
    sample: float
    """Cost of evaluating the sample of training rows once."""
    save: float
    """Cost of saving the best checkpoint once."""

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
        """Predict the costs, taking the sample's rows as typical of all training rows.

        ``trainable_share``: trainable parameters as a share of all parameters.
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
    """The steps after which the validation loss is evaluated, always including the last step."""

    steps: frozenset[int]
    """Numbers of the steps, from 1; 0 means before the first step."""
    with_sample: bool
    """True if the loss on the sample of training rows is evaluated as well."""

    @classmethod
    def choose(
        cls, order: BatchOrder, costs: EvaluationCosts, every: int | None
    ) -> EvaluationSteps:
        """Return the steps at intervals of ``every`` or, if None, as many as the costs allow."""
        last = order.steps
        if every is not None:
            return cls(frozenset({0, *range(every, last, every), last}), with_sample=True)
        interval = math.ceil(last / NUM_EVALUATIONS)
        epochs = range(order.steps_per_epoch, last, order.steps_per_epoch)
        steps = frozenset({0, *range(interval, last, interval), *epochs, last})
        budget = MAX_SHARE * costs.training
        # Step 0 is never saved as the best, and the last step needs no checkpoint.
        saving = (len(steps) - 2) * costs.save
        if len(steps) * (costs.validation + costs.sample) + saving <= budget:
            return cls(steps, with_sample=True)
        if len(steps) * costs.validation + saving <= budget:
            return cls(steps, with_sample=False)
        count = max(1, int((budget + costs.save) / (costs.validation + costs.save)))
        count = min(count, len(steps))
        return cls(frozenset(round(n * last / count) for n in range(1, count + 1)), False)
