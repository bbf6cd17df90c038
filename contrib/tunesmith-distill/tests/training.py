"""A teacher, a student and one training, and its loss and gradient computed independently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.contracts import Job
from tunesmith.events import Event, FindingReported, StepFinished
from tunesmith.options import from_table
from tunesmith.records import Chat, Message
from tunesmith.storage import Checkpoints
from tunesmith_distill.options import DistillOptions
from tunesmith_distill.technique import Distill
from tunesmith_torch.data.templates import Template
from tunesmith_torch.testing.tiny_model import save_tiny_model


def make_rows(*, weighted: bool) -> tuple[Chat, ...]:
    """Return rows with the same system prompt, which a batch of equal weights computes once."""
    return tuple(
        Chat(
            source=f"rows:{n}",
            messages=(
                Message("system", "Answer in one word."),
                Message("user", f"Who is {n}?" * (1 + n % 3)),
                Message(
                    "assistant", "one two" if n % 2 else "three", weight=1 + weighted * (n % 2)
                ),
            ),
        )
        for n in range(8)
    )


ROWS, WEIGHTED_ROWS = make_rows(weighted=False), make_rows(weighted=True)


def save_decided_model(folder: Path, seed: int, layers: int, **changes: Any) -> Path:
    """Save a random model whose predictions are far from uniform."""
    save_tiny_model(folder, seed=seed, changes={"num_hidden_layers": layers, **changes})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(12)
    model.save_pretrained(folder)
    return folder


def options(teacher: Path, **changes: Any) -> DistillOptions:
    """Return options for a comparison with a plain loop: all rows in each step, no schedule."""
    table = {
        "teacher": str(teacher), "batch_size": len(ROWS), "epochs": 4.0, "precision": "fp32",
        "schedule": {"type": "constant", "warmup_ratio": 0.0}, "learning_rate": 2e-3, "top_k": 8,
    }  # fmt: skip
    return from_table(DistillOptions, {**table, **changes})


def train(
    config: DistillOptions,
    model: Path,
    out: Path,
    emit: Callable[[Event], None] = lambda event: None,
    rows: Any = ROWS,
) -> tuple[Path, list[StepFinished], list[str]]:
    """Return the artifact, the steps and the findings."""
    events: list[Event] = []

    def keep(event: Event) -> None:
        events.append(event)
        emit(event)

    out.mkdir(parents=True, exist_ok=True)
    job: Job[Any] = Job(
        config=config, model=model, train=rows, validation=(), out=out, seed=3, device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"), emit=keep, technique="distill",
    )  # fmt: skip
    artifact = Distill(config).train(job)
    steps = [event for event in events if isinstance(event, StepFinished)]
    return artifact.path, steps, [e.message for e in events if isinstance(e, FindingReported)]


def check_first_step(config: DistillOptions, student: Path, step: StepFinished) -> None:
    """Compare a first step on the weighted rows with plain transformers, position by position."""
    own, other = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (student, config.teacher)
    )
    template = Template.from_options(AutoTokenizer.from_pretrained(student), config)
    examples = template.tokenize_records(WEIGHTED_ROWS, 512).examples
    nlls, kls, weights = [], [], []
    for n in range(len(examples)):
        ids_1T = torch.as_tensor(examples[n].ids, dtype=torch.long)[None]
        logits_TV = own(input_ids=ids_1T).logits[0]
        with torch.no_grad():
            wanted_TV = other(input_ids=ids_1T).logits[0]
        for t in range(1, ids_1T.shape[1]):
            if examples[n].trained[t]:  # predicted by the position before
                nlls.append(-logits_TV[t - 1].log_softmax(-1)[ids_1T[0, t]])
                kls.append(plain_divergence(logits_TV[t - 1], wanted_TV[t - 1], config))
                weights.append(1.0 + n % 2)
    weight = torch.tensor(weights) / sum(weights)
    nll, kl = (torch.stack(parts) @ weight for parts in (nlls, kls))
    scale = config.temperature**2
    loss = (1 - config.weight) * nll + config.weight * scale * kl
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.flatten() for p in own.parameters() if p.grad is not None]
    found = [step.loss, step.gradient_norm, step.metrics["kl"]]
    expected = [x.item() for x in (nll, torch.cat(gradients).norm(), kl)]
    assert found == pytest.approx(expected, rel=1e-4), (found, expected)


def plain_divergence(logits_V: Tensor, wanted_V: Tensor, config: DistillOptions) -> Tensor:
    """Return the divergence with probabilities, in fp64."""
    student_V, teacher_V = (
        (x.double() / config.temperature).softmax(-1) for x in (logits_V, wanted_V)
    )
    top = teacher_V.sort(descending=True).indices[: config.top_k]
    q, p = (torch.cat([x[top], 1 - x[top].sum()[None]]) for x in (teacher_V, student_V))
    if config.direction == "reverse":
        q, p = p, q
    return (q * (q / p).log()).sum().float()
