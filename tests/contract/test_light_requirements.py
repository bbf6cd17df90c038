"""The core, the command line and the kit work with the requirements of ``core/requirements.txt``.

What needs more is listed with the requirements that are missing. A check reports them, and a run is
refused: it never leaves something out silently.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from environment import Environment
from wheels import ROOT, build_wheels, copy_sources

from tunesmith.catalog import Catalog
from tunesmith.offers import KINDS
from tunesmith.plugins import Selection, find_plugins

LIGHT = (ROOT / "core" / "requirements.txt").read_text(encoding="utf-8").splitlines()
HEAVY = [
    "bitsandbytes",
    "gguf",
    "jinja2",
    "markupsafe",
    "numpy",
    "orjson",
    "peft",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "yaml",
    "zstandard",
]
"""The modules of all other requirements."""
BLOCKED = """
import json, sys, tempfile
from importlib import metadata
from pathlib import Path

LIGHT, HEAVY = map(json.loads, sys.argv[1:])


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def version(name, installed=metadata.version):
    if name in LIGHT:
        return installed(name)
    raise metadata.PackageNotFoundError(name)


sys.meta_path.insert(0, Refuse())
metadata.version = version

from pydantic import ValidationError
from tunesmith.catalog import Catalog
from tunesmith.offers import KINDS, CommandOffer, ReporterOffer
from tunesmith.plugins import find_plugins, missing_requirements
from tunesmith.storage import RunFolder

catalog, available, failed = Catalog(find_plugins()), [], []
for kind in KINDS:
    for offer in [offered.offer for offered in catalog.offers(kind)]:
        if missing_requirements(offer.needs):
            continue
        available.append(f"{kind.kind} {offer.name}")
        try:
            if kind is CommandOffer:
                offer.load()
            elif kind is ReporterOffer:
                offer.build(offer.config(), RunFolder(Path(tempfile.mkdtemp())))
            elif hasattr(offer, "build"):
                offer.build(offer.config())
        except ValidationError:
            pass  # it has options without a default
        except Exception as error:
            failed.append(f"{available[-1]}: {error}")
broken = [plugin.reason for plugin in catalog.plugins.broken()]
print("\\x1d" + json.dumps([available, failed, broken]))
"""


def declared_requirements() -> set[str]:
    """Return the requirements of the distribution and of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {text.partition(";")[0] for listed in lists for text in listed}


def test_requirements_are_those_of_the_distribution() -> None:
    """Also those of each built-in plugin, which so need no update of their own."""
    declared = declared_requirements()
    assert set(LIGHT) <= declared
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    needs = {o.full_name: o.offer.needs for kind in KINDS for o in catalog.offers(kind)}
    needs |= {plugin.full_name: plugin.needs for plugin in catalog.plugins.found}
    assert not {name: texts for name, texts in needs.items() if set(texts) - declared}


def test_what_is_available_with_the_light_requirements_can_be_built(tmp_path: Path) -> None:
    names = [line.partition(">")[0] for line in LIGHT]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, json.dumps(names), json.dumps(HEAVY)],
        env={**os.environ, "TUNESMITH_PLUGINS": "", "TUNESMITH_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "\x1d" in done.stdout, done.stderr[-2000:]
    available, failed, broken = json.loads(done.stdout.rpartition("\x1d")[2])
    assert failed == []
    assert broken == []
    assert {"data loader jsonl", "command check", "command run", "reporter console"} <= {*available}
    assert not {"technique lora", "splitter grouped", "reporter html"} & {*available}


# --------------------------------------------------------------------------- an environment

RUN_FILE = """
[model]
base = "model"
[data]
train = "rows.txt"
[technique]
use = "lora"
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel of tunesmith, its light requirements, and pytest."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("light")
    environment = Environment.create(folder / "venv", only=[*LIGHT, "pytest"])
    (folder / "sources").mkdir()
    environment.install(*build_wheels([copy_sources(folder / "sources")], folder / "wheels"))
    found = environment.run(
        ["-c", f"from importlib.util import find_spec; print([*filter(find_spec, {HEAVY})])"],
        cwd=folder,
    )
    assert found.stdout.strip() == "[]", found.stderr
    environment.variables.update(TUNESMITH_CACHE=str(folder / "cache"))
    return environment


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A run file for ``--plugin mine.py``, and a model folder that has only names and sizes."""
    (tmp_path / "model").mkdir()
    config = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + b"\0" * 4
    (tmp_path / "model" / "model.safetensors").write_bytes(weights)
    rows = "".join(f"question {n}\tanswer {n % 3}\n" for n in range(40))
    (tmp_path / "rows.txt").write_text(f"{rows}no answer\n", encoding="utf-8")
    (tmp_path / "run.toml").write_text(RUN_FILE, encoding="utf-8")
    return tmp_path


@pytest.mark.environment
def test_components_that_lack_requirements_are_listed_with_them(
    light: Environment, tmp_path: Path
) -> None:
    done = light.tunesmith("--help", cwd=tmp_path)
    assert done.returncode == 0 and "check " in done.stdout, done.stderr
    done = light.tunesmith("plugins", "list", cwd=tmp_path, COLUMNS="250")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (lora,) = [line for line in lines if line.startswith("lora ")]
    assert "not available: torch>=2.11 is not installed; transformers" in lora
    assert "not available: tunesmith:leaks: numpy>=1.26 is not installed" in lines
    assert not [line for line in lines if line.startswith("broken")]
    (jsonl,) = [line for line in lines if line.startswith("jsonl ")]
    assert jsonl.endswith("built in")


@pytest.mark.environment
def test_a_check_reads_the_data_of_a_plugin_and_a_run_is_refused(
    light: Environment, project: Path
) -> None:
    made = light.tunesmith("plugins", "new", "mine", "--kind", "loader", "--file", cwd=project)
    assert made.returncode == 0, made.stderr
    options = ["--plugin", "mine.py"]
    keys = ["--set", "data.use=mine"]
    done = light.tunesmith(*options, "check", "run.toml", *keys, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "40 training rows" in done.stdout
    assert "no answer" in done.stdout
    assert "question 0" in done.stdout
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert (
        "warning: data: the rows are not split, because libraries of the splitter are missing"
        in warnings
    )
    for name in ("splitter grouped", "technique lora", "reporter html", "tunesmith:verdict"):
        (warning,) = [line for line in warnings if line.startswith(f"warning: {name}: ")]
        assert "missing" in warning or "not available" in warning
        assert "is not installed" in warning
    assert "pip install 'numpy>=1.26' 'torch>=2.11'" in done.stderr

    done = light.tunesmith(*options, "run", "run.toml", *keys, "--out", "out", cwd=project)
    assert done.returncode == 4
    for library in ("numpy", "torch", "jinja2"):
        assert f"{library}>=" in done.stderr
    assert not (project / "out").exists()


@pytest.mark.environment
def test_a_command_that_lacks_a_library_names_it(light: Environment, project: Path) -> None:
    done = light.tunesmith("data", "stats", "rows.txt", cwd=project)
    assert done.returncode == 4
    assert "numpy is not installed, but " in done.stderr


@pytest.mark.environment
def test_a_type_checker_knows_the_installed_packages(light: Environment, tmp_path: Path) -> None:
    """Each has a ``py.typed``, without which its names would be Any."""
    program = tmp_path / "program.py"
    program.write_text(
        "import tunesmith, tunesmith_cli, tunesmith_data, tunesmith_evidence.number_text\n"
        "import tunesmith_plugins.splitters, tunesmith_python.runs\n"
        "import tunesmith_torch.options.stages\n"
        "reveal_type(tunesmith.run)\n"
        "reveal_type(tunesmith_data.parse_row)\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", light.python, "--strict"]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    revealed = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    assert len(revealed) == 2 and "import" not in done.stdout
    assert "-> tunesmith_python.runs.Run" in revealed[0]
    assert "-> dict[str, Any]" in revealed[1] or "dict[builtins.str, Any]" in revealed[1]


@pytest.mark.environment
def test_the_tests_of_a_data_loader_pass(light: Environment, tmp_path: Path) -> None:
    """A distribution with the conformance kit, as ``plugins new`` writes it."""
    made = light.tunesmith("plugins", "new", "other", "--kind", "loader", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    light.install(*build_wheels([tmp_path / "tunesmith-other"], tmp_path / "wheels"))
    done = light.run(["-m", "pytest", "-q"], cwd=tmp_path / "tunesmith-other")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "error" not in done.stdout
