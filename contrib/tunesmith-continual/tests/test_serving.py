"""The serve extension ``adapters``: loaded and unloaded while the server runs, over one base."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from training import CPU

import tunesmith
from tunesmith.records import Message
from tunesmith_continual.serving import Adapters, AdaptersOptions, find_adapters
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import pick_precision

PROMPTS = [f"{name} {n}" for n in range(4) for name in ("red", "blue", "green")]


@pytest.fixture
def folder(chain: Path, tmp_path: Path) -> Path:
    """A folder with the adapters of two runs: one as a run folder, one as an adapter."""
    path = tmp_path / "adapters"
    path.mkdir()
    (path / "first").symlink_to(chain / "red")
    shutil.copytree(chain / "blue" / "adapter", path / "second")
    return path


def open_adapter(model: Path, path: Path) -> TorchTextModel:
    base = load_model(model, CPU, pick_precision(CPU, "fp32"), packing=False)
    template = Template.from_tokenizer(base.tokenizer)
    return TorchTextModel(attach_adapter(base, path), template, CPU)


def test_adapters_come_and_go(tiny_model: Path, folder: Path) -> None:
    extension = Adapters(AdaptersOptions(folder=str(folder)))
    loaded: list[Path] = []

    def load(path: Path) -> TorchTextModel:
        loaded.append(path)
        return open_adapter(tiny_model, path)

    assert extension.change_models(load).keys() == {"first", "second"}
    assert extension.change_models(load) == {} and len(loaded) == 2
    shutil.rmtree(folder / "second")
    assert extension.change_models(load) == {"second": None}
    shutil.copytree(folder / "first" / "adapter", folder / "second")
    changes = extension.change_models(load)
    assert changes.keys() == {"second"} and len(loaded) == 3
    os.utime(folder / "second" / "adapter_config.json", ns=(1, 1))
    assert extension.change_models(load).keys() == {"second"} and len(loaded) == 4


def test_a_damaged_adapter_is_reported_once(
    tiny_model: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "second" / "adapter_model.safetensors").write_bytes(b"nothing")
    extension = Adapters(AdaptersOptions(folder=str(folder)))
    changes = [extension.change_models(lambda path: open_adapter(tiny_model, path)) for _ in "ab"]
    assert changes[0].keys() == {"first"} and changes[1] == {}
    assert capfd.readouterr().err.count("cannot load") == 1


def test_the_base_is_in_memory_once(tiny_model: Path, folder: Path) -> None:
    extension = Adapters(AdaptersOptions(folder=str(folder)))
    alone = open_adapter(tiny_model, find_adapters(folder)["second"]).generate(PROMPTS, 6)
    models: Any = extension.change_models(lambda path: open_adapter(tiny_model, path))
    first, second = (dict(models[name].model.named_parameters()) for name in ("first", "second"))
    shared = {n for n in first if n in second and first[n].data_ptr() == second[n].data_ptr()}
    assert {n for n in first if "lora" not in n} <= shared
    assert any(not torch.equal(first[n], second[n]) for n in first if "lora" in n and n in second)
    assert models["second"].generate(PROMPTS, 6) == alone


# --------------------------------------------------------------------------- a real server


@pytest.fixture
def address(chain: Path, folder: Path, tmp_path: Path) -> Iterator[str]:
    """The address of ``tunesmith serve`` with the extension, in its own process."""
    pytest.importorskip("uvicorn")
    file = tmp_path / "extensions.toml"
    file.write_text(f'[adapters]\nfolder = "{folder}"\n', encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "serve", chain / "green", "--model", "tuned"]
    process = subprocess.Popen(
        [*map(str, command), "--port", "0", "--extensions", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    yield found[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def ask(address: str, model: str, prompt: str) -> str:
    """Return an answer; raises ``HTTPError`` if the model is not served."""
    body = {"model": model, "max_tokens": 6, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: str = json.load(answer)["choices"][0]["message"]["content"]
    return content


def test_mixed_requests_get_the_answers_of_each_adapter_alone(
    address: str, chain: Path, folder: Path
) -> None:
    """Two adapters, and the run's own, asked at the same time; then one of them is removed."""
    alone = {}
    for name, run in (("first", "red"), ("second", "blue"), ("tuned", "green")):
        model = tunesmith.open_run(chain / run).model()
        for prompt in PROMPTS:
            alone[name, prompt] = model.generate([(Message("user", prompt),)], 6)[0].text
    assert len({alone[name, PROMPTS[0]] for name in ("first", "second", "tuned")}) > 1
    with ThreadPoolExecutor(8) as pool:
        mixed = dict(zip(alone, pool.map(lambda key: ask(address, *key), alone), strict=True))
    assert mixed == alone
    (folder / "first").unlink()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(address, "first", PROMPTS[0])
    assert ask(address, "second", PROMPTS[1]) == alone["second", PROMPTS[1]]
    (folder / "third").symlink_to(chain / "red")
    assert ask(address, "third", PROMPTS[0]) == alone["first", PROMPTS[0]]
