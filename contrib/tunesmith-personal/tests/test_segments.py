"""Losses of several users in one pass: equal to PEFT's, and independent of the other users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from people import make_options, make_records, make_rows
from torch import Tensor, nn

from tunesmith.errors import UsageError
from tunesmith_personal import segments
from tunesmith_personal.segments import (
    Layout,
    SegmentedModel,
    are_rows_independent,
    padded_size,
)
from tunesmith_personal.training import make_chunks
from tunesmith_torch.data.packing import MicroBatch
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import adapt_lora
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.testing.tiny_model import save_tiny_model

FP32, CPU = Precision(torch.float32, "test"), torch.device("cpu")


def load(model: Path) -> Any:
    return load_model(model, CPU, FP32, packing=False)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA adapter whose two matrices are random."""
    path = tmp_path_factory.mktemp("adapter")
    model = adapt_lora(load(tiny_model), FP32, make_options().adapter, 0, fused_kernels=False).model
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(str(path))
    return path


@pytest.fixture(scope="module")
def model(tiny_model: Path, adapter: Path) -> SegmentedModel:
    return SegmentedModel(load(tiny_model), Layout.read(adapter)[0])


@pytest.fixture(scope="module")
def batches(model: SegmentedModel) -> list[MicroBatch]:
    """One batch for each of six users, of different sizes."""
    template = Template.from_tokenizer(model.base.tokenizer)
    rows = make_rows(6, 12)
    sizes = (3, 1, 7, 4, 12, 2)
    found = []
    for user, size in enumerate(sizes):
        records = make_records(rows[user * 12 : user * 12 + size])
        examples = template.tokenize_records(records, 512).examples
        found += make_chunks(examples, range(len(examples)), 4096)
    return found


def make_vectors(adapter: Path, count: int) -> list[Tensor]:
    vector_P = Layout.read(adapter)[1]
    generator = torch.Generator().manual_seed(2)
    noise = (torch.randn(vector_P.shape, generator=generator) * 0.05 for _ in range(count))
    return [(vector_P + each).requires_grad_() for each in noise]


def compute(
    model: SegmentedModel, vectors: list[Tensor], batches: list[MicroBatch]
) -> list[tuple[Tensor, Tensor]]:
    """Return the loss and the gradient of each user, in one pass."""
    losses = model.losses(vectors, batches)
    gradients = torch.autograd.grad(torch.stack(losses).sum(), vectors)
    return [(loss.detach(), g) for loss, g in zip(losses, gradients, strict=True)]


def test_a_loss_is_that_of_peft(
    tiny_model: Path, adapter: Path, model: SegmentedModel, batches: list[MicroBatch]
) -> None:
    """The plain model with PEFT's own layers, one user at a time, through its own head."""
    vectors = [Layout.read(adapter)[1]] * len(batches)
    losses = model.losses(vectors, batches)
    plain: Any = attach_adapter(load(tiny_model), adapter, fused_kernels=False)
    for loss, batch in zip(losses, batches, strict=True):
        logits = plain(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits
        rows_NV = logits.flatten(0, 1)[batch.trained_N]
        expected = nn.functional.cross_entropy(rows_NV, batch.targets_N, reduction="sum")
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 3, 1, 0, 2, 4), (4, 0), (2, 5, 1)])
def test_a_users_bits_do_not_depend_on_the_others(
    adapter: Path, model: SegmentedModel, batches: list[MicroBatch], order: tuple[int, ...]
) -> None:
    vectors = make_vectors(adapter, len(batches))
    together = compute(model, [vectors[i] for i in order], [batches[i] for i in order])
    for i, (loss, gradient_P) in zip(order, together, strict=True):
        alone_loss, alone_P = compute(model, [vectors[i]], [batches[i]])[0]
        assert torch.equal(loss, alone_loss) and torch.equal(gradient_P, alone_P)
        assert gradient_P.abs().sum() > 0


def test_another_users_adapter_and_rows_do_not_matter(
    adapter: Path, model: SegmentedModel, batches: list[MicroBatch]
) -> None:
    vectors = make_vectors(adapter, 3)
    first = compute(model, vectors[:2], [batches[0], batches[2]])[0]
    other = (vectors[2] * 100).detach().requires_grad_()
    second = compute(model, [vectors[0], other], [batches[0], batches[4]])[0]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_last_tokens_of_a_segment_are_padding(batches: list[MicroBatch]) -> None:
    assert all(padded_size(batch) % 16 == 0 for batch in batches)
    assert any(padded_size(batch) > batch.ids_BT.numel() for batch in batches)


def test_this_machine_computes_rows_independently(model: SegmentedModel) -> None:
    """Otherwise users train one after the other, and the tests above would need other batches."""
    assert are_rows_independent(model.decoder, 1024)


def test_a_product_that_depends_on_the_number_of_rows_is_detected() -> None:
    class Rounded(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return out * (1 + 2e-7) if x.shape[1] > 100 else out

    assert are_rows_independent(nn.Sequential(nn.Linear(64, 64)), 256)
    assert not are_rows_independent(nn.Sequential(Rounded(64, 64)), 256)


@pytest.mark.parametrize("family", ["lfm2", "bloom"])
def test_layers_that_carry_information_between_rows_are_refused(
    family: str, tmp_path: Path
) -> None:
    """Convolutions, and an attention that ignores transformers' interface."""
    changes = {"layer_types": ["conv", "full_attention"]} if family == "lfm2" else {}
    folder = save_tiny_model(tmp_path / "model", family, changes=changes)
    options = make_options(adapter={"target_modules": "all-linear"}).adapter
    adapted = adapt_lora(load(folder), FP32, options, 0, fused_kernels=False).model
    adapted.save_pretrained(str(tmp_path / "adapter"))
    layout, vector_P = Layout.read(tmp_path / "adapter")
    with pytest.raises(UsageError, match="from one row to the next"):
        SegmentedModel(load(folder), layout).check_separation(vector_P)


def test_a_model_that_separates_rows_is_accepted(adapter: Path, model: SegmentedModel) -> None:
    model.check_separation(Layout.read(adapter)[1])


def test_matrices_of_other_layers_are_not_taken_for_compared() -> None:
    """Experts are parameters with three axes; GPT-2 has a special layer."""
    layer = nn.Linear(64, 64)
    layer.register_parameter("experts", nn.Parameter(torch.zeros(2, 64, 64)))
    assert not are_rows_independent(nn.Sequential(layer), 256)
    assert are_rows_independent(nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 64)), 256)


def test_features_of_attention_that_are_not_supported_are_refused() -> None:
    q = torch.zeros(1, 2, 16, 4)
    segment = [segments.Segment(1, 16, 16)]
    with pytest.raises(Exception, match="softcap"):
        segments._attend_by_segment(
            nn.Module(), q, q, q, None, personal_segments=segment, softcap=1.0
        )
    with pytest.raises(Exception, match="window of 8"):
        segments._attend_by_segment(
            nn.Module(), q, q, q, None, personal_segments=segment, sliding_window=8
        )


def test_a_vector_has_the_tensors_of_the_file(adapter: Path) -> None:
    layout, vector_P = Layout.read(adapter)
    assert layout.scaling == 2.0
    from safetensors.torch import load_file

    expected = load_file(adapter / "adapter_model.safetensors")
    found = layout.split(vector_P)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
