"""What a policy is stopped for: courses of reward and gold, played to the watch without a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError
from tunesmith.events import Event, Gated, Watched
from tunesmith.options import from_table
from tunesmith.records import Prompt
from tunesmith.storage import Checkpoints
from tunesmith_torch.options.rlhf import PolicyStage
from tunesmith_torch.rlhf.monitor import Gold, Watch
from tunesmith_torch.rlhf.policy_objective import KlPrice
from tunesmith_torch.training.loop import Counts

ROWS = 64
Curve = Callable[[int], float]


class Told:
    """A reward that stands in the answer, at this place."""

    def __init__(self, place: int) -> None:
        self.place = place

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [float(text.split()[self.place]) for text in completions]


class Played:
    """Stands for the policy's loop: answers say which reward and gold they get."""

    def __init__(self, proxy: Curve, gold: Curve, noise: float, spread: float, seed: int) -> None:
        self.step, self._curves, self._noise, self._spread = 0, (proxy, gold), noise, spread
        self.price, self.actor = KlPrice(0.0), self
        self._draw = random.Random(seed)
        self._rows = [self._draw.gauss(0, 0.3) for _ in range(ROWS)]

    def answers(self, prompts: Sequence[Prompt]) -> list[str]:
        said = [[curve(self.step) for curve in self._curves] for _ in prompts]
        draw, noise = self._draw, self._noise
        return [
            " ".join(str(v + row + draw.gauss(0, noise)) for v in values)
            for row, values in zip(self._rows, said, strict=False)
        ]

    def finished(self) -> bool:
        return True

    def counts(self, rows: Sequence[int]) -> Counts:
        return Counts(1, 1, 1)

    def figures(self) -> dict[str, float]:
        return {"kl": 1.0, "reward_spread": self._spread}


def flat(step: int) -> float:
    return 0.5


def course(
    folder: Path,
    proxy: Curve,
    gold: Curve,
    *,
    steps: int = 100,
    noise: float = 0.2,
    spread: float = 1.0,
    seed: int = 1,
    **changes: Any,
) -> tuple[Gated, list[Watched]]:
    """Play a whole training; it is resumed from the watch's memory halfway."""
    told: list[Event] = []
    config = from_table(PolicyStage, {"monitor_every": 10, "log_completions": 0, **changes})
    job: Job[Any] = Job(
        config=config,
        model=folder,
        train=(),
        heldout=(),
        out=folder,
        seed=0,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=told.append,
        technique="test",
    )
    loop: Any = Played(proxy, gold, noise, spread, seed)
    seen = Gold(["?"] * ROWS, [], Told(1))

    def begun() -> Watch:
        return Watch(job, loop, Told(0), seen, config, steps=steps)

    watch = begun()
    look = watch.look(0)
    while look != "stop" and loop.step < steps:
        loop.step += 1
        watch.finished()
        look = watch.look(loop.step)
        if loop.step == steps // 2:
            memory, watch = watch.memory(), begun()
            watch.recall(memory)
    return watch.verdict(), [event for event in told if isinstance(event, Watched)]


def rising(step: int) -> float:
    return step / 50


@pytest.mark.parametrize("fall", [0.002, 0.005, 0.02, 0.2])
def test_gold_may_fall_as_slowly_as_it_likes(tmp_path: Path, fall: float) -> None:
    """A little at each look, far within its noise; it adds up."""
    gate, looks = course(tmp_path, rising, lambda step: -fall * step, steps=200)
    assert not gate.passed
    assert "while gold fell by" in gate.sentence or "gold is lower than at step 0" in gate.sentence
    assert looks[-1].step < 200 or fall < 0.005


def test_gold_that_rises_first_and_then_falls(tmp_path: Path) -> None:
    gate, _ = course(tmp_path, rising, lambda step: 0.03 * min(step, 100 - step))
    assert not gate.passed
    assert "while gold fell by" in gate.sentence
    best = int(gate.sentence.rsplit(" ", 1)[1])
    assert 40 <= best <= 60


def test_a_reward_that_is_at_its_most_already_hides_nothing(tmp_path: Path) -> None:
    """Every answer earns 1 after ten steps, so the reward rises no more while gold goes on down."""
    gate, _ = course(
        tmp_path,
        lambda step: 1.0 if step >= 10 else 0.9,
        lambda step: 0.5 if step <= 20 else 0.5 - 0.01 * (step - 20),
    )
    assert not gate.passed
    assert "gold is lower than at step 0" in gate.sentence or "gold fell" in gate.sentence


def test_the_last_step_is_looked_at(tmp_path: Path) -> None:
    """A training shorter than ``monitor_every`` is no way past the gate."""
    gate, looks = course(
        tmp_path, lambda step: float(step >= 6), lambda step: -float(step >= 6), steps=8
    )
    assert [look.step for look in looks] == [0, 8]
    assert not gate.passed and "stopped at step 8" in gate.sentence
    assert gate.sentence.endswith("the artifact is the checkpoint of step 0")


@pytest.mark.parametrize("gold", [flat, rising], ids=["flat", "rising"])
def test_a_course_without_a_fall_is_let_through(tmp_path: Path, gold: Curve) -> None:
    gate, looks = course(tmp_path, rising, gold, steps=200)
    assert gate.passed and gate.sentence == "none seen"
    assert [look.step for look in looks] == list(range(0, 201, 10))


def test_luck_alone_stops_hardly_any_run(tmp_path: Path) -> None:
    """Gold wavers and does not change; the reward rises. 20 looks at each of 4 runs."""
    gates = [course(tmp_path, rising, flat, steps=200, seed=seed)[0] for seed in range(4)]
    assert all(gate.passed for gate in gates)


def test_a_reward_that_is_the_same_for_all_answers_teaches_nothing(tmp_path: Path) -> None:
    gate, _ = course(tmp_path, flat, flat, spread=0.0)
    assert not gate.passed
    assert "nothing was learned" in gate.sentence
    alone, _ = course(tmp_path, flat, flat, spread=0.0, num_generations=1, algorithm="ppo")
    assert alone.passed  # a single answer to a prompt has nothing to differ from


def resumed(folder: Path, memory: dict[str, Any]) -> Watch:
    """A watch that goes on from this."""
    config = from_table(PolicyStage, {"monitor_every": 10})
    job: Any = SimpleNamespace(name="policy", checkpoints=Checkpoints(folder / "checkpoints"))
    loop: Any = Played(flat, flat, 0.0, 1.0, 1)
    watch = Watch(job, loop, Told(0), Gold([], [], None), config)
    watch.recall(memory)
    return watch


SEEN = {"step": 0, "proxy": [1.0], "gold": [1.0]}
MEMORY: dict[str, Any] = {
    "first": SEEN,
    "best": SEEN,
    "last": 30,
    "stopped": "",
    "diverged": [1.0],
    "tokens": [4, 2],
    "change": {},
    "looks": 7,
    "spread": 0.0,
    "kl_coef": 0.25,
}


def test_a_checkpoint_of_before_looks_were_counted_is_resumed(tmp_path: Path) -> None:
    """Every ``monitor_every`` steps was one; a spread that is not known fails no gate."""
    older = {name: MEMORY[name] for name in MEMORY if name not in ("looks", "spread")}
    watch = resumed(tmp_path, older)
    assert (watch.looks, watch.spread) == (4, None)  # of steps 0, 10, 20 and 30
    assert watch.verdict().passed and watch.loop.price.weight == 0.25
    assert resumed(tmp_path, {**older, "first": None, "best": None, "last": -1}).looks == 0
    assert resumed(tmp_path, MEMORY).memory() == MEMORY


@pytest.mark.parametrize("name", sorted({*MEMORY} - {"looks", "spread"}))
def test_a_checkpoint_that_lacks_more_is_refused(tmp_path: Path, name: str) -> None:
    rest = {key: value for key, value in MEMORY.items() if key != name}
    with pytest.raises(IntegrityError, match=f"policy's {name}; it cannot be resumed") as caught:
        resumed(tmp_path, rest)
    assert caught.value.hint
