"""Train on a task with a known best answer, with every way to learn from feedback.

``python -m tests.benchmarks.known_optimum OUT [--model FOLDER] [--first 1] [--page FILE]``

A small model continues the first sentence of a story, and a rule scores the continuation
(:mod:`tests.benchmarks.known_rule`). No model is trained on the rule: they get pairs of the
fine-tuned model's own completions with noisy choices by the rule (Bradley and Terry 1952). So three
things are known that one usually has to guess: how good a completion is, how good it could be, and
how often even a perfect reward model disagrees with the choices.

Every step is an ordinary run through ``tunesmith.run``. Without ``--model`` a model with random
weights is made, which learns to write from the demonstrations alone. Settings were chosen on seed
0, so results are of other seeds. ``--reward-only`` ends after the reward model.
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
    bayes_accuracy,
    expected_accuracy,
    gold_reward,
    make_prompt,
    preference_probability,
    sample_continuation,
    sample_topic,
)

import tunesmith
from tunesmith.errors import GateError
from tunesmith.events import Monitored
from tunesmith.records import Message
from tunesmith.statistics import mean_interval

MAX_NEW_TOKENS = 48
"""Tokens of a completion at most."""
DEMONSTRATIONS, TEST, SAMPLES_PER_PROMPT = 800, 64, 4
PAIRS, TEST_PAIRS, FRESH_PAIRS = 3600, 400, 2000
"""Pairs to train on, pairs held out in the runs, and pairs that no run sees. Reward model and rule
differ on a tenth of the pairs, so 600 would measure their distance to within 2.5 points, these do
to within 1.4, and five seeds of them to within 0.6."""
POLICIES = ("ppo", "grpo", "rloo")
PREFERENCES = ("dpo", "kto")


def sample_pairs(model: Any, prompts: Sequence[str], seed: int) -> list[dict[str, str]]:
    """Sample two different completions of each prompt, and a noisy choice between them."""
    messages = [(Message("user", text),) for text in prompts for _ in range(2)]
    generated = model.sample(messages, MAX_NEW_TOKENS, seed=seed)
    completions = [generation.text.strip() for generation in generated]
    rng, rows = random.Random(seed), []
    for text, first, second in zip(prompts, completions[::2], completions[1::2], strict=True):
        if not first or not second or first == second or "\0" in first + second:
            continue  # nothing to choose, or a character that data must not contain
        chooses_first = rng.random() < preference_probability(first, second)
        chosen, rejected = (first, second) if chooses_first else (second, first)
        rows.append({"prompt": text, "chosen": chosen, "rejected": rejected})
    return rows


# --------------------------------------------------------------------------- the runs


COMMON_TABLES = """[run]
seed = {seed}
device = "cpu"
[model]
base = "{base}"
[data]
use = "jsonl"
train = "{train}"
test = "{test}"
[baselines]
use = []
[[evaluators]]
use = "loss"
[[reporters]]
use = "console"
progress = "off"
"""

SUPERVISED_TABLE = """[technique]
use = "full"
learning_rate = {rate}
epochs = {epochs}
batch_size = 16
"""

RLHF_TABLE = """[technique]
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
adapter.rank = 16
generation = {{ num_generations = 8, max_new_tokens = {tokens} }}
loss.mask_truncated_completions = false
loss.kl_coef = {kl_coef}
monitor = {{ every = {every}, gold = "rule.py:gold" }}
{more}
"""

REWARD_TABLE = """[technique]
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

PREFERENCE_TABLE = """[technique]
use = "preference"
from = "{sft}"
loss = {{ type = "{loss}", beta = 0.1 }}
learning_rate = {rate}
epochs = 1
batch_size = 16
"""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the data, and steps of the policies."""

    demonstrations: int = DEMONSTRATIONS
    pairs: int = PAIRS
    test_pairs: int = TEST_PAIRS
    fresh: int = FRESH_PAIRS
    steps: int = 20
    every: int = 5


class SeedExperiment:
    """All runs of one seed: data, fine-tuned model, reward model and policies."""

    def __init__(
        self, out: Path, base: Path, random_weights: bool, seed: int, sizes: Sizes
    ) -> None:
        self.out, self.base, self.seed, self.sizes = out, base, seed, sizes
        self.random_weights = random_weights
        out.mkdir(parents=True, exist_ok=True)
        rng = random.Random(seed)
        topics = [sample_topic(rng) for _ in range(sizes.demonstrations)]
        demonstrations = [
            {"prompt": make_prompt(topic), "completion": sample_continuation(topic, rng)}
            for topic in topics
        ]
        self._write_rows("demonstrations", demonstrations[:-TEST])
        self._write_rows("test", demonstrations[-TEST:])
        self.test = [make_prompt(sample_topic(rng)) for _ in range(TEST)]
        pairs = sizes.pairs + sizes.test_pairs + sizes.fresh
        self.prompts = [make_prompt(sample_topic(rng)) for _ in range(pairs)]
        (out / "rule.py").write_text(RULE.format(happy=HAPPY), encoding="utf-8")

    def run(self, name: str, technique: str, train: str, test: str) -> Any:
        """Write the run file, run it unless it has a report already, and return the report."""
        folder = self.out / name
        if not (folder / "report.json").is_file():
            common = COMMON_TABLES.format(
                seed=self.seed, base=self.base, train=f"{train}.jsonl", test=f"{test}.jsonl"
            )
            path = self.out / f"{name}.toml"
            path.write_text(common + technique, encoding="utf-8")
            try:
                tunesmith.run(path, out=folder)
            except GateError as error:  # the policy got worse, and its best checkpoint was kept
                print(f"  seed {self.seed}: {name}: {error.message}", flush=True)
        return tunesmith.read_report(folder)

    def run_all(self, reward_only: bool) -> dict[str, Any]:
        """Return the results of all runs, or of those up to the reward model."""
        results = self._cached("reward.json", self._train_up_to_reward_model)
        return (
            results
            if reward_only
            else self._cached("world.json", lambda: self._train_policies(results))
        )

    def _cached(self, name: str, train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the results in a file; if there is none, train and write it."""
        path = self.out / name
        if not path.is_file():
            path.write_text(json.dumps(train(), indent=1) + "\n", encoding="utf-8")
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return results

    def _train_up_to_reward_model(self) -> dict[str, Any]:
        """Fine-tune on demonstrations, sample pairs, and train the reward model."""
        results: dict[str, Any] = {
            "seed": self.seed,
            "gold": {},
            "seconds": {},
            "curves": {},
            "stopped": {},
        }
        epochs, rate = (24, "2e-3") if self.random_weights else (4, "1e-3")
        supervised = SUPERVISED_TABLE.format(rate=rate, epochs=epochs)
        self._run_timed(results, "sft", supervised, "demonstrations", "test")
        self._write_pairs()
        results["gold"]["sft"] = self._mean_gold_reward("sft")
        reward = REWARD_TABLE.format(sft="sft", rate="3e-3")
        self._run_timed(results, "reward", reward, "pairs", "pairs-test")
        return results | self._measure_reward_model()

    def _train_policies(self, results: dict[str, Any]) -> dict[str, Any]:
        """Train policies on the reward model, and by DPO and KTO on the pairs."""
        texts = {name: self._policy_table(name) for name in POLICIES}
        texts |= {
            name: PREFERENCE_TABLE.format(sft="sft", loss=name, rate="5e-4") for name in PREFERENCES
        }
        for name, text in texts.items():
            self._run_timed(results, name, text, "pairs", "pairs-test")
            results["gold"][name] = self._mean_gold_reward(name)
        return results

    def _write_pairs(self) -> None:
        """Write pairs of the fine-tuned model's completions: for training, held out, and fresh."""
        if (self.out / "fresh.jsonl").is_file():
            return
        rows = sample_pairs(self._open_model("sft"), self.prompts, self.seed)
        fresh = len(rows) - self.sizes.fresh
        test = fresh - self.sizes.test_pairs
        self._write_rows("pairs", rows[:test])
        self._write_rows("pairs-test", rows[test:fresh])
        self._write_rows("fresh", rows[fresh:])

    def _policy_table(self, algorithm: str) -> str:
        return RLHF_TABLE.format(
            sft="sft",
            reward="reward",
            algorithm=algorithm,
            rate="5e-4",
            steps=self.sizes.steps,
            tokens=MAX_NEW_TOKENS,
            kl_coef="0.05",
            every=self.sizes.every,
            more="loss.vf_coef = 0.5" if algorithm == "ppo" else "",
        )

    def _run_timed(self, results: dict[str, Any], name: str, text: str, *data: str) -> None:
        start = time.perf_counter()
        report = self.run(name, text, *data)
        results["seconds"][name] = time.perf_counter() - start
        if report.finished.exit_code:
            results["stopped"][name] = report.finished.error
        monitored = list(monitored_events(self.out / name))
        if monitored:
            results["curves"][name] = [{"step": event.step, **event.metrics} for event in monitored]
        print(f"  seed {self.seed}: {name} {results['seconds'][name]:.0f} s", flush=True)

    def _measure_reward_model(self) -> dict[str, float]:
        """Return the accuracy of reward model and rule on the same pairs, which no run has seen."""
        from tunesmith_torch.compare.other_model import RewardOptions, load_reward_scorer

        reward_model = load_reward_scorer(RewardOptions(reward=str(self.out / "reward")), None)
        assert reward_model is not None
        rows = self._read_rows("fresh")
        prompts = [(Message("user", row["prompt"]),) for row in rows]
        chosen, rejected = (
            reward_model.rewards(prompts, [row[side] for row in rows])
            for side in ("chosen", "rejected")
        )
        gaps = [a - b for a, b in zip(chosen, rejected, strict=True)]
        results = {
            "accuracy": accuracy(gaps),
            "rule_accuracy": accuracy(
                [gold_reward(r["chosen"]) - gold_reward(r["rejected"]) for r in rows]
            ),
            "expected_accuracy": expected_accuracy(rows, gaps),
            "ceiling": bayes_accuracy(rows),
        }
        results["below_rule"] = results["rule_accuracy"] - results["accuracy"]
        results["below_ceiling"] = results["ceiling"] - results["expected_accuracy"]
        print(f"  seed {self.seed}: {results}", flush=True)
        return results

    def _read_rows(self, name: str) -> list[dict[str, str]]:
        lines = (self.out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _mean_gold_reward(self, name: str) -> float:
        """Return the mean gold reward of completions sampled for the test prompts."""
        prompts = [
            (Message("user", text),) for text in self.test for _ in range(SAMPLES_PER_PROMPT)
        ]
        generated = self._open_model(name).sample(prompts, MAX_NEW_TOKENS, seed=10_000)
        return math.fsum(gold_reward(each.text) for each in generated) / len(generated)

    def _open_model(self, name: str) -> Any:
        from tunesmith_torch.compare.open_by_name import open_by_name

        return open_by_name(str(self.out / name))

    def _write_rows(self, name: str, rows: Sequence[dict[str, str]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.out / f"{name}.jsonl").write_text(text, encoding="utf-8")


def monitored_events(run: Path) -> list[Monitored]:
    """Return the evaluations of the policy in a run's event log."""
    from tunesmith.events import from_json
    from tunesmith.storage import read_events

    events = (from_json(line) for line in read_events(run / "events.jsonl"))
    return [event for event in events if isinstance(event, Monitored)]


def random_model(folder: Path) -> Path:
    """Save a small Llama with random weights and the tokenizer of the project's tiny models."""
    import torch
    from transformers import AutoModelForCausalLM

    from tunesmith_torch.models.loading import no_progress_bars
    from tunesmith_torch.testing.tiny_model import build_tiny_config, build_tiny_tokenizer

    tokenizer = build_tiny_tokenizer()
    config = build_tiny_config("llama", vocabulary=len(tokenizer))
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 172, 4
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 4, 8
    torch.manual_seed(0)
    with no_progress_bars():
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------- results


REWARD_METRICS = (
    "accuracy",
    "rule_accuracy",
    "below_rule",
    "expected_accuracy",
    "ceiling",
    "below_ceiling",
)


def summarize(experiments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds with 95 % intervals; ``above_sft``: above the fine-tuned model."""
    results: dict[str, Any] = {}
    for name in experiments[0]["gold"]:
        scores = [experiment["gold"][name] for experiment in experiments]
        gains = [experiment["gold"][name] - experiment["gold"]["sft"] for experiment in experiments]
        interval, gain = mean_interval(scores), mean_interval(gains)
        results[name] = {"gold": asdict(interval), "gain": asdict(gain)}
    base = results["sft"]["gold"]
    for name, result in results.items():
        result["above_sft"] = name == "sft" or result["gold"]["low"] > base["high"]
    for name in REWARD_METRICS:
        results[name] = asdict(mean_interval([experiment[name] for experiment in experiments]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.known_optimum")
    parser.add_argument(
        "out", type=Path, help="folder for the runs; finished runs are not repeated"
    )
    parser.add_argument("--model", type=Path, help="folder of a small model, such as stories260k")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--pairs", type=int, default=Sizes.pairs, help="number of training pairs")
    parser.add_argument("--reward-only", action="store_true", help="stop after the reward model")
    parser.add_argument("--steps", type=int, default=Sizes.steps)
    parser.add_argument(
        "--page", type=Path, help="Markdown file for the results; curves go into the same folder"
    )
    options = parser.parse_args()
    out = options.out.absolute()
    base = options.model.absolute() if options.model else random_model(out / "model")
    sizes = Sizes(steps=options.steps, pairs=options.pairs)
    experiments = []
    for seed in range(options.first, options.first + options.seeds):
        experiment = SeedExperiment(out / f"seed-{seed}", base, options.model is None, seed, sizes)
        experiments.append(experiment.run_all(options.reward_only))
        result = {"model": base.name, "sizes": asdict(sizes), "experiments": experiments}
        result["summary"] = summarize(experiments)
        (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(curves.reward_table(result) if options.reward_only else curves.results_table(result))
    if options.page is not None and not options.reward_only:
        curves.write(result, options.page)


if __name__ == "__main__":
    main()
