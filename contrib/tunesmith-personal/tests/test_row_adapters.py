"""One model with the adapters of many users: each row gets what its user's model gives alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_serving import load_shared

from tunesmith.errors import IntegrityError
from tunesmith.records import Message
from tunesmith_personal.row_adapters import RowAdaptedModel
from tunesmith_personal.segments import Layout
from tunesmith_personal.technique import SHARED_ADAPTER
from tunesmith_personal.user_models import copy_with_adapter
from tunesmith_torch.generation.continuous import ContinuousBatch, RunningSequence

PROMPTS = [(Message("user", text),) for text in ("invoice 1 user", "refund 2 user")]


@pytest.fixture
def parts(finished: Path) -> Any:
    """The shared model, the layout of its adapter, and three vectors of users."""
    shared = load_shared(finished)(finished / SHARED_ADAPTER)
    layout, shared_P = Layout.read(finished / SHARED_ADAPTER)
    generator = torch.Generator().manual_seed(0)
    noise = [0.3 * torch.randn(shared_P.shape, generator=generator) for _ in range(3)]
    return shared, layout, [shared_P + each for each in noise]


def test_rows_of_several_users_have_the_logits_of_their_models_alone(parts: Any) -> None:
    shared, layout, vectors = parts
    model = RowAdaptedModel(shared, layout, vectors[0])
    adapters = [model.adapt(vector).adapter for vector in vectors]
    own = [copy_with_adapter(shared, layout, vector).model for vector in vectors]
    ids_BT = torch.tensor([[5, 9, 11, 7], [5, 9, 11, 7], [8, 3, 3, 2]])
    plain = model.text_model.model
    for order in ([0, 1, 2], [2, 2, 0], [1, 0, 2]):
        with torch.no_grad(), model.use([adapters[n] for n in order]):
            found = plain(input_ids=ids_BT).logits
        with torch.no_grad():
            expected = [own[n](input_ids=ids_BT[b : b + 1]).logits for b, n in enumerate(order)]
        torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)
        assert torch.allclose(found[0], found[1], atol=1e-2) == (order[0] == order[1])


def test_a_single_adapter_serves_all_rows_of_a_call(parts: Any) -> None:
    shared, layout, vectors = parts
    model = RowAdaptedModel(shared, layout, vectors[0])
    for vector in vectors:
        alone = copy_with_adapter(shared, layout, vector)
        assert model.adapt(vector).generate(PROMPTS, 8) == alone.generate(PROMPTS, 8)


def test_long_answers_in_a_mixed_batch_equal_those_alone(parts: Any) -> None:
    """Rows end at different times, and the last one continues alone with guessed tokens."""
    shared, layout, vectors = parts
    model = RowAdaptedModel(shared, layout, vectors[0])
    ids = shared.template.encode_prompt(PROMPTS[0])
    limits = (5, 20, 60)
    rows = [
        RunningSequence(ids, max_new_tokens=limit, adapter=model.adapt(vector).adapter)
        for vector, limit in zip(vectors, limits, strict=True)
    ]
    with ContinuousBatch(model.text_model.model, end_ids=frozenset()) as batch:
        for row in rows:
            batch.add(row)
        while not batch.is_empty:
            batch.step()
    for row, vector in zip(rows, vectors, strict=True):
        alone = RunningSequence(ids, max_new_tokens=row.max_new_tokens)
        own = copy_with_adapter(shared, layout, vector).model
        with ContinuousBatch(own, end_ids=frozenset()) as batch:
            batch.add(alone)
            while not batch.is_empty:
                batch.step()
        assert row.ids == alone.ids


def test_a_vector_of_another_model_is_refused(parts: Any) -> None:
    shared, layout, vectors = parts
    model = RowAdaptedModel(shared, layout, vectors[0])
    with pytest.raises(IntegrityError, match="does not fit"):
        model.adapt(vectors[0][:-1])
