"""Log-probabilities one row at a time: the same as those of the layouts, and their gradients."""

from __future__ import annotations

import torch

from tunesmith_torch.data.packing import Example, collate
from tunesmith_torch.losses.rows_alone import logprobs_of_rows, loss_of_rows
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.testing.tiny_model import build_tiny_model

EXAMPLES = (
    Example([5, 6, 7, 8, 9], [False, False, True, True, True]),
    Example([10, 11, 12], [True, False, True]),
    Example([13, 14], [True, False]),
    Example([15, 16, 17, 18], [False, True, False, True], [0.0, 2.0, 0.0, 0.5]),
)


def test_rows_alone_have_the_loss_of_padded_rows() -> None:
    """Also with weights, and with a row that has nothing to train."""
    model = build_tiny_model()
    batch = collate(EXAMPLES, range(4), packed=False)
    expected = get_lm_head(model).loss(hidden_at_targets(model, batch), batch)
    found = loss_of_rows(model, batch)
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_log_probabilities_are_in_the_order_of_the_trained_positions() -> None:
    model = build_tiny_model()
    batch = collate(EXAMPLES, [1, 0], packed=False)
    expected = get_lm_head(model).logprobs(hidden_at_targets(model, batch), batch)
    torch.testing.assert_close(logprobs_of_rows(model, batch), expected)


def test_each_row_runs_alone_and_without_padding() -> None:
    model, shapes = build_tiny_model(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    loss_of_rows(model, collate(EXAMPLES, [0, 1, 2], packed=False))
    assert shapes == [(1, 5), (1, 3)]
