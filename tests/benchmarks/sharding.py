"""Sharded training beside one process: losses, tokens, and the bytes that each rank stores.

``python -m tests.benchmarks.sharding --steps 50 --ranks 2 4`` trains a tiny model with every
technique in one process, then with weights sharded over gloo processes, and prints a table.

GRPO samples its completions from the policy, so a rounding that changes one token changes all that
follows. The case ``grpo`` therefore trains on the rollouts that the single process has recorded;
``grpo, fresh`` samples on the ranks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures" / "python"
sys.path.insert(0, str(FIXTURES))

import rank_cases  # noqa: E402 - found there
import torch  # noqa: E402

from tunesmith.distributed import rank, world_size  # noqa: E402
from tunesmith.events import StepFinished  # noqa: E402
from tunesmith_torch.generation.sequences import GeneratedSequence  # noqa: E402
from tunesmith_torch.prefix.completion_groups import CompletionGroup  # noqa: E402
from tunesmith_torch.rlhf.policy_objective import PolicyObjective  # noqa: E402
from tunesmith_torch.rlhf.rollout import Rollout, RolloutGenerator  # noqa: E402
from tunesmith_torch.runtime import sharding  # noqa: E402
from tunesmith_torch.testing.tiny_model import save_tiny_model  # noqa: E402


class RecordedRollouts(RolloutGenerator):
    """The rollouts of a policy: recorded by a single process, replayed by several.

    Each rank reads those of its own prompts.
    """

    def __init__(self, objective: PolicyObjective, path: Path) -> None:
        self.__dict__.update(vars(objective.rollout_generator))
        self._path = path
        recorded = world_size() > 1
        self._batches: list[dict[str, Any]] = json.loads(path.read_text()) if recorded else []
        self._next = 0

    def generate_rollout(self, rows: Sequence[int]) -> Rollout:
        """Return the rollout of the next batch: sampled and recorded, or as it was recorded."""
        if world_size() == 1:
            self._record(rows, super().generate_rollout(rows))
        batch = self._batches[self._next]
        self._next += 1
        own = [batch[str(row)] for row in rows]
        completions = [[GeneratedSequence(**fields) for fields in each] for _, each, _ in own]
        groups = [
            CompletionGroup(prompt, tuple(completion.ids for completion in group))
            for (prompt, _, _), group in zip(own, completions, strict=True)
        ]
        rewards = [torch.tensor(each) for _, _, each in own]
        return Rollout(groups, completions, rewards, sum(len(each[1]) for each in batch.values()))

    def _record(self, rows: Sequence[int], rollout: Rollout) -> None:
        """Store a rollout, with completions cut to unlike lengths.

        This model's never end, and of completions of one length the advantages add up to a loss
        of 0, of which no relative difference can be taken.
        """
        batch: dict[str, Any] = {}
        for n, row in enumerate(rows):
            lengths = [
                1 + (3 * row + 2 * i) % len(c.ids) for i, c in enumerate(rollout.completions[n])
            ]
            cut = [
                replace(
                    completion, ids=completion.ids[:length], logprobs=completion.logprobs[:length]
                )
                for completion, length in zip(rollout.completions[n], lengths, strict=True)
            ]
            prompt, rewards = list(rollout.groups[n].prompt), rollout.rewards[n].tolist()
            batch[str(row)] = [prompt, [asdict(completion) for completion in cut], rewards]
        self._batches.append(batch)
        self._path.write_text(json.dumps(self._batches))


def _train_grpo(case: rank_cases.Case, change: Any, **shared: Any) -> None:
    shared |= {"monitor__every": 1000, "loss__num_iterations": 2, "loss__kl_coef": 0.05}
    shared |= {"learning_rate": 1e-4}  # high for a policy
    rank_cases.policy(case, "grpo", change, **shared)


def _train_grpo_recorded(case: rank_cases.Case, **shared: Any) -> None:
    def replay(objective: Any) -> None:
        path = case.folder.parent / "rollouts.json"
        objective.rollout_generator = RecordedRollouts(objective, path)

    _train_grpo(case, replay, **shared)


def _cases(steps: int) -> dict[str, Callable[[rank_cases.Case], None]]:
    shared: dict[str, Any] = {
        "parallel": "sharded",
        "epochs": 1000,
        "max_steps": steps,
        "checkpoints__every": steps,
    }
    return {
        "full": lambda case: rank_cases.supervised(case, full=True, **shared),
        "lora": lambda case: rank_cases.supervised(case, full=False, **shared),
        "qlora": lambda case: rank_cases.quantized(case, **shared),
        "dpo": lambda case: rank_cases.preferences(case, loss__type="dpo", **shared),
        "grpo": lambda case: _train_grpo_recorded(case, **shared),
        "grpo, fresh": lambda case: _train_grpo(case, lambda objective: None, **shared),
    }


class _StepLog(list[Any]):
    """The events of a case; it counts the bytes of the weights that this rank has after a step."""

    def __init__(self, case: rank_cases.Case) -> None:
        super().__init__()
        self.case, self.weight_bytes = case, 0

    def append(self, event: Any) -> None:
        super().append(event)
        if isinstance(event, StepFinished) and self.case.adapted is not None:
            parameters = self.case.adapted.model.parameters()
            self.weight_bytes = sum(sharding.get_local_part(p).nbytes for p in parameters)


def train_cases(folder: Path, steps: int) -> None:
    """Train every case as this rank; write its losses, and the bytes that this rank stores."""
    torch.set_num_threads(1)
    results = {}
    for name, train in _cases(steps).items():
        case = rank_cases.Case(folder / f"{world_size()}-{name}", folder / "model")
        case.events = steps_log = _StepLog(case)
        train(case)
        finished = [event for event in case.events if isinstance(event, StepFinished)]
        state = case.folder / "checkpoints" / f"step-{steps:08d}"
        files = sorted(state.glob("training*.safetensors"))
        results[name] = {
            "losses": [event.loss for event in finished],
            "tokens": [event.tokens for event in finished],
            "weights": steps_log.weight_bytes,
            "state": files[rank()].stat().st_size,
        }
    path = folder / f"{world_size()}-rank-{rank()}.json"
    path.write_text(json.dumps(results), encoding="utf-8")


def measure(folder: Path, steps: int, ranks: int) -> list[dict[str, Any]]:
    """Train all cases with this many processes; return the results of each rank."""
    module = [__spec__.name, "--steps", str(steps), "--worker", str(folder)]
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    subprocess.run([sys.executable, *torchrun, "-m", *module], check=True)
    return [json.loads((folder / f"{ranks}-rank-{n}.json").read_text()) for n in range(ranks)]


def largest_difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """Return the largest relative difference of a loss.

    A policy's loss has both signs and is near 0 at times: there it is relative to the mean size.
    """
    has_both_signs = min(expected) < 0 < max(expected)
    mean = fmean(map(abs, expected))
    pairs = zip(losses, expected, strict=True)
    return max(abs(one - two) / (mean if has_both_signs else abs(two)) for one, two in pairs)


def describe(single: dict[str, Any], found: list[dict[str, Any]]) -> list[str]:
    """Return a row of the table for each case."""
    lines = []
    for name, expected in single.items():
        ours = found[0][name]
        worst = largest_difference(ours["losses"], expected["losses"])
        tokens = "the same" if ours["tokens"] == expected["tokens"] else "DIFFERENT"
        shares = [
            " ".join(f"{each[name][key] / expected[key]:.3f}" for each in found)
            if expected[key]
            else "-"
            for key in ("weights", "state")
        ]
        cells = (name, str(len(found)), f"{worst:.1e}", tokens, *shares)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table, or train as one of the ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        train_cases(options.worker, options.steps)
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_model(folder / "model")
        (single,) = measure(folder, options.steps, 1)
        print("| technique | ranks | largest relative difference of a loss | tokens of the steps "
              "| share of the weights on each rank | share of the checkpoint |\n"
              "|---|---|---|---|---|---|")  # fmt: skip
        for ranks in options.ranks:
            print("\n".join(describe(single, measure(folder, options.steps, ranks))), flush=True)


if __name__ == "__main__":
    main()
