"""A resumed training uses the token ids that it began with, on any day."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tables import build

from tunesmith.contracts import Job
from tunesmith.errors import RunStopped, UsageError
from tunesmith.events import Event, StepFinished
from tunesmith.records import Completion, Message, Preference, Record
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.preference.task import PreferenceTask
from tunesmith_plugins.techniques.rlhf.reward_task import RewardTask
from tunesmith_torch.data.templates import Template
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.rlhf.policy_task import PolicyTask
from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer, save_tiny_model
from tunesmith_torch.training import trainer
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.token_digest import TOKENS_FILE, check_tokens, digest_rows

ROWS: list[Record] = [
    Completion(source=f"r:{n}", prompt=f"{n}?", completion="ten " * (1 + n % 3)) for n in range(8)
]
PAIRS: list[Record] = [
    Preference(source=f"p:{n}", prompt=(Message("user", f"{n}?"),), chosen="yes", rejected="no")
    for n in range(4)
]
CLOCK = "{{ strftime_now('%f %s') }}" + CHATML
"""A template that prints the time: a clock would make each rendering another text."""


def job(folder: Path, model: Path = Path(), **options: Any) -> Job[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        config=build(LoraOptions, **{"precision": "fp32", "batch_size": 4, **options}),
        model=model,
        train=ROWS,
        validation=(),
        out=folder,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=lambda event: None,
        technique="test",
    )


def template(source: str = CHATML, **options: Any) -> Template:
    return Template.from_tokenizer(build_tiny_tokenizer(template=source), **options)


def stop(event: Event) -> None:
    if isinstance(event, StepFinished) and event.step == 2:
        raise RunStopped("enough")


# ------------------------------------------------------------ whole trainings


def test_a_template_with_a_clock_gives_the_same_weights_after_a_resume(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", template=CLOCK)
    trainer.train(job(tmp_path / "one", model, max_steps=4), SupervisedTask())
    halted = job(tmp_path / "two", model, max_steps=4)
    with pytest.raises(RunStopped):
        trainer.train(replace(halted, emit=stop), SupervisedTask())
    trainer.train(halted, SupervisedTask())
    one, two = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("one", "two")
    )
    assert all(one[name].equal(two[name]) for name in one)


def test_a_template_file_that_changes_between_start_and_resume_is_refused(
    tmp_path: Path, tiny_folder: Path
) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(CHATML)
    halted = job(tmp_path / "run", tiny_folder, chat_template__source=str(file), max_steps=4)
    with pytest.raises(RunStopped):
        trainer.train(replace(halted, emit=stop), SupervisedTask())
    file.write_text("Hello. " + CHATML)
    with pytest.raises(
        UsageError, match=r"different token ids.*the chat template has changed"
    ) as error:
        trainer.train(halted, SupervisedTask())
    assert str(tmp_path / "run" / TOKENS_FILE) in str(error.value.hint)
    file.write_text(CHATML)
    trainer.train(halted, SupervisedTask())


def test_a_base_model_whose_tokenizer_changes_is_left_to_the_core(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """The core refuses it, unless the user accepts it."""
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    halted = job(tmp_path / "run", model, max_steps=4)
    with pytest.raises(RunStopped):
        trainer.train(replace(halted, emit=stop), SupervisedTask())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:5]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    before = (tmp_path / "run" / TOKENS_FILE).read_text()
    trainer.train(halted, SupervisedTask())
    assert (tmp_path / "run" / TOKENS_FILE).read_text() != before


# ------------------------------------------------------------ the digest


def test_the_digest_is_stored_and_compared(tmp_path: Path) -> None:
    one, rows = job(tmp_path), [[1, 2], [3]]
    check_tokens(one, template(), rows)
    stored = (tmp_path / TOKENS_FILE).read_text()
    check_tokens(one, template(), rows)
    assert (tmp_path / TOKENS_FILE).read_text() == stored
    with pytest.raises(UsageError, match="the tokenizer"):
        check_tokens(one, template(), [[1, 2], [4]])
    with pytest.raises(UsageError, match="the chat template"):
        check_tokens(one, template("x" + CHATML), [[1, 2], [4]])


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"{}", b'{"inputs": 1}', b"\xff\x00", b"[" * 100_000],
    ids=range(7),
)
def test_a_damaged_file_is_named_and_written_again(tmp_path: Path, content: bytes) -> None:
    events: list[Event] = []
    check_tokens(job(tmp_path), template(), [[1]])
    stored = (tmp_path / TOKENS_FILE).read_bytes()
    (tmp_path / TOKENS_FILE).write_bytes(content)
    check_tokens(replace(job(tmp_path), emit=events.append), template(), [[1]])
    assert (tmp_path / TOKENS_FILE).read_bytes() == stored
    assert [f"{tmp_path / TOKENS_FILE}: the file is damaged" in str(event) for event in events] == [
        True
    ]


@pytest.mark.parametrize(
    "changes",
    [{"rows": ROWS[:3]}, {"max_length": 64}, {"chat_template__kwargs": {"x": True}}],
    ids=str,
)
def test_what_the_user_has_accepted_is_stored_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The core refuses other rows and options, unless they are accepted."""
    check_tokens(job(tmp_path), template(), [[1]])
    rows = changes.pop("rows", ROWS)
    changed = replace(job(tmp_path, **changes), train=rows)
    check_tokens(changed, template(), [[2]])
    with pytest.raises(UsageError):
        check_tokens(changed, template(), [[1]])


def test_lengths_and_order_of_rows_count() -> None:
    digests = [digest_rows(rows) for rows in ([[1, 2], [3]], [[1], [2, 3]], [[3], [1, 2]], [])]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("task", "options", "records"),
    [
        (SupervisedTask(), build(LoraOptions), ROWS),
        (PreferenceTask(), build(PreferenceOptions), PAIRS),
        (RewardTask(), build(PreferenceOptions), PAIRS),
        (PolicyTask(None), build(PolicyOptions), PAIRS),
    ],
    ids=["supervised", "preference", "reward", "policy"],
)
def test_every_task_gives_the_ids_of_its_data(
    tmp_path: Path, task: Any, options: Any, records: list[Record]
) -> None:
    """Another template, or an answer more, is another digest; the same data is the same one."""

    def digest(source: str, rows: list[Record]) -> str:
        one = replace(job(tmp_path), config=options, train=rows)
        chat = template(source)
        return digest_rows(task.token_rows(task.tokenize(one, chat, 500), chat))

    assert digest(CHATML, records) == digest(CHATML, records)
    assert digest(CHATML, records) != digest("Hello. " + CHATML, records)
    assert digest(CHATML, records) != digest(CHATML, records[1:])
