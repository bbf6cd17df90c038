"""Additions to a training do their work with every built-in technique, in each of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from addition_plugin import SteadyOptions, steady_addition
from tables import build, tables

from tunesmith.additions import Addition
from tunesmith.contracts import Job
from tunesmith.events import Event, StepFinished
from tunesmith.offers import TechniqueOffer
from tunesmith.records import Completion, Message, Preference, Record, UnpairedPreference
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.offer import FULL
from tunesmith_plugins.techniques.lora.offer import LORA
from tunesmith_plugins.techniques.preference.offer import PREFERENCE
from tunesmith_plugins.techniques.qlora.offer import QLORA
from tunesmith_plugins.techniques.rlhf.offer import RLHF
from tunesmith_torch.training.additions import AdditionContext, TrainingAddition, Update

COMPLETIONS: tuple[Record, ...] = tuple(
    Completion(source=f"rows:{n}", prompt=f"What is {n}?", completion="ten " * (1 + n % 3))
    for n in range(8)
)
PAIRS = tuple(
    Preference(
        source=f"rows:{n}",
        prompt=(Message("user", f"What is {n}?"),),
        chosen="ten " * (1 + n % 3),
        rejected="no, never",
    )
    for n in range(8)
)
LABELLED = tuple(
    UnpairedPreference(source=p.source, prompt=p.prompt, completion=p.chosen, label=bool(n % 2))
    for n, p in enumerate(PAIRS)
)
QUICK = {"epochs": 2, "precision": "fp32", "batch_size": 4, "learning_rate": 1e-2}
STAGES = tables(
    supervised=QUICK,
    reward={**QUICK, "gate": {"accept_weak": True}},
    policy={
        **QUICK,
        "epochs": 1,
        "generation": {"num_generations": 2, "max_new_tokens": 4},
        "loss": {"mask_truncated_completions": False},
        "monitor": {"accept_divergence": True},
    },
)
ONE = ("",)
CASES: dict[str, tuple[TechniqueOffer[Any], dict[str, Any], Sequence[Record], Sequence[str]]] = {
    "full": (FULL, QUICK, COMPLETIONS, ONE),
    "lora": (LORA, QUICK, COMPLETIONS, ONE),
    "qlora": (QLORA, QUICK, COMPLETIONS, ONE),
    "dpo": (PREFERENCE, QUICK, PAIRS, ONE),
    "kto": (PREFERENCE, {**QUICK, "loss": {"type": "kto"}}, LABELLED, ONE),
    "grpo": (RLHF, STAGES, PAIRS, ("supervised", "reward", "policy")),
    "ppo": (
        RLHF,
        {**STAGES, "policy": {**STAGES["policy"], "algorithm": "ppo"}},
        PAIRS,
        ("supervised", "reward", "policy"),
    ),
}


@dataclass
class Watching(TrainingAddition):
    """Measures the path of the weights, and how far updates lie in the forbidden subspace."""

    context: AdditionContext
    leaks: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = {name: p.detach().clone() for name, p in self.context.parameters.items()}
        count = sum(start.numel() for start in self.start.values())
        generator = torch.Generator().manual_seed(self.context.job.seed)
        self.basis = torch.linalg.qr(torch.randn(count, 3, generator=generator)).Q

    def transform_update(self, update: Update) -> None:
        parts = [update.after[name] - update.before[name] for name in update.after]
        change = torch.cat([part.flatten() for part in parts])
        if change.norm() > 0:
            self.leaks.append(float((self.basis.T @ change).norm() / change.norm()))

    @property
    def distance(self) -> float:
        moved = [p.detach() - self.start[name] for name, p in self.context.parameters.items()]
        return float(torch.cat([part.flatten() for part in moved]).norm())


def train(
    case: str, out: Path, model: Path, **steady: Any
) -> tuple[dict[str, Watching], list[StepFinished]]:
    """Train with ``[steady]``; return what watched each stage, and the steps."""
    offer, keys, records, _ = CASES[case]
    config = build(offer.config, **keys)
    out.mkdir()
    watching: dict[str, Watching] = {}
    events: list[Event] = []

    def watch(context: AdditionContext) -> Watching:
        return watching.setdefault(context.job.stage, Watching(context))

    found = steady_addition(SteadyOptions(**steady))
    additions = [Addition(build=watch, table="watching")]
    if found is not None:
        additions.insert(0, Addition(build=found.build, table="steady"))
    job: Job[Any] = Job(
        config=config,
        model=model,
        train=records,
        validation=records[:2],
        out=out,
        seed=3,
        device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"),
        emit=events.append,
        technique=offer.name,
        additions=additions,
    )
    assert offer.accepts_additions
    offer.build(config).train(job)
    return watching, [event for event in events if isinstance(event, StepFinished)]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=() if name in ("full", "lora") else pytest.mark.processes)
        for name in CASES
    ],
)
def test_terms_and_projections_work_in_every_stage(
    tmp_path: Path, tiny_folder: Path, case: str
) -> None:
    free, _ = train(case, tmp_path / "free", tiny_folder)
    held, steps = train(case, tmp_path / "held", tiny_folder, l2=30.0, kl=1.0, directions=3)
    stages = CASES[case][3]
    assert tuple(free) == tuple(held) == tuple(stages)
    for stage in stages:
        assert free[stage].leaks and min(free[stage].leaks) > 1e-4
        assert held[stage].leaks and max(held[stage].leaks) <= 1e-5, stage
        assert held[stage].distance < 0.9 * free[stage].distance, stage
        terms = [step.metrics["steady.term"] for step in steps if step.stage == stage]
        assert terms[0] == pytest.approx(0.0, abs=1e-6) and terms[-1] > 0, stage
