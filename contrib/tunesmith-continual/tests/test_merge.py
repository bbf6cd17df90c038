"""``tunesmith adapters merge``: merged weights, and a judgment that cannot flatter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import invoke

from tunesmith.errors import UsageError
from tunesmith.statistics import Interval
from tunesmith_continual.chain import Task
from tunesmith_continual.merge import CANDIDATES, Judgment, Merge, Merger
from tunesmith_continual.merge_command import DENSITIES


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weight changes of an adapter, by module."""
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in weights if ".lora_A." in name]
    scale = config["lora_alpha"] / config["r"]
    return {
        name: scale * weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
        for name in names
    }


def test_svd_is_the_sum_of_the_updates(chain: Path, tmp_path: Path) -> None:
    """The updates of ``blue`` are those of ``red`` and more, and fit into its rank."""
    merger = Merger([Task.open(chain / "blue"), Task.open(chain / "red")])
    merger.write(Merge("svd", (0.25, 1.5)), tmp_path / "merged")
    first, second = (deltas(chain / name / "adapter") for name in ("blue", "red"))
    merged = deltas(tmp_path / "merged")
    assert merged.keys() == first.keys() == second.keys()
    for name, found in merged.items():
        expected = 0.25 * first[name] + 1.5 * second[name]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_the_sweep_is_judged_and_the_best_is_measured_once(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("merged")
    done = invoke("adapters", "merge", chain / "red", chain / "lone", "--judge", "--out", out,
                  "--json", "-q")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = [merge.name for merge in CANDIDATES]
    assert len(names) == len(set(names)) == 9
    assert [*found["validation"]] == ["red", "lone", *names]
    assert set(found["test"]) == {"red", "lone", found["chosen"]}
    assert not any((out / name).exists() for name in names)
    # A loss: the smaller the better. No merge is called good that is worse on either task.
    best = [min(found["test"][name][j] for name in ("red", "lone")) for j in range(2)]
    chosen = found["test"][found["chosen"]]
    assert found["good"] == all(c <= b for c, b in zip(chosen, best, strict=True))
    worst = {n: max(v - min(found["validation"][s][j] for s in ("red", "lone"))
                    for j, v in enumerate(found["validation"][n])) for n in names}  # fmt: skip
    assert worst[found["chosen"]] == min(worst.values())
    evaluated = invoke("evaluate", out / "adapter", "--rows-of", chain / "red", "--json",
                       "--out", tmp_path / "e", "-q")  # fmt: skip
    again = next(m for m in json.loads(evaluated.stdout)["measured"] if m["metric"] == "loss")
    assert again["value"] == pytest.approx(chosen[0], rel=1e-3)  # in another precision


def test_different_ranks_are_merged_as_products(chain: Path, tmp_path: Path) -> None:
    """Each task of a chain adds its rank: ``green`` has three times that of ``red``."""
    merger = Merger([Task.open(chain / "red"), Task.open(chain / "green")])
    methods = {merge.method for merge in merger.candidates}
    assert methods <= DENSITIES.keys(), "--method accepts them too"
    assert methods == {"svd", "ties_svd", "dare_linear_svd", "dare_ties_svd"}
    for number, merge in enumerate(merger.candidates[-3:]):
        merger.write(merge, tmp_path / f"{number}")
        assert deltas(tmp_path / f"{number}")
    with pytest.raises(UsageError, match="same r value"):
        merger.write(Merge("ties", (1.0, 1.0), 0.5), tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "is_good"), [((0.1, 0.0), True), ((0.3, -0.01), False), ((-0.01, 0.3), False)]
)
def test_no_merge_is_good_that_is_worse_on_one_task(
    changes: tuple[float, float], is_good: bool
) -> None:
    intervals = [Interval(change, -1.0, 1.0, 10) for change in changes]
    judgment = Judgment({}, "svd", {}, intervals)
    assert judgment.is_good == is_good


def test_one_merge_is_written_without_measuring(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "one"
    arguments: list[Any] = ["adapters", "merge", chain / "red", chain / "lone", "--out", out]
    done = invoke(*arguments, "--method", "ties", "--weights", 1.0, 0.5)
    assert done.exit_code == 0, done.output
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert (out / "adapter" / "tokenizer.json").is_file()
    again = invoke(*arguments, "--method", "ties")
    assert again.exit_code == 2 and "already exists" in again.output
    neither = invoke(*arguments[:4], "--out", tmp_path / "two")
    assert neither.exit_code == 2 and "--judge or --method" in neither.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "--weights", 1, 0.5], "--judge chooses weights and density itself"),
        (["--judge", "--density", 0.5], "--judge chooses weights and density itself"),
        (["--method", "svd", "--density", 0.5], "the method svd has no density"),
        (["--method", "ties", "--density", 0], "0.0 is not in the range"),
    ],
    ids=str,
)
def test_no_option_is_ignored(
    chain: Path, tmp_path: Path, options: list[Any], message: str
) -> None:
    out = tmp_path / "out"
    done = invoke("adapters", "merge", chain / "red", chain / "lone", "--out", out, *options)
    assert done.exit_code == 2 and message in " ".join(done.output.split())
    assert not out.exists()
