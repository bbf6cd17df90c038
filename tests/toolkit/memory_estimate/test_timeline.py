"""Timelines: peaks, labels, and stretching from five layers to a deeper model."""

from __future__ import annotations

import pytest

from tunesmith_torch.memory_estimate.timeline import (
    AllocationEvent,
    NonUniformLayersError,
    StepPosition,
    Timeline,
)


def _model(layers: int, odd: int | None = None) -> Timeline:
    """Return the timeline of a training step.

    In forward, each layer keeps one block and passes one on; backward frees them.
    """
    timeline, count = Timeline(), iter(range(10_000))
    weights, kept = [], []
    for layer in range(layers):
        weights.append(next(count))
        timeline.add(StepPosition("weights", layer), AllocationEvent(weights[-1], 100, "weights"))
    passed = next(count)
    timeline.add(StepPosition("0.forward"), AllocationEvent(passed, 7))
    for layer in range(layers):
        position = StepPosition("0.forward", layer)
        kept.append(next(count))
        timeline.add(position, AllocationEvent(kept[-1], 50 if layer != odd else 60))
        output = next(count)
        timeline.add(position, AllocationEvent(output, 7))
        timeline.add(position, AllocationEvent(passed, -1))  # of the layer before
        passed = output
    timeline.add(StepPosition("0.forward.head"), AllocationEvent(gradient := next(count), 7))
    gradients = []
    for layer in reversed(range(layers)):
        position = StepPosition("0.backward", layer)
        gradients.append(next(count))
        timeline.add(position, AllocationEvent(gradients[-1], 100))
        output = next(count)
        timeline.add(position, AllocationEvent(output, 7))
        timeline.add(position, AllocationEvent(gradient, -1))  # of the layer after
        timeline.add(position, AllocationEvent(kept[layer], -1))
        gradient = output
    timeline.add(StepPosition("0.step"), AllocationEvent(gradient, -1))
    timeline.add(StepPosition("0.step"), AllocationEvent(passed, -1))
    for block in gradients:  # all together, outside of the layers
        timeline.add(StepPosition("0.step"), AllocationEvent(block, -1))
    return timeline


@pytest.mark.parametrize("layers", [5, 6, 9, 40])
def test_the_stretched_timeline_is_that_of_the_deeper_model(layers: int) -> None:
    stretched, real = _model(5).stretch_to_layers(layers), _model(layers)
    assert list(stretched.allocation_curve()) == list(real.allocation_curve())
    assert stretched.peak_bytes() == real.peak_bytes()


def test_layers_that_differ_are_refused() -> None:
    with pytest.raises(NonUniformLayersError):
        _model(5, odd=3).stretch_to_layers(9)
    assert (
        _model(5, odd=0).stretch_to_layers(9).peak_bytes()
        > _model(5).stretch_to_layers(9).peak_bytes()
    )  # the first may differ


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(NonUniformLayersError):
        _model(5).stretch_to_layers(4)


def test_the_peak_is_split_by_label() -> None:
    timeline = _model(5).with_block_labels({})
    assert timeline.peak_bytes() == sum(timeline.peak_by_label().values())
    assert timeline.peak_by_label()["weights"] == 500
    assert timeline.peak_by_label()["activations"] == 50  # the last one, at the end of backward


def test_a_block_exists_in_the_phases_that_are_named() -> None:
    timeline = _model(5).with_block_labels({})
    for part, grows in (("0.", 1000), (".backward", 1000), ("weights", 0)):
        with_block = timeline.with_block("gathered", 1000 if grows else 10, part)
        assert with_block.peak_bytes() == timeline.peak_bytes() + grows, part
        assert with_block.peak_by_label().get("gathered", 0) == grows
    after, before = (
        list(line.allocation_curve())[-1][1]
        for line in (timeline.with_block("gathered", 1000, ".backward"), timeline)
    )
    assert after == before  # freed when the step begins
    twice = timeline.repeat_step("0.", "1.").with_block("sums", 5, ".step")
    assert sum(event.label == "sums" for _, event in twice) == 2


def test_a_label_can_be_scaled() -> None:
    timeline = _model(5).with_block_labels({})
    assert timeline.scale_label("weights", 0.5).peak_bytes() == timeline.peak_bytes() - 250
