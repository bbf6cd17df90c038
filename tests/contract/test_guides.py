"""Guides are worked examples: their files are written and their commands run as printed.

A tiny model, one training step and no costly baseline stand in for the real ones. Guides that
install something with pip are in ``test_installed_guides.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from guide import FENCE, Command, LocalShell, check_printed, play, read_steps

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = DOCS / "how-to"
INSTALLED = {
    GUIDES / "technique.md",
    *(path for path in (DOCS / "tutorials").glob("first-*.md") if path.stem != "first-run"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("guides") / "tiny")


@pytest.fixture
def workplace(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH__MODEL__BASE", str(tiny))
    monkeypatch.setenv("TUNESMITH__TECHNIQUE__MAX_STEPS", "1")
    monkeypatch.setenv("TUNESMITH_TRUST_PLUGINS", "1")
    return tmp_path


def only_report(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("runs/*/report.json")
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.processes
def test_a_metric_of_ones_own(workplace: Path) -> None:
    play(GUIDES / "metric.md", workplace, LocalShell())
    evaluations = only_report(workplace)["evaluations"]
    assert isinstance(evaluations, list)
    minutes = {e["model"]: e for e in evaluations if e["metric"] == "handling-time"}
    assert {"tuned", "majority", "zero-shot"} <= minutes.keys()
    # The majority is one of the two teams: its answers are wrong teams, and never no team.
    shares = {e["model"]: e["value"] for e in evaluations if e["metric"] == "exact-match"}
    assert minutes["majority"]["value"] == pytest.approx(15 * (1 - shares["majority"]))
    assert minutes["tuned"]["unit"] == "minutes" and not minutes["tuned"]["higher_is_better"]


@pytest.mark.processes
def test_a_loader_for_an_in_house_database(workplace: Path) -> None:
    printed = play(GUIDES / "database.md", workplace, LocalShell())
    assert "16 training rows" in printed and "6 test rows" in printed
    assert "no answer yet" in printed


@pytest.mark.processes
def test_another_adapter_of_peft(workplace: Path) -> None:
    play(GUIDES / "peft-adapter.md", workplace, LocalShell())
    (config,) = workplace.glob("runs/*/adapter/adapter_config.json")
    assert json.loads(config.read_text(encoding="utf-8"))["peft_type"] == "IA3"


@pytest.mark.processes
def test_weights_of_ones_choice(workplace: Path, tiny: Path) -> None:
    from safetensors.torch import load_file

    play(GUIDES / "choose-weights.md", workplace, LocalShell())
    (saved,) = workplace.glob("runs/*/model/model.safetensors")
    before, after = load_file(tiny / "model.safetensors"), load_file(saved)
    pairs = {name: (before[name].to(after[name].dtype), after[name]) for name in after}
    changed = {name for name, (old, new) in pairs.items() if not old.equal(new)}
    # One step may be too small for a norm in bf16. The embeddings are also the head.
    assert "model.embed_tokens.weight" in changed
    assert changed <= {
        "model.embed_tokens.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.norm.weight",
    }


@pytest.mark.processes
def test_an_addition_to_the_training(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH__TECHNIQUE__MAX_STEPS", "2")
    play(GUIDES / "addition.md", workplace, LocalShell())
    (log,) = workplace.glob("runs/*/events.jsonl")
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    first, second = (e["metrics"]["near.term"] for e in events if e["event"] == "step-finished")
    assert first == 0.0 < second <= 0.1 * 0.5**2 * (1 + 1e-5)
    (page,) = workplace.glob("runs/*/report.html")
    assert "near.term" in page.read_text(encoding="utf-8")


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    """The company's service: what it was posted."""
    posted = list[dict[str, object]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Authorization"] == "Bearer secret"
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TUNESMITH__REPORTERS__0__URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("TUNESMITH__BASELINES__USE", '["zero-shot"]')
    monkeypatch.setenv("REGISTER_TOKEN", "secret")
    yield posted
    server.shutdown()
    server.server_close()


@pytest.mark.processes
def test_a_reporter_to_ones_own_system(workplace: Path, register: list[dict[str, object]]) -> None:
    play(GUIDES / "reporter.md", workplace, LocalShell())
    assert [content["status"] for content in register] == ["running", "ok"] * 2
    run, verdict = only_report(workplace)["run"], only_report(workplace)["verdict"]
    assert isinstance(run, dict) and isinstance(verdict, dict)
    assert {content["run"] for content in register} == {run["id"]}
    assert register[1]["verdict"] == {key: verdict[key] for key in ("word", "sentence")}
    assert "secret" not in (workplace / "runs" / str(run["id"]) / "run.toml").read_text("utf-8")


def test_every_page_with_files_is_played() -> None:
    """No block with a title is only read."""
    with_files = {
        page for page in DOCS.rglob("*.md") if any(t for _, t, _ in FENCE.findall(page.read_text()))
    }
    names = ("addition", "metric", "database", "reporter", "peft-adapter", "choose-weights")
    played = {GUIDES / f"{name}.md" for name in names}
    played |= {GUIDES / "serve.md"}  # test_serve_guide.py
    assert with_files <= played | INSTALLED
    assert played <= with_files


def test_a_line_that_is_not_printed_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ tunesmith x\na ... c\nd\n```\n")
    (command,) = read_steps(page)
    assert isinstance(command, Command)
    check_printed(page, command, "before\na b c\nbetween\nd\n")
    for printed in ("a b c\n", "d\na b c\n", "a b\nd\n"):
        with pytest.raises(AssertionError, match="no line"):
            check_printed(page, command, printed)
