"""Training on next tokens: the fused kernels change nothing, and skipped rows are reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tables import build

from tunesmith.contracts import Job
from tunesmith.errors import DataError, RunStopped
from tunesmith.events import Event, FindingReported, StepFinished, TrainingFinished, TrainingStarted
from tunesmith.records import Chat, Completion, Message, Record, Text
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.data import large_data, streamed_examples
from tunesmith_torch.kernels import lora_autograd, rms_norm
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train

RECORDS = tuple(Completion(source=f"r:{n}", prompt=f"{n}?", completion="ten") for n in range(8))


def run(
    folder: Path, model: Path, records: Sequence[Record] = RECORDS, **changes: Any
) -> list[Event]:
    """Train by LoRA with these options; return the events."""
    events: list[Event] = []
    train(job_of(folder, model, records, events.append, **changes), SupervisedTask())
    return events


def job_of(
    folder: Path,
    model: Path,
    records: Sequence[Record],
    emit: Callable[[Event], None],
    **changes: Any,
) -> Job[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        config=build(LoraOptions, **{"batch_size": 4, "precision": "fp32", **changes}),
        model=model,
        train=records,
        validation=(),
        out=folder,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=emit,
        technique="test",
    )


def test_fused_kernels_do_not_change_the_losses(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched on they are used, switched off they are not; the losses are equal."""
    calls: list[str] = []
    for kind in (rms_norm._RMSNormFunction, lora_autograd.LoraFunction):
        monkeypatch.setattr(kind, "apply", counted(kind.apply, kind.__name__, calls))
    losses = {}
    for on in (True, False):
        calls.clear()
        events = run(
            tmp_path / str(on), tiny_folder, max_steps=3, fused_kernels=on, learning_rate=1e-2
        )
        steps = [event for event in events if isinstance(event, StepFinished)]
        losses[on] = [step.loss for step in steps]
        assert set(calls) == ({"_RMSNormFunction", "LoraFunction"} if on else set())
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[True][-1] < losses[True][0]


def counted(function: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def apply(*args: Any) -> Any:
        calls.append(name)
        return function(*args)

    return apply


def test_rows_that_do_not_fit_are_reported(tmp_path: Path, tiny_folder: Path) -> None:
    long = Completion(source="r:long", prompt="a word " * 200, completion="ten")
    with pytest.raises(DataError, match="skipped 1 of 9 rows"):
        run(tmp_path / "refused", tiny_folder, (*RECORDS, long), max_length=64, max_steps=1)
    events = run(
        tmp_path / "out", tiny_folder, (*RECORDS, long), max_length=64, max_steps=1,
        max_skipped=0.2,
    )  # fmt: skip
    (finished,) = (event for event in events if isinstance(event, TrainingFinished))
    assert finished.affected_rows == {"row is too long": 1}
    findings = [e for e in events if isinstance(e, FindingReported) and e.source == "data"]
    assert [finding.level for finding in findings] == ["warning"]
    assert "skipped 1 row: " in findings[0].message
    assert "r:long" in findings[0].message
    shortened = run(
        tmp_path / "cut", tiny_folder, (*RECORDS, long), max_length=64, max_steps=1,
        truncate_prompts=True,
    )  # fmt: skip
    messages = [
        e.message for e in shortened if isinstance(e, FindingReported) and e.source == "data"
    ]
    assert messages == ["shortened 1 prompt to fit into 64 tokens"]


def test_data_of_which_nothing_fits_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    long = Completion(source="r:long", prompt="a word " * 200, completion="ten")
    with pytest.raises(DataError, match="r:long: no rows can be used"):
        run(tmp_path, tiny_folder, (long,), max_length=64)
    with pytest.raises(DataError, match="no rows"):
        run(tmp_path, tiny_folder, ())


def test_rows_beyond_a_sliding_window_are_trained_and_reported(tmp_path: Path) -> None:
    """The rows begin with the same instructions, which would be shared within the window."""
    model = save_tiny_model(tmp_path / "mistral", "mistral")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "sliding_window": 48}))
    system = "Answer in one word, in capital letters, without a full stop at the end of the word."
    records = tuple(
        Chat(
            source=f"r:{n}",
            messages=(
                Message("system", system),
                Message("user", "one two three " * n + "?"),
                Message("assistant", "ten"),
            ),
        )
        for n in range(4)
    )
    losses = {}
    for packing in (True, False):
        events = run(tmp_path / str(packing), model, records, max_steps=1, packing=packing)
        losses[packing] = [event.loss for event in events if isinstance(event, StepFinished)]
        findings = [
            e.message for e in events if isinstance(e, FindingReported) and e.source == "model"
        ]
        assert len(findings) == packing
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert "a `sliding_window` of 48" in run_finding(tmp_path / "again", model, records)


def run_finding(folder: Path, model: Path, records: tuple[Record, ...]) -> str:
    events = run(folder, model, records, max_steps=1)
    (finding,) = [e for e in events if isinstance(e, FindingReported) and e.source == "model"]
    assert finding.level == "info"
    return finding.message


def turns(*answers: tuple[str, float]) -> tuple[Record, ...]:
    return tuple(
        Chat(
            source=f"r:{n}",
            messages=(Message("user", f"{n}?"), Message("assistant", answer, weight=weight)),
        )
        for n, (answer, weight) in enumerate(answers)
    )


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepFinished)]


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_is_the_mean_over_tokens_by_their_weights(
    tmp_path: Path, tiny_folder: Path, packing: bool
) -> None:
    """Of rows with one loss each: (w1 n1 l1 + w2 n2 l2) / (w1 n1 + w2 n2)."""
    rows = ("ten", 1.0), ("one two three four", 1.0)
    options = {"max_steps": 1, "packing": packing}
    one, two = (
        run(tmp_path / str(n), tiny_folder, turns(*rows)[n : n + 1], **options) for n in (0, 1)
    )
    counts = [
        event.trained_tokens
        for events in (one, two)
        for event in events
        if isinstance(event, TrainingStarted)
    ]
    weighted = turns(("ten", 0.25), ("one two three four", 2.0))
    both = run(tmp_path / "both", tiny_folder, weighted, **options)
    shares = 0.25 * counts[0], 2.0 * counts[1]
    expected = (shares[0] * losses(one)[0] + shares[1] * losses(two)[0]) / sum(shares)
    assert losses(both) == pytest.approx([expected], rel=1e-5)
    plain = (counts[0] * losses(one)[0] + counts[1] * losses(two)[0]) / sum(counts)
    assert losses(both) != pytest.approx([plain], rel=5e-4)


def test_a_weight_that_all_rows_share_changes_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    rows = [("ten", 1.0), ("one two three four", 1.0)]
    plain = run(tmp_path / "plain", tiny_folder, turns(*rows), max_steps=3)
    doubled = turns(*((answer, 2.0) for answer, _ in rows))
    assert losses(run(tmp_path / "doubled", tiny_folder, doubled, max_steps=3)) == pytest.approx(
        losses(plain), rel=1e-5
    )


# ------------------------------------------------------------ large data

SYSTEM = Message("system", "You count in words, in lower case, and you say nothing else at all.")


def rows_of(count: int, *, system: bool = False, weights: bool = False) -> list[Record]:
    """Return rows of different lengths, as conversations if they have a system prompt or weights"""
    if not system and not weights:
        return [
            Completion(
                source=f"r:{n}", prompt=f"{n}? " * (1 + n % 5), completion="ten " * (n % 3 + 1)
            )
            for n in range(count)
        ]
    before = (SYSTEM,) if system else ()
    return [
        Chat(
            source=f"r:{n}",
            messages=(
                *before,
                Message("user", f"{n}? " * (1 + n % 5)),
                Message("assistant", "ten", weight=0.25 * (1 + n % 4) if weights else 1.0),
            ),
        )
        for n in range(count)
    ]


def weights_of(folder: Path) -> dict[str, bytes]:
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all data count as large, and tokenize only a few rows ahead."""
    monkeypatch.setattr(large_data, "LARGE_CHARACTERS", 100)
    monkeypatch.setattr(streamed_examples, "ROWS_PER_BLOCK", 8)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"packing": False},
        {"system": True},
        {"system": True, "weights": True},
        {"weights": True, "packing": False},
    ],
    ids=str,
)
def test_large_data_gives_the_same_weights(
    tmp_path: Path, tiny_folder: Path, request: pytest.FixtureRequest, case: dict[str, bool]
) -> None:
    """Rows are tokenized when they are needed, also in a resumed training."""
    options = {"learning_rate": 1e-2, "epochs": 2, "packing": case.get("packing", True)}
    rows = rows_of(22, system="system" in case, weights="weights" in case)
    in_advance = run(tmp_path / "in_advance", tiny_folder, rows, **options)
    request.getfixturevalue("large")
    streamed = run(tmp_path / "streamed", tiny_folder, rows, **options)
    assert weights_of(tmp_path / "streamed") == weights_of(tmp_path / "in_advance")
    started, expected = (
        next(event for event in events if isinstance(event, TrainingStarted))
        for events in (streamed, in_advance)
    )
    assert (started.tokens, started.rows) == (None, expected.rows)
    assert started.details.pop("streamed")
    assert started.details == expected.details
    assert (started.details["prefix_tokens"] > 20) == (case == {"system": True})
    finished, expected_end = streamed[-1], in_advance[-1]
    assert isinstance(finished, TrainingFinished) and isinstance(expected_end, TrainingFinished)
    assert (finished.tokens, finished.trained_tokens, finished.affected_rows) == (
        expected_end.tokens, expected_end.trained_tokens, {},
    )  # fmt: skip

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 7:
            raise RunStopped("enough")

    with pytest.raises(RunStopped):
        train(job_of(tmp_path / "resumed", tiny_folder, rows, stop, **options), SupervisedTask())
    resumed = run(tmp_path / "resumed", tiny_folder, rows, **options)
    assert weights_of(tmp_path / "resumed") == weights_of(tmp_path / "in_advance")
    assert [e.step for e in resumed if isinstance(e, StepFinished)] == [8, 9, 10, 11, 12]
    assert isinstance(resumed[-1], TrainingFinished) and resumed[-1].tokens is None


@pytest.mark.usefixtures("large")
def test_large_data_that_cannot_be_streamed_is_tokenized_in_advance(
    tmp_path: Path, tiny_folder: Path
) -> None:
    texts = [Text(source=f"t:{n}", text=f"row {n} " * 60) for n in range(6)]
    events = run(tmp_path, tiny_folder, texts, max_length=64, max_steps=2)
    started = next(event for event in events if isinstance(event, TrainingStarted))
    assert started.tokens and started.rows > 6
    assert isinstance(events[-1], TrainingFinished)
    assert events[-1].affected_rows == {"text became several rows": 6}


def test_unusable_rows_of_large_data_are_missing_from_their_batches(
    tmp_path: Path, tiny_folder: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found when they are tokenized, counted, and limited."""
    monkeypatch.setattr(streamed_examples, "LARGE_CHARACTERS", 0)
    rows = [*rows_of(10), Completion(source="r:long", prompt="a word " * 200, completion="ten")]
    with pytest.raises(DataError, match="skipped 1 of 11 rows"):
        run(tmp_path / "refused", tiny_folder, rows, max_length=64, epochs=1)
    options = {"max_length": 64, "epochs": 2, "batch_size": 1, "max_skipped": 0.1}
    events = run(tmp_path / "out", tiny_folder, rows, **options)
    steps = [event for event in events if isinstance(event, StepFinished)]
    assert len(steps) == 22
    assert [step.tokens == 0 for step in steps].count(True) == 2  # once in each epoch
    assert isinstance(events[-1], TrainingFinished)
    assert events[-1].affected_rows == {"row is too long": 1}
