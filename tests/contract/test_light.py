"""Commands that need no heavy library import none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PROGRAM = """
import json, sys
sys.argv[0] = "tunesmith"
from tunesmith_cli import main
code = None
try:
    main()
except SystemExit as end:
    code = end.code
print("\\x1d" + json.dumps([code, sorted(sys.modules)]))
"""
HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "peft",
    "trl",
    "datasets",
    "safetensors",
    "bitsandbytes",
} | {"scipy", "sklearn"}
NETWORK = {"urllib.request", "http.client", "ssl"}


def imported_modules(*arguments: str, cwd: Path) -> set[str]:
    """Return the modules that a successful command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=cwd,
        # Without a cache, built-in plugins are imported to show their commands.
        env={**os.environ, "TUNESMITH_PLUGINS": "", "TUNESMITH_CACHE": str(cwd / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout.rpartition("\x1d")[2]
    assert text, done.stderr
    code, names = json.loads(text)
    assert code in (0, None), done.stdout + done.stderr
    return set(names)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid run file, with a model folder that has only names and sizes."""
    folder = tmp_path_factory.mktemp("project")
    model = folder / "model"
    model.mkdir()
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
    }
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + b"\0" * 4
    (model / "model.safetensors").write_bytes(weights)
    rows = [json.dumps({"prompt": f"q {n} {n * n}", "completion": f"a{n % 3}"}) for n in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "run.toml").write_text(
        '[model]\nbase = "model"\n[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\n'
        '[technique]\nuse = "lora"\n',
        encoding="utf-8",
    )
    return folder


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], []])
def test_help_imports_neither_torch_nor_pydantic(arguments: list[str], tmp_path: Path) -> None:
    if not arguments:
        pytest.importorskip("click")
        arguments = ["-h"]
    found = imported_modules(*arguments, cwd=tmp_path)
    heavy = {"pydantic"} if arguments != ["run", "--help"] else set()
    assert not found & (HEAVY | heavy)


def test_help_imports_nothing_that_only_runs_need(tmp_path: Path) -> None:
    """Their classes take as long as a fifth of the start."""
    only_runs = {f"tunesmith.{name}" for name in ("contracts", "estimates", "events", "records")}
    only_runs |= {"tunesmith.global_state", "tunesmith.plan"}
    assert not imported_modules("--help", cwd=tmp_path) & only_runs


@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"], ["plugins", "--help"]])
def test_help_of_a_group_imports_no_command_of_a_plugin(
    arguments: list[str], tmp_path: Path
) -> None:
    found = imported_modules(*arguments, cwd=tmp_path)
    assert "tunesmith_plugins.commands" in found
    assert not {name for name in found if name.startswith("tunesmith_plugins.commands.")}
    assert not found & HEAVY


def test_help_imports_only_built_in_plugins_that_offer_commands(tmp_path: Path) -> None:
    found = imported_modules("--help", cwd=tmp_path)
    packages = {"tunesmith_plugins.commands", "tunesmith_plugins.estimate"}
    assert {name for name in found if name.startswith("tunesmith_plugins.")} == packages
    # Each takes longer to import than help takes to print.
    assert not found & {"importlib.metadata", "pathlib", "hashlib", "tunesmith.offers"}


def test_the_list_of_plugins_reads_what_it_has_inspected(tmp_path: Path) -> None:
    imported_modules("plugins", "list", cwd=tmp_path)
    assert "pydantic" not in imported_modules("plugins", "list", cwd=tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "run.toml"],
        ["plan", "run.toml", "--quick"],
        ["plan", "run.toml", "--quick", "--json", "--assume", "sequence=64,rows=10"],
        ["plan", "run.toml", "--resolved"],
        ["plugins", "list"],
        ["plugins", "show", "lora"],
        ["explain", "--schema"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_planning_imports_neither_tensors_nor_network(arguments: list[str], project: Path) -> None:
    # Splitting and reviewing the data compare rows in arrays.
    allowed = {"numpy"} if arguments[0] in ("check", "plan") else set()
    assert not imported_modules(*arguments, cwd=project) & (HEAVY - allowed | NETWORK)


def test_the_contracts_import_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, tunesmith, tunesmith.contracts, tunesmith.offers, tunesmith.hookspecs\n"
        "print(','.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.strip().split(",")) & (HEAVY | {"pydantic", "click", "rich"})
