"""The ``[slurm]`` table: what it takes and what it refuses, and the flags that override it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from tunesmith.errors import ConfigError
from tunesmith.options import from_table
from tunesmith_cli.launch import given_flags, option_flags, override_options
from tunesmith_slurm.options import FLAGS, SlurmOptions, parse_seconds


def options(**table: Any) -> SlurmOptions:
    return from_table(SlurmOptions, table)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", timedelta(minutes=90)),
        ("90:30", timedelta(minutes=90, seconds=30)),
        ("12:00:00", timedelta(hours=12)),
        ("2-3", timedelta(days=2, hours=3)),
        ("2-3:4", timedelta(days=2, hours=3, minutes=4)),
        ("1-06:30:15", timedelta(days=1, hours=6, minutes=30, seconds=15)),
    ],
)
def test_times_have_the_forms_of_sbatch(text: str, expected: timedelta) -> None:
    assert parse_seconds(text) == expected.total_seconds()


@pytest.mark.parametrize(
    ("mem", "expected"), [("32G", 32 << 30), ("512M", 512 << 20), ("512", 512 << 20), (None, None)]
)
def test_memory_is_in_binary_units_and_megabytes_by_default(
    mem: str | None, expected: int | None
) -> None:
    assert options(mem=mem).bytes == expected


@pytest.mark.parametrize(
    ("gpus", "count", "kind"), [(0, 0, ""), (2, 2, ""), ("2", 2, ""), ("a100:4", 4, "a100")]
)
def test_gpus_have_a_number_and_perhaps_a_type(gpus: int | str, count: int, kind: str) -> None:
    found = options(gpus=gpus)
    assert (found.gpu_count, found.gpu_type) == (count, kind)
    assert found.process_count == max(1, count)
    assert options(gpus=gpus, processes=3).process_count == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"partitoin": "gpu"}, "extra"),
        ({"nodes": 2}, "one machine"),
        ({"nodes": 0}, "greater than"),
        ({"gpus": "a100"}, "A100:2"),
        ({"gpus": -1}, "number"),
        ({"mem": "32 GB"}, "32G"),
        ({"time": "tomorrow"}, "12:00:00"),
        ({"time": 0}, "minutes"),
        ({"time": "1-"}, "minutes"),
        ({"time": 2, "grace_seconds": 120}, "shorter than `time`, which is 120 seconds"),
        ({"time": 2}, "shorter than `time`"),
        ({"partition": "gpu\n#SBATCH --uid=0"}, "pattern"),
        ({"setup": ["module load a\nrm -rf b"]}, "pattern"),
        ({"sbatch": ["mail-type=END"]}, "--mail-type"),
        ({"sbatch": ["--comment=a\n--uid=0"]}, "pattern"),
    ],
)
def test_what_slurm_would_refuse_or_misread_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(**table)


def parse_flags(*arguments: str) -> SlurmOptions:
    found: list[SlurmOptions] = []

    @click.command()
    @option_flags(SlurmOptions, FLAGS, "slurm")
    def command() -> None:
        base = options(partition="cpu", mem="8G")
        found.append(override_options(base, given_flags(click.get_current_context()), "slurm"))

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    return found[0]


def test_flags_override_the_table() -> None:
    assert parse_flags() == options(partition="cpu", mem="8G")
    assert parse_flags("--partition", "gpu", "--gpus", "a100:2", "--time", "1:00:00") == options(
        partition="gpu", mem="8G", gpus="a100:2", time="1:00:00"
    )
    values = {str: "5", int: "1"}
    for key, kind in FLAGS.items():
        changed = parse_flags(f"--{key.replace('_', '-')}", values[kind])
        assert str(getattr(changed, key)) == values[kind]


def test_a_wrong_flag_is_a_problem_of_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_flags("--nodes", "2", "--mem", "much")
    assert {problem.where for problem in caught.value.problems} == {"slurm.nodes", "slurm.mem"}
