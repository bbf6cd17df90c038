"""Timelines: peaks, labels, and a deeper model out of five layers."""

from __future__ import annotations

import pytest

from tunesmith_torch.memory_estimate.timeline import Event, NotUniform, Place, Timeline


def _model(layers: int, odd: int | None = None) -> Timeline:
    """Weights; forward keeps one block a layer and passes one on; backward frees them; a step."""
    timeline, count = Timeline(), iter(range(10_000))
    weights, kept = [], []
    for layer in range(layers):
        weights.append(next(count))
        timeline.add(Place("weights", layer), Event(weights[-1], 100, "weights"))
    passed = next(count)
    timeline.add(Place("0.forward"), Event(passed, 7))
    for layer in range(layers):
        place = Place("0.forward", layer)
        kept.append(next(count))
        timeline.add(place, Event(kept[-1], 50 if layer != odd else 60))
        new = next(count)
        timeline.add(place, Event(new, 7))
        timeline.add(place, Event(passed, -1))  # of the layer before
        passed = new
    timeline.add(Place("0.forward.head"), Event(gradient := next(count), 7))
    gradients = []
    for layer in reversed(range(layers)):
        place = Place("0.backward", layer)
        gradients.append(next(count))
        timeline.add(place, Event(gradients[-1], 100))
        new = next(count)
        timeline.add(place, Event(new, 7))
        timeline.add(place, Event(gradient, -1))  # of the layer after
        timeline.add(place, Event(kept[layer], -1))
        gradient = new
    timeline.add(Place("0.step"), Event(gradient, -1))
    timeline.add(Place("0.step"), Event(passed, -1))
    for block in gradients:  # all of them at once, outside of the layers
        timeline.add(Place("0.step"), Event(block, -1))
    return timeline


@pytest.mark.parametrize("layers", [5, 6, 9, 40])
def test_stretched_is_what_the_deeper_model_does(layers: int) -> None:
    stretched, real = _model(5).stretched(layers), _model(layers)
    assert list(stretched.curve()) == list(real.curve())
    assert stretched.peak() == real.peak()


def test_layers_that_differ_are_refused() -> None:
    with pytest.raises(NotUniform):
        _model(5, odd=3).stretched(9)
    assert _model(5, odd=0).stretched(9).peak() > _model(5).stretched(9).peak()  # the first may


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(NotUniform):
        _model(5).stretched(4)


def test_the_peak_is_told_by_label() -> None:
    timeline = _model(5).labelled({})
    assert timeline.peak() == sum(timeline.at_peak().values())
    assert timeline.at_peak()["weights"] == 500
    assert timeline.at_peak()["activations"] == 50  # the last one, at the end of backward


def test_a_label_can_be_scaled() -> None:
    timeline = _model(5).labelled({})
    assert timeline.scaled("weights", 0.5).peak() == timeline.peak() - 250
