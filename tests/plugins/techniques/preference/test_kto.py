"""KTO on labeled answers: loss and gradient against the paper's formula, row by row in fp64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import lay_out
from tables import build
from torch import Tensor

from tunesmith.contracts import Job
from tunesmith.errors import DataError, RunStopped
from tunesmith.events import Event, StepFinished, TrainingStarted
from tunesmith.records import Message, Preference, Record, UnpairedPreference
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.preference.losses import CompletionScores, kto
from tunesmith_plugins.techniques.preference.objective import PreferenceObjective, mismatched_groups
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.preference.task import PreferenceTask
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import adapt_full
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    completion_logprobs,
    tokenize_preferences,
)
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training import trainer
from tunesmith_torch.training.preference_data import PreferenceData

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
ROWS = tuple(
    UnpairedPreference(
        source=f"rows:{n}",
        prompt=(Message("user", f"What is {n // 2}?" * (1 + n // 2 % 3)),),
        completion=("ten " if n % 2 else "no, ") * (1 + n % 4),
        label=n % 3 != 1,
    )
    for n in range(12)
)
"""Two rows of each prompt, eight good and four bad, in no regular order."""
LAYOUTS = [GroupLayout(), GroupLayout(share_prompts=False), GroupLayout(packing=False)]
BETA, WEIGHTS = 0.5, (1.5, 4.0)


def options(**changes: Any) -> PreferenceOptions:
    base = {
        "epochs": 1,
        "batch_size": 6,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "schedule__warmup_ratio": 0.0,
        "loss__type": "kto",
    }
    return build(PreferenceOptions, **{**base, **changes})


def job(
    folder: Path,
    model: Path,
    config: PreferenceOptions,
    records: Sequence[Record] = ROWS,
    emit: Callable[[Event], None] = lambda event: None,
) -> Job[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        config=config,
        model=model,
        train=records,
        validation=(),
        out=folder,
        seed=3,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=emit,
        technique="test",
    )


# --------------------------------------------------------------------------- the paper's formula


def logprob(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """The model's own logits of one row, without packing or padding."""
    ids = torch.tensor([[*prompt, *completion]])
    logp_TV = model(input_ids=ids).logits[0].log_softmax(-1)
    positions = range(len(prompt), ids.shape[1])
    return torch.stack([logp_TV[t - 1, ids[0, t]] for t in positions]).sum()


def paper_loss(
    policy: Any, reference: Any, batch: Sequence[Any], mismatched: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """The mean loss of rows (prompt, completion, label), and z0 (Ethayarajh et al. 2024)."""

    def log_ratio(prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
        with torch.no_grad():
            log_ref = logprob(reference, prompt, completion)
        return logprob(policy, prompt, completion) - log_ref

    with torch.no_grad():
        z0 = torch.stack([log_ratio(*pair) for pair in mismatched]).mean().clamp(min=0)
    lambda_d, lambda_u = WEIGHTS
    losses = []
    for prompt, completion, label in batch:
        r = log_ratio(prompt, completion)
        if label:
            losses.append(lambda_d - lambda_d * torch.sigmoid(BETA * (r - z0)))
        else:
            losses.append(lambda_u - lambda_u * torch.sigmoid(BETA * (z0 - r)))
    return torch.stack(losses).mean(), z0


class Setup:
    """An objective over the rows whose policy has moved from its reference; both also in fp64."""

    def __init__(
        self, folder: Path, model: Path, layout: GroupLayout = LAYOUTS[0], *, direction: float = 1
    ) -> None:
        base = load_model(model, CPU, FP32, packing=layout.packing)
        self.adapted = adapt_full(base, FP32)
        self.groups = tokenize_preferences(ROWS, Template.from_tokenizer(base.tokenizer))
        config = options(
            loss__beta=BETA,
            loss__desirable_weight=WEIGHTS[0],
            loss__undesirable_weight=WEIGHTS[1],
        )
        data = PreferenceData(self.groups, layout)
        self.objective = PreferenceObjective(self.adapted, data, config.loss)
        self.objective.load_or_compute_reference(job(folder, model, config), 4096)
        self.reference = load_model(model, CPU, FP32, packing=False).model.double()
        self._move(direction)
        self.policy = load_model(model, CPU, FP32, packing=False).model.double()
        self.policy.load_state_dict(copy.deepcopy(base.model.state_dict()))
        self.policy.requires_grad_(True)

    def _move(self, direction: float) -> None:
        """Make all answers likelier, or with direction -1 less likely."""
        model, layout = self.adapted.model, GroupLayout(packing=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            completions = layout.collate(self.groups, range(len(self.groups)))
            (-direction * completion_logprobs(model, completions).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()

    def batch(self, rows: Sequence[int]) -> list[tuple[Any, Any, bool]]:
        return [(g.prompt, g.completions[0], g.labels[0]) for g in (self.groups[r] for r in rows)]

    def mismatched(self, rows: Sequence[int]) -> list[tuple[Any, Any]]:
        """Each prompt with the next answer to another one: two rows of ROWS share a prompt."""
        others = [(r + (1 if r % 2 else 2)) % len(self.groups) for r in rows]
        return [
            (self.groups[r].prompt, self.groups[o].completions[0])
            for r, o in zip(rows, others, strict=True)
        ]

    def loss_and_gradient(
        self, rows: Sequence[int], budget: int = 4096
    ) -> tuple[float, dict[str, Tensor]]:
        """The batch's mean loss and its gradient, as the training loop computes them."""
        model = self.adapted.model
        model.zero_grad()
        total = 0.0
        for micro_batch in lay_out(self.objective, rows, budget):
            loss = self.objective.loss(micro_batch) / self.objective.counts(rows).loss_divisor
            loss.backward()
            total += float(loss.detach())
        return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def expected(self, rows: Sequence[int]) -> tuple[float, float, dict[str, Tensor]]:
        self.policy.zero_grad()
        loss, z0 = paper_loss(self.policy, self.reference, self.batch(rows), self.mismatched(rows))
        loss.backward()
        gradient = {n: p.grad for n, p in self.policy.named_parameters() if p.grad is not None}
        return float(loss.detach()), float(z0), gradient


def assert_gradients_close(
    ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4
) -> None:
    assert ours.keys() == expected.keys()
    size = max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in expected.items():
        assert float((ours[name].double() - grad).abs().max()) < tolerance * size, name


GOOD_ONLY, BAD_ONLY, BOTH = [0, 2, 3, 5], [1, 4, 7], [0, 1, 3, 4, 7, 8, 11]


@pytest.mark.parametrize("rows", [BOTH, GOOD_ONLY, BAD_ONLY], ids=["both", "good", "bad"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_loss_and_gradient_are_those_of_the_paper(
    tmp_path: Path, tiny_folder: Path, layout: GroupLayout, rows: list[int]
) -> None:
    setup = Setup(tmp_path, tiny_folder, layout)
    expected, z0, gradient = setup.expected(rows)
    assert z0 > 1
    loss, ours = setup.loss_and_gradient(rows)
    assert setup.objective.metrics()["kl"] == pytest.approx(z0, abs=1e-4)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_gradients_close(ours, gradient)


def test_a_negative_estimate_of_the_kl_counts_as_zero(tmp_path: Path, tiny_folder: Path) -> None:
    setup = Setup(tmp_path, tiny_folder, direction=-1)
    expected, z0, gradient = setup.expected(BOTH)
    with torch.no_grad():
        policy, reference = (
            [float(logprob(model, *pair)) for pair in setup.mismatched(BOTH)]
            for model in (setup.policy, setup.reference)
        )
    assert sum(policy) < sum(reference) - len(BOTH) and z0 == 0
    loss, ours = setup.loss_and_gradient(BOTH)
    assert setup.objective.metrics()["kl"] == 0
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_gradients_close(ours, gradient)


def test_no_gradient_flows_through_the_estimate() -> None:
    logprobs = torch.tensor([-3.0, -4.0], requires_grad=True)
    z0 = torch.tensor(0.5, requires_grad=True)
    scores = CompletionScores(logprobs, torch.tensor([-3.5, -3.5]), torch.ones(2))
    kto(scores, torch.tensor([True, False]), 0.1, z0).sum().backward()
    assert logprobs.grad is not None and bool(logprobs.grad.abs().min() > 0)
    assert z0.grad is None


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_micro_batches_and_the_order_of_rows_change_nothing(
    tmp_path: Path, tiny_folder: Path, layout: GroupLayout
) -> None:
    """The estimate of the KL is of the complete batch, so that accumulation cannot change it."""
    setup = Setup(tmp_path, tiny_folder, layout)
    loss, gradient = setup.loss_and_gradient(BOTH)
    metrics = setup.objective.metrics()
    expected = {name: grad.double() for name, grad in gradient.items()}
    for rows, budget in ((BOTH, 1), (BOTH, 40), (BOTH[::-1], 4096), (BOTH[3:] + BOTH[:3], 60)):
        other, ours = setup.loss_and_gradient(rows, budget)
        assert other == pytest.approx(loss, rel=1e-5)
        assert setup.objective.metrics() == pytest.approx(metrics, rel=1e-4, abs=1e-5)
        assert_gradients_close(ours, expected, 1e-5)


def test_metrics_are_means_over_the_answers_of_each_kind(tmp_path: Path, tiny_folder: Path) -> None:
    setup = Setup(tmp_path, tiny_folder)
    for rows in (BOTH, GOOD_ONLY, BAD_ONLY):
        setup.loss_and_gradient(rows, 60)
        metrics = setup.objective.metrics()
        rewards: dict[bool, list[float]] = {True: [], False: []}
        for prompt, completion, label in setup.batch(rows):
            with torch.no_grad():
                ratio = logprob(setup.policy, prompt, completion)
                ratio -= logprob(setup.reference, prompt, completion)
            rewards[label].append(BETA * float(ratio))
        means = {label: sum(values) / len(values) for label, values in rewards.items() if values}
        expected = {}
        if len(means) == 2:
            expected["reward_margin"] = means[True] - means[False]
        expected |= {
            {True: "reward_chosen", False: "reward_rejected"}[k]: mean for k, mean in means.items()
        }
        assert metrics.pop("kl") > 1
        assert metrics == pytest.approx(expected, rel=1e-3)


def test_flipped_labels_flip_the_gradient(tmp_path: Path, tiny_folder: Path) -> None:
    """At the start all ratios and the KL are 0, and the two weights are equal."""
    gradients = []
    for records in (ROWS, tuple(replace(row, label=not row.label) for row in ROWS)):
        base = load_model(tiny_folder, CPU, FP32, packing=True)
        adapted = adapt_full(base, FP32)
        groups = tokenize_preferences(records, Template.from_tokenizer(base.tokenizer))
        objective = PreferenceObjective(adapted, PreferenceData(groups, LAYOUTS[0]), options().loss)
        objective.load_or_compute_reference(job(tmp_path, tiny_folder, options()), 4096)
        (micro_batch,) = lay_out(objective, range(12), 4096)
        objective.loss(micro_batch).backward()
        gradients.append({n: p.grad for n, p in base.model.named_parameters()})
    original, flipped = gradients
    assert max(float(grad.abs().max()) for grad in original.values()) > 1e-3
    for name, grad in original.items():
        torch.testing.assert_close(grad, -flipped[name], rtol=1e-4, atol=1e-7)


def test_a_pair_counts_as_two_labeled_answers(tmp_path: Path, tiny_folder: Path) -> None:
    """The first gradient of a mixture is that of the same answers with labels alone."""
    pair = Preference(source="p:1", prompt=(Message("user", "Why?"),), chosen="so", rejected="no!")
    halves = [
        UnpairedPreference(source="p:1", prompt=pair.prompt, completion=text, label=label)
        for text, label in ((pair.chosen, True), (pair.rejected, False))
    ]
    gradients = []
    for records in ((*ROWS[:3], pair), (*ROWS[:3], *halves)):
        base = load_model(tiny_folder, CPU, FP32, packing=True)
        groups = tokenize_preferences(records, Template.from_tokenizer(base.tokenizer))
        data, rows = PreferenceData(groups, LAYOUTS[0]), range(len(records))
        objective = PreferenceObjective(adapt_full(base, FP32), data, options().loss)
        objective.load_or_compute_reference(job(tmp_path, tiny_folder, options()), 4096)
        (micro_batch,) = lay_out(objective, rows, 4096)
        loss = objective.loss(micro_batch) / objective.counts(rows).loss_divisor
        assert float(loss.detach()) == pytest.approx(0.5, abs=1e-6)
        assert "accuracy" not in objective.metrics()
        loss.backward()
        gradients.append({n: p.grad.double() for n, p in base.model.named_parameters()})
    assert_gradients_close(gradients[0], gradients[1], 1e-5)


# --------------------------------------------------------------------------- mismatched completions


def test_a_mismatched_completion_is_of_the_next_other_prompt() -> None:
    prompts = [[1], [1], [2], [2, 3], [1], [1]]
    groups = [CompletionGroup(p, ([10 + n] * (n + 1),)) for n, p in enumerate(prompts)]
    mismatched = mismatched_groups(groups)
    assert [group.prompt for group in mismatched] == prompts
    expected = [[12] * 3, [12] * 3, [13] * 4, [14] * 5, [12] * 3, [12] * 3]
    assert [list(group.completions[0]) for group in mismatched] == expected
    longest = [CompletionGroup([1], ([5] * 3,)), CompletionGroup([2, 2], ([6] * 9,))]
    assert [g.longest_sequence for g in mismatched_groups(longest)] == [10, 5]
    short = [CompletionGroup([1] * 8, ([5],)), CompletionGroup([2], ([6] * 7,))]
    assert mismatched_groups(short)[0] == CompletionGroup([1] * 8, ([6],))


def test_rows_of_one_prompt_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    """Their mismatched answers would be answers to the same prompt."""
    rows = [replace(row, prompt=ROWS[0].prompt) for row in ROWS]
    with pytest.raises(DataError, match="all rows have the same prompt"):
        train(tmp_path, tiny_folder, options(), rows)


# --------------------------------------------------------------------------- training


def train(
    folder: Path,
    model: Path,
    config: PreferenceOptions,
    records: Sequence[Record] = ROWS,
    emit: Callable[[Event], None] = lambda event: None,
) -> tuple[Path, list[Event]]:
    events: list[Event] = []

    def record(event: Event) -> None:
        events.append(event)
        emit(event)

    artifact = trainer.train(job(folder, model, config, records, record), PreferenceTask())
    return artifact.path, events


def steps(events: Sequence[Event]) -> list[StepFinished]:
    return [event for event in events if isinstance(event, StepFinished)]


def test_it_learns_whatever_the_micro_batches(tmp_path: Path, tiny_folder: Path) -> None:
    config = {"epochs": 4, "schedule__type": "constant"}
    rows = [replace(row, label="ten" in row.completion) for row in ROWS[1:]]
    _, events = train(tmp_path / "a", tiny_folder, options(**config), rows)
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert (started.details["good_answers"], started.details["bad_answers"]) == (6, 5)
    first, last = steps(events)[0], steps(events)[-1]
    assert first.loss == pytest.approx(0.5, abs=1e-5)
    assert last.loss < first.loss and last.metrics["reward_margin"] > 0.3
    for n, layout in enumerate([{"micro_batch_tokens": 1}, {"packing": False}]):
        _, other = train(tmp_path / f"b{n}", tiny_folder, options(**config, **layout), rows)
        expected = [step.loss for step in steps(events)]
        assert [step.loss for step in steps(other)] == pytest.approx(expected, rel=1e-3)


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, tiny_folder: Path) -> None:
    config = options(epochs=2)
    complete, all_events = train(tmp_path / "complete", tiny_folder, config)

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 3:
            raise RunStopped("enough")

    with pytest.raises(RunStopped):
        train(tmp_path / "stopped", tiny_folder, config, emit=stop)
    resumed, later = train(tmp_path / "stopped", tiny_folder, config)
    assert [(s.loss, s.metrics) for s in steps(later)] == [
        (s.loss, s.metrics) for s in steps(all_events)[3:]
    ]
    name = "adapter_model.safetensors"
    assert (complete / name).read_bytes() == (resumed / name).read_bytes()


@pytest.mark.parametrize(
    ("records", "changes", "message"),
    [
        (ROWS, {"loss__type": "dpo"}, 'set technique.loss.type = "kto"'),
        (
            ROWS[::3],
            {},
            r"labeled answers \(4\) are all good.*add bad answers, or remove the label column",
        ),
    ],
)
def test_rows_that_the_loss_cannot_learn_from_are_refused(
    tmp_path: Path,
    tiny_folder: Path,
    records: Sequence[Record],
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(DataError, match=message):
        train(tmp_path, tiny_folder, options(**changes), records)
