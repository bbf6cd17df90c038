"""The fingerprint changes with every weight, dtype and token that it covers."""

from __future__ import annotations

import torch
from torch import nn

from tunesmith_torch.models.fingerprint import compute_fingerprint
from tunesmith_torch.prefix.completion_groups import CompletionGroup


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))


GROUP = CompletionGroup((1, 2), ((3,), (4, 5)))


def test_the_same_model_and_rows_have_the_same_fingerprint() -> None:
    assert compute_fingerprint(model(), [GROUP]) == compute_fingerprint(model(), [GROUP])


def test_every_weight_counts() -> None:
    before = compute_fingerprint(model(), ())
    for name, parameter in model().named_parameters():
        changed = model()
        with torch.no_grad():
            changed.get_parameter(name).flatten()[-1] += 1e-6
        assert compute_fingerprint(changed, ()) != before, (name, parameter.shape)
    assert compute_fingerprint(model().to(torch.bfloat16), ()) != before


def test_tokens_and_their_borders_count() -> None:
    found = {
        compute_fingerprint(model(), groups)
        for groups in (
            [],
            [GROUP],
            [GROUP, GROUP],
            [CompletionGroup((1, 2), ((3,), (4, 6)))],
            [CompletionGroup((1, 2), ((3, 4), (5,)))],
            [CompletionGroup((1,), ((2, 3), (4, 5)))],
        )
    }
    assert len(found) == 6
