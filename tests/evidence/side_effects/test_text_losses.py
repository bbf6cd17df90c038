"""The loss of a text is the mean negative log-probability of its tokens."""

from __future__ import annotations

from tunesmith.records import Text
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.side_effects.text_losses import measure_losses


def test_losses_and_numbers_of_tokens() -> None:
    model = FakeTextModel(logprobs={"one two": (-1.0, -2.0, -6.0), "three": (-0.5,), "": ()})
    texts = [Text(source=text, text=text) for text in ("one two", "three", "")]
    assert measure_losses(model, texts) == ((3.0, 0.5, 0.0), (3.0, 1.0, 0.0))
