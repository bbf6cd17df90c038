"""Pairs of answers: layouts, losses by hand, the reference, and training on both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError, RunStopped, UsageError
from tunesmith.events import Event, Noticed, Stepped
from tunesmith.records import Completion, Message, Preference
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.losses import preference as losses
from tunesmith_torch.losses.preference import Scored
from tunesmith_torch.models.adapter_stack import (
    Start,
    adapt_policy,
    as_reference,
    load_policy_base,
    one_adapter,
)
from tunesmith_torch.models.adapters import adapt_lora
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.preference import PreferenceOptions
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.preference import train as preferring
from tunesmith_torch.preference.train import Preferring, prefer
from tunesmith_torch.prefix.completion_groups import (
    Group,
    Layout,
    answer_logprobs,
    groups_of,
    score_groups,
)
from tunesmith_torch.prefix.prefix_check import sharing_error
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training.pair_setup import Ready
from tunesmith_torch.training.sft import supervise

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
LESSONS = tuple(
    Completion(source=p.source, prompt=p.prompt[0].content, completion="seven " + p.chosen)
    for p in PAIRS
)
LAYOUTS = [Layout(), Layout(sharing=False), Layout(packing=False)]
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
        train=PAIRS if isinstance(config, PreferenceOptions) else LESSONS,
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

    def tell(event: Event) -> None:
        events.append(event)
        if emit is not None:
            emit(event)

    return prefer(job(folder, model, config, tell)), events


def steps(events: Sequence[Event]) -> list[Stepped]:
    return [event for event in events if isinstance(event, Stepped)]


@pytest.fixture(scope="session")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The run folder of a supervised adapter that is far from its base."""
    folder = tmp_path_factory.mktemp("sft")
    config = LoraOptions(
        epochs=4, batch_size=6, learning_rate=2e-2, precision="fp32", rank=4, use_rslora=True
    )

    def adapt(base: Any, precision: Any) -> Any:
        return adapt_lora(base, precision, config, 1)

    supervise(job(folder, tiny_folder, config, lambda event: None), adapt)
    return folder


def scores(
    model: torch.nn.Module, groups: Sequence[Group], layout: Layout = LAYOUTS[0]
) -> torch.Tensor:
    return torch.stack(score_groups(model, groups, layout, 4096))


def text_scores(model: Path, artifact: Path | None) -> torch.Tensor:
    """Through the public door: what is on disk, asked for every answer."""
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
    assert sharing_error(base.model) < 1e-5


def test_an_attention_that_is_more_than_softmax_does_not_share(tmp_path: Path) -> None:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    base = load_policy_base(save_tiny_model(tmp_path / "gemma2", "gemma2"), CPU, FP32, True)
    assert math.isinf(sharing_error(base.model))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_log_probabilities_are_of_answer_tokens_only(
    tiny_folder: Path, layout: Layout, budget: int
) -> None:
    """Against the model's own logits, row by row, prompt tokens not counted."""
    base = load_policy_base(tiny_folder, CPU, FP32, layout.packing)
    groups = groups_of(PAIRS, Template.of(base.tokenizer))
    ours = torch.stack(score_groups(base.model, groups, layout, budget))
    for row, group in enumerate(groups):
        for column, answer in enumerate(group.answers):
            ids = torch.tensor([[*group.prompt, *answer]])
            logp = base.model(ids).logits[0].detach().log_softmax(-1)
            places = range(len(group.prompt), ids.shape[1])
            expected = sum(float(logp[t - 1, ids[0, t]]) for t in places)
            assert float(ours[row, column]) == pytest.approx(expected, abs=1e-4)
            assert answer[-1] == base.tokenizer.eos_token_id


def test_gradients_do_not_depend_on_the_layout(tiny_folder: Path) -> None:
    gradients = []
    for layout in LAYOUTS:
        base = load_policy_base(tiny_folder, CPU, FP32, layout.packing)
        base.model.requires_grad_(True)
        groups = groups_of(PAIRS, Template.of(base.tokenizer))
        answers = layout.collate(groups, range(len(groups)))
        sums_A = answers.sums(answer_logprobs(base.model, answers))
        (sums_A * torch.linspace(-1, 1, len(sums_A))).sum().backward()
        gradients.append({n: p.grad for n, p in base.model.named_parameters()})
    for other in gradients[1:]:
        for name, grad in gradients[0].items():
            torch.testing.assert_close(grad, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_prompt_of_one_token_and_answers_of_one() -> None:
    groups = [Group([5], ([1], [2, 3])), Group([4, 6], ([7, 8], [1]))]
    answers = Layout().collate(groups, [0, 1])
    assert answers.branches is not None
    assert answers.branches.trunks == 1
    assert answers.batch.ids_BT.tolist() == [[4, 5, 5, 2, 6, 7, 6]]
    assert answers.batch.targets_N.tolist() == [1, 2, 3, 7, 8, 1]
    assert answers.batch.positions_BT.tolist() == [[0, 0, 0, 1, 1, 2, 1]]


# --------------------------------------------------------------------------- losses


def scored() -> Scored:
    return Scored(
        chosen_B=torch.tensor([-3.0, -8.0]),
        rejected_B=torch.tensor([-5.0, -2.0]),
        chosen_tokens_B=torch.tensor([3.0, 4.0]),
        rejected_tokens_B=torch.tensor([2.0, 2.0]),
        chosen_reference_B=torch.tensor([-4.0, -7.0]),
        rejected_reference_B=torch.tensor([-4.5, -2.5]),
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_losses_are_what_the_papers_say() -> None:
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
def test_training_starts_at_the_reference_which_is_the_fine_tuned_policy(
    tmp_path: Path, tiny_folder: Path, sft: Path, merged: Path, start: str, adapt: str, loss: str
) -> None:
    """Step 1: loss ln 2, all rewards 0. A reference that is the bare base fails this by far."""
    where = {"none": None, "adapter": str(sft), "model": str(merged)}[start]
    config = options(adapt=adapt, start=where, max_steps=1, learning_rate=1e-9, loss=loss)
    artifact, events = train(tmp_path / "run", tiny_folder, config)
    (step,) = steps(events)
    assert step.loss == pytest.approx(math.log(2) if loss == "dpo" else 0.5, abs=1e-5)
    assert step.extras["reward_chosen"] == pytest.approx(0, abs=1e-5)
    expected = text_scores(tiny_folder, None if where is None else sft / "adapter")
    base = merged if start == "model" else tiny_folder
    torch.testing.assert_close(text_scores(base, artifact.path), expected, rtol=0, atol=1e-3)
    if where is not None:
        assert (expected - text_scores(tiny_folder, None)).abs().max() > 1


def test_switching_the_fresh_adapter_off_gives_the_start(tiny_folder: Path, sft: Path) -> None:
    base = load_policy_base(tiny_folder, CPU, FP32, True)
    start = Start.find(str(sft))
    groups = groups_of(PAIRS, Template.of(base.tokenizer))
    adapted = adapt_policy(base, FP32, options(), weights="lora", start=start, seed=0)
    assert all(".policy." in name for name, _ in adapted.trainable)
    begin = scores(adapted.model, groups)
    torch.testing.assert_close(begin, text_scores(tiny_folder, sft / "adapter"), rtol=0, atol=1e-4)
    with torch.no_grad():
        for name, parameter in adapted.trainable:
            if "lora_B" in name:
                parameter.normal_()
    moved = scores(adapted.model, groups)
    assert (moved - begin).abs().max() > 0.1
    with as_reference(adapted):
        again = scores(adapted.model, groups)
    torch.testing.assert_close(again, begin, rtol=0, atol=1e-5)  # sums of other lengths
    assert torch.equal(scores(adapted.model, groups), moved)
    assert all(".policy." in name for name, _ in adapted.trainable)
    whole = one_adapter(adapted)
    assert set(whole.model.peft_config) == {"default"}
    torch.testing.assert_close(scores(whole.model, groups), moved, rtol=0, atol=1e-4)


def test_what_was_trained_over_an_adapter_is_one_adapter_for_the_bare_base(
    tmp_path: Path, tiny_folder: Path, sft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Preferring] = []

    class Watched(Preferring):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seen.append(self)

    monkeypatch.setattr(preferring, "Preferring", Watched)
    kept: list[torch.Tensor] = []
    original = preferring.one_adapter

    def before(adapted: Any) -> Any:
        base = load_policy_base(tiny_folder, CPU, FP32, True)
        kept.append(scores(adapted.model, groups_of(PAIRS, Template.of(base.tokenizer))))
        return original(adapted)

    monkeypatch.setattr(preferring, "one_adapter", before)
    artifact, _ = train(tmp_path, tiny_folder, options(start=str(sft), rank=3, epochs=2))
    torch.testing.assert_close(text_scores(tiny_folder, artifact.path), kept[0], rtol=0, atol=1e-3)
    assert len(seen) == 1


def test_a_start_that_cannot_be_added_up_is_refused(
    tmp_path: Path, tiny_folder: Path, sft: Path
) -> None:
    with pytest.raises(UsageError, match="only a plain LoRA adapter"):
        train(tmp_path, tiny_folder, options(start=str(sft), use_dora=True))
    with pytest.raises(UsageError, match="no adapter and no model"):
        train(tmp_path, tiny_folder, options(start=str(tmp_path)))


def test_the_reference_is_asked_once_and_kept(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = preferring.score_groups

    def counting(model: Any, groups: Any, *rest: Any) -> Any:
        asked.append(len(groups))
        return original(model, groups, *rest)

    monkeypatch.setattr(preferring, "score_groups", counting)

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 1:
            raise RunStopped("enough")

    whole, all_events = train(tmp_path / "whole", tiny_folder, options(epochs=2, dropout=0.1))
    with pytest.raises(RunStopped):
        train(tmp_path / "parts", tiny_folder, options(epochs=2, dropout=0.1), stop)
    assert asked == [12, 12]
    rest, later = train(tmp_path / "parts", tiny_folder, options(epochs=2, dropout=0.1))
    assert asked == [12, 12]
    assert [s.loss for s in steps(later)] == [s.loss for s in steps(all_events)][1:]
    names = ["adapter_model.safetensors"]
    assert [(whole.path / n).read_bytes() for n in names] == [
        (rest.path / n).read_bytes() for n in names
    ]
    monkeypatch.setattr(
        "tunesmith_torch.preference.reference_logprobs.fingerprint", lambda *a: "other"
    )
    train(tmp_path / "parts", tiny_folder, options(epochs=2, dropout=0.1))
    assert asked == [12, 12, 12]


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
    assert last.extras["reward_margin"] > first.extras["reward_margin"]
    assert last.extras["accuracy"] == 1.0
    assert last.loss < first.loss


def test_pairs_that_do_not_fit_are_told(tmp_path: Path, tiny_folder: Path) -> None:
    base = load_model(tiny_folder, CPU, FP32, packing=False)
    groups = groups_of(PAIRS, Template.of(base.tokenizer))
    limit = sorted(len(g.prompt) + max(map(len, g.answers)) for g in groups)[5]
    _, events = train(tmp_path, tiny_folder, options(max_length=limit))
    told = [e.message for e in events if isinstance(e, Noticed) and "left out" in e.message]
    assert len(told) == 1
    assert sum(s.rows for s in steps(events)) == sum(
        len(g.prompt) + max(map(len, g.answers)) <= limit for g in groups
    )


@pytest.mark.parametrize(
    "unread",
    [
        {"margin": 2.0},
        {"loss": "simpo", "label_smoothing": 0.1},
        {"loss": "dpo", "desirable_weight": 2.0},
        {"adapt": "full", "rank": 4},
        {"truncate_prompts": True},
    ],
)
def test_options_that_nobody_would_read_are_refused(unread: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="is read"):
        PreferenceOptions(**unread)


def test_ktos_baseline_is_how_much_likelier_strangers_became(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """Once the policy has moved: the mean over the batch's mismatched pairs, however laid out."""
    run = job(tmp_path, tiny_folder, options(loss="kto", beta=0.5), lambda event: None)
    ready = Ready.of(run)
    objective = Preferring(ready, run.config)
    objective.ask_reference(run)
    model, rows = ready.adapted.model, [1, 4, 7]
    strangers = [Group(ready.pairs[row].prompt, (ready.pairs[row + 1].answers[0],)) for row in rows]
    own = [ready.pairs[row] for row in rows]
    limits = [max(map(len, pair.answers)) for pair in own]
    strangers = [
        Group(g.prompt, (g.answers[0][:n],)) for g, n in zip(strangers, limits, strict=True)
    ]
    before, own_before = scores(model, strangers), scores(model, own)
    adam = torch.optim.Adam([p for _, p in ready.adapted.trainable], lr=1e-2)
    for _ in range(5):
        answers = ready.layout.collate(strangers, range(3))
        (-answer_logprobs(model, answers).sum()).backward()
        adam.step()
        adam.zero_grad()
    moved = (scores(model, strangers) - before).mean().clamp(min=0)
    ratios = scores(model, own) - own_before
    z = torch.zeros(2)
    pairs = Scored(ratios[:, 0], ratios[:, 1], z, z, torch.zeros(3), torch.zeros(3))
    expected = float(losses.kto(pairs, 0.5, moved).sum())
    for budget in (1, 10_000):
        parts = objective.micro_batches(rows, budget)
        ours = sum(float(objective.loss(part).detach()) for part in parts)
        assert ours == pytest.approx(expected, rel=1e-4)
    assert moved > 0.1


def test_a_record_that_is_no_pair_is_refused(tiny_folder: Path) -> None:
    base = load_model(tiny_folder, CPU, FP32, packing=False)
    with pytest.raises(DataError, match="rows:0: a pair of answers is needed"):
        groups_of(LESSONS, Template.of(base.tokenizer))
