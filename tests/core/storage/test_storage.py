"""Storage on a disk that works; tests/faults has disks that fail."""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithWarning, UsageError
from tunesmith.events import FindingReported
from tunesmith.storage import (
    MANIFEST,
    Checkpoint,
    Checkpoints,
    Disk,
    EventLog,
    RunFolder,
    commit_folder,
    lock,
    manifest,
    read_events,
    read_known_events,
    read_manifest,
    verify_folder,
    write_atomic,
)
from tunesmith.testing.sample_run import sample_event

FILES = {
    "model.safetensors": b"weights " * 40,
    "optimizer.pt": b"moments",
    "rng/cpu.bin": b"\x01\x02",
}


def writer(tag: str = "") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, content in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content + tag.encode())

    return write


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


class Recorder(Disk):
    """Notes flushes and renames by the names of what they touch."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._names: dict[int, str] = {}

    def open(self, path: Path, flags: int) -> int:
        fd = super().open(path, flags)
        self._names[fd] = _plain(path)
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.calls.append(f"write {self._names[fd]}")
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self.calls.append(f"fsync {self._names[fd]}")
        super().fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self.calls.append(f"rename {_plain(source)} {_plain(target)}")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.calls.append("unlink")
        super().unlink(path)


def _plain(path: Path) -> str:
    return re.sub(r"^\.(staging|del)-.*", r"\1", path.name)


# --- one file --------------------------------------------------------------------------------


def test_write_atomic_flushes_the_bytes_then_renames_then_flushes_the_name(tmp_path: Path) -> None:
    disk = Recorder()
    write_atomic(tmp_path / "run.toml", "a = 1\n", disk=disk)
    assert disk.calls == [
        "write staging",
        "fsync staging",
        "rename staging run.toml",
        f"fsync {tmp_path.name}",
    ]
    assert (tmp_path / "run.toml").read_text() == "a = 1\n"


@pytest.mark.parametrize("name", ["a b.toml", "ü:ß.toml", "x" * 240])
def test_write_atomic_replaces_files_of_any_name(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, b"old")
    write_atomic(tmp_path / name, "neü")
    assert (tmp_path / name).read_bytes() == "neü".encode()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_write_atomic_completes_partial_writes(tmp_path: Path) -> None:
    class Slow(Disk):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            return super().write(fd, data[:3])

    write_atomic(tmp_path / "file", b"0123456789", disk=Slow())
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old"


# --- space -----------------------------------------------------------------------------------


# --- run folders -----------------------------------------------------------------------------


def test_a_run_folder_is_named_after_time_and_name(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs", "Tickets: LoRA!")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{4}_tickets-lora_[0-9a-f]{4}", run.id)
    assert run.path == tmp_path / "runs" / run.id
    assert RunFolder.open(run.path) == run
    places = [run.run_file, run.events, run.checkpoints]
    assert len(set(places)) == 3
    assert all(place.parent == run.path for place in places)


@pytest.mark.parametrize("name", ["", "..", "../../etc", "日本", "x" * 300, "a\x00b"])
def test_any_name_gives_a_plain_folder_below_the_root(tmp_path: Path, name: str) -> None:
    run = RunFolder.create(tmp_path, name)
    assert run.path.parent == tmp_path
    assert run.path.is_dir()


def test_creating_a_run_is_durable_from_the_root_down(tmp_path: Path) -> None:
    disk = Recorder()
    run = RunFolder.create(tmp_path / "a" / "runs", "x", disk=disk)
    flushed = [call.removeprefix("fsync ") for call in disk.calls if call.startswith("fsync")]
    assert flushed == [tmp_path.name, "a", "lock", run.id, "runs"]


def test_two_processes_that_choose_one_name_get_two_folders(tmp_path: Path) -> None:
    class Late(Disk):
        """Another process creates the first folder a moment earlier."""

        taken: ClassVar[list[Path]] = []

        def mkdir(self, path: Path) -> None:
            if not self.taken:
                self.taken.append(path)
                path.mkdir()
            super().mkdir(path)

    run = RunFolder.create(tmp_path, "x", disk=Late())
    assert run.path not in Late.taken and run.path.is_dir()


@pytest.mark.parametrize(
    "path",
    [
        "events.jsonl",
        "EVENTS.jsonl",
        "./x/../report.json",
        "run.toml",
        "lock",
        "artifact/a.html",
        "evaluations/tuned.loss.jsonl",
        "checkpoints/step-00000001/x",
        ".",
        "",
    ],
)
def test_a_file_of_the_run_is_not_for_a_reporter(tmp_path: Path, path: str) -> None:
    run = RunFolder.create(tmp_path, "x")
    for absolute in (path, str(run.path / path), f"../{run.id}/{path}"):
        with pytest.raises(UsageError, match="must not write to a file or folder of the run"):
            run.resolve_report_path(absolute)


def test_other_paths_are_for_reporters(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "x")
    assert run.resolve_report_path("pages/a.html") == run.path / "pages" / "a.html"
    assert run.resolve_report_path("/tmp/run.toml") == Path("/tmp/run.toml")


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("export.json", "it is an export; its README.md"),
        ("evaluation.json", "its results are in evaluation.json"),
        ("adapter_config.json", "`tunesmith evaluate` accepts it"),
        ("run.toml", "start one with `tunesmith run`"),
        ("2026_x/lock", "such as {folder}/2026_x; `tunesmith runs {folder}` lists them"),
        ("notes.txt", "`tunesmith run` prints the run folder"),
    ],
)
def test_a_folder_that_is_no_run_is_recognized(tmp_path: Path, file: str, hint: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(UsageError) as refused:
        RunFolder.open(tmp_path)
    assert hint.format(folder=tmp_path) in str(refused.value.hint)


def test_a_folder_within_a_run_names_the_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "x").path
    (run / "artifact").mkdir()
    with pytest.raises(UsageError) as refused:
        RunFolder.open(run / "artifact")
    assert refused.value.hint == f"the folder is inside a run: {run}"


def test_only_run_folders_are_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the folder of a run"):
        RunFolder.open(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        RunFolder.open(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        RunFolder.create(tmp_path / "file", "x")


# --- leftovers -------------------------------------------------------------------------------


def test_the_holder_removes_leftovers_except_in_committed_folders(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".staging-keep").touch()
    run = RunFolder.create(tmp_path, "x")
    Checkpoints(run.checkpoints).save(1, writer())
    commit_folder(run.path / "artifact", lambda folder: (folder / ".staging-mine").touch())
    for place in (run.path, run.checkpoints, run.path / "stages" / "reward"):
        (place / ".staging-1").mkdir(parents=True)
        (place / ".staging-1" / "half").touch()
        (place / ".del-2").mkdir()
    (run.path / ".staging-file").touch()
    (run.path / "link").symlink_to("artifact")
    (run.path / ".staging-link").symlink_to(outside)
    with lock(run.path):
        assert hidden(run.path) == [".staging-mine"]
    assert verify_folder(run.path / "artifact") == []
    assert hidden(outside) == [".staging-keep"]


# --- the event log ---------------------------------------------------------------------------


def events(path: Path) -> list[Any]:
    return list(read_events(path))


def test_one_write_per_line_and_a_flush_only_on_demand(tmp_path: Path) -> None:
    disk = Recorder()
    with EventLog(tmp_path / "events.jsonl", disk=disk) as log:
        log.append({"a": 1})
        log.append({"b": "x" * 100_000}, durable=True)
    line = "write events.jsonl"
    assert disk.calls == [f"fsync {tmp_path.name}", line, line, "fsync events.jsonl"]
    log.close()


@pytest.mark.parametrize(
    "torn", [b'{"b": 2', b"\x00" * 5000, b"x" * 200_000, b'"b"', b"\xff", b"}"]
)
def test_an_incomplete_last_line_is_ignored_and_then_removed(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn)
    assert events(path) == [{"a": 1}]
    with EventLog(path) as log:
        log.append({"c": 3})
    assert path.read_bytes() == b'{"a": 1}\n{"c": 3}\n'


@pytest.mark.parametrize("before", [b"", b'{"a": 1}\n'])
def test_a_last_line_without_line_end_is_kept(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(before + b'{"b": 2}')
    assert events(path)[-1] == {"b": 2}
    with EventLog(path) as log:
        log.append({"c": 3})
    assert path.read_bytes() == before + b'{"b": 2}\n{"c": 3}\n'


def test_a_log_of_one_incomplete_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a')
    EventLog(path).close()
    assert path.read_bytes() == b""
    assert events(path) == events(tmp_path / "missing.jsonl") == []


def test_damage_inside_the_log_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": \n{"c": 3}\n')
    with pytest.raises(IntegrityError, match=r"events\.jsonl:2: the line is not a JSON object"):
        events(path)


def test_skipped_kinds_are_not_decoded_and_later_lines_keep_their_number(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    steps = b'{"time": 1.5, "event": "step-finished", damaged\n' * 2
    text = sample_event(FindingReported, 'of "event": "step-finished"').to_json()
    finding = json.dumps({"time": 1.5, **text}).encode()
    path.write_bytes(steps + finding + b"\n" + b'{"event": "finding"}\n')
    reader = read_known_events(path, skipped=["step-finished"])
    assert next(reader) == sample_event(FindingReported, 'of "event": "step-finished"')
    with pytest.raises(IntegrityError, match=r"events\.jsonl:4: the field"):
        next(reader)
    with pytest.raises(IntegrityError, match=r"events\.jsonl:1: the line is not a JSON object"):
        next(read_known_events(path))


def test_a_line_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b"')
    reader = read_events(path)
    assert next(reader) == {"a": 1}
    with path.open("ab") as file:
        file.write(b": 2}\n")
    assert list(reader) in ([], [{"b": 2}])


def test_a_reader_stops_at_the_end_it_has_seen(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}')
    reader = read_events(path)
    assert next(reader) == {"a": 1}
    with path.open("ab") as file:
        file.write(b'\n{"b": 2}\n')
    assert list(reader) == []


@pytest.mark.parametrize("taken", [0, 1, 7, 12])
def test_an_incomplete_line_of_a_full_disk_is_removed(tmp_path: Path, taken: int) -> None:
    class Full(Disk):
        full = False

        def write(self, fd: int, data: bytes | memoryview) -> int:
            if not self.full:
                return super().write(fd, data)
            if taken and len(data) == len(b'{"b": "lost"}\n'):
                return super().write(fd, data[:taken])
            raise OSError(errno.ENOSPC, "No space left on device")

    path, disk = tmp_path / "events.jsonl", Full()
    with EventLog(path, disk=disk) as log:
        log.append({"a": 1})
        disk.full = True
        with pytest.raises(
            EnvironmentProblem, match=r"the disk is full, .* free, at least 14 B needed"
        ):
            log.append({"b": "lost"})
        assert path.read_bytes() == b'{"a": 1}\n'
        disk.full = False
        log.append({"c": 3})
    assert events(path) == [{"a": 1}, {"c": 3}]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:

        def work(number: int) -> None:
            for turn in range(50):
                log.append({"thread": number, "turn": turn, "pad": "x" * 5000})

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({(line["thread"], line["turn"]) for line in read_events(path)}) == 200


def test_nan_and_infinity_are_read_back_from_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append({"loss": math.nan, "all": (math.inf, -math.inf, 1.5), "deep": {"x": math.inf}})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(path.read_text("ascii"), parse_constant=refuse)
    (line,) = events(path)
    assert math.isnan(line["loss"])
    assert line["all"] == [math.inf, -math.inf, 1.5]
    assert line["deep"] == {"x": math.inf}


def test_a_too_deeply_nested_line_is_damage_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a":' + b"[" * 100_000 + b"\n")
    with pytest.raises(IntegrityError):
        events(path)


def as_utf16(value: Any) -> Any:
    """A pair of surrogates is one character in JSON: the only values that become equal."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if isinstance(value, list):
        return [as_utf16(item) for item in value]
    if isinstance(value, dict):
        return {as_utf16(key): as_utf16(item) for key, item in value.items()}
    return value


texts = st.text(st.characters(codec=None, exclude_categories=())) | st.sampled_from(
    ["\x00", "\n", "\r\n", "\u2028", "\ud800", "\udfff", "\x1b[31m", '"', "\\"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.dictionaries(texts, values, max_size=4), max_size=4), st.binary(max_size=20))
def test_whatever_is_appended_is_read_back(
    tmp_path: Path, written: list[dict[str, Any]], tail: bytes
) -> None:
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    with EventLog(path) as log:
        for event in written:
            log.append(event)
    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == len(written)
    expected = [as_utf16(event) for event in written]
    assert events(path) == expected
    with path.open("ab") as file:  # a crash leaves some bytes that end in the middle of a line
        file.write(b"{" + tail.replace(b"\n", b"").replace(b"}", b""))
    with EventLog(path) as log:
        log.append({"last": True})
    assert events(path) == [*expected, {"last": True}]


# --- committed folders -----------------------------------------------------------------------


def test_a_commit_flushes_files_folders_then_renames_then_flushes_the_parent(
    tmp_path: Path,
) -> None:
    disk = Recorder()
    commit_folder(tmp_path / "artifact", writer(), {"base": "x"}, disk=disk)
    files, rest = disk.calls[:3], disk.calls[3:]
    assert sorted(files) == ["fsync cpu.bin", "fsync model.safetensors", "fsync optimizer.pt"]
    assert rest == [
        f"write {MANIFEST}",
        f"fsync {MANIFEST}",
        "fsync rng",
        "fsync staging",
        "rename staging artifact",
        f"fsync {tmp_path.name}",
    ]


def test_a_replacement_keeps_the_old_folder_until_the_new_name_is_durable(tmp_path: Path) -> None:
    commit_folder(tmp_path / "artifact", writer("old"))
    disk = Recorder()
    commit_folder(tmp_path / "artifact", writer("new"), disk=disk)
    start = disk.calls.index("rename artifact .old-artifact")
    assert disk.calls[start : start + 5] == [
        "rename artifact .old-artifact",
        "rename staging artifact",
        f"fsync {tmp_path.name}",
        "rename .old-artifact del",
        "unlink",
    ]
    assert (tmp_path / "artifact" / "optimizer.pt").read_bytes() == b"momentsnew"
    assert hidden(tmp_path) == []


def test_the_manifest_lists_what_was_committed(tmp_path: Path) -> None:
    meta = {"base": "SmolLM2", "loss": math.nan, "pair": (1, 2), 3: "x", "s": "\ud83d" + "\ude00"}
    path = commit_folder(tmp_path / "deep" / "artifact", writer(), meta)  # type: ignore[arg-type]
    read = read_manifest(path)
    assert {name: file.size for name, file in read.files.items()} == {
        name: len(content) for name, content in FILES.items()
    }
    assert math.isnan(read.meta.pop("loss"))
    assert read.meta == {"base": "SmolLM2", "pair": [1, 2], "3": "x", "s": "\U0001f600"}
    assert read.step is None
    assert verify_folder(path) == []


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), UsageError("mine")])
def test_an_exception_of_the_writer_passes_and_leaves_the_old_folder(
    tmp_path: Path, error: BaseException
) -> None:
    path = commit_folder(tmp_path / "artifact", writer("old"))

    def write(folder: Path) -> None:
        writer("new")(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        commit_folder(path, write)
    assert caught.value is error
    assert verify_folder(path) == []
    assert (path / "optimizer.pt").read_bytes() == b"momentsold"
    assert hidden(tmp_path) == []


def test_a_replacement_that_fails_is_rolled_back_at_once(tmp_path: Path) -> None:
    class Refusing(Disk):
        def rename(self, source: Path, target: Path) -> None:
            if source.name.startswith(".staging"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().rename(source, target)

    path = commit_folder(tmp_path / "artifact", writer("old"))
    with pytest.raises(EnvironmentProblem, match="the disk reported an error"):
        commit_folder(path, writer("new"), disk=Refusing())
    assert verify_folder(path) == []
    assert hidden(tmp_path) == []


def test_a_full_disk_is_recognized_behind_the_error_of_a_library(tmp_path: Path) -> None:
    def write(folder: Path) -> None:  # the error that safetensors raises
        raise ArithmeticError("Error while serializing: I/O error: No space left on device (os 28)")

    with pytest.raises(EnvironmentProblem, match="the disk is full"):
        commit_folder(tmp_path / "artifact", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trick", ["file link", "folder link", "fifo", "manifest"])
def test_a_writer_may_create_only_regular_files(tmp_path: Path, trick: str) -> None:
    def write(folder: Path) -> None:
        writer()(folder)
        if trick == "manifest":
            (folder / MANIFEST).write_text("{}")
        elif trick == "fifo":
            os.mkfifo(folder / "rng" / "pipe")
        else:
            (folder / "rng" / "link").symlink_to("/etc/passwd" if trick == "file link" else "/etc")

    with pytest.raises(IntegrityError):
        commit_folder(tmp_path / "artifact", write)
    assert list(tmp_path.iterdir()) == []


def test_folders_of_other_programs_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("thesis", "file"):
        with pytest.raises(UsageError, match="was not written by tunesmith"):
            commit_folder(tmp_path / name, writer())
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "mine"
    assert verify_folder(commit_folder(tmp_path / "empty", writer())) == []


def test_meta_that_is_not_json_fails_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        commit_folder(tmp_path / "artifact", writer(), {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


# --- damage ----------------------------------------------------------------------------------


def flip(position: float) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        at = int((len(content) - 1) * position)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return change


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "truncate 0": lambda content: b"",
    "truncate 50": lambda content: content[: len(content) // 2],
    "truncate 1": lambda content: content[:-1],
    "flip first": flip(0),
    "flip middle": flip(0.5),
    "flip last": flip(1),
    "zeros": lambda content: bytes(len(content)),
    "grow": lambda content: content + b"\0",
}
EVERY_FILE = [*FILES, MANIFEST]


@functools.cache
def _saved_once() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="tunesmith-storage-")
    checkpoints = Checkpoints(Path(folder.name) / "checkpoints")
    checkpoints.save(20, writer("a"), meta={"step": 20})
    checkpoints.save(40, writer("b"), meta={"step": 40})
    return folder


def two_checkpoints(folder: Path) -> tuple[Checkpoints, list[str]]:
    """Checkpoints 20 and 40, copied rather than saved: flushing takes a while."""
    problems: list[str] = []
    shutil.copytree(_saved_once().name, folder, dirs_exist_ok=True)
    return Checkpoints(folder / "checkpoints", on_problem=problems.append), problems


def damaged(path: Path, change: str) -> None:
    match change:
        case "delete":
            path.unlink()
        case "link":
            content = path.parent / "content"
            path.rename(content)
            path.symlink_to(content)
        case "swap":
            parts = [part.replace("40", "20") if "step-" in part else part for part in path.parts]
            other = Path(*parts)
            spare = path.with_name("spare")
            path.rename(spare)
            other.rename(path)
            spare.rename(other)
        case _:
            path.write_bytes(CHANGES[change](path.read_bytes()))


@pytest.mark.parametrize("change", [*CHANGES, "delete", "link"])
@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(
    tmp_path: Path, name: str, change: str
) -> None:
    checkpoints, problems = two_checkpoints(tmp_path)
    damaged(checkpoints.folder / "step-00000040" / name, change)
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, found.meta) == (20, {"step": 20})
    assert found.path == checkpoints.folder / "step-00000020"
    assert len(problems) == 1
    assert name in problems[0]
    assert "step-00000040" in problems[0]
    assert [path.name for path in checkpoints.folder.glob(".bad-*")] == [".bad-step-00000040"]
    assert checkpoints.newest() == found
    assert len(problems) == 1


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_file_swapped_with_another_step_damages_both(tmp_path: Path, name: str) -> None:
    checkpoints, problems = two_checkpoints(tmp_path)
    damaged(checkpoints.folder / "step-00000040" / name, "swap")
    assert checkpoints.newest() is None
    assert len(problems) == 2
    assert all(name in line for line in problems)


def test_intact_checkpoints_with_swapped_names_are_refused(tmp_path: Path) -> None:
    checkpoints, problems = two_checkpoints(tmp_path)
    (checkpoints.folder / "step-00000020").rename(checkpoints.folder / "step-00000060")
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 40
    assert "belongs to step 20, not to 60" in problems[0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("delete", "is missing"),
        ("truncate 1", "is truncated, has 320 bytes instead of 321"),
        ("grow", "has grown, has 322 bytes instead of 321"),
        ("flip middle", "was changed, its SHA-256 differs"),
        ("link", "is a symbolic link"),
    ],
)
def test_verify_describes_the_problem(tmp_path: Path, change: str, what: str) -> None:
    path = commit_folder(tmp_path / "artifact", writer("a"))
    damaged(path / "model.safetensors", change)
    problems = {problem.file: problem.message for problem in verify_folder(path)}
    assert problems.pop("model.safetensors") == what
    assert problems == ({"content": "is not in the manifest"} if change == "link" else {})


def test_verify_finds_extra_files(tmp_path: Path) -> None:
    path = commit_folder(tmp_path / "artifact", writer())
    (path / "rng" / "payload.pkl").write_bytes(b"x")
    os.mkfifo(path / "pipe")
    damaged(path / "optimizer.pt", "flip first")
    assert [str(problem) for problem in verify_folder(path)] == [
        "optimizer.pt: was changed, its SHA-256 differs",
        "pipe: is not a regular file",
        "rng/payload.pkl: is not in the manifest",
    ]


def test_verify_of_a_folder_without_a_manifest(tmp_path: Path) -> None:
    assert [str(problem) for problem in verify_folder(tmp_path)] == [f"{MANIFEST}: is missing"]
    with pytest.raises(IntegrityError, match="is missing"):
        read_manifest(tmp_path / "nowhere")
    (tmp_path / MANIFEST).mkdir()
    assert [str(problem) for problem in verify_folder(tmp_path)] == [
        f"{MANIFEST}: is not a regular file"
    ]


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "rng/../../secret", "rng//cpu.bin", "./optimizer.pt", ""]
)
def test_a_manifest_with_a_path_outside_is_refused_despite_a_valid_seal(
    tmp_path: Path, name: str
) -> None:
    path = commit_folder(tmp_path / "artifact", writer())
    read = read_manifest(path)
    files = {**read.files, name: read.files["optimizer.pt"]}
    forged = manifest.Manifest(files=files, meta={}, created=read.created)
    (path / MANIFEST).write_bytes(manifest._encode(forged))
    assert "lists a file outside its folder" in verify_folder(path)[0].message


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}', b'{"format": 1, "files": []}',
     b'{"format": 1, "files": {"a": 1}}', b'{"a":' + b"[" * 100_000, b"\xff\xfe", b"null"],
)  # fmt: skip
def test_a_manifest_of_another_kind_is_one_problem_and_no_crash(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    assert [problem.file for problem in verify_folder(tmp_path)] == [MANIFEST]


@pytest.mark.parametrize("entry", [{"size": "7", "sha256": "x"}, {"size": 7, "sha256": None}])
def test_a_sealed_manifest_with_invalid_sizes_is_no_crash(tmp_path: Path, entry: Any) -> None:
    forged = manifest.Manifest(files={"a": manifest.FileChecksum(**entry)})
    (tmp_path / MANIFEST).write_bytes(manifest._encode(forged))
    assert "has no size and hash" in verify_folder(tmp_path)[0].message


class Unreadable(Disk):
    """Reads of one file fail, ``times`` times."""

    def __init__(self, name: str, number: int, times: int) -> None:
        self.name, self.number, self.times = name, number, times

    def open(self, path: Path, flags: int) -> int:
        if path.name == self.name and self.times:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number), str(path))
        return super().open(path, flags)


@pytest.mark.parametrize("name", ["optimizer.pt", MANIFEST])
def test_a_read_error_is_retried_then_named(tmp_path: Path, name: str) -> None:
    path = commit_folder(tmp_path / "artifact", writer())
    assert verify_folder(path, disk=Unreadable(name, errno.EIO, times=2)) == []
    (problem,) = verify_folder(path, disk=Unreadable(name, errno.EIO, times=3))
    assert problem.file == name
    assert problem.message.startswith("cannot be read")


@pytest.mark.parametrize("name", ["optimizer.pt", MANIFEST])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_a_machine_error_does_not_set_aside_an_intact_checkpoint(
    tmp_path: Path, name: str, number: int
) -> None:
    checkpoints, problems = two_checkpoints(tmp_path)
    broken = Checkpoints(checkpoints.folder, disk=Unreadable(name, number, times=99))
    with pytest.raises(EnvironmentProblem):
        broken.newest()
    assert checkpoints.steps() == [20, 40]
    assert problems == []


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_is_saved_and_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.newest() is None
    assert checkpoints.best() is None
    assert checkpoints.steps() == []
    path = checkpoints.save(40, writer(), meta={"epoch": 1, "seed": 7})
    assert path == checkpoints.folder / "step-00000040"
    found = checkpoints.newest()
    assert found == Checkpoint(path, 40, {"epoch": 1, "seed": 7}, read_manifest(path).files)
    assert found.files.keys() == FILES.keys()


def test_checkpoints_form_a_chain(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    first = read_manifest(checkpoints.save(1, writer()))
    second = read_manifest(checkpoints.save(2, writer()))
    assert first.previous is None
    assert second.previous == {"step": 1, "seal": first.seal}
    assert read_manifest(checkpoints.save(2, writer())).previous == second.previous


@pytest.mark.parametrize(
    ("keep", "best", "expected"),
    [
        (1, None, [50]),
        (2, None, [40, 50]),
        (2, 10, [10, 40, 50]),
        (2, 40, [40, 50]),
        (1, 50, [50]),
        (9, 20, [10, 20, 30, 40, 50]),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(
    tmp_path: Path, keep: int, best: int | None, expected: list[int]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=keep)
    for step in (10, 20, 30, 40, 50):
        checkpoints.save(step, writer(), best=step == best)
    assert checkpoints.steps() == expected
    found = checkpoints.best()
    assert (found.step if found else None) == best
    assert hidden(tmp_path) == []


def test_a_new_best_frees_the_old_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, best in ((10, True), (20, False), (30, True), (40, False)):
        checkpoints.save(step, writer(), best=best)
    assert checkpoints.steps() == [30, 40]


def test_a_save_of_an_earlier_step_is_not_rotated_away_at_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (40, 60, 20):
        checkpoints.save(step, writer())
    assert checkpoints.steps() == [20, 40, 60]


def test_a_checkpoint_with_an_unreadable_manifest_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(10, writer(), best=True)
    checkpoints.save(20, writer())
    (tmp_path / "step-00000010" / MANIFEST).write_bytes(b"")
    checkpoints.save(30, writer())
    assert checkpoints.steps() == [10, 30]


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, writer("first"), meta={"n": 1})
    checkpoints.save(10, writer("second"), meta={"n": 2})
    found = checkpoints.newest()
    assert found is not None
    assert found.meta == {"n": 2}
    assert (found.path / "optimizer.pt").read_bytes() == b"momentssecond"
    assert checkpoints.steps() == [10]
    assert hidden(tmp_path) == []


def test_an_interrupted_replacement_is_repaired(tmp_path: Path) -> None:
    problems: list[str] = []
    checkpoints = Checkpoints(tmp_path, on_problem=problems.append)
    path = checkpoints.save(10, writer("old"), meta={"n": 1})
    path.rename(tmp_path / ".old-step-00000010")
    found = checkpoints.newest()
    assert found is not None
    assert found.meta == {"n": 1}
    path.rename(tmp_path / ".old-step-00000010")
    checkpoints.save(10, writer("new"), meta={"n": 2})
    (tmp_path / ".old-step-00000010").mkdir()  # both: the new one counts
    found = checkpoints.newest()
    assert found is not None
    assert found.meta == {"n": 2}
    assert hidden(tmp_path) == problems == []


def test_hidden_folders_files_and_links_are_no_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    real = checkpoints.save(10, writer())
    for name in (".staging-1", ".bad-step-00000030", "step-30", "step-000000030", "step-00000030x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000040").symlink_to(real)
    (tmp_path / "step-00000050").touch()
    assert checkpoints.steps() == [10]
    checkpoints.save(123_456_789, writer())
    assert checkpoints.steps() == [10, 123_456_789]


def test_reading_without_the_lock_renames_nothing(tmp_path: Path) -> None:
    checkpoints, problems = two_checkpoints(tmp_path)
    damaged(checkpoints.folder / "step-00000040" / "optimizer.pt", "flip last")
    found = checkpoints.newest(recover=False)
    assert found is not None
    assert found.step == 20
    assert checkpoints.steps() == [20, 40]
    assert len(problems) == 1


def test_a_checkpoint_deleted_while_it_is_read_is_no_damage(tmp_path: Path) -> None:
    checkpoints, problems = two_checkpoints(tmp_path)

    class Rotated(Disk):
        def open(self, path: Path, flags: int) -> int:
            if path.name == "optimizer.pt" and path.parent.name == "step-00000040":
                path.parent.rename(checkpoints.folder / ".del-1")
            return super().open(path, flags)

    reader = Checkpoints(checkpoints.folder, on_problem=problems.append, disk=Rotated())
    found = reader.newest(recover=False)
    assert found is not None
    assert found.step == 20
    assert problems == []


def test_all_checkpoints_can_be_set_aside(tmp_path: Path) -> None:
    problems: list[str] = []
    checkpoints = Checkpoints(tmp_path, on_problem=problems.append)
    for _ in range(2):
        path = checkpoints.save(10, writer())
        damaged(path / "optimizer.pt", "delete")
        assert checkpoints.newest() is None
    assert len(list(tmp_path.glob(".bad-*"))) == len(problems) == 2


def test_damage_is_a_warning_by_default(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    damaged(checkpoints.save(10, writer()) / "optimizer.pt", "delete")
    with pytest.warns(TunesmithWarning, match=r"optimizer\.pt: is missing"):
        checkpoints.newest()


def test_a_best_that_is_damaged_is_not_returned(tmp_path: Path) -> None:
    problems: list[str] = []
    checkpoints = Checkpoints(tmp_path, on_problem=problems.append)
    damaged(checkpoints.save(10, writer(), best=True) / "optimizer.pt", "zeros")
    assert checkpoints.best() is None
    assert len(problems) == 1
    assert checkpoints.steps() == [10]


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_stop_the_run(tmp_path: Path) -> None:
    class Stuck(Disk):
        def unlink(self, path: Path) -> None:
            raise OSError(errno.EBUSY, "Device or resource busy")

    problems: list[str] = []
    checkpoints = Checkpoints(tmp_path, keep=1, on_problem=problems.append, disk=Stuck())
    checkpoints.save(10, writer())
    checkpoints.save(20, writer())
    assert checkpoints.steps() == [20]
    assert "could not be deleted" in problems[0]
    checkpoints.save(20, writer("again"))
    assert checkpoints.newest() is not None


def test_invalid_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Checkpoints(tmp_path).save(-1, writer())
