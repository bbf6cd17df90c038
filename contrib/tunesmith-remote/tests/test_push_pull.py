"""Push and pull: the same bytes in each store, and what happens when something goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from run_folders import add_artifact, add_step, make_run, read_run

from tunesmith.errors import EnvironmentProblem, IntegrityError, UsageError
from tunesmith.storage import Checkpoints
from tunesmith_remote.bucket import Bucket
from tunesmith_remote.pull import pull_run
from tunesmith_remote.push import push_run
from tunesmith_remote.snapshot import OBJECTS, SNAPSHOTS, find_mirror, list_numbers


def test_what_is_pulled_is_what_was_pushed(url: str, tmp_path: Path) -> None:
    run, bucket = make_run(tmp_path / "run"), Bucket(url)
    first = push_run(run, bucket)
    assert read_run(run) == read_run(pull_run(bucket, tmp_path / "a") and tmp_path / "a")
    again = push_run(run, bucket)
    assert first.uploaded > 2000 and again.uploaded == 0  # nothing is new
    add_step(run, 30)  # deletes step 10
    add_artifact(run)
    (run / "report.json").write_text("{}")
    pushed = push_run(run, bucket)
    new = [path for path in run.rglob("step-00000030/**/*") if path.is_file()]
    assert 0 < pushed.uploaded - sum(path.stat().st_size for path in new) < 1200
    pulled = pull_run(bucket, tmp_path / "b")
    assert read_run(tmp_path / "b") == read_run(run) and not pulled.problems
    newest = Checkpoints(tmp_path / "b" / "checkpoints").newest()
    assert newest and newest.step == 30
    assert pulled.size == sum(map(len, read_run(run).values()))


def test_what_no_kept_snapshot_needs_is_deleted(url: str, tmp_path: Path) -> None:
    run, bucket = make_run(tmp_path / "run"), Bucket(url)
    for step in (30, 40, 50, 60, 70):
        push_run(run, bucket)
        add_step(run, step)
    push_run(run, bucket)
    assert list_numbers(bucket) == [5, 6]
    # Checkpoints 50, 60, 70 of three files each, two logs, and the run file.
    assert len(bucket.list_sizes(OBJECTS)) == 3 * 3 + 2 + 1


def test_what_belongs_to_one_machine_stays_there(memory_url: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "checkpoints" / ".staging-1").mkdir()
    (run / "checkpoints" / ".staging-1" / "half").write_text("half")
    (run / ".hidden").write_text("")
    (run / "link").symlink_to("run.toml")
    files = push_run(run, Bucket(memory_url)).snapshot.files
    assert {path for path in files if not path.startswith("checkpoints/step-")} == {
        "run.toml",
        "events.jsonl",
    }
    pull_run(Bucket(memory_url), tmp_path / "pulled")
    assert (tmp_path / "pulled" / "lock").is_file()
    assert not (tmp_path / "pulled" / "lease").exists()


# --------------------------------------------------------------------------- interrupted


class Faulty(MemoryFileSystem):  # type: ignore[misc]
    """A store that fails at the n-th request that changes something; ``torn``: half-written."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    left = -1
    torn = False

    def _count(self, path: str, content: bytes) -> None:
        Faulty.left -= 1
        if Faulty.left == 0:
            if Faulty.torn:
                super().pipe_file(path, content[: len(content) // 2])
            raise ConnectionResetError("cut")

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self._count(rpath, Path(lpath).read_bytes())
        super().put_file(lpath, rpath, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._count(path, value)
        super().pipe_file(path, value, mode, **options)

    def rm_file(self, path: str) -> None:
        self._count(path, b"")
        super().rm_file(path)


fsspec.register_implementation("faulty", Faulty, clobber=True)


@pytest.mark.parametrize("torn", [False, True])
def test_an_upload_that_stops_anywhere_leaves_a_valid_state(tmp_path: Path, torn: bool) -> None:
    """Cut at each request, then pulled; then pushed again, and pulled again."""
    Faulty.torn = torn
    requests = cuts = 0
    while True:
        requests += 1
        folder = tmp_path / str(requests)
        run, bucket = make_run(folder / "run", (10, 20)), Bucket(f"faulty://runs/{torn}-{requests}")
        Faulty.left = -1
        push_run(run, bucket)
        before = read_run(run)
        add_step(run, 30)
        push_run(run, bucket)  # so that the next one has something to delete
        middle = read_run(run)
        add_step(run, 40)
        Faulty.left = requests
        try:
            push_run(run, bucket)
        except EnvironmentProblem as error:
            assert "ConnectionResetError: cut" in error.message
            cuts += 1
        else:
            break
        finally:
            Faulty.left = -1
        pull_run(bucket, folder / "pulled")
        after = read_run(run)
        assert read_run(folder / "pulled") in (middle, after) and after != middle != before
        push_run(run, bucket)
        pull_run(bucket, folder / "again")
        assert read_run(folder / "again") == after
    # Uploads: three files of a checkpoint, the log, the snapshot. Deletions: the same five.
    assert cuts == 10


def test_a_checkpoint_that_is_deleted_during_the_upload_is_skipped(tmp_path: Path) -> None:
    """The run rotates its checkpoints while they are uploaded."""
    run = make_run(tmp_path / "run", (10, 20))

    class Rotating(Bucket):
        uploads = 0

        def upload(self, source: Path, name: str) -> None:
            Rotating.uploads += 1
            if Rotating.uploads == 2:
                add_step(run, 30)
            super().upload(source, name)

    bucket = Rotating("memory://rotating")
    pushed = push_run(run, bucket)
    steps = {path.split("/")[1] for path in pushed.snapshot.files if path.startswith("checkp")}
    assert steps == {"step-00000020", "step-00000030"} and not pushed.damaged
    pull_run(bucket, tmp_path / "pulled")
    assert read_run(tmp_path / "pulled") == read_run(run)


def test_the_log_is_read_while_nothing_is_committed(
    memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artifact that is committed after the folders were listed is not named by the log."""
    run = make_run(tmp_path / "run")
    real = Path.read_bytes
    commits = iter([lambda: add_artifact(run)])

    def read_bytes(path: Path) -> bytes:
        if path.name == "events.jsonl":
            next(commits, lambda: None)()
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    files = push_run(run, Bucket(memory_url)).snapshot.files
    pull_run(Bucket(memory_url), tmp_path / "pulled")
    log = (tmp_path / "pulled" / "events.jsonl").read_text()
    assert ("training-finished" in log) == ("artifact/model" in files)
    assert "training-finished" in log


def test_a_pull_that_fails_leaves_nothing(memory_url: str, tmp_path: Path) -> None:
    bucket = Bucket(memory_url)
    push_run(make_run(tmp_path / "run"), bucket)

    class Cut(Bucket):
        def download(self, name: str, target: Path) -> bool:
            if target.name == "model.bin":
                raise EnvironmentProblem("cut")
            return super().download(name, target)

    (tmp_path / "machine").mkdir()
    with pytest.raises(EnvironmentProblem):
        pull_run(Cut(memory_url), tmp_path / "machine" / "run")
    assert not list((tmp_path / "machine").iterdir())
    pull_run(bucket, tmp_path / "machine" / "run")
    with pytest.raises(UsageError, match="already exists"):
        pull_run(bucket, tmp_path / "machine" / "run")


# --------------------------------------------------------------------------- damage


def change_byte(bucket: Bucket, name: str) -> None:
    content = bytearray(bucket.read(name) or b"")
    content[len(content) // 2] ^= 1
    bucket.write(name, bytes(content))


def test_a_changed_byte_anywhere_is_found(url: str, tmp_path: Path) -> None:
    """In each object and snapshot: the pulled run is an older state, or there is an error."""
    run, bucket = make_run(tmp_path / "run", (10, 20)), Bucket(url)
    first = push_run(run, bucket).snapshot
    before = read_run(run)
    add_step(run, 30)
    second = push_run(run, bucket).snapshot
    after = read_run(run)
    names = sorted(
        {f.name for f in (*first.files.values(), *second.files.values())}
        | {first.name, second.name}
    )
    for number, name in enumerate(names):
        change_byte(bucket, name)
        target = tmp_path / f"pulled-{number}"
        paths = {path for path, file in second.files.items() if file.name == name}
        if "run.toml" in paths:  # of both snapshots
            with pytest.raises(IntegrityError, match=r"run\.toml was changed in the bucket"):
                pull_run(bucket, target)
            assert not target.exists()
        else:
            pulled = pull_run(bucket, target)
            found = read_run(target)
            assert bool(pulled.problems) == (bool(paths) or name == second.name)
            steps = Checkpoints(target / "checkpoints").steps()
            if not pulled.problems:
                assert found == after
            elif steps == [10, 20]:
                assert found == before
            else:
                assert found == {n: after[n] for n in found} and steps in ([20], [30])
        change_byte(bucket, name)
    assert list_numbers(bucket) == [1, 2]


@pytest.mark.parametrize(
    "damaged", ["snapshot", "events.jsonl", "checkpoints/step-00000030/MANIFEST.json"]
)
def test_what_was_pulled_in_place_of_something_damaged_is_continued_and_pushed(
    memory_url: str, tmp_path: Path, damaged: str
) -> None:
    """The run that was thought lost has still pushed the damaged snapshot, and is refused."""
    lost, bucket = make_run(tmp_path / "lost"), Bucket(memory_url)
    push_run(lost, bucket)
    add_step(lost, 30)
    second = push_run(lost, bucket).snapshot
    change_byte(bucket, second.name if damaged == "snapshot" else second.files[damaged].name)
    assert pull_run(bucket, tmp_path / "run").problems
    add_step(tmp_path / "run", 40)
    push_run(tmp_path / "run", bucket)
    assert not pull_run(bucket, tmp_path / "again").problems
    assert read_run(tmp_path / "again") == read_run(tmp_path / "run")
    with pytest.raises(UsageError, match="does not continue it"):
        push_run(lost, bucket)


def test_a_snapshot_cannot_lead_out_of_the_folder(memory_url: str, tmp_path: Path) -> None:
    bucket = Bucket(memory_url)
    snapshot = push_run(make_run(tmp_path / "run"), bucket).snapshot
    file = snapshot.files["run.toml"]
    for path in ("../escaped", "/tmp/escaped", "a/../../escaped", "lease", "x/.hidden"):
        hostile = snapshot.model_copy(update={"files": {path: file}})
        bucket.write(snapshot.name, hostile.encode())
        with pytest.raises(IntegrityError, match="snapshot 1 is damaged"):
            pull_run(bucket, tmp_path / "pulled")
    assert not (tmp_path / "escaped").exists()


def test_a_damaged_checkpoint_is_not_pushed_and_an_artifact_refused(
    memory_url: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run")
    (run / "checkpoints" / "step-00000020" / "state.json").write_text('{"step": 21}')
    pushed = push_run(run, Bucket(memory_url))
    assert list(pushed.damaged) == ["checkpoints/step-00000020"]
    pull_run(Bucket(memory_url), tmp_path / "pulled")
    assert Checkpoints(tmp_path / "pulled" / "checkpoints").steps() == [10]
    add_artifact(run)
    (run / "artifact" / "model").write_text("changed")
    with pytest.raises(IntegrityError, match=r"model: .*changed"):
        push_run(run, Bucket(memory_url))


@pytest.mark.parametrize("damage", ["changed file", "changed manifest", "deleted manifest"])
def test_a_checkpoint_that_is_damaged_after_its_push_stays_intact_in_the_bucket(
    memory_url: str, tmp_path: Path, damage: str
) -> None:
    run, bucket = make_run(tmp_path / "run"), Bucket(memory_url)
    push_run(run, bucket)
    before = read_run(run)
    manifest = run / "checkpoints" / "step-00000020" / "MANIFEST.json"
    if damage == "changed file":
        (manifest.parent / "state.json").write_text('{"step": 21}')
    elif damage == "changed manifest":
        manifest.write_bytes(manifest.read_bytes().replace(b"20", b"21"))
    else:
        manifest.unlink()
    for number in range(3):  # what no kept snapshot needs is deleted
        assert not push_run(run, bucket).damaged
        pull_run(bucket, tmp_path / str(number))
        assert read_run(tmp_path / str(number)) == before


def test_of_a_damaged_checkpoint_that_the_bucket_lost_too_nothing_is_pushed(
    memory_url: str, tmp_path: Path
) -> None:
    run, bucket = make_run(tmp_path / "run"), Bucket(memory_url)
    files = push_run(run, bucket).snapshot.files
    damaged = "checkpoints/step-00000020"
    (run / damaged / "MANIFEST.json").write_text("{}")
    bucket.delete(files[f"{damaged}/state.json"].name)
    assert list(push_run(run, bucket).damaged) == [damaged]
    assert not pull_run(bucket, tmp_path / "pulled").problems
    assert Checkpoints(tmp_path / "pulled" / "checkpoints").steps() == [10]


# --------------------------------------------------------------------------- two machines


def test_of_two_copies_of_a_run_one_goes_on(url: str, tmp_path: Path) -> None:
    """The one that was pulled may push; then the one that was thought lost may not."""
    bucket = Bucket(url)
    lost = make_run(tmp_path / "lost")
    push_run(lost, bucket)
    pull_run(bucket, tmp_path / "a")
    pull_run(bucket, tmp_path / "b")
    add_step(tmp_path / "a", 30)
    push_run(tmp_path / "a", bucket)
    push_run(tmp_path / "a", bucket)
    for other in (lost, tmp_path / "b"):
        add_step(other, 40)
        with pytest.raises(UsageError, match="does not continue it"):
            push_run(other, bucket)
    with pytest.raises(UsageError, match="does not continue it"):
        push_run(make_run(tmp_path / "another run"), bucket)
    assert find_mirror(tmp_path / "another run") is None
    pull_run(bucket, tmp_path / "c")
    assert read_run(tmp_path / "c") == read_run(tmp_path / "a")


def test_a_copy_elsewhere_does_not_end_the_first_mirror(memory_url: str, tmp_path: Path) -> None:
    """A run is pushed to one place, once to another, and to the first again."""
    first, second = Bucket(f"{memory_url}/first"), Bucket(f"{memory_url}/second")
    run = make_run(tmp_path / "run")
    for number, bucket in enumerate([first, second, first, second]):
        add_step(run, 30 + number)
        push_run(run, bucket)
        pull_run(bucket, tmp_path / str(number))
        assert read_run(tmp_path / str(number)) == read_run(run)
    add_step(tmp_path / "3", 40)
    push_run(tmp_path / "3", second)
    with pytest.raises(UsageError, match="does not continue it"):
        push_run(run, second)


def test_of_two_pushes_at_the_same_moment_one_is_refused(url: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    push_run(run, Bucket(url))
    pull_run(Bucket(url), tmp_path / "other")

    class Slow(Bucket):
        def create(self, name: str, content: bytes) -> bool:
            push_run(tmp_path / "other", Bucket(url))
            return super().create(name, content)

    with pytest.raises(UsageError, match="another machine is pushing"):
        push_run(run, Slow(url))
    newest = json.loads(Bucket(url).read(f"{SNAPSHOTS}/00000002.json") or b"{}")
    mirror = find_mirror(tmp_path / "other")
    assert mirror and newest["writer"] == mirror.writer


def test_nothing_is_pulled_from_nothing(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run was pushed"):
        pull_run(Bucket(url), tmp_path / "run")
    assert not (tmp_path / "run").exists()
