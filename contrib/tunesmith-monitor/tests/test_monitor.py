"""The monitor of a real run: alarms, kills, restarts, memory and the report."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import make_rows, write_lines

from tunesmith.errors import DataError, UsageError
from tunesmith_monitor import monitor as monitor_module
from tunesmith_monitor.features import FeatureSpace
from tunesmith_monitor.monitor import STATE, Monitor, MonitorOptions
from tunesmith_monitor.monitor_command import command
from tunesmith_monitor.report import BLIND, LOOK, PAGE

OPTIONS = MonitorOptions(run_length=2_000, window=25)
RARE = MonitorOptions(run_length=20_000, window=25)
"""False alarms that are so rare that no test meets one."""
FRENCH = "Le chauffage de la chambre est encore en panne depuis hier matin, aidez-moi"


def requests(count: int, seed: int = 10) -> list[dict[str, object]]:
    return [{"prompt": row["prompt"]} for row in make_rows(count, seed)]


def with_french(
    rows: list[dict[str, object]], share: float, seed: int = 0
) -> list[dict[str, object]]:
    rng = random.Random(seed)
    return [{"prompt": FRENCH} if rng.random() < share else row for row in rows]


def call(run: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(run), *map(str, arguments)], standalone_mode=False)


def test_traffic_like_the_test_rows_raises_no_alarm(finished_run: Path, tmp_path: Path) -> None:
    with Monitor.open(finished_run, tmp_path / "m", options=RARE) as monitor:
        alarms = monitor.read([write_lines(tmp_path / "t.jsonl", requests(400))])
    assert not alarms and monitor.watch.requests == 400


def test_inputs_mean_look_and_wrong_answers_mean_page(finished_run: Path, tmp_path: Path) -> None:
    options = ("--state", tmp_path / "m", "--run-length", "2000", "--window", "25")
    traffic = write_lines(tmp_path / "t.jsonl", with_french(requests(200), 0.3))
    found = call(finished_run, "--traffic", traffic, *options)
    assert found.return_value == LOOK, found.output
    assert "LOOK" in found.output and "fr" in found.output and FRENCH[:40] in found.output
    assert BLIND[:40] in found.output and "Rows to label next" in found.output
    page = (tmp_path / "m" / "page.html").read_text(encoding="utf-8")
    assert FRENCH in page and "http://" not in page and "https://" not in page
    audited = [{"id": str(n), "right": 0.0} for n in range(150)]
    found = call(finished_run, "--traffic", write_lines(tmp_path / "l.jsonl", audited), *options)
    assert found.return_value == PAGE, found.output
    found = call(finished_run, "--state", tmp_path / "m", "--json", "--close")
    content = json.loads(found.output)
    assert content["audited"] == 150 and content["exit_code"] == found.return_value == PAGE
    assert "labels" in {alarm["layer"] for alarm in content["alarms"]}
    assert call(finished_run, "--state", tmp_path / "m", "--json").return_value == 0


def test_low_confidence_pages_and_high_confidence_does_not(
    finished_run: Path, tmp_path: Path
) -> None:
    codes = []
    for name, confidence in (("high", 1.0), ("low", 0.0)):
        rows = [{**row, "confidence": confidence} for row in requests(200)]
        traffic = write_lines(tmp_path / f"{name}.jsonl", rows)
        options = ("--state", tmp_path / name, "--run-length", "20000", "--window", "25")
        codes.append(call(finished_run, "--traffic", traffic, *options).return_value)
    assert codes == [0, PAGE]


def test_other_models_count_as_inputs_only(finished_run: Path, tmp_path: Path) -> None:
    rows = [{**row, "model": "base", "confidence": 0.0, "right": 0} for row in requests(200)]
    with Monitor.open(finished_run, tmp_path / "m", options=RARE) as monitor:
        assert not monitor.read([write_lines(tmp_path / "t.jsonl", rows)])
    assert (monitor.watch.requests, monitor.watch.audited) == (200, 0)


def drifting() -> list[dict[str, object]]:
    rows = [*requests(180, 3), *with_french(requests(250, 4), 0.4)]
    rng = random.Random(1)
    return [
        {**row, "confidence": rng.random() ** (1 + n / 100), "right": int(rng.random() > n / 300)}
        for n, row in enumerate(rows)
    ]


def read_alarms(run: Path, folder: Path, traffic: Path) -> str:
    with Monitor.open(run, folder, options=OPTIONS) as monitor:
        monitor.read([traffic])
        return json.dumps(monitor.watch.to_json(), sort_keys=True)


def test_any_split_into_calls_and_files_that_grow_give_the_same_state(
    finished_run: Path, tmp_path: Path
) -> None:
    rows = drifting()
    whole = read_alarms(finished_run, tmp_path / "a", write_lines(tmp_path / "t.jsonl", rows))
    assert len(json.loads(whole)["alarms"]) >= 2
    traffic, text = tmp_path / "grows.jsonl", (tmp_path / "t.jsonl").read_text()
    for cut in (0, 100, 5_000, 20_013, len(text)):  # in the middle of lines, too
        traffic.write_text(text[:cut], encoding="utf-8")
        last = read_alarms(finished_run, tmp_path / "b", traffic)
    assert last == whole


def test_a_killed_process_raises_the_same_alarms(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill -9 at random times; each new process continues."""
    monkeypatch.setattr(monitor_module, "BATCH", 20)
    traffic = write_lines(tmp_path / "t.jsonl", drifting())
    whole = read_alarms(finished_run, tmp_path / "a", traffic)
    program = (
        "import sys, time; from pathlib import Path; import tunesmith_monitor.monitor as m\n"
        "m.BATCH = 20; run, folder, traffic = map(Path, sys.argv[1:])\n"
        "save = m.Monitor.save\n"
        "def slow(self):\n    save(self); print('saved', flush=True); time.sleep(0.05)\n"
        "m.Monitor.save = slow\n"
        "with m.Monitor.open(run, folder, options=m.MonitorOptions(run_length=2000, window=25)) as"
        " monitor: monitor.read([traffic])\n"
    )
    rng, kills, folder = random.Random(0), 0, tmp_path / "b"
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", program, str(finished_run), str(folder), str(traffic)],
            stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(rng.randrange(2, 6)):
            process.stdout.readline()
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert kills == 2
    done = json.loads((tmp_path / "b" / STATE).read_text())["watch"]["requests"]
    assert 0 < done < 430, "the kills came too late or too early"
    assert read_alarms(finished_run, tmp_path / "b", traffic) == whole


def test_single_requests_give_the_state_of_a_file_even_after_a_kill(
    finished_run: Path, tmp_path: Path
) -> None:
    rows = drifting()[:300]
    with Monitor.open(finished_run, tmp_path / "a", options=OPTIONS) as monitor:
        alarms = monitor.read([write_lines(tmp_path / "t.jsonl", rows)])
    killed = Monitor.open(finished_run, tmp_path / "b", options=OPTIONS)
    with pytest.raises(KeyboardInterrupt), killed as other:
        found = [alarm for row in rows[:200] for alarm in other.observe(row)]
        raise KeyboardInterrupt  # leaves without saving, as a kill does
    with Monitor.open(finished_run, tmp_path / "b") as again:
        again_found = again.watch.alarms
        assert again_found == found and again.watch.requests == 200
        for row in rows[200:]:
            again.observe(row)
        with pytest.raises(DataError, match="neither a prompt"):
            again.observe({"nothing": 1})
    assert again.watch.alarms == alarms
    assert again.watch.to_json() | {"unusable": 0} == monitor.watch.to_json()


def test_the_state_and_the_memory_do_not_grow(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million requests at once take too long for a test: see benchmarks/."""
    rows = requests(600)
    with Monitor.open(finished_run, tmp_path / "m", options=OPTIONS) as monitor:
        sizes, peaks = [], []
        for part in range(4):
            path = write_lines(tmp_path / f"{part}.jsonl", rows)
            tracemalloc.start()
            monitor.read([path])
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            monitor.save()
            sizes.append((tmp_path / "m" / STATE).stat().st_size)
    assert monitor.watch.requests == 2_400
    assert sizes[3] < 1.05 * sizes[0] and peaks[3] < 1.2 * peaks[0]


def test_a_rotated_file_is_read_from_its_start(finished_run: Path, tmp_path: Path) -> None:
    traffic = tmp_path / "t.jsonl"
    with Monitor.open(finished_run, tmp_path / "m", options=OPTIONS) as monitor:
        monitor.read([write_lines(traffic, requests(30, 1))])
        monitor.read([traffic])
        assert monitor.watch.requests == 30
        monitor.read([write_lines(traffic, requests(40, 2))])
        assert monitor.watch.requests == 70


def test_bad_lines_are_counted_and_bad_calls_are_explained(
    finished_run: Path, tmp_path: Path
) -> None:
    lines = ['{"prompt": "The boiler is cold"}', "no JSON", "[1]", '{"right": 2}', '{"prompt": 3}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    with Monitor.open(finished_run, tmp_path / "m", options=OPTIONS) as monitor:
        monitor.read([tmp_path / "t.jsonl"])
        assert (monitor.watch.requests, monitor.watch.unusable) == (1, 4)
    other = Monitor.open(finished_run, tmp_path / "m", options=MonitorOptions(window=30))
    with pytest.raises(UsageError, match="cannot change"), other:
        pass
    reference = write_lines(tmp_path / "reference.jsonl", requests(100))
    other = Monitor.open(finished_run, tmp_path / "m", reference=reference)
    with pytest.raises(UsageError, match="the reference of a monitor cannot change"), other:
        pass
    for _ in range(2):
        options = ("--reference", reference, "--state", tmp_path / "r", "--run-length", "2000")
        assert call(finished_run, *options, "--window", "25").return_value == 0
    few = write_lines(tmp_path / "few.jsonl", requests(12))
    other = Monitor.open(finished_run, tmp_path / "n", reference=few)
    with pytest.raises(UsageError, match="12 reference requests are too few"), other:
        pass


def test_rows_to_label_are_whole_requests_in_a_new_file(finished_run: Path, tmp_path: Path) -> None:
    """A row with the start of a request, or with its turns as one, would be another row."""
    turns = [{"role": "user", "content": f"{FRENCH} {n}"} for n in range(2)]
    rows = [{"prompt": FRENCH * 100}, {"messages": turns}, {"prompt": FRENCH * 10}]
    traffic = write_lines(tmp_path / "t.jsonl", [*requests(100), *rows])
    labels = tmp_path / "label.jsonl"
    options = ("--traffic", traffic, "--state", tmp_path / "m", "--label", labels)
    found = call(finished_run, *options)
    assert "to label" in found.stderr, found.output
    prompts = [json.loads(line)["prompt"] for line in labels.read_text().splitlines()]
    assert FRENCH * 10 in prompts and not any(len(p) > 1_000 or "\n" in p for p in prompts)
    before = labels.read_bytes()
    found = call(finished_run, *options)
    assert isinstance(found.exception, UsageError) and labels.read_bytes() == before


def test_features_do_not_depend_on_other_requests() -> None:
    texts = [row["prompt"] for row in make_rows(50, 0)]
    space = FeatureSpace.fit(texts)
    asked = [*texts[:5], FRENCH, "", "?!", "A" * 9_000]
    whole = space.transform(asked)
    assert all(
        (space.transform([text])[0] == row).all() for text, row in zip(asked, whole, strict=True)
    )
    assert whole.shape[1] == space.groups[-1].columns.stop
    language = space.groups[2].columns.start
    assert whole[:8, language].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
