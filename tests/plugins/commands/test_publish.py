"""Models go to a hub and come back: a private one, without rows, logs or files that hold code."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import OfflineModeIsEnabled

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.events import Measured, RunStarted
from tunesmith.execution.report import build_report
from tunesmith.testing import sample_event
from tunesmith_cli.app import app
from tunesmith_evidence.report.model_card import find_license, render_model_card
from tunesmith_evidence.report.view import ReportView
from tunesmith_plugins.commands.publish.download import download
from tunesmith_plugins.commands.publish.hub import MODEL_FILES, explain_errors
from tunesmith_plugins.commands.publish.upload import choose_files, upload
from tunesmith_torch.testing.tiny_model import save_tiny_model

SHA = "a" * 40
COMMIT = f"https://huggingface.co/team/tickets/commit/{SHA}"


def is_private(asked: dict[str, Any]) -> bool:
    """Return what a request to create a repository asks for, in the form of either version."""
    return bool(asked.get("private")) or asked.get("visibility") == "private"


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub as uploads and downloads need."""

    repositories: dict[str, dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories.setdefault(name, {"private": is_private(asked), "files": {}})
            self._answer(200, {"url": f"https://huggingface.co/{name}", "id": name, "name": name})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif "/commit/" in self.path:
            files = self.repositories[self._name()]["files"]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": COMMIT, "commitOid": SHA, "success": True}
            self._answer(200, answer)
        else:
            self._answer(200, {})

    def do_GET(self) -> None:
        repository = self.repositories.get(self._name())
        if repository is None:
            self._answer(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in self.path:
            self._send(repository["files"][self.path.rpartition("/")[2]])
        else:
            siblings = [{"rfilename": name} for name in repository["files"]]
            private = repository["private"]
            info = {"id": self._name(), "private": private, "sha": SHA, "siblings": siblings}
            self._answer(200, info)

    do_HEAD = do_GET

    def _name(self) -> str:
        parts = self.path.removeprefix("/api/models").strip("/").split("/")
        return "/".join(parts[:2]).partition("?")[0]

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(body).encode(), status, headers)

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        more = {"Content-Length": str(len(body)), "ETag": '"1"', "X-Repo-Commit": SHA}
        for name, value in {**more, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HfApi, dict[str, dict[str, Any]]]]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    repositories: dict[str, dict[str, Any]] = {}
    handler = type("Handler", (FakeHub,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield HfApi(f"http://127.0.0.1:{server.server_port}", token="hf_x"), repositories
    finally:
        server.shutdown()
        server.server_close()


def tunesmith(*args: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, args)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an adapter."""
    folder = tmp_path_factory.mktemp("push")
    save_tiny_model(folder / "model")
    (folder / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# x\n")
    rows = [{"prompt": f"secret question {n}", "completion": f"answer {n % 3}"} for n in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(
        '[model]\nbase = "model"\n[data]\ntrain = "rows.jsonl"\ntest_size = 4\n'
        '[baselines]\nuse = ["majority"]\n[technique]\nuse = "lora"\nepochs = 1\n'
        '[[evaluators]]\nuse = "exact-match"\n'
    )
    assert tunesmith("run", folder / "run.toml", "--out", folder / "done").exit_code == 0
    return folder / "done"


def test_a_dry_run_shows_every_file_and_the_card(run: Path) -> None:
    shown = tunesmith("push", run, "team/tickets", "--base-model", "org/base", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "adapter_model.safetensors" in shown.output and "tokenizer.json" in shown.output
    assert "base_model: org/base\nbase_model_relation: adapter\nlicense: apache-2.0" in shown.output
    assert "exact-match, 95 % interval" in shown.output
    assert "secret question" not in shown.output and str(run) not in shown.stdout
    assert "team/tickets (private)" in shown.stderr


def test_machines_read_the_card(run: Path) -> None:
    shown = tunesmith(
        "push", run, "team/tickets", "--base-model", "org/base", "--dry-run", "--json"
    )
    read = ModelCard(json.loads(shown.stdout)["card"]).data
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    measured = [e for e in events if e["event"] == "measured" and e["model"] == "tuned"]
    assert read.model_name == "tickets" and read.eval_results and measured
    found = {result.metric_type: result for result in read.eval_results}
    for event in measured:
        result = found[event["metric"]]
        assert result.metric_value == event["value"] and result.dataset_split == "test"
        expected = {"low": event["low"], "high": event["high"], "n": event["n"], "confidence": 0.95}
        assert result.metric_args == expected
    assert read.metrics == [*found] and read.base_model == "org/base"
    assert read.pipeline_tag == "text-generation" and read.library_name == "peft"
    assert read.to_dict()["base_model_relation"] == "adapter" and read.datasets is None


def test_the_card_names_a_dataset_of_the_hub() -> None:
    data = {"use": "hub-dataset", "train": "hf://org/tickets"}
    report = build_report([sample_event(RunStarted, plan={"data": data}), sample_event(Measured)])
    view = ReportView(report, Path("run"))
    text = render_model_card(view, name="a/b", base="org/base", license=None, form="gguf")
    read = ModelCard(text).data
    assert read.datasets == ["org/tickets"] and read.to_dict()["base_model_relation"] == "quantized"
    assert read.eval_results and read.eval_results[0].dataset_type == "org/tickets"
    assert read.eval_results[0].dataset_split == "part of train"
    assert read.eval_results[0].dataset_revision is None


def test_scores_on_rows_of_an_evaluator_are_not_scores_on_the_dataset() -> None:
    data = {"use": "hub-dataset", "train": "hf://org/tickets", "test_split": "held-out"}
    data |= {"revision": SHA, "name": "en"}
    skills = [
        sample_event(Measured, model=model, evaluator="skills", metric="skills")
        for model in ("base", "tuned")
    ]
    own = sample_event(Measured, model="tuned", evaluator="exact-match", metric="exact-match")
    report = build_report([sample_event(RunStarted, plan={"data": data}), own, *skills])
    view = ReportView(report, Path("run"))
    text = render_model_card(view, name="a/b", base=None, license=None, form="adapter")
    results = ModelCard(text).data.eval_results or []
    assert {r.metric_type: (r.dataset_type, r.dataset_split) for r in results} == {
        "exact-match": ("org/tickets", "held-out"),
        "skills": ("skills", "test"),
    }
    assert (results[0].dataset_revision, results[0].dataset_config) == (SHA, "en")


def test_an_adapter_without_a_base_on_the_hub_is_noted(run: Path) -> None:
    shown = tunesmith("push", run, "team/tickets", "--dry-run", "--json")
    assert "add --base-model ORG/NAME" in shown.stderr
    assert {"README.md", "adapter_config.json"} <= json.loads(shown.stdout)["files"].keys()


@pytest.mark.parametrize("name", ["tickets", "a/b/c", "../x", "a b/c"])
def test_names_that_are_none_are_refused(run: Path, name: str) -> None:
    refused = tunesmith("push", run, name, "--dry-run")
    assert refused.exit_code == 2 and "of the form ORG/NAME" in refused.stderr


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TUNESMITH_OFFLINE"])
def test_offline_nothing_is_uploaded(
    run: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv(variable, "true")
    for refused in (tunesmith("push", run, "team/tickets"), tunesmith("pull", "team/tickets")):
        assert refused.exit_code == 4 and f"{variable} is set" in refused.stderr


def test_offline_libraries_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(EnvironmentProblem, match="HF_HUB_OFFLINE is set"), explain_errors("o/n"):
        raise OfflineModeIsEnabled


def test_a_model_comes_back_as_it_was(hub: Any, run: Path, tmp_path: Path) -> None:
    api, repositories = hub
    artifact = run / "adapter"
    (artifact / "notes.txt").write_text("rows of customers")
    files = choose_files(artifact, "# card\n", "org/base")
    (artifact / "notes.txt").unlink()
    assert upload(api, "team/tickets", files, public=False) == COMMIT
    stored = repositories["team/tickets"]
    assert stored["private"] and "notes.txt" not in stored["files"]
    config = json.loads(stored["files"]["adapter_config.json"])
    assert config["base_model_name_or_path"] == "org/base"
    stored["files"]["model.py"] = stored["files"]["pytorch_model.bin"] = b"code"

    names = download(api, "team/tickets", None, tmp_path / "back")
    assert sorted(names) == sorted(file.name for file in (tmp_path / "back").iterdir())
    assert not {"model.py", "pytorch_model.bin"} & {*names}
    weights = "adapter_model.safetensors"
    assert (tmp_path / "back" / weights).read_bytes() == (artifact / weights).read_bytes()
    assert [*tmp_path.iterdir()] == [tmp_path / "back"]


def test_a_public_repository_is_not_written_by_accident(hub: Any, run: Path) -> None:
    api, repositories = hub
    repositories["team/open"] = {"private": False, "files": {}}
    files = choose_files(run / "adapter", "# card\n", None)
    with pytest.raises(UsageError, match="exists and is public"):
        upload(api, "team/open", files, public=False)
    assert repositories["team/open"]["files"] == {}
    upload(api, "team/open", files, public=True)
    assert "README.md" in repositories["team/open"]["files"]


def test_what_cannot_be_downloaded_leaves_nothing(hub: Any, tmp_path: Path) -> None:
    api, repositories = hub
    repositories["team/pickled"] = {"private": True, "files": {"pytorch_model.bin": b"x"}}
    with pytest.raises(UsageError, match="contains no safetensors"):
        download(api, "team/pickled", None, tmp_path / "x")
    with pytest.raises(UsageError, match="this model does not exist, or it is private"):
        download(api, "team/none", None, tmp_path / "x")
    gone = HfApi("http://127.0.0.1:9", token="hf_secretsecretsecret")
    with pytest.raises(EnvironmentProblem, match="cannot access the Hub") as caught:
        download(gone, "team/none", None, tmp_path / "x")
    assert "hf_secret" not in str(caught.value)
    assert "network" in (caught.value.hint or "")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("model-00001-of-00002.safetensors", True),
        ("chat_template.jinja", True),
        ("Modelfile", True),
        ("manifest.json", False),
        ("../model.safetensors", False),
        ("code/model.safetensors", False),
        ("modeling_x.py", False),
        ("trainer_state.json", False),
    ],
)
def test_files_of_a_model(name: str, belongs: bool) -> None:
    assert bool(MODEL_FILES.fullmatch(name)) == belongs


def test_the_license_is_that_of_the_base(tmp_path: Path) -> None:
    assert find_license(tmp_path) is None and find_license(None) is None
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: 'mit'\n---\nlicense: no\n")
    assert find_license(tmp_path) == "mit"
    (tmp_path / "README.md").write_text("# no front matter\n---\nlicense: mit\n")
    assert find_license(tmp_path) is None
