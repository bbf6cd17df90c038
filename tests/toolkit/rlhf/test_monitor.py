"""The decisions of the monitor on simulated curves of reward and gold reward, without a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tables import build
from torch import nn

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError
from tunesmith.events import Event, GateChecked, Monitored
from tunesmith.records import Prompt
from tunesmith.storage import Checkpoints
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.rlhf.monitor import GoldReward, PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import KlController
from tunesmith_torch.training.loop import BatchCounts

ROWS = 64
Curve = Callable[[int], float]


class NumberInText:
    """A reward that is one of the numbers in the completion."""

    def __init__(self, index: int) -> None:
        self.index = index

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [float(text.split()[self.index]) for text in completions]


class SimulatedObjective:
    """In place of the objective: its completions contain the reward and the gold reward."""

    def __init__(
        self, reward: Curve, gold_reward: Curve, noise: float, spread: float, seed: int
    ) -> None:
        self.step, self._curves = 0, (reward, gold_reward)
        self._noise, self._spread = noise, spread
        self.kl_controller, self.rollout_generator = KlController(0.0), self
        self.adapted = SimpleNamespace(model=nn.Identity())
        self._random = random.Random(seed)
        self._rows = [self._random.gauss(0, 0.3) for _ in range(ROWS)]

    def generate_greedy(self, prompts: Sequence[Prompt]) -> list[str]:
        values = [curve(self.step) for curve in self._curves]
        return [
            " ".join(str(value + row + self._random.gauss(0, self._noise)) for value in values)
            for row, _ in zip(self._rows, prompts, strict=False)
        ]

    def finish_update(self) -> bool:
        return True

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        return BatchCounts(1, 1, 1)

    def metrics(self) -> dict[str, float]:
        return {"kl": 1.0, "reward_spread": self._spread}


def flat(step: int) -> float:
    return 0.5


def run_monitor(
    folder: Path,
    reward: Curve,
    gold_reward: Curve,
    *,
    steps: int = 100,
    noise: float = 0.2,
    spread: float = 1.0,
    seed: int = 1,
    **changes: Any,
) -> tuple[GateChecked, list[Monitored]]:
    """Simulate a training; halfway the monitor is replaced by a new one with its state."""
    events: list[Event] = []
    config = build(
        PolicyOptions, **{"monitor__every": 10, "monitor__log_completions": 0, **changes}
    )
    job: Job[Any] = Job(
        config=config,
        model=folder,
        train=(),
        validation=(),
        out=folder,
        seed=0,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=events.append,
        technique="test",
    )
    objective: Any = SimulatedObjective(reward, gold_reward, noise, spread, seed)
    gold = GoldReward(["?"] * ROWS, [], NumberInText(1))

    def new_monitor() -> PolicyMonitor:
        return PolicyMonitor(job, objective, NumberInText(0), gold, config, steps=steps)

    monitor = new_monitor()
    decision = monitor.evaluate(0)
    while decision != "stop" and objective.step < steps:
        objective.step += 1
        monitor.is_batch_finished()
        decision = monitor.evaluate(objective.step)
        if objective.step == steps // 2:
            state, monitor = monitor.state_dict(), new_monitor()
            monitor.load_state_dict(state)
    assert list(monitor.results()) == [monitor.gate_result()]
    return monitor.gate_result(), [event for event in events if isinstance(event, Monitored)]


def rising(step: int) -> float:
    return step / 50


@pytest.mark.parametrize("fall", [0.002, 0.005, 0.02, 0.2])
def test_a_slow_fall_of_the_gold_reward_is_detected(tmp_path: Path, fall: float) -> None:
    """A little at each evaluation, far within the noise; it adds up."""
    gate, evaluations = run_monitor(tmp_path, rising, lambda step: -fall * step, steps=200)
    assert not gate.passed
    assert (
        "while the gold reward fell by" in gate.message
        or "the gold reward is lower than at step 0" in gate.message
    )
    assert evaluations[-1].step < 200 or fall < 0.005


def test_a_gold_reward_that_rises_first_and_then_falls(tmp_path: Path) -> None:
    gate, _ = run_monitor(tmp_path, rising, lambda step: 0.03 * min(step, 100 - step))
    assert not gate.passed
    assert "while the gold reward fell by" in gate.message
    best = int(gate.message.rsplit(" ", 1)[1])
    assert 40 <= best <= 60


def test_a_reward_at_its_maximum_does_not_hide_a_fall(tmp_path: Path) -> None:
    """All rewards are 1 after ten steps, so they rise no more while the gold reward falls."""
    gate, _ = run_monitor(
        tmp_path,
        lambda step: 1.0 if step >= 10 else 0.9,
        lambda step: 0.5 if step <= 20 else 0.5 - 0.01 * (step - 20),
    )
    assert not gate.passed
    assert (
        "the gold reward is lower than at step 0" in gate.message
        or "the gold reward fell" in gate.message
    )


def test_the_last_step_is_evaluated(tmp_path: Path) -> None:
    """A training shorter than ``monitor_every`` cannot bypass the gate."""
    gate, evaluations = run_monitor(
        tmp_path, lambda step: float(step >= 6), lambda step: -float(step >= 6), steps=8
    )
    assert [evaluation.step for evaluation in evaluations] == [0, 8]
    assert not gate.passed and "stopped at step 8" in gate.message
    assert gate.message.endswith("the artifact is the checkpoint of step 0")


@pytest.mark.parametrize("gold_reward", [flat, rising], ids=["flat", "rising"])
def test_a_gold_reward_that_does_not_fall_passes(tmp_path: Path, gold_reward: Curve) -> None:
    gate, evaluations = run_monitor(tmp_path, rising, gold_reward, steps=200)
    assert gate.passed and gate.message == "not detected"
    assert [evaluation.step for evaluation in evaluations] == list(range(0, 201, 10))


@pytest.mark.long
def test_noise_alone_stops_hardly_any_run(tmp_path: Path) -> None:
    """The gold reward is noisy and constant; the reward rises. 20 evaluations in each of 4 runs."""
    gates = [run_monitor(tmp_path, rising, flat, steps=200, seed=seed)[0] for seed in range(4)]
    assert all(gate.passed for gate in gates)


def test_equal_rewards_for_all_completions_fail_the_gate(tmp_path: Path) -> None:
    gate, _ = run_monitor(tmp_path, flat, flat, spread=0.0)
    assert not gate.passed
    assert "nothing was learned" in gate.message
    single, _ = run_monitor(
        tmp_path, flat, flat, spread=0.0, generation__num_generations=1, algorithm="ppo"
    )
    assert single.passed  # a single completion of a prompt has nothing to differ from


def resumed(folder: Path, state: dict[str, Any]) -> PolicyMonitor:
    """Return a monitor that continues from this state."""
    config = build(PolicyOptions, monitor__every=10)
    job: Any = SimpleNamespace(stage="policy", checkpoints=Checkpoints(folder / "checkpoints"))
    objective: Any = SimulatedObjective(flat, flat, 0.0, 1.0, 1)
    gold = GoldReward([], [], None)
    monitor = PolicyMonitor(job, objective, NumberInText(0), gold, config)
    monitor.load_state_dict(state)
    return monitor


EVALUATION = {"step": 0, "rewards": [1.0], "gold_rewards": [1.0]}
STATE: dict[str, Any] = {
    "first": EVALUATION,
    "best": EVALUATION,
    "last_step": 30,
    "stop_reason": "",
    "recent_kl": [1.0],
    "tokens": [4, 2],
    "change": {},
    "evaluations": 7,
    "reward_spread": 0.0,
    "kl_coef": 0.25,
}


def test_a_state_without_the_number_of_evaluations_is_resumed(tmp_path: Path) -> None:
    """One every ``monitor_every`` steps is assumed; an unknown reward spread fails no gate."""
    optional = ("evaluations", "reward_spread")
    smaller = {name: STATE[name] for name in STATE if name not in optional}
    monitor = resumed(tmp_path, smaller)
    # After steps 0, 10, 20 and 30.
    assert (monitor.evaluations, monitor.reward_spread) == (4, None)
    assert monitor.gate_result().passed and monitor.objective.kl_controller.coef == 0.25
    fresh = {**smaller, "first": None, "best": None, "last_step": -1}
    assert resumed(tmp_path, fresh).evaluations == 0
    assert resumed(tmp_path, STATE).state_dict() == STATE


@pytest.mark.parametrize("name", sorted({*STATE} - {"evaluations", "reward_spread"}))
def test_a_state_that_lacks_a_required_part_is_refused(tmp_path: Path, name: str) -> None:
    rest = {key: value for key, value in STATE.items() if key != name}
    with pytest.raises(IntegrityError, match=f"cannot resume .* monitor's {name}$") as caught:
        resumed(tmp_path, rest)
    assert caught.value.hint
