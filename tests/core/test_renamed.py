"""A plugin with names from before the interface was recorded anew is told both names."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tunesmith import api, plugins
from tunesmith.errors import ConfigError
from tunesmith.renamed import explain_renaming, present_name
from tunesmith_cli.app import app

RENAMED_KEYS = {
    "data.heldout": "test",
    "data.dev": "validation",
    "data.holdout": "test_size",
    "data.max_left_out": "max_skipped",
    "split.dev": "validation_size",
    "technique.max_left_out": "max_skipped",
}
IMPORT = "from tunesmith.hookspecs import hookimpl\n"
OLD_PLUGINS = {
    "from tunesmith.offers import RivalOffer": "RivalOffer is now BaselineOffer",
    "from tunesmith.contracts import LeftOut": "LeftOut is now SkippedRow",
    "from tunesmith.events import Notice": "Notice is now FindingReported",
    "import tunesmith_evidence.ladder": ".ladder is now tunesmith_evidence.baselines",
    f"{IMPORT}@hookimpl\ndef tunesmith_rivals(): return []": (
        "tunesmith_rivals is now tunesmith_baselines"
    ),
    "from tunesmith.contracts import Dataset\nDataset(train=[], heldout=[], description='')": (
        "heldout is now test"
    ),
    "from tunesmith.contracts import Dataset\nDataset(train=[], dev=[], description='')": (
        "dev is now validation"
    ),
    "from tunesmith_data.splits.sizes import dev_rows": "dev_rows is now count_validation_rows",
    "from tunesmith_data.splits.sizes import holdout_rows": "holdout_rows is now count_test_rows",
    "from tunesmith.offers import Promises\nPromises(mergeable=True)": ("'mergeable'; remove it"),
    "from tunesmith.offers import TableOffer\nTableOffer(earlier_names=())": (
        "'earlier_names'; remove it"
    ),
    "plan = type('Plan', (), {'baselines': ()})\nplan.baselines.use": (
        "Plan.baselines.use is Plan.baseline_options.use now"
    ),
}


@pytest.mark.parametrize("code", OLD_PLUGINS)
def test_the_reason_of_a_broken_plugin_has_both_names(code: str, tmp_path: Path) -> None:
    file = tmp_path / "old_plugin.py"
    file.write_text(code)
    chosen = plugins.Selection(allowed=frozenset({"old_plugin"}), files=(str(file),))
    (found,) = (p for p in plugins.find_plugins(chosen).found if p.name == "old_plugin")
    assert found.state == "broken"
    assert OLD_PLUGINS[code] in found.reason


def test_parts_of_a_name_are_renamed_and_other_words_are_not() -> None:
    names = "needs_dev heldout_split max_left_out RivalTask RIVALS dev_score device arrival"
    now = "needs_validation test_split max_skipped BaselineTask BASELINES validation_score"
    assert [*map(present_name, names.split())] == [*now.split(), "device", "arrival"]
    assert explain_renaming("'int' object has no attribute 'device'") == ""


RUN_FILE = """
[model]
base = "ngram:empty"
[data]
train = "rows.jsonl"
heldout = "more.jsonl"
dev = "others.jsonl"
holdout = 0.1
max_left_out = 0.5
[split]
dev = 12
[technique]
use = "full"
max_left_out = 0.5
"""


def test_keys_of_a_run_file_are_refused_with_both_names(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN_FILE)
    with pytest.raises(ConfigError) as caught:
        api.load_plan(tmp_path / "run.toml")
    found = {problem.where: problem.what for problem in caught.value.problems}
    assert {where: found[where] for where in RENAMED_KEYS} == {
        where: f'was renamed to "{new}"' for where, new in RENAMED_KEYS.items()
    }


COMMANDS = {
    "ladder run.toml": "did you mean baselines?",
    "plugins uninstall x": "pip uninstall NAME",
    "plugins outdated": "pip list --outdated",
    "plugins install x --dry-run": "pip install --dry-run",
    "plugins new x --kind rival": "did you mean baseline?",
    "data split {file} --out parts --holdout 0.2": "--holdout was renamed to --test-size",
    "data split {file} --out parts --dev=10": "--dev was renamed to --validation-size",
    "data check {file} --heldout {file}": "--heldout was renamed to --test",
    "data show {file} --left-out": "--left-out was renamed to --skipped",
    "data show {file} --part heldout": "heldout is now test",
    "data split {file} --devices 2": "no such option '--devices'",
    "explain split.dev": "did you mean split.validation_size?",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_option_or_key_that_was_renamed_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    done = CliRunner().invoke(app, [word.format(file=file) for word in line.split()])
    assert done.exit_code == 2 and COMMANDS[line] in done.stderr


OLD_COMPONENTS = f"""{IMPORT}from tunesmith.events import DataLoaded
from tunesmith.offers import CommandOffer, ReporterOffer
from tunesmith.options import Options

class Old:
    def __init__(self, options, folder): pass
    def __enter__(self): return self
    def __exit__(self, *error): return None
    def report(self, event):
        if isinstance(event, DataLoaded): event.heldout

def load():
    import tunesmith_evidence.ladder

@hookimpl
def tunesmith_reporters():
    return [ReporterOffer(name="old", summary="old", config=Options, build=Old)]

@hookimpl
def tunesmith_commands(): return [CommandOffer(name="two", summary="Two.", load=load)]
"""


@pytest.mark.parametrize(
    "line, said",
    [
        ("two", "tunesmith_evidence.ladder is now tunesmith_evidence.baselines"),
        ("plugins check old", "heldout is now test"),
    ],
)
def test_a_component_that_fails_when_it_is_used_is_told_both_names(
    line: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "old.py").write_text(OLD_COMPONENTS)
    done = CliRunner().invoke(app, ["--plugin", str(tmp_path / "old.py"), *line.split()])
    assert done.exit_code and said in done.output
    assert "force-reinstall" not in done.output
