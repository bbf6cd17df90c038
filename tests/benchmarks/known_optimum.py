"""A task whose best answers are known: what each way to learn from feedback makes of it.

``python -m tests.benchmarks.known_optimum OUT [--model FOLDER] [--first 1] [--page FILE]``

A small model continues the opening of a story, and a rule says how good a continuation is
(:mod:`tests.benchmarks.known_rule`). Nobody tells the rule to the learners:
they see pairs of the fine-tuned model's own answers, and which of the two a noisy judge took
(Bradley and Terry 1952). So three things are known that are not known of people: how good an
answer is, how good it could be, and how often even a perfect reward model disagrees with the judge.

Every step is a run of its own through ``tunesmith.run``, as anybody could write it. Without
``--model`` a model of random weights is made and learns to write from the demonstrations alone.
Settings were chosen on seed 0, so results are of other seeds. ``--reward-only`` ends after the
reward model.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import curves
from tests.benchmarks.known_rule import (
    HAPPY,
    RULE,
    accuracy,
    ceiling,
    chance,
    continuation,
    expected_accuracy,
    gold,
    opening,
    prompt,
)

import tunesmith
from tunesmith.errors import GateError
from tunesmith.events import Watched
from tunesmith.records import Message
from tunesmith.statistics import mean_interval

TOKENS = 48
"""Longest answer."""
DEMONSTRATIONS, HELDOUT, DRAWS = 800, 64, 4
PAIRS, WATCHED, FRESH = 3600, 400, 2000
"""Pairs to learn from, pairs held out in the runs, and pairs that no run sees. Reward model and
rule differ on a tenth of the pairs, so 600 would measure their distance to within 2.5 points, these
do to within 1.4, and five seeds of them to within 0.6."""
POLICIES = ("ppo", "grpo", "rloo")
PREFERENCES = ("dpo", "kto")


def pairs(model: Any, prompts: Sequence[str], seed: int) -> list[dict[str, str]]:
    """Two different answers to each prompt, judged."""
    asked = [(Message("user", text),) for text in prompts for _ in range(2)]
    drawn = [answer.text.strip() for answer in model.sample(asked, TOKENS, seed=seed)]
    draw, rows = random.Random(seed), []
    for text, one, other in zip(prompts, drawn[::2], drawn[1::2], strict=True):
        if not one or not other or one == other or "\0" in one + other:
            continue  # nothing to choose, or a character that no data may hold
        first = draw.random() < chance(one, other)
        better, worse = (one, other) if first else (other, one)
        rows.append({"prompt": text, "chosen": better, "rejected": worse})
    return rows


# --------------------------------------------------------------------------- the runs


COMMON = """[run]
seed = {seed}
device = "cpu"
[model]
base = "{base}"
[data]
use = "jsonl"
train = "{train}"
heldout = "{heldout}"
[baselines]
zero_shot = false
shots = 0
[[evaluators]]
use = "loss"
[[reporters]]
use = "console"
progress = "off"
"""

SUPERVISED = """[technique]
use = "full"
learning_rate = {rate}
epochs = {epochs}
batch_size = 16
"""

RLHF = """[technique]
use = "rlhf"
[technique.supervised]
skip = true
from = "{sft}"
[technique.reward]
skip = true
from = "{reward}"
[technique.policy]
algorithm = "{algorithm}"
learning_rate = {rate}
batch_size = 8
max_steps = {steps}
epochs = 100
num_generations = 8
max_new_tokens = {tokens}
mask_truncated_completions = false
kl_coef = {kl_coef}
rank = 16
monitor_every = {every}
gold = "rule.py:gold"
{more}
"""

REWARD = """[technique]
use = "rlhf"
[technique.supervised]
skip = true
from = "{sft}"
[technique.reward]
learning_rate = {rate}
epochs = 1
batch_size = 32
[technique.policy]
skip = true
"""

PREFERENCE = """[technique]
use = "preference"
from = "{sft}"
loss = "{loss}"
beta = 0.1
learning_rate = {rate}
epochs = 1
batch_size = 16
"""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    demonstrations: int = DEMONSTRATIONS
    pairs: int = PAIRS
    watched: int = WATCHED
    fresh: int = FRESH
    steps: int = 20
    every: int = 5


class World:
    """One seed: its data, its fine-tuned model, and everything that begins there."""

    def __init__(
        self, out: Path, base: Path, random_weights: bool, seed: int, sizes: Sizes
    ) -> None:
        self.out, self.base, self.seed, self.sizes = out, base, seed, sizes
        self.random_weights = random_weights
        out.mkdir(parents=True, exist_ok=True)
        draw = random.Random(seed)
        abouts = [opening(draw) for _ in range(sizes.demonstrations)]
        shown = [{"prompt": prompt(a), "completion": continuation(a, draw)} for a in abouts]
        self._rows("demonstrations", shown[:-HELDOUT])
        self._rows("heldout", shown[-HELDOUT:])
        self.heldout = [prompt(opening(draw)) for _ in range(HELDOUT)]
        wanted = sizes.pairs + sizes.watched + sizes.fresh
        self.prompts = [prompt(opening(draw)) for _ in range(wanted)]
        (out / "rule.py").write_text(RULE.format(happy=HAPPY), encoding="utf-8")

    def run(self, name: str, technique: str, train: str, heldout: str) -> Any:
        """Write the run file and carry it out; the report of one that is there already."""
        folder = self.out / name
        if not (folder / "report.json").is_file():
            common = COMMON.format(
                seed=self.seed, base=self.base, train=f"{train}.jsonl", heldout=f"{heldout}.jsonl"
            )
            path = self.out / f"{name}.toml"
            path.write_text(common + technique, encoding="utf-8")
            try:
                tunesmith.run(path, out=folder)
            except GateError as error:  # the policy went wrong, and its best checkpoint was kept
                print(f"  seed {self.seed}: {name}: {error.message}", flush=True)
        return tunesmith.read_report(folder)

    def learned(self, reward_only: bool) -> dict[str, Any]:
        """What came of it, of all or of what ends with the reward model."""
        found = self._kept("reward.json", self._learn_reward)
        return found if reward_only else self._kept("world.json", lambda: self._learn_rest(found))

    def _kept(self, name: str, learn: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was written down when it was done."""
        path = self.out / name
        if not path.is_file():
            path.write_text(json.dumps(learn(), indent=1) + "\n", encoding="utf-8")
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return read

    def _learn_reward(self) -> dict[str, Any]:
        """From demonstrations to the reward model."""
        found: dict[str, Any] = {
            "seed": self.seed,
            "gold": {},
            "seconds": {},
            "curves": {},
            "stopped": {},
        }
        epochs, rate = (24, "2e-3") if self.random_weights else (4, "1e-3")
        supervised = SUPERVISED.format(rate=rate, epochs=epochs)
        self._timed(found, "sft", supervised, "demonstrations", "heldout")
        self._judge_pairs()
        found["gold"]["sft"] = self._gold("sft")
        reward = REWARD.format(sft="sft", rate="3e-3")
        self._timed(found, "reward", reward, "pairs", "pairs-heldout")
        return found | self._measured()

    def _learn_rest(self, found: dict[str, Any]) -> dict[str, Any]:
        """Policies against the reward model, and what learns from the pairs themselves."""
        texts = {name: self._policy(name) for name in POLICIES}
        texts |= {
            name: PREFERENCE.format(sft="sft", loss=name, rate="5e-4") for name in PREFERENCES
        }
        for name, text in texts.items():
            self._timed(found, name, text, "pairs", "pairs-heldout")
            found["gold"][name] = self._gold(name)
        return found

    def _judge_pairs(self) -> None:
        """The fine-tuned model's answers in pairs, judged: to learn from, held out, and fresh."""
        if (self.out / "fresh.jsonl").is_file():
            return
        rows = pairs(self._open("sft"), self.prompts, self.seed)
        fresh = len(rows) - self.sizes.fresh
        heldout = fresh - self.sizes.watched
        self._rows("pairs", rows[:heldout])
        self._rows("pairs-heldout", rows[heldout:fresh])
        self._rows("fresh", rows[fresh:])

    def _policy(self, algorithm: str) -> str:
        return RLHF.format(
            sft="sft",
            reward="reward",
            algorithm=algorithm,
            rate="5e-4",
            steps=self.sizes.steps,
            tokens=TOKENS,
            kl_coef="0.05",
            every=self.sizes.every,
            more="vf_coef = 0.5" if algorithm == "ppo" else "",
        )

    def _timed(self, found: dict[str, Any], name: str, text: str, *data: str) -> None:
        started = time.perf_counter()
        report = self.run(name, text, *data)
        found["seconds"][name] = time.perf_counter() - started
        if report.finished.exit_code:
            found["stopped"][name] = report.finished.error
        looks = list(watched(self.out / name))
        if looks:
            found["curves"][name] = [{"step": look.step, **look.figures} for look in looks]
        print(f"  seed {self.seed}: {name} {found['seconds'][name]:.0f} s", flush=True)

    def _measured(self) -> dict[str, float]:
        """The reward model and the rule on the very same pairs, which no run has seen."""
        from tunesmith_torch.compare.other_model import judge

        reward = judge(str(self.out / "reward"), None)
        assert reward is not None
        rows = self._read("fresh")
        prompts = [(Message("user", row["prompt"]),) for row in rows]
        one, other = (
            reward.rewards(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected")
        )
        gaps = [a - b for a, b in zip(one, other, strict=True)]
        found = {
            "accuracy": accuracy(gaps),
            "rule_accuracy": accuracy([gold(r["chosen"]) - gold(r["rejected"]) for r in rows]),
            "expected_accuracy": expected_accuracy(rows, gaps),
            "ceiling": ceiling(rows),
        }
        found["below_rule"] = found["rule_accuracy"] - found["accuracy"]
        found["below_ceiling"] = found["ceiling"] - found["expected_accuracy"]
        print(f"  seed {self.seed}: {found}", flush=True)
        return found

    def _read(self, name: str) -> list[dict[str, str]]:
        lines = (self.out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _gold(self, name: str) -> float:
        """The mean of the rule over drawn answers to held-out openings."""
        asked = [(Message("user", text),) for text in self.heldout for _ in range(DRAWS)]
        answers = self._open(name).sample(asked, TOKENS, seed=10_000)
        return math.fsum(gold(answer.text) for answer in answers) / len(answers)

    def _open(self, name: str) -> Any:
        from tunesmith_torch.compare.open_by_name import open_by_name

        return open_by_name(str(self.out / name))

    def _rows(self, name: str, rows: Sequence[dict[str, str]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.out / f"{name}.jsonl").write_text(text, encoding="utf-8")


def watched(run: Path) -> list[Watched]:
    """The looks at the policy that a run's events hold."""
    from tunesmith.events import from_json
    from tunesmith.storage import read_events

    events = (from_json(line) for line in read_events(run / "events.jsonl"))
    return [event for event in events if isinstance(event, Watched)]


def random_model(folder: Path) -> Path:
    """A small Llama of random weights with the tokenizer of the project's tiny models."""
    import torch
    from transformers import AutoModelForCausalLM

    from tunesmith_torch.models.loading import no_progress_bars
    from tunesmith_torch.testing.tiny_model import tiny_config, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    config = tiny_config("llama", vocabulary=len(tokenizer))
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 172, 4
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 4, 8
    torch.manual_seed(0)
    with no_progress_bars():
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------- what came of it


REWARD_FIGURES = (
    "accuracy",
    "rule_accuracy",
    "below_rule",
    "expected_accuracy",
    "ceiling",
    "below_ceiling",
)


def summary(worlds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with 95 % intervals, and whether each is above the fine-tuned model."""
    found: dict[str, Any] = {}
    for name in worlds[0]["gold"]:
        scores = [world["gold"][name] for world in worlds]
        gains = [world["gold"][name] - world["gold"]["sft"] for world in worlds]
        interval, gain = mean_interval(scores), mean_interval(gains)
        found[name] = {"gold": asdict(interval), "gain": asdict(gain)}
    base = found["sft"]["gold"]
    for name, one in found.items():
        one["beyond"] = name == "sft" or one["gold"]["low"] > base["high"]
    for name in REWARD_FIGURES:
        found[name] = asdict(mean_interval([world[name] for world in worlds]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.known_optimum")
    parser.add_argument("out", type=Path, help="folder for the runs; what is there is not repeated")
    parser.add_argument("--model", type=Path, help="folder of a small model, such as stories260k")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--pairs", type=int, default=Sizes.pairs, help="to learn from")
    parser.add_argument("--reward-only", action="store_true", help="end after the reward model")
    parser.add_argument("--steps", type=int, default=Sizes.steps)
    parser.add_argument("--page", type=Path, help="write results as Markdown here, curves beside")
    options = parser.parse_args()
    out = options.out.absolute()
    base = options.model.absolute() if options.model else random_model(out / "model")
    sizes = Sizes(steps=options.steps, pairs=options.pairs)
    worlds = []
    for seed in range(options.first, options.first + options.seeds):
        world = World(out / f"seed-{seed}", base, options.model is None, seed, sizes)
        worlds.append(world.learned(options.reward_only))
        result = {"model": base.name, "sizes": asdict(sizes), "worlds": worlds}
        result["summary"] = summary(worlds)
        (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(curves.reward_table(result) if options.reward_only else curves.table(result))
    if options.page is not None and not options.reward_only:
        curves.write(result, options.page)


if __name__ == "__main__":
    main()
