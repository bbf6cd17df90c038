"""Rows whose rotary factors depend on the longest row are computed as they are alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from rope_models import phi3_longrope
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith_torch.data.packing import Example, MicroBatch, collate, pad_to_multiple
from tunesmith_torch.kernels import tree_attention
from tunesmith_torch.kernels.rotary_lengths import LengthClasses
from tunesmith_torch.kernels.tree_attention import TreeLayout
from tunesmith_torch.losses.length_parts import join_parts, split_by_length
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.prefix.common_prefix import collate_with_prefix
from tunesmith_torch.prefix.completion_groups import CompletionGroup, GroupLayout

CLASSES = LengthClasses((24,))
LENGTHS = (7, 30, 24, 25, 12)


@pytest.fixture(scope="module")
def longrope() -> PreTrainedModel:
    """A tiny Phi 3 with an original context of 24 tokens, with attention for trees."""
    model = phi3_longrope()
    model.set_attn_implementation(tree_attention.register_tree_attention())
    return model


def examples(lengths: Sequence[int], prefix: int = 0) -> list[Example]:
    generator = np.random.default_rng(0)
    first = generator.integers(3, 64, prefix)
    rows = [np.concatenate([first, generator.integers(3, 64, n - prefix)]) for n in lengths]
    return [Example(row, np.arange(len(row)) > prefix, generator.random(len(row))) for row in rows]


def alone(built: PreTrainedModel, ids: Sequence[int], targets: Sequence[bool]) -> Tensor:
    """Return the log-probabilities of a row's targets through the model's own forward."""
    row = torch.tensor(np.asarray(ids))[None]
    logp = built(input_ids=row, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    chosen = torch.tensor(np.asarray(targets))[1:]
    return logp.gather(1, row[0, 1:, None])[:, 0][chosen]


def logprobs(built: PreTrainedModel, batch: MicroBatch, layout: TreeLayout | None) -> Tensor:
    kwargs = {} if layout is None else {"tree_layout": layout}
    hidden = hidden_at_targets(built, batch, attention_kwargs=kwargs)
    return get_lm_head(built).logprobs(hidden, batch)


@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_mixed_rows_are_computed_as_alone(longrope: PreTrainedModel, packed: bool) -> None:
    rows = examples(LENGTHS)
    batch = pad_to_multiple(collate(rows, range(len(rows)), packed=packed))
    expected = torch.cat([alone(longrope, row.ids, row.trained) for row in rows])
    torch.testing.assert_close(logprobs(longrope, batch, None), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_with_a_common_prefix_are_computed_as_alone(longrope: PreTrainedModel) -> None:
    rows = [Example(row.ids, row.trained) for row in examples((14, 30, 24, 25), prefix=10)]
    batch, layout = collate_with_prefix(rows, range(len(rows)), 9)
    expected = torch.cat([alone(longrope, row.ids, row.trained) for row in rows])
    torch.testing.assert_close(logprobs(longrope, batch, layout), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_completions_on_both_sides_of_the_context_are_computed_as_alone(
    longrope: PreTrainedModel,
) -> None:
    """One prompt has a completion within the original context and one beyond it."""
    ids = np.random.default_rng(1).integers(3, 64, 90).tolist()
    groups = [
        CompletionGroup(ids[:15], (ids[15:22], ids[22:40])),
        CompletionGroup(ids[40:41], (ids[41:70], ids[70:75])),
    ]
    completions = GroupLayout().collate(groups, [0, 1])
    expected = [
        alone(longrope, [*g.prompt, *c], [False] * len(g.prompt) + [True] * len(c))
        for g in groups
        for c in g.completions
    ]
    got = logprobs(longrope, completions.batch, completions.tree_layout)
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_rows_alone(longrope: PreTrainedModel) -> None:
    rows = examples(LENGTHS)
    batch = collate(rows, range(len(rows)))
    weights = [p for p in longrope.parameters() if p.requires_grad]
    loss = get_lm_head(longrope).loss(hidden_at_targets(longrope, batch), batch)
    expected = torch.zeros(())
    for row in rows:
        marked = torch.tensor(row.weights)[torch.tensor(row.trained)]
        expected = expected - (alone(longrope, row.ids, row.trained) * marked).sum()
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-5)
    for got, wanted in zip(
        torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


def test_rows_of_one_class_are_not_split() -> None:
    rows = examples((7, 24, 12))
    batch = collate(rows, range(3))
    (part,) = split_by_length(batch, None, CLASSES)
    assert part.batch is batch
    batch = collate(examples((25, 30)), range(2))
    (part,) = split_by_length(batch, None, CLASSES)
    assert part.batch is batch
    assert len(split_by_length(batch, None, LengthClasses((24,), 24))) == 2


def test_parts_keep_targets_and_weights_together() -> None:
    rows = examples(LENGTHS)
    batch = collate(rows, range(len(rows)))
    parts = split_by_length(batch, None, CLASSES)
    assert [part.batch.longest for part in parts] == [24, 30]
    assert torch.equal(join_parts(parts, lambda part: part.batch.targets_N), batch.targets_N)
    assert batch.weights_N is not None
    joined = join_parts(parts, lambda part: part.batch.weights_N)  # type: ignore[arg-type, return-value]
    assert torch.equal(joined, batch.weights_N)
