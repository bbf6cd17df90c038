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

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError, RunStopped, UsageError
from tunesmith.events import Event, Notice, StepFinished
from tunesmith.records import Completion, Message, Preference
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.losses import preference as losses
from tunesmith_torch.losses.preference import PairScores
from tunesmith_torch.models.adapter_stack import (
    InitialModel,
    adapt_policy,
    combine_adapters,
    load_policy_base,
    reference_policy,
)
from tunesmith_torch.models.adapters import adapt_lora
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.preference import PreferenceOptions
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.preference import train as preference_train
from tunesmith_torch.preference.train import PreferenceObjective, train_preferences
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    completion_logprobs,
    score_groups,
    tokenize_pairs,
)
from tunesmith_torch.prefix.prefix_check import prefix_sharing_error
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training.pair_setup import PairTrainingSetup
from tunesmith_torch.training.sft import train_supervised

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
        "warmup_ratio": 0.0,
    }
    return PreferenceOptions(**{**base, **changes})


def job(folder: Path, model: Path, config: Any, emit: Callable[[Event], None]) -> Job[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        config=config,
        model=model,
        train=PAIRS if isinstance(config, PreferenceOptions) else DEMONSTRATIONS,
        heldout=(),
        out=folder,
        seed=3,
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
) -> tuple[Artifact, list[Event]]:
    events: list[Event] = []

    def record(event: Event) -> None:
        events.append(event)
        if emit is not None:
            emit(event)

    return train_preferences(job(folder, model, config, record)), events


def steps(events: Sequence[Event]) -> list[StepFinished]:
    return [event for event in events if isinstance(event, StepFinished)]


@pytest.fixture(scope="session")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The run folder of a supervised adapter that differs much from its base."""
    folder = tmp_path_factory.mktemp("sft")
    config = LoraOptions(
        epochs=4, batch_size=6, learning_rate=2e-2, precision="fp32", rank=4, use_rslora=True
    )

    def adapt(base: Any, precision: Any) -> Any:
        return adapt_lora(base, precision, config, 1)

    train_supervised(job(folder, tiny_folder, config, lambda event: None), adapt)
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
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    base = load_policy_base(save_tiny_model(tmp_path / family, family), CPU, FP32, True)
    assert prefix_sharing_error(base.model) < 1e-5


def test_attention_with_softcapping_cannot_share_prompts(tmp_path: Path) -> None:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    base = load_policy_base(save_tiny_model(tmp_path / "gemma2", "gemma2"), CPU, FP32, True)
    assert math.isinf(prefix_sharing_error(base.model))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_log_probabilities_are_of_completion_tokens_only(
    tiny_folder: Path, layout: GroupLayout, budget: int
) -> None:
    """Compared with the model's own logits, row by row, without prompt tokens."""
    base = load_policy_base(tiny_folder, CPU, FP32, layout.packing)
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
        base = load_policy_base(tiny_folder, CPU, FP32, layout.packing)
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


def scored() -> PairScores:
    return PairScores(
        chosen_B=torch.tensor([-3.0, -8.0]),
        rejected_B=torch.tensor([-5.0, -2.0]),
        chosen_tokens_B=torch.tensor([3.0, 4.0]),
        rejected_tokens_B=torch.tensor([2.0, 2.0]),
        chosen_reference_B=torch.tensor([-4.0, -7.0]),
        rejected_reference_B=torch.tensor([-4.5, -2.5]),
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_losses_match_the_formulas_of_the_papers() -> None:
    pairs = scored()
    h = [(1.0) - (-0.5), (-1.0) - (0.5)]
    expected = [-0.9 * math.log(sigmoid(0.5 * x)) - 0.1 * math.log(sigmoid(-0.5 * x)) for x in h]
    assert losses.dpo(pairs, 0.5, 0.1).tolist() == pytest.approx(expected, rel=1e-5)
    assert losses.ipo(pairs, 0.5).tolist() == pytest.approx([(x - 1.0) ** 2 for x in h], rel=1e-5)
    z = 0.25
    good, bad = [1.0, -1.0], [-0.5, 0.5]
    expected = [
        (2 * (1 - sigmoid(0.5 * (g - z))) + 3 * (1 - sigmoid(0.5 * (z - b)))) / 2
        for g, b in zip(good, bad, strict=True)
    ]
    assert losses.kto(pairs, 0.5, torch.tensor(z), 2, 3).tolist() == pytest.approx(
        expected, rel=1e-5
    )
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

    base = load_policy_base(tiny_folder, CPU, FP32, True)
    attach_adapter(base, sft / "adapter").merge_and_unload().save_pretrained(tmp_path / "merged")
    base.tokenizer.save_pretrained(tmp_path / "merged")
    return tmp_path / "merged"


@pytest.mark.parametrize("adapt", ["lora", "full"])
@pytest.mark.parametrize("start", ["none", "adapter", "model"])
@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_the_initial_policy_equals_the_reference(
    tmp_path: Path, tiny_folder: Path, sft: Path, merged: Path, start: str, adapt: str, loss: str
) -> None:
    """Step 1: loss ln 2, all rewards 0. With the bare base as reference this fails by far."""
    where = {"none": None, "adapter": str(sft), "model": str(merged)}[start]
    config = options(adapt=adapt, initial_model=where, max_steps=1, learning_rate=1e-9, loss=loss)
    artifact, events = train(tmp_path / "run", tiny_folder, config)
    (step,) = steps(events)
    assert step.loss == pytest.approx(math.log(2) if loss == "dpo" else 0.5, abs=1e-5)
    assert step.metrics["reward_chosen"] == pytest.approx(0, abs=1e-5)
    expected = text_scores(tiny_folder, None if where is None else sft / "adapter")
    base = merged if start == "model" else tiny_folder
    torch.testing.assert_close(text_scores(base, artifact.path), expected, rtol=0, atol=1e-3)
    if where is not None:
        assert (expected - text_scores(tiny_folder, None)).abs().max() > 1


def test_switching_the_fresh_adapter_off_gives_the_initial_model(
    tiny_folder: Path, sft: Path
) -> None:
    base = load_policy_base(tiny_folder, CPU, FP32, True)
    start = InitialModel.find(str(sft))
    groups = tokenize_pairs(PAIRS, Template.from_tokenizer(base.tokenizer))
    adapted = adapt_policy(
        base, FP32, options(), trained_weights="lora", initial_model=start, seed=0
    )
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
    tmp_path: Path, tiny_folder: Path, sft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objectives: list[PreferenceObjective] = []

    class Recorded(PreferenceObjective):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            objectives.append(self)

    monkeypatch.setattr(preference_train, "PreferenceObjective", Recorded)
    scores_before: list[torch.Tensor] = []
    original = preference_train.combine_adapters

    def combine(adapted: Any) -> Any:
        base = load_policy_base(tiny_folder, CPU, FP32, True)
        scores_before.append(
            scores(adapted.model, tokenize_pairs(PAIRS, Template.from_tokenizer(base.tokenizer)))
        )
        return original(adapted)

    monkeypatch.setattr(preference_train, "combine_adapters", combine)
    artifact, _ = train(tmp_path, tiny_folder, options(initial_model=str(sft), rank=3, epochs=2))
    torch.testing.assert_close(
        text_scores(tiny_folder, artifact.path), scores_before[0], rtol=0, atol=1e-3
    )
    assert len(objectives) == 1


def test_an_initial_model_that_cannot_be_combined_is_refused(
    tmp_path: Path, tiny_folder: Path, sft: Path
) -> None:
    with pytest.raises(UsageError, match="only a plain LoRA adapter"):
        train(tmp_path, tiny_folder, options(initial_model=str(sft), use_dora=True))
    with pytest.raises(UsageError, match="no adapter and no model"):
        train(tmp_path, tiny_folder, options(initial_model=str(tmp_path)))


def test_the_reference_is_computed_once_and_cached(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    original = preference_train.score_groups

    def counting(model: Any, groups: Any, *rest: Any) -> Any:
        computed.append(len(groups))
        return original(model, groups, *rest)

    monkeypatch.setattr(preference_train, "score_groups", counting)

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 1:
            raise RunStopped("enough")

    uninterrupted, all_events = train(
        tmp_path / "uninterrupted", tiny_folder, options(epochs=2, dropout=0.1)
    )
    with pytest.raises(RunStopped):
        train(tmp_path / "resumed", tiny_folder, options(epochs=2, dropout=0.1), stop)
    assert computed == [12, 12]
    resumed, later = train(tmp_path / "resumed", tiny_folder, options(epochs=2, dropout=0.1))
    assert computed == [12, 12]
    assert [s.loss for s in steps(later)] == [s.loss for s in steps(all_events)][1:]
    names = ["adapter_model.safetensors"]
    assert [(uninterrupted.path / n).read_bytes() for n in names] == [
        (resumed.path / n).read_bytes() for n in names
    ]
    monkeypatch.setattr(
        "tunesmith_torch.preference.reference_logprobs.fingerprint", lambda *a: "other"
    )
    train(tmp_path / "resumed", tiny_folder, options(epochs=2, dropout=0.1))
    assert computed == [12, 12, 12]


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "orpo", "simpo"])
def test_the_result_does_not_depend_on_micro_batches_and_it_learns(
    tmp_path: Path, tiny_folder: Path, loss: str
) -> None:
    config = {"loss": loss, "epochs": 3, "schedule": "constant"}
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


def test_pairs_that_do_not_fit_are_reported(tmp_path: Path, tiny_folder: Path) -> None:
    base = load_model(tiny_folder, CPU, FP32, packing=False)
    groups = tokenize_pairs(PAIRS, Template.from_tokenizer(base.tokenizer))
    limit = sorted(len(g.prompt) + max(map(len, g.completions)) for g in groups)[5]
    _, events = train(tmp_path, tiny_folder, options(max_length=limit))
    messages = [e.message for e in events if isinstance(e, Notice) and "left out" in e.message]
    assert len(messages) == 1
    assert sum(s.rows for s in steps(events)) == sum(
        len(g.prompt) + max(map(len, g.completions)) <= limit for g in groups
    )


@pytest.mark.parametrize(
    "unused",
    [
        {"margin": 2.0},
        {"loss": "simpo", "label_smoothing": 0.1},
        {"loss": "dpo", "desirable_weight": 2.0},
        {"adapt": "full", "rank": 4},
        {"truncate_prompts": True},
    ],
)
def test_unused_options_are_refused(unused: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="is read"):
        PreferenceOptions(**unused)


def test_kto_estimates_the_kl_on_mismatched_pairs(tmp_path: Path, tiny_folder: Path) -> None:
    """After some updates: the mean over the batch's mismatched pairs, in every layout."""
    run = job(tmp_path, tiny_folder, options(loss="kto", beta=0.5), lambda event: None)
    setup = PairTrainingSetup.load(run)
    objective = PreferenceObjective(setup, run.config)
    objective.load_or_compute_reference(run)
    model, rows = setup.adapted.model, [1, 4, 7]
    mismatched = [
        CompletionGroup(setup.pairs[row].prompt, (setup.pairs[row + 1].completions[0],))
        for row in rows
    ]
    own = [setup.pairs[row] for row in rows]
    limits = [max(map(len, pair.completions)) for pair in own]
    mismatched = [
        CompletionGroup(g.prompt, (g.completions[0][:n],))
        for g, n in zip(mismatched, limits, strict=True)
    ]
    before, own_before = scores(model, mismatched), scores(model, own)
    adam = torch.optim.Adam([p for _, p in setup.adapted.named_trainable_parameters], lr=1e-2)
    for _ in range(5):
        completions = setup.layout.collate(mismatched, range(3))
        (-completion_logprobs(model, completions).sum()).backward()
        adam.step()
        adam.zero_grad()
    kl = (scores(model, mismatched) - before).mean().clamp(min=0)
    ratios = scores(model, own) - own_before
    z = torch.zeros(2)
    pairs = PairScores(ratios[:, 0], ratios[:, 1], z, z, torch.zeros(3), torch.zeros(3))
    expected = float(losses.kto(pairs, 0.5, kl).sum())
    for budget in (1, 10_000):
        parts = lay_out(objective, rows, budget)
        ours = sum(float(objective.loss(part).detach()) for part in parts)
        assert ours == pytest.approx(expected, rel=1e-4)
    assert kl > 0.1


def test_a_record_that_is_not_a_pair_is_refused(tiny_folder: Path) -> None:
    base = load_model(tiny_folder, CPU, FP32, packing=False)
    with pytest.raises(DataError, match="rows:0: a pair of answers is needed"):
        tokenize_pairs(DEMONSTRATIONS, Template.from_tokenizer(base.tokenizer))
