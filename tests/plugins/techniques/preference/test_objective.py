"""Preference training: layouts, losses by hand, the reference, and training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives import lay_out
from pydantic import ValidationError
from tables import build
from transformers import AutoConfig

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import EnvironmentProblem, RunStopped, UsageError
from tunesmith.events import Event, FindingReported, StepFinished
from tunesmith.records import Completion, Message, Preference, Record, UnpairedPreference
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.preference import losses
from tunesmith_plugins.techniques.preference import objective as objective_module
from tunesmith_plugins.techniques.preference.losses import CompletionScores
from tunesmith_plugins.techniques.preference.objective import PreferenceObjective
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.preference.task import PreferenceTask
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.open_model import open_text_model
from tunesmith_torch.models.adapter_stack import (
    adapt_model,
    combine_adapters,
    reference_policy,
)
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    completion_logprobs,
    score_groups,
    tokenize_pairs,
)
from tunesmith_torch.prefix.prefix_check import can_share_prefix, prefix_sharing_error
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training import trainer
from tunesmith_torch.training.preference_data import PreferenceData, tokenize_fitting_pairs
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import TrainingSession

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
PAIRS = tuple(
    Preference(
        source=f"rows:{n}",
        prompt=(Message("user", f"What is {n}?" * (1 + n % 3)),),
        chosen="ten " * (1 + n % 4),
        rejected="no, " * (1 + n % 3),
    )
    for n in range(12)
)
LABELLED = tuple(
    UnpairedPreference(
        source=p.source,
        prompt=p.prompt,
        completion=p.chosen if n % 2 else p.rejected,
        label=bool(n % 2),
    )
    for n, p in enumerate(PAIRS)
)
DEMONSTRATIONS = tuple(
    Completion(source=p.source, prompt=p.prompt[0].content, completion="seven " + p.chosen)
    for p in PAIRS
)
LAYOUTS = [GroupLayout(), GroupLayout(share_prompts=False), GroupLayout(packing=False)]
FAMILIES = ["llama", "qwen2", "gemma3_text", "phi3"]


def options(**changes: Any) -> PreferenceOptions:
    base = {
        "epochs": 1,
        "batch_size": 6,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "schedule__warmup_ratio": 0.0,
    }
    return build(PreferenceOptions, **{**base, **changes})


def job(
    folder: Path,
    model: Path,
    config: Any,
    emit: Callable[[Event], None],
    seed: int = 3,
    preferences: Sequence[Record] = PAIRS,
) -> Job[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        config=config,
        model=model,
        train=preferences if isinstance(config, PreferenceOptions) else DEMONSTRATIONS,
        validation=(),
        out=folder,
        seed=seed,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=emit,
        technique="test",
    )


def train(
    folder: Path,
    model: Path,
    config: PreferenceOptions,
    emit: Callable[[Event], None] | None = None,
    preferences: Sequence[Record] = PAIRS,
) -> tuple[Artifact, list[Event]]:
    events: list[Event] = []

    def record(event: Event) -> None:
        events.append(event)
        if emit is not None:
            emit(event)

    run = job(folder, model, config, record, preferences=preferences)
    return trainer.train(run, PreferenceTask()), events


def steps(events: Sequence[Event]) -> list[StepFinished]:
    return [event for event in events if isinstance(event, StepFinished)]


@pytest.fixture(scope="session")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The run folder of a supervised adapter that differs much from its base."""
    folder = tmp_path_factory.mktemp("sft")
    config = build(
        LoraOptions,
        epochs=4,
        batch_size=6,
        learning_rate=2e-2,
        precision="fp32",
        adapter__rank=4,
        adapter__use_rslora=True,
    )

    trainer.train(job(folder, tiny_folder, config, lambda event: None, seed=1), SupervisedTask())
    return folder


def scores(
    model: torch.nn.Module, groups: Sequence[CompletionGroup], layout: GroupLayout = LAYOUTS[0]
) -> torch.Tensor:
    return torch.stack(score_groups(model, groups, layout, 4096))


def text_scores(model: Path, artifact: Path | None) -> torch.Tensor:
    """Return log-probabilities of all completions by the public API, with the model from disk."""
    opened = open_text_model(model, artifact, device="cpu", options=options())
    prompts = [p.prompt for p in PAIRS]
    chosen = opened.score(prompts, [p.chosen for p in PAIRS])
    rejected = opened.score(prompts, [p.rejected for p in PAIRS])
    return torch.tensor(
        [[sum(a.logprobs), sum(b.logprobs)] for a, b in zip(chosen, rejected, strict=True)]
    )


# --------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_a_prompt_changes_nothing(family: str, tmp_path: Path) -> None:
    base = load_model(save_tiny_model(tmp_path / family, family), CPU, FP32, packing=True)
    assert prefix_sharing_error(base.model) < 1e-5


def test_attention_with_softcapping_cannot_share_prompts(tmp_path: Path) -> None:
    base = load_model(save_tiny_model(tmp_path / "gemma2", "gemma2"), CPU, FP32, packing=True)
    with pytest.raises(EnvironmentProblem, match="`softcap`"):
        prefix_sharing_error(base.model)
    reasons: list[str] = []
    assert not can_share_prefix(base.model, 40, reasons.append)
    assert "the model's attention has `softcap`" in reasons[0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_log_probabilities_are_of_completion_tokens_only(
    tiny_folder: Path, layout: GroupLayout, budget: int
) -> None:
    """Compared with the model's own logits, row by row, without prompt tokens."""
    base = load_model(tiny_folder, CPU, FP32, packing=layout.packing)
    groups = tokenize_pairs(PAIRS, Template.from_tokenizer(base.tokenizer))
    ours = torch.stack(score_groups(base.model, groups, layout, budget))
    for row, group in enumerate(groups):
        for column, completion in enumerate(group.completions):
            ids = torch.tensor([[*group.prompt, *completion]])
            logp = base.model(ids).logits[0].detach().log_softmax(-1)
            positions = range(len(group.prompt), ids.shape[1])
            expected = sum(float(logp[t - 1, ids[0, t]]) for t in positions)
            assert float(ours[row, column]) == pytest.approx(expected, abs=1e-4)
            assert completion[-1] == base.tokenizer.eos_token_id


def test_gradients_do_not_depend_on_the_layout(tiny_folder: Path) -> None:
    gradients = []
    for layout in LAYOUTS:
        base = load_model(tiny_folder, CPU, FP32, packing=layout.packing)
        base.model.requires_grad_(True)
        groups = tokenize_pairs(PAIRS, Template.from_tokenizer(base.tokenizer))
        completions = layout.collate(groups, range(len(groups)))
        sums_C = completions.sum_per_completion(completion_logprobs(base.model, completions))
        (sums_C * torch.linspace(-1, 1, len(sums_C))).sum().backward()
        gradients.append({n: p.grad for n, p in base.model.named_parameters()})
    for other in gradients[1:]:
        for name, grad in gradients[0].items():
            torch.testing.assert_close(grad, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_prompts_and_completions_of_one_token() -> None:
    groups = [CompletionGroup([5], ([1], [2, 3])), CompletionGroup([4, 6], ([7, 8], [1]))]
    completions = GroupLayout().collate(groups, [0, 1])
    assert completions.tree_layout is not None
    assert completions.tree_layout.prefix_tokens == 1
    assert completions.batch.ids_BT.tolist() == [[4, 5, 5, 2, 6, 7, 6]]
    assert completions.batch.targets_N.tolist() == [1, 2, 3, 7, 8, 1]
    assert completions.batch.positions_BT.tolist() == [[0, 0, 0, 1, 1, 2, 1]]


# --------------------------------------------------------------------------- losses


def scored() -> CompletionScores:
    """Two pairs: chosen and rejected completions alternate."""
    return CompletionScores(
        logprobs_C=torch.tensor([-3.0, -5.0, -8.0, -2.0]),
        reference_C=torch.tensor([-4.0, -4.5, -7.0, -2.5]),
        tokens_C=torch.tensor([3.0, 2.0, 4.0, 2.0]),
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_losses_match_the_formulas_of_the_papers() -> None:
    scores = scored()
    pairs = scores.pairs
    h = [(1.0) - (-0.5), (-1.0) - (0.5)]
    expected = [-0.9 * math.log(sigmoid(0.5 * x)) - 0.1 * math.log(sigmoid(-0.5 * x)) for x in h]
    assert losses.dpo(pairs, 0.5, 0.1).tolist() == pytest.approx(expected, rel=1e-5)
    assert losses.ipo(pairs, 0.5).tolist() == pytest.approx([(x - 1.0) ** 2 for x in h], rel=1e-5)
    z = 0.25
    good, bad = [1.0, -1.0], [-0.5, 0.5]
    expected = [
        loss
        for g, b in zip(good, bad, strict=True)
        for loss in (2 * (1 - sigmoid(0.5 * (g - z))), 3 * (1 - sigmoid(0.5 * (z - b))))
    ]
    labels = torch.tensor([True, False, True, False])
    kto = losses.kto(scores, labels, 0.5, torch.tensor(z), 2, 3)
    assert kto.tolist() == pytest.approx(expected, rel=1e-5)
    mean = [(-1.0, -2.5), (-2.0, -1.0)]
    expected = []
    for c, r in mean:
        odds = [math.exp(x) / (1 - math.exp(x)) for x in (c, r)]
        expected.append(-c - 0.5 * math.log(sigmoid(math.log(odds[0] / odds[1]))))
    assert losses.orpo(pairs, 0.5).tolist() == pytest.approx(expected, rel=1e-5)
    expected = [-math.log(sigmoid(2 * (c - r) - 0.5)) for c, r in mean]
    assert losses.simpo(pairs, 2.0, 0.5).tolist() == pytest.approx(expected, rel=1e-5)


# --------------------------------------------------------------------------- the reference


@pytest.fixture
def merged(sft: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    from tunesmith_torch.models.artifacts import attach_adapter

    base = load_model(tiny_folder, CPU, FP32, packing=True)
    attach_adapter(base, sft / "adapter").merge_and_unload().save_pretrained(tmp_path / "merged")
    base.tokenizer.save_pretrained(tmp_path / "merged")
    return tmp_path / "merged"


@pytest.mark.parametrize("adapt", ["lora", "full"])
@pytest.mark.parametrize("start", ["none", "adapter", "model"])
@pytest.mark.parametrize("loss", ["dpo", "kto", "kto, labeled"])
def test_the_initial_policy_equals_the_reference(
    tmp_path: Path, tiny_folder: Path, sft: Path, merged: Path, start: str, adapt: str, loss: str
) -> None:
    """Step 1: loss ln 2, all rewards 0. With the bare base as reference this fails by far."""
    where = {"none": None, "adapter": str(sft), "model": str(merged)}[start]
    config = options(
        adapt=adapt, max_steps=1, learning_rate=1e-9, loss__type=loss[:3], **{"from": where}
    )
    preferences = LABELLED if loss == "kto, labeled" else PAIRS
    artifact, events = train(tmp_path / "run", tiny_folder, config, preferences=preferences)
    (step,) = steps(events)
    assert step.loss == pytest.approx(math.log(2) if loss == "dpo" else 0.5, abs=1e-5)
    assert step.metrics["reward_chosen"] == pytest.approx(0, abs=1e-5)
    expected = text_scores(tiny_folder, None if where is None else sft / "adapter")
    base = merged if start == "model" else tiny_folder
    torch.testing.assert_close(text_scores(base, artifact.path), expected, rtol=0, atol=1e-3)
    if where is not None:
        assert (expected - text_scores(tiny_folder, None)).abs().max() > 1


NOISY = {
    "llama": {"attention_dropout": 0.3},
    "gpt2": {"attn_pdrop": 0.3, "embd_pdrop": 0.3, "resid_pdrop": 0.3},
}
"""Dropout in the configs of models, as GPT-2 has it."""


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("gpt2", {"adapt": "full"}),
        ("gpt2", {"gradient_checkpointing": True}),
        ("gpt2", {"loss__type": "kto"}),
        ("gpt2", {"packing": False}),
    ],
    ids=str,
)
def test_dropout_in_the_model_does_not_change_the_first_loss(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    """The reference is computed without dropout, so the policy has to be as well."""
    model = save_tiny_model(tmp_path / "model", family, changes=NOISY[family])
    config = options(max_steps=2, epochs=2, **changes)
    artifact, events = train(tmp_path / "run", model, config)
    first = steps(events)[0]
    expected = 0.5 if config.loss.type == "kto" else math.log(2)
    assert first.loss == pytest.approx(expected, abs=1e-6)
    assert first.metrics["reward_chosen"] == pytest.approx(0, abs=1e-6)
    messages = [event.message for event in events if isinstance(event, FindingReported)]
    assert [m for m in messages if "dropout is off (this model has up to 0.3)" in m]
    assert not [m for m in messages if "attention has dropout" in m]  # it has none now
    if artifact.format == "model":
        saved = AutoConfig.from_pretrained(artifact.path)
        assert {name: getattr(saved, name) for name in NOISY[family]} == NOISY[family]


def test_dropout_of_an_initial_adapter_does_not_change_the_first_loss(
    tmp_path: Path, tiny_folder: Path
) -> None:
    config = build(
        LoraOptions, epochs=2, learning_rate=2e-2, precision="fp32", adapter__dropout=0.4
    )
    start = tmp_path / "sft"
    trainer.train(job(start, tiny_folder, config, lambda event: None), SupervisedTask())
    _, events = train(tmp_path / "run", tiny_folder, options(max_steps=1, **{"from": str(start)}))
    assert steps(events)[0].loss == pytest.approx(math.log(2), abs=1e-6)


def test_switching_the_fresh_adapter_off_gives_the_initial_model(
    tiny_folder: Path, sft: Path
) -> None:
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    start = InitialModel.find(str(sft))
    groups = tokenize_pairs(PAIRS, Template.from_tokenizer(base.tokenizer))
    adapted = adapt_model(base, FP32, options().adaptation, initial_model=start, seed=0)
    assert all(".policy." in name for name, _ in adapted.named_trainable_parameters)
    initial = scores(adapted.model, groups)
    torch.testing.assert_close(
        initial, text_scores(tiny_folder, sft / "adapter"), rtol=0, atol=1e-4
    )
    with torch.no_grad():
        for name, parameter in adapted.named_trainable_parameters:
            if "lora_B" in name:
                parameter.normal_()
    changed = scores(adapted.model, groups)
    assert (changed - initial).abs().max() > 0.1
    with reference_policy(adapted):
        reference = scores(adapted.model, groups)
    torch.testing.assert_close(reference, initial, rtol=0, atol=1e-5)  # sums of other lengths
    assert torch.equal(scores(adapted.model, groups), changed)
    assert all(".policy." in name for name, _ in adapted.named_trainable_parameters)
    combined = combine_adapters(adapted)
    assert set(combined.model.peft_config) == {"default"}
    torch.testing.assert_close(scores(combined.model, groups), changed, rtol=0, atol=1e-4)


def test_an_adapter_trained_over_an_adapter_is_saved_as_one(
    tmp_path: Path, tiny_folder: Path, sft: Path
) -> None:
    scores_before: list[torch.Tensor] = []

    class ScoredTask(PreferenceTask):
        """Scores the pairs with the two adapters, before these are combined."""

        def finalize(self, session: TrainingSession) -> AdaptedModel:
            groups = tokenize_pairs(PAIRS, session.template)
            scores_before.append(scores(session.adapted.model, groups))
            return super().finalize(session)

    config = options(adapter__rank=3, epochs=2, **{"from": str(sft)})
    artifact = trainer.train(job(tmp_path, tiny_folder, config, lambda event: None), ScoredTask())
    torch.testing.assert_close(
        text_scores(tiny_folder, artifact.path), scores_before[0], rtol=0, atol=1e-3
    )
    assert len(scores_before) == 1


def test_an_initial_model_that_cannot_be_combined_is_refused(
    tmp_path: Path, tiny_folder: Path, sft: Path
) -> None:
    with pytest.raises(UsageError, match="only plain LoRA adapters"):
        train(tmp_path, tiny_folder, options(adapter__use_dora=True, **{"from": str(sft)}))
    with pytest.raises(UsageError, match="no adapter or model"):
        train(tmp_path, tiny_folder, options(**{"from": str(tmp_path)}))


def test_the_reference_is_computed_once_and_cached(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    original = objective_module.score_groups

    def counting(model: Any, groups: Any, *rest: Any) -> Any:
        computed.append(len(groups))
        return original(model, groups, *rest)

    monkeypatch.setattr(objective_module, "score_groups", counting)

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 1:
            raise RunStopped("enough")

    uninterrupted, all_events = train(tmp_path / "uninterrupted", tiny_folder, options(epochs=2))
    with pytest.raises(RunStopped):
        train(tmp_path / "resumed", tiny_folder, options(epochs=2), stop)
    assert computed == [12, 12]
    resumed, later = train(tmp_path / "resumed", tiny_folder, options(epochs=2))
    assert computed == [12, 12]
    assert [s.loss for s in steps(later)] == [s.loss for s in steps(all_events)][1:]
    names = ["adapter_model.safetensors"]
    assert [(uninterrupted.path / n).read_bytes() for n in names] == [
        (resumed.path / n).read_bytes() for n in names
    ]
    monkeypatch.setattr(
        "tunesmith_plugins.techniques.preference.reference_logprobs.compute_fingerprint",
        lambda *a: "other",
    )
    train(tmp_path / "resumed", tiny_folder, options(epochs=2))
    assert computed == [12, 12, 12]


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "loss",
    [
        "dpo",
        "kto",
        *(pytest.param(loss, marks=pytest.mark.long) for loss in ("ipo", "orpo", "simpo")),
    ],
)
def test_the_result_does_not_depend_on_micro_batches_and_it_learns(
    tmp_path: Path, tiny_folder: Path, loss: str
) -> None:
    config = {"loss__type": loss, "epochs": 3, "schedule__type": "constant"}
    _, plain = train(tmp_path / "a", tiny_folder, options(**config))
    for n, layout in enumerate(
        [
            {"micro_batch_tokens": 1},
            {"share_prompts": False, "micro_batch_tokens": 90},
            {"packing": False},
        ]
    ):
        _, other = train(tmp_path / f"b{n}", tiny_folder, options(**config, **layout))
        expected = [s.loss for s in steps(plain)]
        assert [s.loss for s in steps(other)] == pytest.approx(expected, rel=1e-3)
    first, last = steps(plain)[0], steps(plain)[-1]
    assert last.metrics["reward_margin"] > first.metrics["reward_margin"]
    assert last.metrics["accuracy"] == 1.0
    assert last.loss < first.loss


@pytest.mark.parametrize(
    "unused",
    [
        {"loss__margin": 2.0},
        {"loss__type": "simpo", "loss__label_smoothing": 0.1},
        {"loss__type": "dpo", "loss__desirable_weight": 2.0},
        {"adapt": "full", "adapter__rank": 4},
    ],
)
def test_unused_options_are_refused(unused: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="only has an effect"):
        build(PreferenceOptions, **unused)


def test_kto_estimates_the_kl_on_mismatched_pairs(tmp_path: Path, tiny_folder: Path) -> None:
    """After some updates: the mean over the batch's mismatched pairs, in every layout."""
    config = options(loss__type="kto", loss__beta=0.5)
    run = job(tmp_path, tiny_folder, config, lambda event: None)
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    adapted = adapt_model(base, FP32, config.adaptation, initial_model=None, seed=3)
    groups = tokenize_fitting_pairs(run, Template.from_tokenizer(base.tokenizer), 512)
    data = PreferenceData.for_model(groups, adapted, config)
    objective = PreferenceObjective(adapted, data, config.loss)
    objective.load_or_compute_reference(run, config.micro_batch_tokens)
    model, rows = adapted.model, [1, 4, 7]
    mismatched = [
        CompletionGroup(data.groups[row].prompt, (data.groups[row + 1].completions[0],))
        for row in rows
    ]
    own = [data.groups[row] for row in rows]
    limits = [max(map(len, pair.completions)) for pair in own]
    mismatched = [
        CompletionGroup(g.prompt, (g.completions[0][:n],))
        for g, n in zip(mismatched, limits, strict=True)
    ]
    before, own_before = scores(model, mismatched), scores(model, own)
    adam = torch.optim.Adam([p for _, p in adapted.named_trainable_parameters], lr=1e-2)
    for _ in range(5):
        completions = data.layout.collate(mismatched, range(3))
        (-completion_logprobs(model, completions).sum()).backward()
        adam.step()
        adam.zero_grad()
    kl = (scores(model, mismatched) - before).mean().clamp(min=0)
    ratios = scores(model, own) - own_before
    completions = CompletionScores(ratios.flatten(), torch.zeros(6), torch.ones(6))
    labels = torch.tensor([True, False] * 3)
    expected = float(losses.kto(completions, labels, 0.5, kl).sum())
    assert objective.counts(rows).loss_divisor == 6
    for budget in (1, 10_000):
        parts = lay_out(objective, rows, budget)
        ours = sum(float(objective.loss(part).detach()) for part in parts)
        assert ours == pytest.approx(expected, rel=1e-4)
    assert kl > 0.1
