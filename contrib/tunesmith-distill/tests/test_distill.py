"""Training with a teacher: the loss, the cache, what is refused, and the README."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import WEIGHTED_ROWS, check_first_step, options, save_decided_model, train
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tunesmith.errors import RunStopped, UsageError
from tunesmith.events import Event, StepFinished
from tunesmith.options import from_table
from tunesmith.records import Completion
from tunesmith_distill import objective
from tunesmith_distill.offer import DISTILL
from tunesmith_distill.options import DistillOptions
from tunesmith_distill.teacher import Teacher, check_tokenizers
from tunesmith_distill.technique import Distill
from tunesmith_torch.compare.open_by_name import find_tokenizer
from tunesmith_torch.testing.exports import run_readme, train_tiny

README = Path(__file__).parents[1] / "README.md"
TEACHER = "HuggingFaceTB/SmolLM2-135M-Instruct"


def read_weights(artifact: Path) -> dict[str, torch.Tensor]:
    (file,) = artifact.glob("*.safetensors")
    return load_file(file)


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = read_weights(one), read_weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


CASES = [
    {"direction": "forward", "temperature": 1.0, "weight": 0.5},
    {"direction": "reverse", "temperature": 3.0, "weight": 0.7},
    {"direction": "forward", "temperature": 2.0, "weight": 1.0},
]


def take_first_step(config: DistillOptions, student: Path, out: Path) -> StepFinished:
    return train(config, student, out, rows=WEIGHTED_ROWS)[1][0]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_plain_transformers(
    case: dict[str, Any], teacher: Path, student: Path, tmp_path: Path
) -> None:
    config = options(teacher, max_steps=1, **case)
    check_first_step(config, student, take_first_step(config, student, tmp_path))


class NotSquared(float):
    """A temperature whose square is 1."""

    def __pow__(self, other: Any, mod: Any = None) -> float:
        return 1.0


def inject(mistake: str, config: DistillOptions, patch: pytest.MonkeyPatch) -> DistillOptions:
    """Inject a mistake into the objective or the teacher; return the options to train with."""
    predict, coarse, measure = Teacher.predict, objective.coarse_logprobs, objective.divergence
    match mistake:
        case "teacher one position late":
            patch.setattr(
                Teacher,
                "predict",
                lambda *args: objective.Targets(*(x.roll(1, 0) for x in predict(*args))),
            )
        case "wrong direction":
            patch.setattr(objective, "divergence", lambda t, s, d: measure(s, t, d))
        case "no temperature":
            patch.setattr(objective, "coarse_logprobs", lambda x, ids: coarse(3 * x, ids))
        case "labels shifted":
            plain = objective.cross_entropy
            patch.setattr(
                objective,
                "cross_entropy",
                lambda x, y, reduction: plain(x, y.roll(1), reduction="none"),
            )
        case "temperature not squared":
            return config.model_copy(update={"temperature": NotSquared(config.temperature)})
    return config


MISTAKES = [
    *("teacher one position late", "wrong direction", "no temperature", "labels shifted"),
    "temperature not squared",
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_detects_mistakes(
    mistake: str, teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = options(teacher, max_steps=1, cache=False, **CASES[1])
    step = take_first_step(inject(mistake, config, monkeypatch), student, tmp_path)
    with pytest.raises(AssertionError):
        check_first_step(config, student, step)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_the_divergence_falls(
    adapt: str, direction: str, teacher: Path, student: Path, tmp_path: Path
) -> None:
    config = options(
        teacher, weight=1.0, direction=direction, adapt=adapt, epochs=30.0, learning_rate=5e-3
    )
    artifact, steps, findings = train(config, student, tmp_path)
    assert steps[-1].metrics["kl"] < 0.7 * steps[0].metrics["kl"]
    assert any("most likely tokens have" in text for text in findings)
    assert (artifact / "adapter_config.json").exists() == (adapt == "lora")
    assert Distill(config).open(student, artifact, device="cpu").generate(["Who is 1?"], 4)


def test_layouts_and_micro_batches_agree(teacher: Path, student: Path, tmp_path: Path) -> None:
    """Rows share a system prompt, so packed rows share a prefix."""
    tables: list[dict[str, Any]] = [{}, {"micro_batch_tokens": 64}, {"packing": False}]
    found = [
        train(options(teacher, **table), student, tmp_path / str(n))[1]
        for n, table in enumerate(tables)
    ]
    for steps in found[1:]:
        for step, first in zip(steps, found[0], strict=True):
            assert step.loss == pytest.approx(first.loss, rel=1e-4)
            assert step.metrics == pytest.approx(first.metrics, rel=1e-3)


def test_cached_and_live_predictions_give_the_same_bits(
    teacher: Path, student: Path, tmp_path: Path
) -> None:
    live = train(options(teacher, cache=False, top_k=9), student, tmp_path / "live")[0]
    cached = train(options(teacher, top_k=9), student, tmp_path / "cached")[0]
    assert_same_bits(live, cached)


def test_stored_predictions_are_read_only_if_they_fit_and_are_intact(
    teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(options(teacher), student, tmp_path / "first")[0]
    asked, predict = [0], Teacher.predict

    def count(self: Teacher, example: Any) -> Any:
        asked[0] += 1
        return predict(self, example)

    def count_questions(name: str, **changes: Any) -> int:
        """Train with the stored predictions of the first run, and count those that are new."""
        shutil.copytree(tmp_path / "first" / "teacher", tmp_path / name / "teacher")
        asked[0] = 0
        artifact = train(options(teacher, **changes), student, tmp_path / name)[0]
        if not changes:
            assert_same_bits(artifact, first)
        return asked[0]

    monkeypatch.setattr(Teacher, "predict", count)
    assert count_questions("same") == 0
    assert count_questions("more", top_k=9) == len(WEIGHTED_ROWS)
    assert count_questions("softer", temperature=2.0) == len(WEIGHTED_ROWS)
    file = tmp_path / "first" / "teacher" / "logprobs.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 64
    file.write_bytes(content)
    assert count_questions("damaged") == len(WEIGHTED_ROWS)


@pytest.mark.parametrize(("adapt", "share"), [("full", 0.0), ("lora", 0.0), ("lora", 0.5)])
def test_a_resumed_run_has_the_same_bits(
    adapt: str, share: float, teacher: Path, student: Path, tmp_path: Path
) -> None:
    """Also without the stored predictions, and with answers that the student samples."""
    own = {"on_policy": share, "on_policy_tokens": 8}
    config = options(teacher, adapt=adapt, checkpoints={"every": 1}, **own)
    whole = train(config, student, tmp_path / "whole")[0]

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 2:
            raise RunStopped("test")

    with pytest.raises(RunStopped):
        train(config, student, tmp_path / "stopped", stop)
    shutil.rmtree(tmp_path / "stopped" / "teacher")
    artifact, steps, _ = train(config, student, tmp_path / "stopped")
    assert [step.step for step in steps] == [3, 4]
    assert_same_bits(artifact, whole)


@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_without_weight_it_is_the_training_on_the_data_alone(
    adapt: Any, student: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"epochs": 2.0, "batch_size": 4, "learning_rate": 1e-3}
    (tmp_path / "built-in").mkdir()
    built_in = train_tiny(adapt, student, tmp_path / "built-in", **common)
    adapter = {"adapter": {"rank": 8}} if adapt == "lora" else {}
    table = {**common, **adapter, "teacher": "nobody", "weight": 0.0, "adapt": adapt}
    config = from_table(DistillOptions, {**table, "precision": "fp32"})
    rows = [
        Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two three")
        for n in range(8)
    ]
    assert_same_bits(train(config, student, tmp_path / "own", rows=rows)[0], built_in.artifact)


def test_padding_of_the_embeddings_stands_for_no_token(
    teacher: Path, student: Path, tmp_path: Path
) -> None:
    """A teacher with more rows than tokens gives the same student, up to their probability."""
    padded = tmp_path / "padded"
    shutil.copytree(teacher, padded)
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    model.resize_token_embeddings(model.config.vocab_size + 24, mean_resizing=False)
    model.save_pretrained(padded)
    losses = [
        train(options(folder), student, tmp_path / folder.name)[1][0].loss
        for folder in (teacher, padded)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def with_tokenizer(teacher: Path, folder: Path, change: str) -> Path:
    """Copy a teacher with a changed tokenizer."""
    shutil.copytree(teacher, folder)
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    if change == "ids":
        vocabulary = table["model"]["vocab"]
        a, b = [token for token, n in vocabulary.items() if n in (100, 101)]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    else:
        table["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
        table["model"]["merges"] = table["model"]["merges"][:-20]
    path.write_text(json.dumps(table), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [("ids", r"token '.+' is 10[01] in one and 10[01] in the other"), ("split", "split text")],
)
def test_another_tokenizer_is_refused_by_name(
    change: str, reason: str, teacher: Path, student: Path, tmp_path: Path
) -> None:
    other = with_tokenizer(teacher, tmp_path / "other", change)
    with pytest.raises(UsageError, match=f"technique.teacher: its tokenizer .*{reason}"):
        train(options(other), student, tmp_path / "run")


def test_more_tokens_are_another_tokenizer(teacher: Path) -> None:
    one = AutoTokenizer.from_pretrained(teacher)
    check_tokenizers(one, one)
    more = AutoTokenizer.from_pretrained(teacher)
    assert isinstance(more, PreTrainedTokenizerFast)
    more.add_tokens(["<|new|>"])
    with pytest.raises(UsageError, match=r"'<\|new\|>' is 440 in one and absent in the other"):
        check_tokenizers(one, more)


def write_run(folder: Path, student: Path, teacher: str) -> None:
    """Write the README's files, for other models."""
    text = README.read_text(encoding="utf-8")
    (rows,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (run_file,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    run_file = run_file.replace('"student"', f'"{student}"').replace(TEACHER, teacher)
    (folder / "run.toml").write_text(run_file, encoding="utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_plan_refuses_what_cannot_teach(teacher: Path, student: Path, tmp_path: Path) -> None:
    other = with_tokenizer(teacher, tmp_path / "other", "ids")
    for name, message in ((str(other), "is not the student's"), ("nobody", "no run or model")):
        write_run(tmp_path, student, name)
        done = run(tmp_path, "check", "run.toml")
        assert done.returncode != 0 and message in " ".join((done.stdout + done.stderr).split())
    assert find_tokenizer(str(teacher), "test") == teacher
    assert isinstance(DISTILL.build(options(teacher)), Distill)


def test_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program makes a student, and its commands train it twice and compare both runs."""
    monkeypatch.setenv("TUNESMITH__RUN__SIDE_EFFECTS", "false")
    monkeypatch.setenv("TUNESMITH__BASELINES__USE", "[]")
    big = save_decided_model(tmp_path / "big", 5, 3)
    program = README.read_text(encoding="utf-8").replace(TEACHER, str(big))
    program = program.replace("num_hidden_layers=6", "num_hidden_layers=1")
    (tmp_path / "README.md").write_text(program, encoding="utf-8")
    run_readme(tmp_path / "README.md", tmp_path)
    assert json.loads((tmp_path / "student/config.json").read_text())["num_hidden_layers"] == 1
    write_run(tmp_path, tmp_path / "student", str(big))
    for name, changes in (("distilled", ()), ("alone", ("--set", "technique.weight=0"))):
        done = run(tmp_path, "run", "run.toml", "--out", f"runs/{name}", *changes)
        assert done.returncode == 0, done.stderr[-3000:]
    compared = run(tmp_path, "compare", "runs/alone", "runs/distilled")
    assert compared.returncode == 0, compared.stderr[-3000:]
