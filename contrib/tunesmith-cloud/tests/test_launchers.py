"""Job files against the real schemas of their launchers."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import yaml
from schemas import VALIDATE, NotInSchema

from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith_cloud.command import write_yaml
from tunesmith_cloud.launchers import LAUNCHERS, Work, name_job
from tunesmith_cloud.options import CloudOptions

WORK = Work("tickets", "run.toml", "/runs/tickets", ("technique.epochs=2",))
TABLES: dict[str, dict[str, Any]] = {
    "smallest": {"image": "python:3.12", "volume": "runs"},
    "largest": {
        "image": "registry.example/a/b:1", "gpus": "A100:2", "cpus": 16, "memory": 64, "disk": 200,
        "volume": "my-runs", "mount": "/mnt/runs", "spot": True, "max_restarts": 3,
        "grace_seconds": 300, "namespace": "lab", "setup": ["pip install 'tunesmith>=0.1'", "date"],
    },
    "no restarts": {"image": "python:3.12", "volume": "runs", "max_restarts": 0, "setup": []},
}  # fmt: skip


def build(launcher: str, **table: Any) -> dict[str, Any]:
    """Return the job file as the launcher reads it."""
    options = from_table(CloudOptions, table)
    content: dict[str, Any] = yaml.safe_load(
        write_yaml(LAUNCHERS[launcher].build(WORK, options), launcher)
    )
    return content


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_file_is_valid(launcher: str, table: str) -> None:
    VALIDATE[launcher](build(launcher, **TABLES[table]))


FAULTS: list[tuple[str, list[str | int], Any]] = [
    ("kubernetes", ["spec", "pytorchReplicaSpecs", "Master", "template", "spec", "gracePeriod"], 1),
    ("kubernetes", ["spec", "runPolicy", "backoffLimit"], "three"),
    ("kubernetes", ["spec", "pytorchReplicaSpecs", "Master", "template", "spec", "volumes", 0,
                    "persistentVolumeClaim"], {}),
    ("skypilot", ["voulmes"], {}),
    ("skypilot", ["resources", "acelerators"], "A100:1"),
    ("dstack", ["resources", "gpus"], 1),
    ("dstack", ["retry"], {"on_events": ["eviction"]}),
]  # fmt: skip


@pytest.mark.parametrize(("launcher", "keys", "value"), FAULTS)
def test_the_schemas_refuse_what_is_wrong(launcher: str, keys: list[str | int], value: Any) -> None:
    content = build(launcher, **TABLES["largest"])
    place: Any = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(NotInSchema):
        VALIDATE[launcher](content)


def find_command(launcher: str, content: dict[str, Any]) -> list[str]:
    """Return the words that the job executes."""
    match launcher:
        case "kubernetes":
            spec = content["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
            words: list[str] = spec["containers"][0]["command"]
            return words
        case "skypilot":
            return shlex.split(content["run"])
        case _:
            return shlex.split(content["commands"][-1])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_starts_the_same_command(launcher: str) -> None:
    words = find_command(launcher, build(launcher, **TABLES["largest"]))
    assert words == [
        "python", "-P", "-m", "tunesmith_cloud.job", "--processes", "2",
        "--set", "technique.epochs=2", "run.toml", "/runs/tickets",
    ]  # fmt: skip


def test_each_option_changes_some_file() -> None:
    changed = {
        "image": "other:1", "gpus": "H100:1", "cpus": 2, "memory": 8, "disk": 50, "volume": "b",
        "mount": "/mnt/b", "spot": False, "max_restarts": 9, "grace_seconds": 7,
        "namespace": "b", "setup": ["true"],
    }  # fmt: skip
    assert set(changed) == set(CloudOptions.model_fields)
    for key, value in changed.items():
        tables = [TABLES["largest"], {**TABLES["largest"], key: value}]
        before, after = ([build(name, **table) for name in LAUNCHERS] for table in tables)
        assert before != after, key


@pytest.mark.parametrize(
    ("launcher", "table", "message"),
    [
        ("kubernetes", {"volume": "runs"}, "needs an image"),
        ("kubernetes", {"image": "python:3.12"}, "loses its files"),
        ("skypilot", {"gpus": 2}, "needs a GPU type"),
    ],
)
def test_what_a_launcher_needs_is_named(launcher: str, table: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(launcher, **table)


@pytest.mark.parametrize(
    ("text", "name"),
    [("Tickets LoRA", "tickets-lora"), ("7b", "run-7b"), ("é", "run"), ("a" * 60, "a" * 40)],
)
def test_names_are_those_of_hosts(text: str, name: str) -> None:
    assert name_job(text) == name
