"""A run whose machine is lost goes on elsewhere, from the bucket, with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
from conftest import ACCESS_KEY, SECRET

from tunesmith.storage import Checkpoints
from tunesmith_remote.bucket import Bucket
from tunesmith_remote.pull import pull_run
from tunesmith_remote.snapshot import decode_snapshot, list_numbers, name_snapshot

WEIGHTS = Path("adapter", "adapter_model.safetensors")
URL = "s3://bucket/runs"


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tunesmith", *arguments],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(project: Path, *arguments: str, code: int = 0) -> str:
    """Run a command; return what it prints."""
    process = start(project, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out[-2000:] + err[-4000:]
    return out + err


def pushed_steps(url: str) -> list[str]:
    """Return the checkpoints in the newest snapshot."""
    bucket = Bucket(url)
    numbers = list_numbers(bucket)
    newest = (
        decode_snapshot(bucket.read(name_snapshot(numbers[-1])) or b"", numbers[-1])
        if numbers
        else None
    )
    files = newest.files if newest else {}
    return sorted({p.split("/")[1] for p in files if p.startswith("checkpoints/")})


def kill_after_second_checkpoint(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + 240
    while len(pushed_steps(url)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()


def test_a_killed_run_is_continued_from_the_bucket(s3: str, project: Path, tmp_path: Path) -> None:
    call(project, "run", "run.toml", "--quiet", "--out", str(tmp_path / "undisturbed"))
    lost = tmp_path / "lost" / "tickets"
    mirrored = ("--quiet", "--set", f"remote.url={URL}")
    process = start(project, "run", "run.toml", "--out", str(lost), *mirrored)
    kill_after_second_checkpoint(process, f"{URL}/tickets")
    printed = "".join(process.communicate())
    assert process.returncode == -9 and not (lost / "report.json").exists()
    steps = pushed_steps(f"{URL}/tickets")
    shutil.rmtree(lost)

    found = tmp_path / "another machine" / "run"
    printed += call(project, "remote", "pull", f"{URL}/tickets", str(found))
    newest = Checkpoints(found / "checkpoints").newest(recover=False)
    assert newest and f"step-{newest.step:08d}" == steps[-1] and 16 <= newest.step < 64
    assert f"newest checkpoint: step {newest.step}" in printed
    printed += call(project, "resume", str(found), "--quiet")
    assert (found / WEIGHTS).read_bytes() == (tmp_path / "undisturbed" / WEIGHTS).read_bytes()
    events = [json.loads(line) for line in (found / "events.jsonl").read_text().splitlines()]
    (again,) = [e for e in events if e["event"] == "training-started" and e["first_step"]]
    assert again["first_step"] == newest.step
    trained = {e["step"] for e in events if e["event"] == "step-finished"}
    assert trained == set(range(1, 65))

    # The continued run was pushed to the end, to the same place.
    final = tmp_path / "final"
    pull_run(Bucket(f"{URL}/tickets"), final)
    for name in ("report.json", "events.jsonl", WEIGHTS):
        assert (final / name).read_bytes() == (found / name).read_bytes()
    assert json.loads((final / "report.json").read_text())["run"]["status"] == "ok"
    printed += call(project, "remote", "push", str(final))
    assert "0 B uploaded" in printed
    refuse_credentials(printed, tmp_path)


def refuse_credentials(printed: str, folder: Path) -> None:
    """Fail if a credential was printed, or is in a file of a run or in the bucket."""
    files = fsspec.filesystem("s3", use_listings_cache=False)
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    contents += [files.cat_file(name) for name in files.find("bucket")]
    assert len(contents) > 50
    for text in (ACCESS_KEY, SECRET):
        assert text in os.environ.values()
        assert text not in printed and not [c for c in contents if text.encode() in c]


@pytest.mark.usefixtures("s3")
def test_a_run_whose_bucket_does_not_exist_ends_with_its_report(
    project: Path, tmp_path: Path
) -> None:
    printed = call(
        project, "run", "run.toml", "--out", str(tmp_path / "run"),
        "--set", "remote.url=s3://nowhere/runs", "--set", "technique.max_steps=8",
    )  # fmt: skip
    assert "training continues" in printed and "bucket does not exist" in printed
    assert "tunesmith remote push" in printed and "the end of the run is not in the" in printed
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["run"]["status"] == "ok"
