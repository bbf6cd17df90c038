"""Answers that the student samples: the term, its gradient, its share, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import ROWS, options, plain_divergence, train
from transformers import AutoModelForCausalLM

from tunesmith_distill import on_policy
from tunesmith_distill.on_policy import OnPolicy
from tunesmith_torch.training.additions import TrainingAddition

CASES: list[dict[str, Any]] = [
    {"direction": "reverse"},
    {"direction": "forward", "temperature": 2.0, "weight": 0.0},
]


def keep_items(patch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Keep what each step draws."""
    drawn: list[list[Any]] = []
    draw = OnPolicy.draw

    def keep(self: OnPolicy, step: int) -> Any:
        drawn.append(draw(self, step))
        return drawn[-1]

    patch.setattr(OnPolicy, "draw", keep)
    return drawn


def expected_term(config: Any, student: Path, items: list[Any]) -> tuple[float, torch.Tensor]:
    """Return the term of a first step and its gradient, computed with plain transformers."""
    own, other = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (student, config.teacher)
    )
    kls = []
    for _, example in items:
        ids_1T = torch.tensor([list(example.ids)])
        logits_TV, wanted_TV = own(input_ids=ids_1T).logits[0], other(input_ids=ids_1T).logits[0]
        kls += [
            plain_divergence(logits_TV[t - 1], wanted_TV[t - 1].detach(), config)
            for t in range(1, ids_1T.shape[1])
            if example.trained[t]
        ]
    term = config.on_policy * config.temperature**2 * torch.stack(kls).mean()
    term.backward()  # type: ignore[no-untyped-call]
    return term.item(), torch.cat(
        [p.grad.flatten() for p in own.parameters() if p.grad is not None]
    )


@pytest.mark.parametrize("case", CASES)
def test_the_term_is_the_mean_divergence_at_sampled_tokens(
    case: dict[str, Any],
    teacher: Path,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = options(teacher, max_steps=1, on_policy=1.0, on_policy_tokens=12, **case)
    drawn = keep_items(monkeypatch)
    _, [step], _ = train(config, student, tmp_path / "run")
    [items] = drawn
    assert len(items) == len(ROWS) and all(0 < sum(e.trained) <= 12 for _, e in items)
    term, gradient = expected_term(config, student, items)
    assert step.metrics["on_policy.term"] == pytest.approx(term, rel=1e-4)
    # The whole gradient: with a share of 1, the data's rows have none.
    assert step.gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-4)


@pytest.mark.parametrize("mistake", ["shifted", "direction", "prompt"])
def test_the_comparison_detects_mistakes(
    mistake: str,
    teacher: Path,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = options(teacher, max_steps=1, on_policy=1.0, on_policy_tokens=12, direction="reverse")
    drawn = keep_items(monkeypatch)
    measure = on_policy.divergence
    if mistake == "direction":
        monkeypatch.setattr(on_policy, "divergence", lambda t, s, d: measure(s, t, d))
    elif mistake == "shifted":
        monkeypatch.setattr(on_policy, "divergence", lambda t, s, d: measure(t.roll(1, 0), s, d))
    else:
        monkeypatch.setattr(on_policy, "Example", lambda ids, trained: _all_trained(ids, trained))
    _, [step], _ = train(config, student, tmp_path / "run")
    [items] = drawn
    if mistake == "prompt":
        assert any(all(example.trained[1:]) for _, example in items)
        return
    term, _ = expected_term(config, student, items)
    assert step.metrics["on_policy.term"] != pytest.approx(term, rel=1e-3)


def _all_trained(ids: list[int], trained: list[bool]) -> Any:
    from tunesmith_torch.data.packing import Example

    return Example(ids, [True] * len(trained))


def test_the_data_keeps_its_share(teacher: Path, student: Path, tmp_path: Path) -> None:
    """The reported loss is the data's alone; the gradient has a part of it, and the term's."""
    losses, norms = [], []
    for share in (0.0, 0.5):
        config = options(teacher, max_steps=1, on_policy=share, on_policy_tokens=4, weight=0.0)
        _, [step], _ = train(config, student, tmp_path / str(share))
        losses.append(step.loss)
        norms.append(step.gradient_norm)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert norms[1] != pytest.approx(norms[0], rel=1e-2)


def test_a_part_of_the_items_gives_a_part_of_the_term(
    teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[OnPolicy] = []
    init = OnPolicy.__init__

    def keep(self: OnPolicy, *args: Any) -> None:
        init(self, *args)
        built.append(self)

    monkeypatch.setattr(OnPolicy, "__init__", keep)
    config = options(teacher, max_steps=1, on_policy=0.5, on_policy_tokens=8)
    train(config, student, tmp_path / "run")
    [addition] = built
    assert isinstance(addition, TrainingAddition)
    items = [example for _, example in addition.draw(7)]
    assert [list(e.ids) for e in items] == [list(e.ids) for _, e in addition.draw(7)]
    with torch.no_grad():
        parts = addition.term(items[:1]) + addition.term(items[1:])
        assert float(parts) == pytest.approx(float(addition.term(items)), rel=1e-5)


def test_the_divergence_on_own_answers_falls(teacher: Path, student: Path, tmp_path: Path) -> None:
    config = options(
        teacher, on_policy=1.0, direction="reverse", epochs=50.0, learning_rate=3e-3,
        on_policy_tokens=8,
    )  # fmt: skip
    _, steps, _ = train(config, student, tmp_path / "run")
    terms = [step.metrics["on_policy.term"] for step in steps]
    assert sum(terms[-10:]) < 0.6 * sum(terms[:10])
