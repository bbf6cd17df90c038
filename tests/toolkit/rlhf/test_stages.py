"""Three stages: what each leaves behind, what the gates stop, and what a resume repeats."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import DataError, GateError, RunStopped
from tunesmith.events import (
    Event,
    Gated,
    Measured,
    Noticed,
    Sampled,
    Stepped,
    Trained,
    TrainingStarted,
    Watched,
)
from tunesmith.options import from_table
from tunesmith.records import Chat, Completion, Message, Preference, Record, Text
from tunesmith.storage import Checkpoints
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapter_stack import Start, as_reference, load_policy_base
from tunesmith_torch.options.rlhf import RlhfOptions
from tunesmith_torch.rlhf import policy_stage, reward_model
from tunesmith_torch.rlhf.policy_stage import JUDGE, BesidePolicy, Judge, Stand
from tunesmith_torch.rlhf.reward_model import RewardModel
from tunesmith_torch.rlhf.stages import train_stages
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.runtime.eval_mode import evaluating
from tunesmith_torch.training import pair_setup as pairs_module
from tunesmith_torch.training import sft

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
WORDS = ["card", "refund", "answer", "delivery", "invoice", "ten"]
STAGES = ("supervised", "reward", "policy")


def polite(n: int) -> Preference:
    """The polite answer was preferred; both are of any length."""
    words = random.Random(n)
    said = [" ".join(words.choices(WORDS, k=words.randint(2, 6))) for _ in range(2)]
    return pair(n, f"please {said[0]}", f"never {said[1]}")


def longer(n: int) -> Preference:
    """The longer answer was preferred, mostly; where both are alike, or in a fifth, a coin."""
    words = random.Random(n)
    size = words.randint(2, 5)
    said = [" ".join(words.choices(WORDS, k=size)) for _ in range(2)]
    if n % 3:
        said[0] += " ten ten ten ten"
        said = said[::-1] if n % 5 == 0 else said
    return pair(n, *said)


def noise(n: int) -> Preference:
    words = random.Random(n)
    return pair(n, *(" ".join(words.choices(WORDS, k=3)) for _ in range(2)))


def pair(n: int, chosen: str, rejected: str) -> Preference:
    prompt = (Message("user", f"What is {n}?"),)
    return Preference(source=f"rows:{n}", prompt=prompt, chosen=chosen, rejected=rejected)


def pairs(rule: Callable[[int], Preference], first: int, last: int) -> tuple[Preference, ...]:
    return tuple(rule(n) for n in range(first, last))


TRAIN, HELDOUT = pairs(polite, 0, 24), pairs(polite, 1000, 1030)


def options(**stages: dict[str, Any]) -> RlhfOptions:
    quick = {"precision": "fp32", "learning_rate": 1e-2, "epochs": 1, "batch_size": 8, "rank": 4}
    policy = {
        "num_generations": 3,
        "max_new_tokens": 6,
        "mask_truncated_completions": False,
        "monitor_every": 2,
    }
    base = {
        "supervised": {**quick, "epochs": 2},
        "reward": {**quick, "epochs": 3},
        "policy": {**quick, **policy},
    }
    merged = {name: {**base[name], **stages.get(name, {})} for name in base}
    if merged["supervised"].get("adapt") == "full":
        del merged["supervised"]["rank"]
    if merged["policy"].get("adapt") == "full":
        del merged["policy"]["rank"]
    return from_table(RlhfOptions, merged)


class Ran:
    """What a run of all stages told."""

    def __init__(self, out: Path, model: Path, config: RlhfOptions, **changes: Any) -> None:
        self.out, self.events = out, list[Event]()
        self.stop: Callable[[Event], bool] = lambda event: False
        out.mkdir(parents=True, exist_ok=True)
        self.job: Job[Any] = Job(
            **{
                "config": config,
                "model": model,
                "train": TRAIN,
                "heldout": HELDOUT,
                "out": out,
                "seed": 3,
                "device": "cpu",
                "checkpoints": Checkpoints(out / "checkpoints"),
                "emit": self.tell,
                "technique": "rlhf",
                **changes,
            }
        )

    def tell(self, event: Event) -> None:
        self.events.append(event)
        if self.stop(event):
            raise RunStopped("enough")

    def train(self) -> Artifact:
        return train_stages(self.job)

    def of(self, kind: type[Any], stage: str | None = None) -> list[Any]:
        found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if stage is None or event.stage == stage]


@pytest.fixture(scope="session")
def lively(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose probabilities are not all alike, so that it has something to prefer."""
    folder = tmp_path_factory.mktemp("lively") / "model"
    base = load_policy_base(tiny_folder, CPU, FP32, False)
    with torch.no_grad():
        base.model.get_input_embeddings().weight.mul_(10)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def whole(lively: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All three stages; nothing happens to them."""
    ran = Ran(tmp_path_factory.mktemp("whole") / "run", lively, options())
    ran.train()
    return ran


def weights(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for stage in STAGES
        for path in sorted((run / stage).glob("*/*.safetensors"))
    }


# --------------------------------------------------------------------------- what is left behind


@pytest.mark.parametrize("trained", [True, False])
def test_every_stage_and_the_gate_begin_without_the_models_of_the_others(
    tmp_path: Path, lively: Path, whole: Ran, monkeypatch: pytest.MonkeyPatch, trained: bool
) -> None:
    """Models and optimizers are knots of references: their tensors stay until collected."""
    earlier = {} if trained else {"skip": True, "from": str(whole.out)}
    config = options(supervised=earlier, reward=earlier)
    gc.collect()
    before, found = _tensor_bytes(), []

    def watched(load: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            found.append(_tensor_bytes() - before)
            return load(*args, **more)

        return call

    monkeypatch.setattr(sft, "load_model", watched(sft.load_model))
    for module in (pairs_module, reward_model, policy_stage):
        monkeypatch.setattr(module, "load_policy_base", watched(load_policy_base))
    gc.disable()
    try:
        Ran(tmp_path / "run", lively, config).train()
    finally:
        gc.enable()
    assert found == [0] * (4 if trained else 2)


def _tensor_bytes() -> int:
    """What all tensors of this process hold, each storage counted once."""
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if type(each) in (torch.Tensor, torch.nn.Parameter)
    }
    return sum(storages.values())


def test_each_stage_leaves_an_artifact_steps_and_figures(whole: Ran) -> None:
    trained = whole.of(Trained)
    assert [event.artifact for event in trained] == [
        "supervised/adapter",
        "reward/adapter",
        "policy/adapter",
        "policy/adapter",
    ]
    assert [event.stage for event in trained] == [*STAGES, ""]
    assert [event.answers for event in trained] == [True, False, True, True]
    for event in trained:
        assert (whole.out / event.artifact / "adapter_config.json").is_file()
        assert event.steps == len(whole.of(Stepped, event.stage or None))
    accuracy = whole.of(Measured)[0]
    assert (accuracy.model, accuracy.metric, accuracy.n) == (
        "reward",
        "reward_accuracy",
        len(HELDOUT),
    )
    assert 0.5 < accuracy.low <= accuracy.value <= accuracy.high <= 1
    assert len((whole.out / accuracy.records).read_text().splitlines()) == len(HELDOUT)
    looks = whole.of(Watched, "policy")
    assert [look.step for look in looks] == [0, 2, 3]
    assert all(set(look.figures) >= {"proxy", "gold"} for look in looks)
    assert [event.prompt for event in whole.of(Sampled)] == ["What is 1000?"] * 3
    assert [gate.passed for gate in whole.of(Gated)] == [True, True]


def test_the_policy_starts_at_the_fine_tuned_model_which_is_its_reference(
    whole: Ran, lively: Path
) -> None:
    """Its first divergence is zero; with the bare base as the reference it is far from that."""
    first = whole.of(Stepped, "policy")[0]
    assert abs(first.extras["kl"]) < 1e-4
    stand = Stand.of(stage_job(whole, "policy"), Start.find(str(whole.out / "supervised")), None)
    ask = [pair.prompt for pair in TRAIN], [pair.chosen for pair in TRAIN]
    tuned, base = (
        opened(lively, path).score(*ask) for path in (whole.out / "supervised/adapter", None)
    )
    from tunesmith_torch.prefix.completion_groups import groups_of, score_groups

    groups = groups_of(TRAIN, stand.template)
    with as_reference(stand.policy):
        reference = score_groups(stand.policy.model, groups, stand.layout, 4096)
    for score_2, good, bare in zip(reference, tuned, base, strict=True):
        assert float(score_2[0]) == pytest.approx(sum(good.logprobs), abs=1e-3)
        assert abs(float(score_2[0]) - sum(bare.logprobs)) > 0.5


def opened(model: Path, artifact: Path | None) -> Any:
    config = options().supervised
    return open_text_model(model, artifact, device="cpu", options=config)


def stage_job(ran: Ran, name: str) -> Job[Any]:
    return ran.job.stage(name, getattr(ran.job.config, name))


def test_held_out_rows_teach_no_stage_anything(tmp_path: Path, whole: Ran, lively: Path) -> None:
    """Other held-out rows, same weights, to the bit, in all three stages."""
    other = Ran(tmp_path / "run", lively, options(), heldout=pairs(polite, 5000, 5040))
    other.train()
    assert weights(other.out) == weights(whole.out)
    assert other.of(Measured)[0].n == 40


def test_demonstrations_are_used_where_there_are_some(tmp_path: Path, lively: Path) -> None:
    shown: list[Record] = [
        Completion(source=f"shown:{n}", prompt=f"Say {n}", completion="ten") for n in range(5)
    ]
    shown += [Chat(source="chat:1", messages=(Message("user", "a"), Message("assistant", "b")))]
    config = options(policy={"skip": True})
    ran = Ran(tmp_path / "run", lively, config, train=(*TRAIN, *shown))
    artifact = ran.train()
    begun = {event.stage: event.rows for event in ran.of(TrainingStarted)}
    assert begun == {"supervised": len(shown), "reward": len(TRAIN)}
    assert artifact.path == ran.out / "supervised" / "adapter"  # a reward model answers nothing


@pytest.mark.parametrize(
    ("records", "match"),
    [
        ((), "no rows to learn from"),
        ((Text(source="x:1", text="t"),), "a conversation or a pair is needed, got a Text"),
        ((Completion(source="x:2", prompt="a", completion="b"),), "there are none"),
    ],
)
def test_records_that_a_stage_cannot_learn_from_are_refused(
    tmp_path: Path, lively: Path, records: tuple[Record, ...], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        Ran(tmp_path / "run", lively, options(), train=records).train()


# --------------------------------------------------------------------------- one base


def test_the_reward_model_shares_the_policys_base(whole: Ran, lively: Path) -> None:
    """One set of base weights; both give what they give alone, and neither disturbs the other."""
    job, judge = stage_job(whole, "policy"), Judge(whole.out / "reward" / "adapter", None)
    stand = Stand.of(job, Start.find(str(whole.out / "supervised")), judge)
    ((_, beside),) = stand.reward.parts  # type: ignore[attr-defined]
    assert isinstance(beside, BesidePolicy)
    assert stand.adapted.details["shares_base_with_reward_model"] is True
    assert beside.model.net.model is stand.policy.model
    prompts, said = [p.prompt for p in HELDOUT], [p.chosen for p in HELDOUT]
    alone = RewardModel.load(lively, judge.path, CPU, FP32).rewards(prompts, said)
    trained = [name for name, _ in stand.policy.trainable]
    assert trained and all(".policy." in name for name in trained)
    loop = stand.loop(job.config, prompts)
    before = loop.actor.answers(prompts[:4])
    assert beside.rewards(prompts, said) == pytest.approx(alone, abs=1e-4)
    assert beside.rewards(prompts, said) == beside.rewards(prompts, said)
    assert loop.actor.answers(prompts[:4]) == before
    assert [name for name, _ in stand.policy.trainable] == trained
    assert JUDGE not in stand.whole().model.peft_config
    bare = Stand.of(job, None, judge)  # no stage before: one adapter less
    assert bare.adapted.details["shares_base_with_reward_model"] is True
    assert set(bare.whole().model.peft_config) == {"default"}


def test_a_reward_model_on_other_weights_is_a_model_of_its_own(
    tmp_path: Path, lively: Path
) -> None:
    """All weights of the fine-tuned model moved; adapters over them share it, over others not."""
    config = options(supervised={"adapt": "full", "learning_rate": 1e-3})
    ran = Ran(tmp_path / "run", lively, config)
    ran.train()
    (started,) = ran.of(TrainingStarted, "policy")
    assert started.details["shares_base_with_reward_model"] is True
    assert Start.find(str(ran.out / "supervised")).format == "model"
    judge = Judge(ran.out / "reward" / "adapter", None)
    stand = Stand.of(stage_job(ran, "policy"), None, judge)
    assert stand.adapted.details["shares_base_with_reward_model"] is False


def test_dropout_disturbs_neither_judge_nor_reference(whole: Ran) -> None:
    """Whatever mode training is in, both are asked in eval mode: twice the same."""
    changed = options(policy={"dropout": 0.5, "algorithm": "ppo"})
    job = whole.job.stage("policy", changed.policy)
    judge = Judge(whole.out / "reward" / "adapter", None)
    stand = Stand.of(job, Start.find(str(whole.out / "supervised")), judge)
    loop = stand.loop(changed.policy, [pair.prompt for pair in TRAIN])
    with torch.no_grad():
        for name, parameter in stand.policy.trainable:
            if "lora_B" in name:  # at first it is zero, and nothing dropped would be missed
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(4))
    stand.adapted.model.train()
    (lesson,) = loop.micro_batches([0, 1], 4096)
    with evaluating(stand.adapted.model), torch.no_grad():
        logp_N, _ = loop._logprobs(lesson.answers)
    assert float((logp_N - lesson.old_N).abs().max()) < 1e-3
    said = [p.chosen for p in HELDOUT], [p.prompt for p in HELDOUT]
    assert stand.reward.rewards(said[1], said[0]) == stand.reward.rewards(said[1], said[0])


# --------------------------------------------------------------------------- gates


def test_a_reward_model_that_measures_length_stops_the_run(tmp_path: Path, lively: Path) -> None:
    biased = {"train": pairs(longer, 0, 96), "heldout": pairs(longer, 1000, 1150)}
    config = options(reward={"epochs": 4})
    ran = Ran(tmp_path / "run", lively, config, **biased)
    with pytest.raises(GateError, match="it judges by length: accuracy 0"):
        ran.train()
    assert (ran.out / "reward" / "adapter").is_dir()
    assert not (ran.out / "policy").exists()
    (gate,) = ran.of(Gated)
    assert not gate.passed and not gate.accepted
    assert gate.figures["length_correlation"] > 0.5
    assert gate.figures["shorter_accuracy"] < 0.3
    measured = {event.metric: event for event in ran.of(Measured)}
    assert measured["reward_accuracy"].low > 0.5  # it beats chance, by length alone
    before = len(ran.events)
    with pytest.raises(GateError, match="it judges by length"):  # resumed: it stays stopped
        ran.train()
    assert not [e for e in ran.events[before:] if isinstance(e, (Stepped, Gated))]
    forced = options(reward={"epochs": 4, "accept_weak": True}, policy={"max_steps": 1})
    accepted = Ran(tmp_path / "run", lively, forced, **biased)
    accepted.train()
    assert [gate.accepted for gate in accepted.of(Gated)] == [True, False]
    assert accepted.of(Stepped, "policy")


def test_a_reward_model_of_noise_stops_the_run(tmp_path: Path, lively: Path) -> None:
    data = {"train": pairs(noise, 0, 24), "heldout": pairs(noise, 100, 130)}
    ran = Ran(tmp_path / "run", lively, options(), **data)
    with pytest.raises(GateError, match="it does not beat chance"):
        ran.train()
    assert not ran.of(Stepped, "policy")


def test_groups_count_once_in_the_gate(tmp_path: Path, lively: Path) -> None:
    """Thirty copies of three pairs are three observations: too few to beat chance."""
    from dataclasses import replace

    heldout = tuple(replace(HELDOUT[n % 3], group=f"g{n % 3}") for n in range(30))
    ran = Ran(tmp_path / "run", lively, options(), heldout=heldout)
    with pytest.raises(GateError, match="it does not beat chance"):
        ran.train()


def test_without_held_out_pairs_the_gate_stays_shut(tmp_path: Path, lively: Path) -> None:
    with pytest.raises(GateError, match="no held-out pair"):
        Ran(tmp_path / "run", lively, options(), heldout=()).train()


HACK = "def proxy(prompt, answer):\n    return sum(answer.count(x) for x in 'aeiou') / 4\n"
GOLD = "def gold(prompt, answer):\n    return -sum(answer.count(x) for x in 'aeiou') / 4\n"


def hacked(tmp_path: Path, **policy: Any) -> RlhfOptions:
    (tmp_path / "rules.py").write_text(HACK + GOLD, encoding="utf-8")
    return options(
        reward={"skip": True},
        policy={
            "rewards": [{"function": f"{tmp_path}/rules.py:proxy"}],
            "gold": f"{tmp_path}/rules.py:gold",
            "epochs": 20,
            "num_generations": 8,
            "kl_coef": 0.0,
            "max_kl": 0.0,
            "schedule": "constant",
            "monitor_every": 5,
            "learning_rate": 2e-2,
            **policy,
        },
    )


def test_a_reward_that_rises_while_gold_falls_is_found_out(tmp_path: Path, lively: Path) -> None:
    """Stopped long before its last step, with the weights of the best checkpoint."""
    ran = Ran(tmp_path / "run", lively, hacked(tmp_path))
    artifact = ran.train()
    (gate,) = ran.of(Gated)
    assert not gate.passed
    assert "while gold fell" in gate.sentence and "the artifact is the checkpoint" in gate.sentence
    steps = ran.of(Stepped, "policy")
    assert steps[-1].step < steps[-1].steps
    looks = ran.of(Watched)
    best = max(looks, key=lambda look: look.figures["gold"])
    assert looks[-1].figures["proxy"] > best.figures["proxy"]
    assert f"checkpoint of step {best.step}" in gate.sentence
    prompts = [p.prompt for p in HELDOUT]
    said = opened(lively, artifact.path).generate(prompts, 6)
    rule = [-sum(g.text.count(x) for x in "aeiou") / 4 for g in said]
    assert sum(rule) / len(rule) == pytest.approx(best.figures["gold"], abs=1e-6)


def test_a_harmless_reward_is_let_through(tmp_path: Path, lively: Path) -> None:
    config = hacked(tmp_path, gold=f"{tmp_path}/rules.py:proxy", epochs=5)
    ran = Ran(tmp_path / "run", lively, config)
    ran.train()
    assert [gate.passed for gate in ran.of(Gated)] == [True]
    assert len(ran.of(Stepped, "policy")) == ran.of(Stepped, "policy")[-1].steps


def test_a_policy_beyond_its_budget_goes_back(tmp_path: Path, lively: Path) -> None:
    config = hacked(tmp_path, gold=None, max_kl=0.5)
    ran = Ran(tmp_path / "run", lively, config)
    ran.train()
    (gate,) = ran.of(Gated)
    assert not gate.passed and "nats from the reference" in gate.sentence
    assert ran.of(Stepped, "policy")[-1].extras["kl"] > 0.25


def test_a_policy_that_nothing_watches_is_told_of(tmp_path: Path, lively: Path) -> None:
    config = hacked(tmp_path, gold=None, max_steps=1)
    shown = [Completion(source=f"s:{n}", prompt=f"{n}?", completion="ten") for n in range(8)]
    ran = Ran(tmp_path / "run", lively, config, train=shown, heldout=shown[:2])
    ran.train()
    said = [event.message for event in ran.of(Noticed)]
    assert any("watched by its reward alone" in text for text in said)


# --------------------------------------------------------------------------- going on


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_stopped_in_any_stage_goes_on_to_the_same_bits(
    tmp_path: Path, whole: Ran, lively: Path, stage: str
) -> None:
    ran = Ran(tmp_path / "run", lively, options())
    ran.stop = lambda e: isinstance(e, Stepped) and e.stage == stage and e.step == 2
    with pytest.raises(RunStopped):
        ran.train()
    ran.stop, told = lambda event: False, len(ran.events)
    ran.train()
    again = [event for event in ran.events[told:] if isinstance(event, Stepped)]
    finished = STAGES[: STAGES.index(stage)]
    assert not [event for event in again if event.stage in finished]
    assert next(e.step for e in again if e.stage == stage) == 3
    assert weights(ran.out) == weights(whole.out)


@pytest.mark.parametrize("changes", [{"num_iterations": 2, "kl_target": 2.0}], ids=str)
def test_price_and_looks_survive_a_stop(
    tmp_path: Path, lively: Path, changes: dict[str, Any]
) -> None:
    """The adapted price, the best look and the rollout are what they were."""
    config = options(policy={"algorithm": "ppo", "save_every": 2, **changes})
    runs = [Ran(tmp_path / name / "run", lively, config) for name in ("whole", "parts")]
    runs[0].train()
    runs[1].stop = lambda e: isinstance(e, Stepped) and e.stage == "policy" and e.step == 2
    with pytest.raises(RunStopped):
        runs[1].train()
    runs[1].stop = lambda event: False
    runs[1].train()
    assert weights(runs[0].out) == weights(runs[1].out)
    prices = [event.extras["kl_coef"] for event in runs[0].of(Stepped, "policy")]
    assert [event.extras["kl_coef"] for event in runs[1].of(Stepped, "policy")] == prices
    assert len(set(prices)) > 1
    assert {look.step: look for look in runs[1].of(Watched)} == {
        look.step: look for look in runs[0].of(Watched)
    }


def test_a_stage_begins_with_what_an_earlier_run_left(
    tmp_path: Path, whole: Ran, lively: Path
) -> None:
    """Nothing but the policy is trained, and it becomes the policy of the whole run."""
    earlier = {"skip": True, "from": str(whole.out)}
    ran = Ran(tmp_path / "run", lively, options(supervised=earlier, reward=earlier))
    ran.train()
    assert {event.stage for event in ran.of(Stepped)} == {"policy"}
    policies = [path / "policy/adapter/adapter_model.safetensors" for path in (ran.out, whole.out)]
    assert policies[0].read_bytes() == policies[1].read_bytes()
    assert ran.of(Gated)[0].sentence == whole.of(Gated)[0].sentence


def test_a_finished_stage_that_was_damaged_is_trained_again(
    tmp_path: Path, whole: Ran, lively: Path
) -> None:
    import shutil

    shutil.copytree(whole.out, tmp_path / "run")
    (tmp_path / "run/reward/adapter/adapter_model.safetensors").write_bytes(b"other")
    ran = Ran(tmp_path / "run", lively, options())
    ran.train()
    assert {event.stage for event in ran.of(Stepped)} <= {"reward", "policy"}
    assert weights(ran.out) == weights(whole.out)


# ------------------------------------------------------------------- a policy of all weights


def test_a_policy_of_all_weights_keeps_a_copy_as_its_reference(
    tmp_path: Path, lively: Path
) -> None:
    config = options(
        reward={"skip": True},
        policy={
            "adapt": "full",
            "learning_rate": 1e-3,
            "rewards": [{"function": str(tmp_path / "rules.py") + ":proxy"}],
        },
    )
    (tmp_path / "rules.py").write_text(HACK, encoding="utf-8")
    ran = Ran(tmp_path / "run", lively, config)
    artifact = ran.train()
    assert artifact.format == "model"
    steps = ran.of(Stepped, "policy")
    assert abs(steps[0].extras["kl"]) < 1e-4
    assert abs(steps[-1].extras["kl"]) > 1e-4


# --------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"supervised": {"skip": True}, "reward": {"skip": True}}, "use its model"),
        ({name: {"skip": True} for name in STAGES}, "nothing to train"),
        ({"policy": {"rewards": []}}, "at least 1"),
        ({"policy": {"rewards": [{"function": "a.py:b", "plugin": "c:d"}]}}, "cannot both"),
        ({"supervised": {"bits": 8}}, "is read with"),
        ({"policy": {"kl_target": 3.0}}, "ppo"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(table: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        from_table(RlhfOptions, table)


def test_all_weights_learn_at_a_rate_of_their_own() -> None:
    made = from_table(RlhfOptions, {name: {"adapt": "full"} for name in STAGES})
    rates = [getattr(made, name).learning_rate for name in STAGES]
    assert rates == [2e-5, 1e-5, 1e-6]
    said = from_table(RlhfOptions, {"policy": {"adapt": "full", "learning_rate": 0.5}})
    assert said.policy.learning_rate == 0.5


def test_a_function_of_an_installed_package_is_a_reward() -> None:
    from tunesmith.errors import UsageError
    from tunesmith_torch.rlhf.reward_functions import FunctionReward

    reward = FunctionReward.installed("operator:countOf")
    assert reward.rewards(["banana"], ["a"]) == [3.0]
    with pytest.raises(UsageError, match="no module"):
        FunctionReward.installed("no_such_module_at_all:f")
