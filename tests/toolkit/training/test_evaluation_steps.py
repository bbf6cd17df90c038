"""The steps with a validation loss: predicted from tokens, below a tenth of the training."""

from __future__ import annotations

import itertools

import pytest

from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.training.evaluation_steps import (
    MAX_SHARE,
    EvaluationCosts,
    EvaluationSteps,
)

FREE = EvaluationCosts(training=1e9, validation=1, sample=1, save=0)


def order(rows: int, *, epochs: float = 3, batch_size: int = 16) -> BatchOrder:
    return BatchOrder(rows, batch_size, epochs, seed=1)


def test_ten_evaluations_and_one_at_the_end_of_each_epoch() -> None:
    chosen = EvaluationSteps.choose(order(640), FREE, None)  # 120 steps
    assert chosen.steps == {0, *range(12, 121, 12), 40, 80, 120}
    assert chosen.with_sample


def test_every_is_obeyed_whatever_it_costs() -> None:
    dear = EvaluationCosts(training=1, validation=1e9, sample=1e9, save=1e9)
    chosen = EvaluationSteps.choose(order(640), dear, 50)
    assert chosen == EvaluationSteps(frozenset({0, 50, 100, 120}), with_sample=True)


def test_the_sample_of_training_rows_is_the_first_to_go() -> None:
    steps = order(640)
    validation_only = EvaluationCosts(training=1e3, validation=7, sample=7, save=0)
    chosen = EvaluationSteps.choose(steps, validation_only, None)
    assert len(chosen.steps) == 13 and not chosen.with_sample
    fewer = EvaluationCosts(training=1e3, validation=25, sample=25, save=0)
    assert EvaluationSteps.choose(steps, fewer, None).steps == {30, 60, 90, 120}


@pytest.mark.parametrize("epochs", [0.3, 1, 3, 50])
@pytest.mark.parametrize("rows", [80, 200, 1_000, 100_000])
def test_the_predicted_cost_is_below_a_tenth(rows: int, epochs: float) -> None:
    """Unless a single evaluation costs more: the last step is always evaluated."""
    steps = order(rows, epochs=epochs)
    validation = min(max(round(0.1 * rows), 20), 200)
    for share, device in itertools.product((0.01, 1.0), ("cpu", "cuda")):
        costs = EvaluationCosts.predict(
            steps,
            validation_tokens=validation * 90,
            sample_tokens=validation * 100,
            sample_rows=validation,
            trainable_share=share,
            device=device,
        )
        chosen = EvaluationSteps.choose(steps, costs, None)
        assert steps.steps in chosen.steps
        assert chosen.steps <= set(range(steps.steps + 1))
        saves = len(chosen.steps - {0, steps.steps})
        each = costs.validation + (costs.sample if chosen.with_sample else 0)
        spent = len(chosen.steps) * each + saves * costs.save
        assert spent <= MAX_SHARE * costs.training or len(chosen.steps) == 1


def test_training_tokens_count_the_epochs_and_the_steps_that_are_taken() -> None:
    def training(steps: BatchOrder) -> float:
        return EvaluationCosts.predict(
            steps,
            validation_tokens=1,
            sample_tokens=1_000,
            sample_rows=10,
            trainable_share=1.0,
            device="cpu",
        ).training

    assert training(order(160)) == pytest.approx(3 * 160 * 100)
    limited = BatchOrder(160, 16, 3.0, seed=1, max_steps=5)
    assert training(limited) == pytest.approx(80 * 100)
