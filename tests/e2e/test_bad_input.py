"""Bad input: a clear message and the documented exit code, before anything expensive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.e2e.conftest import Tunesmith

RUN = """
[model]
base = "{base}"
[data]
use = "jsonl"
train = "rows.jsonl"
[technique]
use = "lora"
max_steps = 1
"""
GOOD = "".join(
    json.dumps({"prompt": f"q {n}", "completion": f"a {n % 3}"}) + "\n" for n in range(20)
)


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN.format(base=tiny_folder))
    (tmp_path / "rows.jsonl").write_text(GOOD)
    return tmp_path


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "run.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b"", "empty"),
        (b"\n\n\n", "no rows"),
        (GOOD.encode() + b'{"prompt": "\xff\xfe", "completion": "x"}\n', "UTF-8"),
        (GOOD.encode() + b'{"prompt": "cut off", "compl', "21"),
        (GOOD.encode() + b'{"messages": [{"role": "user", "content": "hi"}]}\n' * 5, "21"),
        (b'{"promt": "a", "completion": "b"}\n' * 5, "promt"),
    ],
    ids=["empty", "blank", "bad-utf8", "truncated", "mixed", "wrong-key"],
)
def test_unusable_data(
    folder: Path, tunesmith: Tunesmith, command: str, rows: bytes, message: str
) -> None:
    (folder / "rows.jsonl").write_bytes(rows)
    outcome = tunesmith(command, folder / "run.toml")
    assert outcome.code == 3
    assert message in outcome.err
    assert "rows.jsonl" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_missing_data_file(folder: Path, tunesmith: Tunesmith) -> None:
    (folder / "rows.jsonl").unlink()
    outcome = tunesmith("run", folder / "run.toml")
    assert outcome.code == 3
    assert "rows.jsonl" in outcome.err


def test_a_missing_run_file(tmp_path: Path, tunesmith: Tunesmith) -> None:
    outcome = tunesmith("run", tmp_path / "nothing.toml")
    assert outcome.code == 2
    assert "nothing.toml" in outcome.err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_steps = 1", "max_stesp = 1", "max_steps"),
        ("max_steps = 1", "max_steps = 0", "technique.max_steps"),
        ('use = "lora"', 'use = "loar"', "lora"),
        ('use = "jsonl"', 'use = "josnl"', "jsonl"),
        ("[technique]", "[tecnique]", "technique"),
        ("[model]", "[model", "run.toml:2"),
    ],
)
def test_mistakes_in_the_run_file(
    folder: Path, tunesmith: Tunesmith, old: str, new: str, message: str
) -> None:
    edit(folder, old, new)
    outcome = tunesmith("run", folder / "run.toml")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (folder / "runs").exists()


def test_all_mistakes_are_reported_together(folder: Path, tunesmith: Tunesmith) -> None:
    edit(folder, "max_steps = 1", "max_stesp = 1\nadapter.rank = -4")
    edit(folder, 'base = "', 'base = "/nowhere')
    edit(folder, 'train = "rows.jsonl"', 'train = "rows.jsonl"\ntest_size = "half"')
    outcome = tunesmith("check", folder / "run.toml")
    assert outcome.code == 2
    for where in ("technique.max_stesp", "technique.adapter.rank", "model.base", "data.test_size"):
        assert where in outcome.err


def test_a_missing_model(folder: Path, tunesmith: Tunesmith) -> None:
    edit(folder, 'base = "', 'base = "/nowhere')
    outcome = tunesmith("run", folder / "run.toml")
    assert outcome.code == 2
    assert "model.base" in outcome.err


def test_pickle_weights_are_refused_unopened(
    folder: Path, tunesmith: Tunesmith, tiny_folder: Path
) -> None:
    pickled = folder / "pickled"
    pickled.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (pickled / name).write_bytes((tiny_folder / name).read_bytes())
    payload = f"import pathlib; pathlib.Path({str(folder / 'owned')!r}).touch()"
    (pickled / "pytorch_model.bin").write_bytes(
        b"cbuiltins\nexec\n(S" + repr(payload).encode() + b"\ntR."
    )
    edit(folder, f'base = "{tiny_folder}"', f'base = "{pickled}"')
    outcome = tunesmith("run", folder / "run.toml")
    assert outcome.code in (2, 4)
    assert "safetensors" in outcome.err
    assert not (folder / "owned").exists()


@pytest.mark.parametrize("test_size", ["20", "500"])
def test_a_test_size_that_leaves_no_training_rows(
    folder: Path, tunesmith: Tunesmith, test_size: str
) -> None:
    edit(folder, 'train = "rows.jsonl"', f'train = "rows.jsonl"\ntest_size = {test_size}')
    outcome = tunesmith("run", folder / "run.toml")
    assert outcome.code == 3
    assert "data.test_size" in outcome.err


def test_unusual_learning_rates_give_a_warning(folder: Path, tunesmith: Tunesmith) -> None:
    edit(folder, "max_steps = 1", "max_steps = 1\nlearning_rate = 1e-5")
    outcome = tunesmith("check", folder / "run.toml")
    assert outcome.code == 0
    assert "technique.learning_rate" in outcome.err + outcome.out
    edit(folder, 'use = "lora"', 'use = "full"')
    edit(folder, "1e-5", "3e-2")
    outcome = tunesmith("check", folder / "run.toml")
    assert "technique.learning_rate" in outcome.err + outcome.out


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_adapters_on_tied_embeddings_are_refused_with_a_hint(
    folder: Path, tunesmith: Tunesmith, target: str
) -> None:
    edit(folder, "max_steps = 1", f'max_steps = 1\nadapter.target_modules = ["{target}"]')
    outcome = tunesmith("run", folder / "run.toml", "--set", 'baselines.use=["zero-shot"]')
    assert outcome.code == 2
    assert "modules_to_save" in outcome.err


def test_target_modules_that_match_nothing_are_reported(folder: Path, tunesmith: Tunesmith) -> None:
    edit(folder, "max_steps = 1", 'max_steps = 1\nadapter.target_modules = ["query_proj"]')
    outcome = tunesmith("run", folder / "run.toml", "--set", 'baselines.use=["zero-shot"]')
    assert outcome.code == 2
    assert "query_proj" in outcome.err
    assert "q_proj" in outcome.err
