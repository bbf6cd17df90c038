"""Answers that the student samples: the term, its gradient, its share, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import ROWS, options, plain_divergence, train
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.records import last_exchange
from tunesmith_distill import on_policy
from tunesmith_distill.on_policy import OnPolicy
from tunesmith_distill.teacher import Teacher
from tunesmith_torch.data.templates import Template
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


def compute_gradients(
    config: Any, student: Path, items: list[Any]
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return a first step's term, its gradient, and that of the data's loss, by transformers."""
    own, other = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (student, config.teacher)
    )
    template = Template.from_options(AutoTokenizer.from_pretrained(student), config)
    examples = template.tokenize_records(ROWS, 512).examples
    prompts = {tuple(template.encode_prompt(last_exchange(row)[0])) for row in ROWS}
    kls, nlls = [], []
    for example in [example for _, example in items]:
        ids_1T = torch.tensor([list(example.ids)])
        answer = sum(example.trained)
        assert not any(example.trained[:-answer]) and tuple(example.ids[:-answer]) in prompts
        logits_TV, wanted_TV = own(input_ids=ids_1T).logits[0], other(input_ids=ids_1T).logits[0]
        kls += [
            plain_divergence(logits_TV[t - 1], wanted_TV[t - 1].detach(), config)
            for t in range(ids_1T.shape[1] - answer, ids_1T.shape[1])
        ]
    for n in range(len(examples)):
        ids_1T = torch.as_tensor(examples[n].ids, dtype=torch.long)[None]
        logp_TV = own(input_ids=ids_1T).logits[0].log_softmax(-1)
        nlls += [
            -logp_TV[t - 1, ids_1T[0, t]]
            for t in range(1, ids_1T.shape[1])
            if examples[n].trained[t]
        ]
    term = config.on_policy * config.temperature**2 * torch.stack(kls).mean()
    parameters = [*own.parameters()]
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
        for value in (term, torch.stack(nlls).mean())
    ]
    return term.item(), gradients[0], gradients[1]


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
    term, gradient, _ = compute_gradients(config, student, items)
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
    measure, example = on_policy.divergence, on_policy.Example
    if mistake == "direction":
        monkeypatch.setattr(on_policy, "divergence", lambda t, s, d: measure(s, t, d))
    elif mistake == "shifted":
        monkeypatch.setattr(on_policy, "divergence", lambda t, s, d: measure(t.roll(1, 0), s, d))
    else:
        monkeypatch.setattr(on_policy, "Example", lambda ids, _: example(ids, [True] * len(ids)))
    _, [step], _ = train(config, student, tmp_path / "run")
    [items] = drawn
    with pytest.raises(AssertionError):
        term, _, _ = compute_gradients(config, student, items)
        assert step.metrics["on_policy.term"] == pytest.approx(term, rel=1e-3)


def test_the_data_keeps_its_share(
    teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reported loss is the data's alone; the gradient has a part of it, and the term's."""
    losses, drawn = [], keep_items(monkeypatch)
    for share in (0.0, 0.25):
        config = options(teacher, max_steps=1, on_policy=share, on_policy_tokens=4, weight=0.0)
        _, [step], _ = train(config, student, tmp_path / str(share))
        losses.append(step.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    [items] = drawn
    _, of_term, of_data = compute_gradients(config, student, items)
    assert step.gradient_norm == pytest.approx((0.75 * of_data + of_term).norm().item(), rel=1e-4)


def test_the_teacher_is_loaded_once(
    teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Teacher] = []
    init = Teacher.__init__

    def count(self: Teacher, *args: Any) -> None:
        loaded.append(self)
        init(self, *args)

    monkeypatch.setattr(Teacher, "__init__", count)
    config = options(teacher, max_steps=1, on_policy=0.5, on_policy_tokens=4)
    train(config, student, tmp_path / "run")
    assert len(loaded) == 1


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
