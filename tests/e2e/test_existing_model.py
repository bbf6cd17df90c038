"""`tunesmith verdict` and the callback judge models that were fine-tuned elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_judge import serve_judge

from tunesmith.errors import ConfigError, UsageError
from tunesmith.execution.report import Report
from tunesmith_evidence.existing import make_existing_run
from tunesmith_python.runs import run
from tunesmith_python.verdict import verdict
from tunesmith_torch.testing.tiny_model import CHATML, save_tiny_model

pytestmark = pytest.mark.processes
BASELINES = {"baselines.use": ["majority", "linear", "zero-shot"], "run.side_effects": True}
WORDS = {"refund": "money", "invoice": "papers", "delivery": "parcel"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.chdir(tmp_path)
    for name, first, count in (("train", 0, 60), ("test", 500, 30)):
        rows = [
            {"prompt": f"my {word} number {n * 7919} is late", "completion": WORDS[word]}
            for n in range(first, first + count)
            for word in [sorted(WORDS)[n % 3]]
        ]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "train.jsonl", tmp_path / "test.jsonl"


def values(report: Report) -> dict[tuple[str, str], float]:
    return {(event.model, event.metric): event.value for event in report.measured.values()}


def test_the_same_numbers_as_the_run_that_trained_it(
    files: tuple[Path, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    """All models and metrics, to the last bit; the folder opens like any other run."""
    tables = {
        "model": {"base": str(tiny_folder)},
        "data": {"train": str(files[0]), "test": str(files[1])},
        "technique": {"use": "lora", "learning_rate": 1e-2, "max_steps": 4},
    }
    trained = run(tables, set=BASELINES, out=tmp_path / "trained")
    judged = verdict(
        str(tiny_folder), trained.path / "adapter", *files, set=BASELINES, out=tmp_path / "judged"
    )
    assert values(judged.report) == values(trained.report)
    assert ("tuned", "general-skills") in values(judged.report)
    compared = [run.report.verdict["comparisons"] for run in (trained, judged)]
    for name in ("linear", "zero-shot"):
        kept = [{k: v for k, v in each[name].items() if k != "cost"} for each in compared]
        assert kept[0] == kept[1]
    prompt = "my refund number 1 is late"
    answers = [run.model().generate([prompt], 8)[0].ids for run in (trained, judged)]
    assert answers[0] == answers[1]


def test_a_leak_is_found_as_in_a_run(
    files: tuple[Path, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    files[1].write_text(files[0].read_text())
    judged = verdict(str(tiny_folder), tiny_folder, *files, set=BASELINES, out=tmp_path / "judged")
    assert judged.report.verdict["word"] == "FIX DATA FIRST"


def test_a_token_is_not_sent_unencrypted(files: tuple[Path, Path], tiny_folder: Path) -> None:
    given = (str(tiny_folder), "http://far.example/v1", *files)
    with pytest.raises(ConfigError, match="needs an https address"):
        run(make_existing_run(*given, model="mine", token="API_KEY"))
    with pytest.raises(UsageError, match="needs an https address"):
        make_existing_run(*given, token="API_KEY")


def test_a_model_at_an_endpoint_has_a_name(files: tuple[Path, Path]) -> None:
    """The only one that the endpoint lists, or the one that is named."""

    def find(models: list[str]) -> str:
        with serve_judge(lambda prompt: "money", models=models) as fake:
            tables = make_existing_run("base", fake.url, *files)
        return str(tables["technique"]["endpoint_model"])

    assert find(["mine"]) == "mine"
    with pytest.raises(UsageError, match="lists 2 models") as refused:
        find(["mine", "yours"])
    assert "--model NAME; available: mine, yours" in str(refused.value.hint)
    with pytest.raises(UsageError, match="lists 0 models"):
        find([])
    with pytest.raises(ConfigError, match="set the name of the model at the endpoint"):
        run(make_existing_run("base", "model", *files) | {"technique": {
            "use": "existing", "tuned": "http://127.0.0.1:9/v1"}})  # fmt: skip


@pytest.mark.parametrize("swapped", [True, False])
def test_an_adapter_in_the_other_thinking_mode_is_found(
    files: tuple[Path, Path], tmp_path: Path, swapped: bool
) -> None:
    """The adapter was trained without reasoning, which its own template keeps as a default."""
    switch = (
        "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    )
    base = save_tiny_model(tmp_path / "base", template=CHATML + switch)
    off = {"enable_thinking": False}
    few = {"baselines.use": ["majority"], "run.side_effects": False}
    tables = {
        "model": {"base": str(base)},
        "data": {"train": str(files[0]), "test": str(files[1])},
        "technique": {"use": "lora", "max_steps": 1, "chat_template": {"kwargs": off}},
    }
    trained = run(tables, set=few, out=tmp_path / "trained")
    again = few if swapped else {**few, "technique.chat_template": {"kwargs": off}}
    judged = verdict(
        str(base), trained.path / "adapter", *files, set=again, out=tmp_path / "judged"
    )
    found = [f.text for f in judged.report.findings if f.source == "chat template"]
    assert len(found) == swapped
    assert not found or ("<think>" in found[0] and "technique.chat_template.kwargs" in found[0])


def test_an_endpoint(
    files: tuple[Path, Path], tiny_folder: Path, tmp_path: Path, tunesmith: Callable[..., Any]
) -> None:
    """Answers are measured, probabilities are not; nothing but prompts is sent."""

    def answer(prompt: str) -> str:
        found = [answer for word, answer in WORDS.items() if f"my {word} " in prompt]
        return found[0] if found else "money"

    with serve_judge(answer, models=["mine"]) as fake:
        options = ["--base", tiny_folder, "--tuned", fake.url]
        done = tunesmith(
            "verdict", *options, "--train", files[0], "--test", files[1],
            "--out", tmp_path / "judged", "--set", 'baselines.use=["majority","zero-shot"]',
            "--set", "run.side_effects=true",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert {body["model"] for _, body in fake.requests} == {"mine"}
    report = json.loads((tmp_path / "judged" / "report.json").read_text())
    measured = {(e["model"], e["metric"]): e["value"] for e in report["evaluations"]}
    assert measured["tuned", "exact-match"] == 1.0
    assert not {metric for _, metric in measured} & {"loss", "general-loss"}
    assert measured["tuned", "task-answers"] > 0.9
    assert "just a label of the task" in report["verdict"]["price"]


def test_a_callback_of_trl(files: tuple[Path, Path], tiny_folder: Path, tmp_path: Path) -> None:
    """At the end of a real training with TRL, its adapter is judged."""
    datasets = pytest.importorskip("datasets")
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from tunesmith_python.callback import VerdictCallback

    callback = VerdictCallback(
        str(tiny_folder),
        *files,
        set={**BASELINES, "technique.precision": "fp32"},
        out=tmp_path / "judged",
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"), max_steps=2, per_device_train_batch_size=4,
            learning_rate=1e-2, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        ),
        train_dataset=datasets.load_dataset("json", data_files=str(files[0]), split="train"),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert callback.run is not None
    report = callback.run.report
    assert report.verdict["word"]
    assert values(report)["tuned", "loss"] != values(report)["zero-shot", "loss"]
    # The loss of each test row, computed from the trainer's own model.
    import torch

    lines = (callback.run.path / "evaluations" / "tuned.loss.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    turns = [{"role": role, "content": text} for role, text in row["prompt"]]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    whole = prompt + row["expected"] + tokenizer.eos_token
    start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    ids_BT = torch.tensor([tokenizer(whole, add_special_tokens=False).input_ids])
    model = trainer.model.float().eval()
    with torch.no_grad():
        logprobs_TV = model(ids_BT).logits[0, :-1].log_softmax(-1)
    chosen_T = logprobs_TV.gather(1, ids_BT[0, 1:, None])[start - 1 :, 0]
    assert row["loss"]["value"] == pytest.approx(-chosen_T.mean().item(), abs=1e-4)
