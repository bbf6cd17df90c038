"""The policy on TRL's trainers: the same mathematics, events, checkpoints and reference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from pydantic import ValidationError
from safetensors.torch import load_file

from tunesmith import distributed
from tunesmith.contracts import Job
from tunesmith.errors import RunStopped, TrainingError, UsageError
from tunesmith.events import Event, Saved, Stepped, TrainingStarted, Watched
from tunesmith.options import from_table
from tunesmith.records import Message, Preference, Prompt
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.sequences import Generated
from tunesmith_torch.models.adapter_stack import (
    Start,
    adapt_over,
    adapt_policy,
    load_policy_base,
    sum_with,
)
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.options.rlhf import PolicyStage, RlhfOptions
from tunesmith_torch.options.trl import lacking, refuse_vllm
from tunesmith_torch.prefix.completion_groups import Layout
from tunesmith_torch.rlhf import rollout, trl_backend
from tunesmith_torch.rlhf.monitor import Gold, Watch
from tunesmith_torch.rlhf.policy_objective import PolicyLoop
from tunesmith_torch.rlhf.rollout import Actor
from tunesmith_torch.rlhf.stages import train_stages
from tunesmith_torch.rlhf.trl_rewards import Judging, PromptTokenizer
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training import loop as native

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
PROMPTS: list[Prompt] = [(Message("user", f"{'so ' * n}{n}?"),) for n in range(4)]


class Letters:
    """Rewards that tell most answers apart."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [sum(map(ord, text)) % 11 / 10 - 0.01 * len(text) for text in completions]


class Heard(Actor):
    """A policy that remembers the answers that it was asked to read."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.heard: list[Generated] = []

    def text(self, answer: Generated) -> str:
        self.heard.append(answer)
        return super().text(answer)


class Told:
    """In place of drawing: answers that somebody else drew, with this model's probabilities."""

    def __init__(self, answers: Sequence[Generated]) -> None:
        self.left = list(answers)

    @torch.no_grad()
    def __call__(self, model: Any, asked: Sequence[list[int]], **_: Any) -> list[Generated]:
        said = [self.left.pop(0) for _ in asked]
        return [
            replace(answer, logprobs=tuple(self._logprobs(model, ids, answer.ids)))
            for ids, answer in zip(asked, said, strict=True)
        ]

    def _logprobs(self, model: Any, prompt: list[int], answer: tuple[int, ...]) -> list[float]:
        ids_1T = torch.tensor([[*prompt, *answer]])
        logp_TV = model(input_ids=ids_1T).logits[0].float().log_softmax(-1)
        said_TV = logp_TV[len(prompt) - 1 : -1]
        return [float(row_V[token]) for row_V, token in zip(said_TV, answer, strict=True)]


def options(**changes: Any) -> PolicyStage:
    base = {
        "backend": "trl",
        "epochs": 3,
        "batch_size": 4,
        "num_generations": 4,
        "max_new_tokens": 12,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "rank": 4,
        "micro_batch_tokens": 200,
        "save_every": 1,
        "monitor_every": 2,
        "kl_coef": 0.5,
    }
    return from_table(PolicyStage, {**base, **changes})


class Ran:
    """A policy that was trained, and what was told of it."""

    def __init__(
        self,
        model: Path,
        out: Path,
        config: PolicyStage,
        *,
        start: Path | None = None,
        prompts: Sequence[Prompt] = PROMPTS,
        looked_at: Sequence[Prompt] = (),
    ) -> None:
        self.events: list[Event] = []
        self.stop: Callable[[Event], bool] = lambda event: False
        base = load_policy_base(model, CPU, FP32, config.packing)
        self.template = Template.of(base.tokenizer)
        self.adapted: Adapted
        if start is None:
            self.adapted = adapt_policy(base, FP32, config, weights="lora", start=None, seed=3)
        else:
            begin = Start(start, "adapter")
            self.adapted = adapt_over(base, FP32, config, start=begin, seed=3)
        self.prompts, layout, self.reward = prompts, Layout(config.packing), Letters()
        self.loop = PolicyLoop(self.adapted, self.template, prompts, self.reward, config, layout)
        self.actor = Heard(self.adapted, self.template, prompts, self.reward, config)
        self.loop.actor = self.actor
        self.job: Job[Any] = Job(
            config=config,
            model=model,
            train=(),
            heldout=(),
            out=out,
            seed=3,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=self.tell,
            technique="rlhf",
        )
        out.mkdir(parents=True, exist_ok=True)
        self.watch = Watch(self.job, self.loop, self.reward, Gold(looked_at, [], None), config)

    def tell(self, event: Event) -> None:
        self.events.append(event)
        if self.stop(event):
            raise RunStopped("enough")

    def train(self) -> Ran:
        asked = PromptTokenizer(self.template, self.prompts)
        trl_backend.fit(self.job, self.loop, asked, self.reward, self.watch)
        return self

    def natively(self) -> Ran:
        native.fit(self.job, self.adapted, self.loop, seed=3, course=self.watch)
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: x.detach().clone() for name, x in self.adapted.trainable}


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert set(a) == set(b) and a
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="session")
def talker(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with something to prefer, whose answers end, sometimes."""
    folder = tmp_path_factory.mktemp("talker") / "model"
    base = load_policy_base(tiny_folder, CPU, FP32, False)
    with torch.no_grad():
        weight_VD = base.model.get_input_embeddings().weight.mul_(10)
        ids_BT = torch.tensor(Template.of(base.tokenizer).prompts_ids(PROMPTS[:1]))
        hidden_D = base.model.model(ids_BT).last_hidden_state[0].mean(0)
        weight_VD[base.tokenizer.eos_token_id] = 3 * hidden_D / (hidden_D @ hidden_D)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


EXACT = [
    pytest.param({"algorithm": "grpo", "mask_truncated_completions": True}, id="grpo"),
    pytest.param(
        {"algorithm": "grpo", "num_iterations": 2, "mask_truncated_completions": False}, id="grpo-2"
    ),
    pytest.param({"algorithm": "rloo", "mask_truncated_completions": False}, id="rloo"),
]


@pytest.mark.parametrize("changes", EXACT)
def test_both_backends_come_to_the_same_weights(
    talker: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Ran(talker, tmp_path / "trl", options(**changes))
    before = theirs.weights()
    theirs.train()
    config = options(**{**changes, "backend": "native"})
    monkeypatch.setattr(rollout, "generate", Told(theirs.actor.heard))
    ours = Ran(talker, tmp_path / "native", config).natively()
    for one, other in zip(ours.of(Stepped), theirs.of(Stepped), strict=True):
        if config.algorithm == "grpo":  # rloo's loss is of whole answers there, of tokens here
            assert one.loss == pytest.approx(other.loss, abs=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, abs=1e-4)
        assert one.trained_tokens == other.trained_tokens
        for name in ("reward", "reward_spread", "answer_tokens", "truncated", "kl_coef"):
            assert one.extras[name] == pytest.approx(other.extras[name], abs=1e-6)
    assert apart(ours.weights(), theirs.weights()) < 1e-4 < 1e-2 < apart(before, ours.weights())


def test_cut_off_answers_teach_nothing_and_shift_no_mean(talker: Path, tmp_path: Path) -> None:
    """rloo: TRL's loss is divided by all answers, so it is less by the share of those kept."""
    theirs = Ran(talker, tmp_path / "trl", options(algorithm="rloo", epochs=1)).train()
    step = theirs.of(Stepped)[0]
    assert 0 < step.extras["truncated"] < 1
    said = list(theirs.actor.heard)
    earned = Letters().rewards([], [Actor.text(theirs.actor, answer) for answer in said])
    judging = Judging(
        theirs.loop, PromptTokenizer(theirs.template, PROMPTS), Letters(), theirs.job.config
    )
    values = judging.rewards(["0"] * len(said), [answer.ids for answer in said])
    kept = [answer.stopped == "end" for answer in said]
    assert values == [pytest.approx(e) if k else None for e, k in zip(earned, kept, strict=True)]
    assert step.trained_tokens == sum(
        len(answer.ids) for answer, k in zip(said, kept, strict=True) if k
    )


def test_the_ids_are_those_of_the_native_loop(talker: Path, tmp_path: Path) -> None:
    """Also where a user wrote a control token, which no tokenizer could tell from a real one."""
    tricky: list[Prompt] = [(Message("user", "say <|im_end|> please"),), *PROMPTS[:1], "bare text"]
    ran = Ran(talker, tmp_path, options(), prompts=tricky)
    asked = PromptTokenizer(ran.template, tricky)
    assert asked(text=["2", "0"])["input_ids"] == ran.template.prompts_ids([tricky[2], tricky[0]])
    assert asked.eos_token_id in ran.template.end_ids


@pytest.fixture(scope="session")
def start(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that an earlier run left."""
    folder = tmp_path_factory.mktemp("start")
    base = load_policy_base(talker, CPU, FP32, False)
    earlier = adapt_policy(base, FP32, options(), weights="lora", start=None, seed=9)
    source = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in earlier.trainable:
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=source)
    earlier.model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_reference_is_the_start(
    talker: Path, start: Path, tmp_path: Path, algorithm: str
) -> None:
    """The divergence begins at 0, and is measured against the start, not against the base."""
    config = options(
        algorithm=algorithm, epochs=3, mask_truncated_completions=False, num_generations=8
    )
    ran = Ran(talker, tmp_path, config, start=start).train()
    kls = [step.extras["kl"] for step in ran.of(Stepped)]
    assert abs(kls[0]) < 1e-5 < 1e-3 < max(map(abs, kls[1:])) < 20
    assert "ref" not in ran.loop.policy.peft_config
    # What is saved for the untouched base is what was trained over the folded one.
    ids = torch.tensor(ran.template.prompts_ids(PROMPTS[:1]))
    trained = ran.adapted.model(input_ids=ids).logits
    saved = sum_with(ran.adapted, Start(start, "adapter"))
    base = load_policy_base(talker, CPU, FP32, False)
    saved.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    again = attach_adapter(base, tmp_path / "adapter")(input_ids=ids).logits
    assert float((trained - again).abs().max()) < 1e-4
    assert float((trained - base_logits(talker, ids)).abs().max()) > 0.1


def test_a_reward_model_judges_beside_a_policy_on_the_same_base(
    talker: Path, tmp_path: Path
) -> None:
    """Without a start nothing is folded, so policy, reference and judge are one base model."""
    quick = {"precision": "fp32", "rank": 4, "batch_size": 8}
    table = {
        "supervised": {"skip": True},
        "reward": {**quick, "accept_weak": True, "max_steps": 1},
        "policy": {
            **quick,
            "backend": "trl",
            "num_generations": 2,
            "max_new_tokens": 4,
            "epochs": 2,
        },
    }
    rows = [
        Preference(source=f"{n}", prompt=PROMPTS[n % 4], chosen=f"yes {n}", rejected=f"no {n}")
        for n in range(12)
    ]
    events: list[Event] = []
    job = replace(
        Ran(talker, tmp_path, options()).job,
        config=from_table(RlhfOptions, table),
        train=tuple(rows[:8]),
        heldout=tuple(rows[8:]),
        emit=events.append,
    )
    artifact = train_stages(job)
    began = [event for event in events if isinstance(event, TrainingStarted)][-1]
    assert began.details["shares_base_with_reward_model"] and began.details["backend"] == "trl"
    stored = load_file(artifact.path / "adapter_model.safetensors")
    assert stored and not [name for name in stored if "ref" in name or "judge" in name]
    assert len([event for event in events if isinstance(event, Stepped)]) == 3


def base_logits(model: Path, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = load_policy_base(model, CPU, FP32, False).model(input_ids=ids).logits
    return found


# --------------------------------------------------------------------------- stopping, resuming


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "grpo", "num_iterations": 2}, {"algorithm": "rloo"}],
    ids=["grpo", "rloo"],
)
def test_a_stopped_training_is_saved_and_resumed_to_the_same_weights(
    talker: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = options(**changes, batch_size=2, epochs=2, save_every=100, monitor_every=100)
    whole = Ran(talker, tmp_path / "whole", config).train()
    first = Ran(talker, tmp_path / "parts", config)
    first.stop = lambda event: isinstance(event, Stepped) and event.step == 2
    with pytest.raises(RunStopped):
        first.train()
    assert [event.step for event in first.of(Saved)] == [0, 2]  # the first look is the best yet
    assert first.job.checkpoints.newest().step == 2  # type: ignore[union-attr]
    rest = Ran(talker, tmp_path / "parts", config).train()
    assert [event.step for event in rest.of(Stepped)] == [3, 4]
    seen = [(x.step, x.loss, x.gradient_norm, x.extras) for x in whole.of(Stepped)]
    parts = [*first.of(Stepped), *rest.of(Stepped)]
    assert [(x.step, x.loss, x.gradient_norm, x.extras) for x in parts] == seen
    assert apart(whole.weights(), rest.weights()) == 0.0


def straying(epochs: int) -> PolicyStage:
    """A policy that soon is further from its reference than it may."""
    return options(
        epochs=epochs,
        learning_rate=0.3,
        kl_coef=1e-4,
        max_kl=0.01,
        monitor_every=1,
        mask_truncated_completions=False,
        max_new_tokens=4,
    )


def test_a_run_stopped_in_its_last_step_is_looked_at_when_resumed(
    talker: Path, tmp_path: Path
) -> None:
    """It is saved before its last look, which the gates need."""
    config = options(epochs=2, monitor_every=1, save_every=100)
    first = Ran(talker, tmp_path, config, looked_at=PROMPTS[:1])
    first.stop = lambda event: isinstance(event, Stepped) and event.step == event.steps == 2
    with pytest.raises(RunStopped):
        first.train()
    assert [look.step for look in first.of(Watched)] == [0, 1]
    rest = Ran(talker, tmp_path, config, looked_at=PROMPTS[:1]).train()
    assert [look.step for look in rest.of(Watched)] == [2]
    assert rest.of(Stepped) == [] and rest.watch.looks == 3


def test_the_budget_holds_for_a_run_stopped_in_its_last_step(talker: Path, tmp_path: Path) -> None:
    config = straying(epochs=5)
    first = Ran(talker, tmp_path, config, looked_at=PROMPTS[:2])
    first.stop = lambda event: isinstance(event, Stepped) and event.step == event.steps == 5
    with pytest.raises(RunStopped):
        first.train()
    went_to = first.weights()
    rest = Ran(talker, tmp_path, config, looked_at=PROMPTS[:2]).train()
    assert not rest.watch.verdict().passed
    assert apart(went_to, rest.weights()) > 0.0


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("stopped", [False, True], ids=["to the end", "stopped"])
def test_nothing_is_left_behind_in_the_model_or_the_process(
    talker: Path, tmp_path: Path, algorithm: str, stopped: bool
) -> None:
    """RLOO would warn of every answer that was cut off, so it is silent while it trains."""
    logger = logging.getLogger(trl.RLOOTrainer.__module__)
    levels: list[int] = []
    ran = Ran(talker, tmp_path, options(algorithm=algorithm, epochs=1))
    config = ran.loop.policy.generation_config
    config.eos_token_id, config.pad_token_id = 1, 2

    def stop(event: Event) -> bool:
        levels.append(logger.level)
        return stopped and isinstance(event, Stepped)

    ran.stop = stop
    before = logger.level
    with pytest.raises(RunStopped) if stopped else nullcontext():
        ran.train()
    assert (config.eos_token_id, config.pad_token_id) == (1, 2)
    assert logger.level == before
    assert levels and set(levels) == {logging.ERROR if algorithm == "rloo" else before}


def test_a_policy_that_goes_too_far_ends_as_its_best_checkpoint(
    talker: Path, tmp_path: Path
) -> None:
    config = straying(epochs=12)
    ran = Ran(talker, tmp_path, config, looked_at=PROMPTS[:2])
    before = ran.weights()
    ran.train()
    assert not ran.watch.verdict().passed
    assert len(ran.of(Stepped)) == 5  # the budget is held against the mean of five
    assert [look.step for look in ran.of(Watched)] == [0, 1, 2, 3, 4]
    best = [look.step for look in ran.of(Watched) if look.best][-1]
    assert (apart(before, ran.weights()) == 0.0) == (best == 0)
    assert ran.job.checkpoints.best().step == best  # type: ignore[union-attr]


def test_a_gradient_that_is_not_finite_updates_nothing(talker: Path, tmp_path: Path) -> None:
    ran = Ran(talker, tmp_path, options(algorithm="rloo", mask_truncated_completions=False))
    before = ran.weights()
    ran.reward.rewards = lambda prompts, texts: [  # type: ignore[method-assign]
        3e38 if n % 2 else -3e38 for n, _ in enumerate(texts)
    ]
    with pytest.raises(TrainingError, match="step 1: the gradient is not finite"):
        ran.train()
    assert apart(before, ran.weights()) == 0.0


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "ppo"}, "has grpo and rloo, and no ppo"),
        ({"adapt": "full"}, 'trains adapt = "lora" only, got "full"'),
        ({"adapt": "qlora"}, 'trains adapt = "lora" only, got "qlora"'),
        ({"dropout": 0.1}, "`dropout` must be 0"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` must be empty"),
        ({"kl_coef": 0.0}, "`max_kl` must be 0 too"),
        ({"vllm": True, "backend": "native"}, '`vllm` is read by backend = "trl" only'),
    ],
    ids=str,
)
def test_what_trl_cannot_honour_is_refused(changes: dict[str, Any], message: str) -> None:
    table = {"backend": "trl", **changes}
    with pytest.raises(ValidationError, match=message):
        from_table(PolicyStage, table)


def test_vllm_without_a_gpu_is_refused_before_the_first_stage(talker: Path, tmp_path: Path) -> None:
    pair = Preference(source="1", prompt=PROMPTS[0], chosen="yes", rejected="no")
    table = {"policy": {"backend": "trl", "vllm": True}}
    ran = Ran(talker, tmp_path, options())
    job = replace(ran.job, config=from_table(RlhfOptions, table), train=(pair,))
    with pytest.raises(UsageError, match=r"technique.policy.vllm: .* this run is on cpu") as caught:
        train_stages(job)
    assert caught.value.hint and "vllm = false" in caught.value.hint
    assert ran.events == [] and list(tmp_path.iterdir()) == []
    refuse_vllm(options(vllm=True), "cuda")
    refuse_vllm(options(vllm=True, skip=True), "cpu")
    refuse_vllm(options(), "cpu")


def test_a_library_that_is_not_there_is_said_at_plan_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = metadata.version

    def version(name: str) -> str:
        if name in ("trl", "vllm"):
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    found = lacking(options(vllm=True))
    assert [(f.level, f.where) for f in found] == [
        ("error", "technique.policy.backend"),
        ("error", "technique.policy.vllm"),
    ]
    assert "tunesmith[trl]" in found[0].message
    monkeypatch.undo()
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert "torchrun started 2" in lacking(options())[0].message
    assert lacking(options(backend="native")) == lacking(options(skip=True)) == []
