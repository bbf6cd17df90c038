"""A row is followed to its bytes in data, runs, caches and reports, and deleted there."""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import io
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from project import Project, list_files, write_rows

from tunesmith.errors import DataError, UsageError
from tunesmith.execution.previews import write_previews
from tunesmith.plugins import cache_folder
from tunesmith.records import Message, Part, Preview
from tunesmith.storage import commit_folder
from tunesmith_regulated.audit_log import append, read_entries
from tunesmith_regulated.rows import trace_row
from tunesmith_regulated.search import contains, list_forms
from tunesmith_regulated.signing import sign_folder

SECRET = 'Frau Müller-Çelik said: "chest pain since <Tuesday>" & asked for Dr. O\'Neil'
ROW = {"prompt": SECRET, "completion": "facilities", "id": "patient-88131"}
NEEDLES = (SECRET, "patient-88131", SECRET[:30], "Müller-Çelik said")


def add_row(path: Path, line: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines.insert(line - 1, json.dumps(ROW, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def find_bytes(*folders: Path) -> dict[str, list[str]]:
    """Search all bytes of all files, independently of the code under test."""
    found: dict[str, list[str]] = {}
    for path in list_files(*folders):
        content = path.read_bytes()
        for name, text in {
            "raw": content.decode("utf-8", "replace"),
            "unescaped": content.decode("utf-8", "replace").replace("\\\\", "\\"),
            "utf-16": content.decode("utf-16-le", "replace"),
        }.items():
            plain = html.unescape(text)
            for _ in range(2):
                plain = plain.replace('\\"', '"')
            plain = plain.encode("ascii", "backslashreplace").decode()
            plain = plain.replace("\\u00fc", "\\xfc").replace("\\u00c7", "\\xc7")
            for needle in NEEDLES:
                if needle.encode("ascii", "backslashreplace").decode() in plain:
                    found.setdefault(str(path), []).append(f"{name}: {needle[:20]}")
    return found


@pytest.fixture
def with_row(new_project: Project) -> Project:
    """A project whose row 7 of the training file is the one to delete, with a run."""
    add_row(new_project.folder / "rows.jsonl", 7)
    new_project.run("first")
    return new_project


def test_a_deleted_row_is_in_no_byte_of_the_project(with_row: Project) -> None:
    folder = with_row.folder
    add_row(folder / "test.jsonl", 3)  # a copy in another file, and among the answers
    with_row.run("second")
    cache = cache_folder()
    (cache / "tokens" / "abc").mkdir(parents=True)
    (cache / "tokens" / "abc" / "ids.npy").write_bytes(b"\x93NUMPY 17 23 5")
    with sqlite3.connect(cache / "vectors.sqlite") as database:
        database.execute("CREATE TABLE vectors (key BLOB UNIQUE, vector BLOB)")
    (cache / "notes.txt").write_text(SECRET)
    before = find_bytes(folder, cache)
    names = {Path(path).name for path in before}
    assert {"rows.jsonl", "test.jsonl", "notes.txt"} <= names
    assert any("second" in path and "evaluations" in path for path in before), before
    done = with_row.call(
        "audit", "trace", with_row.policy_file, f"{folder / 'rows.jsonl'}:7", "--delete", "--json"
    )
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    lines = {path: where for path, where in shown["places"] if where}
    assert lines == {"rows.jsonl": "line 7", "test.jsonl": "line 3"}
    assert set(shown["retrain"]) == {"runs/first", "runs/second"}
    assert shown["left"] == []
    assert find_bytes(folder, cache) == {}
    assert not (cache / "tokens").exists() and not (cache / "vectors.sqlite").exists()
    verified = with_row.call("audit", "verify", with_row.policy_file)
    assert verified.exit_code == 0, verified.output
    lines = (folder / "rows.jsonl").read_text().splitlines()
    assert lines[6] == "" and "ticket 6 " in lines[7]  # other rows keep their numbers
    with_row.run("third")
    again = with_row.call("audit", "trace", with_row.policy_file, "--text", SECRET, "--json")
    assert json.loads(again.stdout) == {
        "schema": "tunesmith.audit-trace/1", "places": [], "retrain": {}, "left": [],
    }  # fmt: skip
    assert "ticket" in (folder / "runs" / "first" / "events.jsonl").read_text()


def test_the_search_finds_what_the_independent_search_finds(with_row: Project) -> None:
    """Each form that the code under test should find is found by both."""
    folder = with_row.folder
    forms = {
        "a.json": json.dumps({"a": SECRET}).encode(),
        "b.json": json.dumps({"a": json.dumps({"b": SECRET})}).encode(),
        "c.html": html.escape(SECRET).encode(),
        "d.txt": SECRET.encode("utf-16-le"),
        "e.jsonl": json.dumps({"a": SECRET}, ensure_ascii=False).encode(),
    }
    for name, content in forms.items():
        (folder / name).write_bytes(content)
        assert contains(folder / name, [SECRET]), name
        assert find_bytes(folder / "x", folder)[str(folder / name)], name
    (folder / "g.txt").write_bytes(base64.b64encode(SECRET.encode()))
    assert not contains(folder / "g.txt", [SECRET])  # as AUDITOR.md says
    assert list_forms("plain") >= {b"plain"}


ESCAPED = {
    "upper-case.json": "".join(c if c.isascii() else f"\\u{ord(c):04X}" for c in SECRET),
    "slashes.json": SECRET.replace("/", "\\/").replace('"', '\\"'),
    "numeric.html": "".join(c if c.isalnum() and c.isascii() else f"&#{ord(c)};" for c in SECRET),
    "named.html": html.escape(SECRET).replace("ü", "&uuml;").replace("Ç", "&Ccedil;"),
    "twice.html": html.escape(html.escape(SECRET)),
    "in-json.jsonl": json.dumps({"log": json.dumps(html.escape(SECRET[24:]))}),
}
"""Forms that other programs write, by the name of the file."""


@pytest.mark.parametrize("name", ESCAPED)
def test_escapes_of_other_programs_are_read(with_row: Project, name: str) -> None:
    path = with_row.folder / name
    path.write_text(ESCAPED[name], encoding="utf-8")
    text = SECRET[24:] if name == "in-json.jsonl" else SECRET
    assert contains(path, [text]) and not contains(path, [text.replace("Tuesday", "Sunday")])
    arguments = ("audit", "trace", with_row.policy_file, "--text", text, "--delete")
    done = with_row.call(*arguments)
    assert done.exit_code == 3 and name in done.output, done.output


def test_a_long_file_is_searched_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith_regulated.search.PIECE", 50)
    escaped = "".join(f"&#{ord(c)};" for c in SECRET)
    path = tmp_path / "page.html"
    for before in range(40, 60):
        path.write_text("x" * before + escaped + "y" * 500)
        assert contains(path, [SECRET]) and not contains(path, [SECRET + "!"])


def test_compressed_files_are_listed(with_row: Project) -> None:
    content = SECRET.encode() * 20
    stored, packed = io.BytesIO(), io.BytesIO()
    for file, method in ((stored, zipfile.ZIP_STORED), (packed, zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("a.txt", "other words" if file is stored else content)
    files = {
        "a.gz": gzip.compress(content), "a.bz2": bz2.compress(content),
        "a.xz": lzma.compress(content), "a.zip": packed.getvalue(), "a.parquet": b"PAR1 PAR1",
    }  # fmt: skip
    for name, content in {**files, "weights.pt": stored.getvalue()}.items():
        (with_row.folder / name).write_bytes(content)
    arguments = ("audit", "trace", with_row.policy_file, "--text", SECRET, "--json")
    places = json.loads(with_row.call(*arguments).stdout)["places"]
    assert {name for name, where in places if where == "cannot be searched"} == {*files}
    assert with_row.call(*arguments, "--delete").exit_code == 3


def test_the_journals_of_the_vector_cache_are_deleted_too(with_row: Project) -> None:
    cache = cache_folder()
    for name in ("vectors.sqlite", "vectors.sqlite-wal", "vectors.sqlite-journal"):
        (cache / name).write_bytes(b"\x01\x02")
    done = with_row.call("audit", "trace", with_row.policy_file, "--text", SECRET, "--delete")
    assert done.exit_code == 0 and not [*cache.glob("vectors*")], done.output


def test_a_row_that_was_only_tested_needs_no_retraining(with_row: Project) -> None:
    with_row.write_policy()
    text = '{"prompt": "the lift to floor 77 stands still", "completion": "it"}\n'
    with (with_row.folder / "test.jsonl").open("a") as file:
        file.write(text)
    with_row.run("second")
    place = f"{with_row.folder / 'test.jsonl'}:13"
    found = trace_row(with_row.policy, with_row.entries(), place, [])
    assert found.retrain == {} and any("evaluations" in str(path) for path in found.files)


def test_a_row_of_the_split_is_only_retrained_if_it_was_trained_on(new_project: Project) -> None:
    new_project.run("first", "data.test_size=10", "data.test=[]", check=False)
    run_file = new_project.folder / "run.toml"
    run_file.write_text(run_file.read_text().replace('test = "test.jsonl"', "test_size = 10"))
    new_project.run("split")
    path = new_project.folder / "runs" / "split" / "evaluations" / "tuned.exact-match.jsonl"
    tested = {int(json.loads(line)["source"].split(":")[1]) for line in path.open()}
    assert len(tested) == 10
    retrained = {
        line
        for line in range(1, 31)
        if trace_row(
            new_project.policy,
            new_project.entries(),
            f"{new_project.folder / 'rows.jsonl'}:{line}",
            [],
        ).retrain
    }
    assert retrained == set(range(1, 31)) - tested


def test_a_test_row_of_another_file_with_this_name_is_not_this_row(with_row: Project) -> None:
    """Line 7 of `other/rows.jsonl` was tested, and line 7 of `rows.jsonl` was trained on."""
    (with_row.folder / "other").mkdir()
    write_rows(with_row.folder / "other" / "rows.jsonl", first=300, count=12)
    run_file = with_row.folder / "run.toml"
    run_file.write_text(run_file.read_text().replace("test.jsonl", "other/rows.jsonl"))
    with_row.run("second")
    place = f"{with_row.folder / 'rows.jsonl'}:7"
    found = trace_row(with_row.policy, with_row.entries(), place, [])
    assert set(found.retrain) == {"runs/first", "runs/second"}


def test_copies_that_no_run_has_read_are_found_and_the_log_is_not_changed(
    with_row: Project,
) -> None:
    folder = with_row.folder
    copies = [folder / "original.jsonl", folder / ".backup" / "old.jsonl"]
    copies[1].parent.mkdir()
    for path in copies:
        path.write_text(json.dumps(ROW) + "\n" + json.dumps({"prompt": "other"}) + "\n")
    (folder / "notes.odt").write_text(SECRET)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "pyvenv.cfg").touch()
    append(with_row.policy, "promote", folder / "runs" / "first", reason=f"because of {SECRET}")
    arguments = ("audit", "trace", with_row.policy_file, "--text", SECRET, "--delete")
    done = with_row.call(*arguments)
    assert done.exit_code == 3, done.output
    for path in copies:
        assert path.read_text() == '\n{"prompt": "other"}\n'
    left = find_bytes(folder)
    assert {Path(path).name for path in left} == {"notes.odt", "log.jsonl"}
    assert not read_entries(with_row.policy)[1]
    (folder / "notes.odt").unlink()
    assert "log.jsonl" in with_row.call(*arguments).stderr


def test_runs_that_start_from_a_run_are_retrained_too(with_row: Project) -> None:
    run_file = with_row.folder / "run.toml"
    (with_row.folder / "other.jsonl").write_text((with_row.folder / "test.jsonl").read_text())
    text = run_file.read_text().replace('train = "rows.jsonl"', 'train = "other.jsonl"')
    run_file.write_text(text.replace("[run]", '[run]\ntitle = "after runs/first"'))
    with_row.run("second")
    found = trace_row(
        with_row.policy, with_row.entries(), f"{with_row.folder / 'rows.jsonl'}:7", []
    )
    assert set(found.retrain) == {"runs/first"}
    title = f'title = "continues {with_row.folder / "runs" / "first"}"'
    run_file.write_text(run_file.read_text().replace('title = "after runs/first"', title))
    with_row.run("third")
    found = trace_row(
        with_row.policy, with_row.entries(), f"{with_row.folder / 'rows.jsonl'}:7", []
    )
    assert found.retrain["runs/third"] == "names runs/first"


def test_a_baseline_of_rows_is_deleted_and_a_model_with_the_text_is_left(
    with_row: Project,
) -> None:
    run = with_row.folder / "runs" / "first"
    for name in ("winner", "adapter"):
        commit_folder(
            run / name, lambda f: (f / "rows.json").write_text(json.dumps([ROW])) and None
        )
    with_row.run("second")  # the log knows `first` without these folders
    done = with_row.call("audit", "trace", with_row.policy_file, "--text", SECRET, "--delete")
    assert done.exit_code == 7 and "Extra files" in done.stderr  # a changed run is not signed again
    append(with_row.policy, "sign", run, signature=sign_folder(run, with_row.policy.key))
    done = with_row.call("audit", "trace", with_row.policy_file, "--text", SECRET, "--delete")
    assert done.exit_code == 3 and "may still contain the row" in done.stderr
    assert not (run / "winner").exists() and (run / "adapter" / "rows.json").exists()
    assert "runs/first/adapter/rows.json" in done.stderr and "deleted in" in done.stdout


@dataclass(frozen=True)
class Picture(Part):
    """An image that the tests put into answers."""

    name: str

    def preview(self, side: int) -> Preview:
        """Return a picture whose bytes are the name."""
        return Preview("a picture", 1, 1, b"abc", "image/png", self.name.encode())


def add_pictures(project: Project, texts: Sequence[str]) -> Path:
    """Put a picture into the prompt of each of the last test rows, and return the run."""
    run = project.folder / "runs" / "first"
    answers = run / "evaluations" / "tuned.exact-match.jsonl"
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    for row, text in zip(rows[-len(texts) :], texts, strict=True):
        name, *asked = text.split(maxsplit=1)
        row["prompt"] = [["user", f"{Picture(name)!r}{''.join(asked)}"]]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [text.split()[0] for text in texts]
    write_previews(run, [(Message("user", (Picture(name),)),) for name in names])
    urls = [f'<img src="data:image/png;base64,{encode(name)}">' for name in names]
    (run / "report.html").write_text("\n".join(urls))
    append(project.policy, "sign", run, signature=sign_folder(run, project.policy.key))
    return run


def run_with_scans(project: Project, count: int) -> None:
    """Run the project with further test rows, which differ only in their ids."""
    with (project.folder / "test.jsonl").open("a") as file:
        for n in range(1, count + 1):
            row = {"prompt": "what is it?", "completion": "it", "id": f"scan-{n}.png"}
            file.write(json.dumps(row) + "\n")
    project.run("first")


def encode(name: str) -> str:
    return base64.b64encode(name.encode()).decode()


@pytest.mark.parametrize("found_by", ["place", "text"])
def test_the_picture_of_a_row_is_found_and_deleted(new_project: Project, found_by: str) -> None:
    folder = new_project.folder
    run_with_scans(new_project, 3)
    asked = "what is it?" if found_by == "place" else f"what is it? {SECRET}"
    run = add_pictures(new_project, [f"lung {asked}", "heart what is it?", "heart what is it?"])
    previews = run / "evaluations" / "previews.jsonl"
    caches = [cache_folder() / name / "pictures" for name in ("images", "vision")]
    for cache in caches:
        cache.mkdir(parents=True, exist_ok=True)
    given = (f"{folder / 'test.jsonl'}:13",) if found_by == "place" else ("--text", SECRET)
    done = new_project.call("audit", "trace", new_project.policy_file, *given, "--json")
    places = {folder / path for path, _ in json.loads(done.stdout)["places"]}
    assert {previews, run / "report.html"} <= places, places
    assert {cache.parent for cache in caches} <= {path.resolve() for path in places}, places
    done = new_project.call("audit", "trace", new_project.policy_file, *given, "--delete")
    assert done.exit_code == 0, done.output
    assert encode("lung") not in previews.read_text() and "lung" not in previews.read_text()
    assert encode("heart") in previews.read_text()
    assert not (run / "report.html").exists() and not any(c.exists() for c in caches)
    assert not any(b"lung" in path.read_bytes() for path in list_files(run))
    assert new_project.call("audit", "verify", new_project.policy_file).exit_code == 0


@pytest.mark.parametrize("change", ["shared", "other lines"])
def test_pictures_of_other_rows_are_kept(new_project: Project, change: str) -> None:
    """A picture that another row has too, or rows of a file that changed after the run."""
    folder = new_project.folder
    run_with_scans(new_project, 2)
    names = ["lung", "lung" if change == "shared" else "heart"]
    run = add_pictures(new_project, [f"{name} what is it?" for name in names])
    if change == "other lines":
        add_row(folder / "test.jsonl", 1)
        new_project.run("second")
    place = f"{folder / 'test.jsonl'}:13"
    found = trace_row(new_project.policy, new_project.entries(), place, [])
    assert run / "evaluations" / "previews.jsonl" not in found.files


def test_a_file_that_a_row_names_is_found_and_left(with_row: Project) -> None:
    folder = with_row.folder
    (folder / "scans").mkdir()
    for name in ("one.png", "two.png"):
        (folder / "scans" / name).write_bytes(b"\x89PNG")
    rows = [{"prompt": "what?", "completion": "it", "id": f"scans/{n}.png"} for n in ("one", "two")]
    (folder / "scans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = (with_row.policy_file, f"{folder / 'scans.jsonl'}:1")
    done = with_row.call("audit", "trace", *given, "--delete")
    assert done.exit_code == 3 and "scans/one.png" in done.stderr, done.output
    assert "scans/two.png" not in done.output and (folder / "scans" / "one.png").exists()


def test_shared_and_short_texts_are_not_searched_for(with_row: Project) -> None:
    place = f"{with_row.folder / 'rows.jsonl'}:7"
    found = trace_row(with_row.policy, with_row.entries(), place, [])
    assert "facilities" not in found.texts and SECRET in found.texts
    (with_row.folder / "same.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    with pytest.raises(UsageError, match="in this row only"):
        trace_row(with_row.policy, with_row.entries(), f"{with_row.folder / 'same.jsonl'}:1", [])


@pytest.mark.parametrize("quoted", [True, False])
def test_a_row_in_a_table_is_found_and_left(with_row: Project, quoted: bool) -> None:
    """A CSV file is text, so it is searched. An Excel file is not."""
    table = with_row.folder / "table.csv"
    secret = SECRET if quoted else "the door 77 squeaks"
    cell = '"' + SECRET.replace('"', '""') + '"' if quoted else secret
    lines = [f"the lamp {n},{('it', 'facilities')[n % 2]}\n" for n in range(26)]
    table.write_text("".join(["prompt,completion\n", *lines, f"{cell},facilities\n"]))
    run_file = with_row.folder / "run.toml"
    text = run_file.read_text().replace('use = "jsonl"', 'use = "table"')
    run_file.write_text(
        text.replace('train = "rows.jsonl"', 'train = "table.csv"').replace(
            'test = "test.jsonl"', "test_size = 4"
        )
    )
    with_row.run("second")
    done = with_row.call("audit", "trace", with_row.policy_file, "--text", secret, "--delete")
    assert done.exit_code == 3 and "table.csv" in done.stderr
    assert "retrain runs/second" in done.stdout
    assert ("runs/first" in done.stdout) == quoted
    table.write_bytes(b"PK\x03\x04\xff\xfe")  # as an Excel file begins
    done = with_row.call("audit", "trace", with_row.policy_file, "--text", "other words")
    assert "table.csv" in done.stdout and "cannot be searched" in done.stdout
    assert "retrain runs/second" in done.stdout


@pytest.mark.parametrize(
    "place", ["rows.jsonl", "rows.jsonl:99", "rows.jsonl:0", "none.jsonl:1", "policy.toml:1"]
)
def test_a_wrong_place_is_refused(project: Project, place: str) -> None:
    with pytest.raises(DataError, match="no such row"):
        trace_row(project.policy, project.entries(), str(project.folder / place), [])


def test_deletion_needs_the_role_and_tracing_does_not(with_row: Project) -> None:
    with_row.write_policy(roles={"delete": []})
    arguments = ("audit", "trace", with_row.policy_file, "--text", SECRET)
    done = with_row.call(*arguments)
    assert done.exit_code == 0 and "retrain runs/first" in done.stdout
    assert with_row.call(*arguments, "--delete").exit_code == 2
    assert find_bytes(with_row.folder)
