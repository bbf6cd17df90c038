"""Commands of plugins: one or two words, groups, conflicts, and help without importing them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tunesmith.offers import CommandOffer, Offered, Plugin
from tunesmith.renamed import COMMANDS
from tunesmith_cli.app import app
from tunesmith_cli.groups import SECTIONS, CommandConflict, resolve_command_conflicts

PLUGIN = """
import click
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

def load_as(word):
    def load():
        print("loaded", word)
        return click.Command(word, callback=lambda: click.echo(f"hi from {word} in STEM"))
    return load

@hookimpl
def tunesmith_commands():
    return [CommandOffer(name=name, summary=summary, load=load_as(name.split()[-1]))
            for name, summary in OFFERS]
"""
WAVES = [("wave", "Waves."), ("sea check", "Checks waves."), ("sea show", "Shows waves.")]
Tunesmith = Callable[..., Result]


@pytest.fixture
def tunesmith(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    """The command, with single-file plugins that offer the commands given by file name."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("TUNESMITH"):
            monkeypatch.delenv(name)

    def call(*args: str, **offers: list[tuple[str, str]]) -> Result:
        for stem, pairs in offers.items():
            text = PLUGIN.replace("OFFERS", repr(pairs)).replace("STEM", stem)
            (tmp_path / f"{stem}.py").write_text(text)
        files = [word for stem in offers for word in ("--plugin", f"{stem}.py")]
        return CliRunner().invoke(app, [*files, *args], prog_name="tunesmith")

    return call


# --------------------------------------------------------------------------- found


def test_commands_of_one_and_two_words(tunesmith: Tunesmith) -> None:
    assert tunesmith("wave", one=WAVES).stdout.endswith("hi from wave in one\n")
    assert tunesmith("sea", "check", one=WAVES).stdout.endswith("hi from check in one\n")
    assert "Usage: tunesmith sea check" in tunesmith("sea", "check", "--help", one=WAVES).stdout


def test_plugins_share_a_group(tunesmith: Tunesmith) -> None:
    offers = {"one": WAVES, "two": [("sea sail", "Sails.")]}
    lines = tunesmith("sea", "--help", **offers).stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == ["check", "sail", "show"]
    assert "hi from sail in two" in tunesmith("sea", "sail", **offers).stdout


def test_a_plugin_adds_to_a_group_of_built_in_commands(tunesmith: Tunesmith) -> None:
    offers = [("plugins wave", "Waves at plugins.")]
    assert "hi from wave in one" in tunesmith("plugins", "wave", one=offers).stdout
    shown = tunesmith("plugins", "--help", one=offers).stdout
    assert "Waves at plugins." in shown and "Show the options of a component." in shown
    after = tunesmith("plugins", "--plugin", "one.py", "wave")
    assert "hi from wave in one" in after.stdout


@pytest.mark.parametrize("args", [[], ["sea"], ["plugins"]])
def test_a_group_without_a_command_prints_its_help(tunesmith: Tunesmith, args: list[str]) -> None:
    bare = tunesmith(*args, one=WAVES) if args else tunesmith()
    assert bare.exit_code == 0, bare.output
    assert bare.stdout.startswith(f"Usage: {' '.join(['tunesmith', *args])} [OPTIONS]")
    assert not bare.stderr


def test_help_loads_no_command(tunesmith: Tunesmith) -> None:
    shown = tunesmith("--help", one=WAVES).stdout
    assert "loaded" not in shown
    lines = {line.split()[0]: line for line in shown.splitlines() if line.startswith("  ")}
    assert lines["wave"].split(maxsplit=1)[1] == "Waves."
    assert lines["sea"].split(maxsplit=1)[1] == "Commands: check, show."
    shown = tunesmith("sea", "--help", one=WAVES).stdout
    assert "loaded" not in shown and "Checks waves." in shown
    assert "loaded" in tunesmith("sea", "check", "--help", one=WAVES).stdout


def test_completion_knows_the_second_word(tmp_path: Path) -> None:
    script = "import sys; sys.argv[0] = 'tunesmith'; from tunesmith_cli import main; main()"
    for words, expected in [
        ("tunesmith plu", "plugins"),
        ("tunesmith plugins n", "new"),
        ("tunesmith nothing x", ""),
    ]:
        completion = {
            "_TUNESMITH_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, **completion},
            cwd=tmp_path,
        )
        assert done.stdout.startswith(f"plain,{expected}" if expected else ""), done.stdout
        assert done.stderr == ""


def test_help_lists_commands_in_sections_those_used_most_first(tunesmith: Tunesmith) -> None:
    headings: dict[str, str] = {}
    heading, shown = "Start", tunesmith("--help", one=WAVES).stdout
    for line in shown.partition("Start:")[2].splitlines():
        if line and not line.startswith(" "):
            heading = line.removesuffix(":")
        elif line.startswith("  ") and line[2] != " ":
            headings.setdefault(line.split()[0], heading)
    assert "…" not in shown  # no summary is cut off at 80 columns
    words = [*headings]
    assert words[:5] == ["init", "check", "run", "resume", "plan"]
    assert [*dict.fromkeys(headings.values())] == [*SECTIONS, "More"]
    assert [w for w, heading in headings.items() if heading == "More"] == ["sea", "wave"]
    assert headings["plugins"] == "Maintain" and headings["chat"] == "Use"
    assert len(words) == len(set(words))


def test_a_third_party_chooses_section_and_position(tunesmith: Tunesmith, tmp_path: Path) -> None:
    placed = PLUGIN.replace("load=load_as", "section='Use', position=-1, load=load_as")
    (tmp_path / "early.py").write_text(placed.replace("OFFERS", repr(WAVES[:1])))
    shown = tunesmith("--plugin", "early.py", "--help").stdout
    assert shown.partition("Use:\n")[2].split()[0] == "wave"


@pytest.mark.parametrize("name", [*COMMANDS])
def test_a_merged_command_is_answered_with_the_present_one(tunesmith: Tunesmith, name: str) -> None:
    done = tunesmith(*name.split())
    assert done.exit_code == 2 and f"hint: use `{COMMANDS[name]}`" in done.stderr
    words = COMMANDS[name].split()
    group = words[1:3] if words[1] in ("data", "plugins") else words[1:2]
    option = next(word for word in words if word.startswith("--"))
    shown = tunesmith(*([] if words[1] == option else group), "--help").stdout
    assert option in shown


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["sea", "chekc"], 'no such command "sea chekc"', "did you mean sea check?"),
        (["sea", "xyz"], 'no such command "sea xyz"', "`tunesmith sea --help` lists the commands"),
        (["sae", "check"], 'no such command "sae"', "did you mean sea?"),
        (["plugins", "lst"], 'no such command "plugins lst"', "did you mean plugins list?"),
        (["plugins", "nwe"], 'no such command "plugins nwe"', "did you mean plugins new?"),
        (
            ["qqqq"],
            'no such command "qqqq"',
            "list --available qqqq` looks for a plugin",
        ),
        (["check sea"], 'no such command "check sea"', "hint: "),
        (["sea check"], 'no such command "sea check"', "hint: "),
    ],
)
def test_an_unknown_word_is_refused_with_a_hint(
    tunesmith: Tunesmith, args: list[str], message: str, hint: str
) -> None:
    done = tunesmith(*args, one=WAVES)
    assert done.exit_code == 2
    assert message in done.stderr and hint in done.stderr
    assert "loaded" not in done.output


# --------------------------------------------------------------------------- conflicts


def offered(distribution: str, *names: str) -> list[Offered[CommandOffer]]:
    plugin = Plugin(name="p", distribution=distribution, version="1", module="p")

    def load() -> click.Command:
        raise AssertionError

    return [Offered(plugin, CommandOffer(name=n, summary="S.", load=load)) for n in names]


OWN = "tunesmith has a command with this name"


@pytest.mark.parametrize(
    ("offers", "conflicts"),
    [
        ({"a": ["x", "data check", "plugins new"], "b": ["y", "data show"]}, []),
        ({"tunesmith": ["run"], "a": ["run"]}, [("run", "a:p", OWN)]),
        ({"tunesmith": ["x"], "a": ["x"], "b": ["x"]}, [("x", "a:p, b:p", OWN)]),
        ({"tunesmith": ["x y"], "a": ["x y"]}, [("x y", "a:p", OWN)]),
        ({"tunesmith": ["x y"], "a": ["x"]}, [("x", "a:p", "x is a group of commands")]),
        (
            {"tunesmith": ["run"], "a": ["run fast"]},
            [("run fast", "a:p", "run is a command, not a group")],
        ),
        ({"a": ["x", "x y"]}, [("x y", "a:p", "x is a command, not a group")]),
        ({"a": ["x y"], "b": ["x"]}, [("x", "b:p", "x is a group of commands")]),
        ({"a": ["x"], "b": ["x"]}, [("x", "a:p, b:p", "offered by more than one plugin")]),
        ({"a": ["x y"], "b": ["x y"]}, [("x y", "a:p, b:p", "offered by more than one plugin")]),
    ],
)
def test_conflicts(offers: Mapping[str, list[str]], conflicts: list[tuple[str, str, str]]) -> None:
    everything = [
        o for distribution, names in offers.items() for o in offered(distribution, *names)
    ]
    usable, found = resolve_command_conflicts(everything)
    expected = [
        CommandConflict(name, tuple(by.split(", ")), reason) for name, by, reason in conflicts
    ]
    assert found == expected
    owned = set(offers.get("tunesmith", ()))
    refused = {name for name, *_ in conflicts} - owned
    assert usable.keys() == {name for names in offers.values() for name in names} - refused


def test_a_plugin_cannot_replace_a_built_in_command(tunesmith: Tunesmith) -> None:
    offers = [("run", "Takes over."), ("plugins list", "Hides."), ("check it", "Slips in.")]
    offers += [("plugins", "Swallows.")]
    for args in (["--help"], ["plugins", "--help"]):
        shown = tunesmith(*args, one=offers).stdout
        hidden = ("Takes over.", "Hides.", "check it", "Swallows.")
        assert not [text for text in hidden if text in shown]
    assert "Train a model" in tunesmith("--help", one=offers).stdout
    listed = tunesmith("plugins", "list", one=offers).stdout
    assert "loaded" not in listed
    for name, reason in [
        ("run", OWN),
        ("plugins list", OWN),
        ("check it", "check is a command"),
        ("plugins", "plugins is a group"),
    ]:
        assert f'command "{name}" of file:one cannot be used: {reason}' in listed
    as_json = json.loads(tunesmith("plugins", "list", "--json", one=offers).stdout)
    assert {
        "command": "run",
        "plugins": ["file:one"],
        "reason": OWN,
    } in as_json["unusable_commands"]
    clean = json.loads(tunesmith("plugins", "list", "--json").stdout)
    assert clean["unusable_commands"] == []


@pytest.mark.parametrize("name", ["wave", "sea wave"])
def test_a_command_of_two_plugins_is_ambiguous(tunesmith: Tunesmith, name: str) -> None:
    offers = {"one": [(name, "Waves.")], "two": [(name, "Waves too.")]}
    done = tunesmith(*name.split(), **offers)
    assert done.exit_code == 2
    said = f'"{name}" is not available: offered by more than one plugin (file:one, file:two)'
    assert said in done.stderr
    assert f"`tunesmith --no-plugin NAME {name}`" in done.stderr
    assert "wave" not in tunesmith("--help", **offers).stdout
    listed = tunesmith("plugins", "list", **offers).stdout
    assert (
        f'command "{name}" of file:one, file:two cannot be used: offered by more than one plugin'
        in listed
    )
    alone = tunesmith("--no-plugin", "two", *name.split(), **offers)
    assert "hi from wave in one" in alone.stdout


@pytest.mark.parametrize("name", ["a b c", "a  b", " a", "a ", "A b", "a/b", "a_b"])
def test_a_badly_formed_name_breaks_the_plugin(tunesmith: Tunesmith, name: str) -> None:
    listed = tunesmith("plugins", "list", one=[(name, "Waves.")]).stdout
    assert "broken: file:one" in listed and "letters, digits and hyphens, in one or two" in listed
