"""Bad input: a clear sentence and the documented exit code, before anything expensive happens."""

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
def here(tmp_path: Path, tiny_folder: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN.format(base=tiny_folder))
    (tmp_path / "rows.jsonl").write_text(GOOD)
    return tmp_path


def edit(here: Path, old: str, new: str) -> None:
    path = here / "run.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("rows", "says"),
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
def test_data_that_cannot_be_used(
    here: Path, tunesmith: Tunesmith, command: str, rows: bytes, says: str
) -> None:
    (here / "rows.jsonl").write_bytes(rows)
    outcome = tunesmith(command, here / "run.toml")
    assert outcome.code == 3
    assert says in outcome.err
    assert "rows.jsonl" in outcome.err
    assert "Traceback" not in outcome.err


def test_no_such_data_file(here: Path, tunesmith: Tunesmith) -> None:
    (here / "rows.jsonl").unlink()
    outcome = tunesmith("run", here / "run.toml")
    assert outcome.code == 3
    assert "rows.jsonl" in outcome.err


def test_no_such_run_file(tmp_path: Path, tunesmith: Tunesmith) -> None:
    outcome = tunesmith("run", tmp_path / "nothing.toml")
    assert outcome.code == 2
    assert "nothing.toml" in outcome.err


@pytest.mark.parametrize(
    ("old", "new", "says"),
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
    here: Path, tunesmith: Tunesmith, old: str, new: str, says: str
) -> None:
    edit(here, old, new)
    outcome = tunesmith("run", here / "run.toml")
    assert outcome.code == 2
    assert says in outcome.err
    assert not (here / "runs").exists()


def test_all_mistakes_are_reported_together(here: Path, tunesmith: Tunesmith) -> None:
    edit(here, "max_steps = 1", "max_stesp = 1\nrank = -4")
    edit(here, 'base = "', 'base = "/nowhere')
    edit(here, 'train = "rows.jsonl"', 'train = "rows.jsonl"\nholdout = "half"')
    outcome = tunesmith("check", here / "run.toml")
    assert outcome.code == 2
    for where in ("technique.max_stesp", "technique.rank", "model.base", "data.holdout"):
        assert where in outcome.err


def test_no_model_there(here: Path, tunesmith: Tunesmith) -> None:
    edit(here, 'base = "', 'base = "/nowhere')
    outcome = tunesmith("run", here / "run.toml")
    assert outcome.code == 2
    assert "model.base" in outcome.err


def test_pickle_weights_are_refused_unopened(
    here: Path, tunesmith: Tunesmith, tiny_folder: Path
) -> None:
    folder = here / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_folder / name).read_bytes())
    payload = f"import pathlib; pathlib.Path({str(here / 'owned')!r}).touch()"
    (folder / "pytorch_model.bin").write_bytes(
        b"cbuiltins\nexec\n(S" + repr(payload).encode() + b"\ntR."
    )
    edit(here, f'base = "{tiny_folder}"', f'base = "{folder}"')
    outcome = tunesmith("run", here / "run.toml")
    assert outcome.code in (2, 4)
    assert "safetensors" in outcome.err
    assert not (here / "owned").exists()


@pytest.mark.parametrize("holdout", ["20", "500"])
def test_a_holdout_that_leaves_nothing_to_learn(
    here: Path, tunesmith: Tunesmith, holdout: str
) -> None:
    edit(here, 'train = "rows.jsonl"', f'train = "rows.jsonl"\nholdout = {holdout}')
    outcome = tunesmith("run", here / "run.toml")
    assert outcome.code == 3
    assert "data.holdout" in outcome.err


def test_rates_that_do_not_suit_are_warned_about(here: Path, tunesmith: Tunesmith) -> None:
    edit(here, "max_steps = 1", "max_steps = 1\nlearning_rate = 1e-5")
    outcome = tunesmith("check", here / "run.toml")
    assert outcome.code == 0
    assert "technique.learning_rate" in outcome.err + outcome.out
    edit(here, 'use = "lora"', 'use = "full"')
    edit(here, "1e-5", "3e-4")
    outcome = tunesmith("check", here / "run.toml")
    assert "technique.learning_rate" in outcome.err + outcome.out


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_adapters_on_tied_embeddings_are_refused_with_the_way_out(
    here: Path, tunesmith: Tunesmith, target: str
) -> None:
    edit(here, "max_steps = 1", f'max_steps = 1\ntarget_modules = ["{target}"]')
    outcome = tunesmith("run", here / "run.toml", "--set", "baselines.shots=0")
    assert outcome.code == 2
    assert "modules_to_save" in outcome.err


def test_targets_that_match_nothing_are_named(here: Path, tunesmith: Tunesmith) -> None:
    edit(here, "max_steps = 1", 'max_steps = 1\ntarget_modules = ["query_proj"]')
    outcome = tunesmith("run", here / "run.toml", "--set", "baselines.shots=0")
    assert outcome.code == 2
    assert "query_proj" in outcome.err
    assert "q_proj" in outcome.err
