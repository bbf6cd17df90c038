"""Hints name a command that installs what is missing, from a checkout and from a wheel."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunesmith.install import find_checkout, install_contrib, install_extra


def install(monkeypatch: pytest.MonkeyPatch, origin: object) -> None:
    text = None if origin is None else json.dumps(origin)
    found = SimpleNamespace(read_text=lambda name: text)
    monkeypatch.setattr(metadata, "distribution", lambda name: found)


def test_a_checkout_is_installed_again_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "a b"
    (checkout / "contrib" / "tunesmith-gguf").mkdir(parents=True)
    install(monkeypatch, {"url": checkout.as_uri(), "dir_info": {"editable": True}})
    assert find_checkout() == checkout
    monkeypatch.chdir(checkout)
    assert install_extra("serve") == "pip install -e '.[serve]'"
    assert install_contrib("tunesmith-gguf") == "pip install ./contrib/tunesmith-gguf"
    monkeypatch.chdir("/")
    assert install_extra("serve") == f"pip install -e './{checkout.relative_to('/')}[serve]'"
    assert "from a checkout" in install_contrib("tunesmith-none")


@pytest.mark.parametrize(
    "origin", [None, {"url": "file:///tunesmith-1.whl", "archive_info": {}}, {"dir_info": 5}]
)
def test_a_wheel_is_installed_by_name(monkeypatch: pytest.MonkeyPatch, origin: object) -> None:
    install(monkeypatch, origin)
    assert find_checkout() is None
    assert install_extra("serve") == "pip install 'tunesmith[serve]'"
    expected = "install it from a checkout of tunesmith's repository: pip install ./contrib/x"
    assert install_contrib("x") == expected
