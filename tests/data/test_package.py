"""The toolkit's public names, and the loader in the docstring of the package."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from typing import Any

import tunesmith_data


def test_the_loader_in_the_package_docstring_works(tmp_path: Path) -> None:
    docstring = inspect.getdoc(tunesmith_data) or ""
    code = docstring.split("on each line::\n")[1].split("\nA row whose columns")[0]
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(code), namespace)
    (offer,) = namespace["tunesmith_data_loaders"]()
    path = tmp_path / "rows.txt"
    path.write_text("What is 1 + 1?\t2\nno answer\n")
    dataset = offer.build(offer.config(train=str(path), max_skipped=0.5)).load()
    assert [(r.prompt, r.completion) for r in dataset.train] == [("What is 1 + 1?", "2")]
    assert [item.cause for item in dataset.skipped] == ["no tab in the line"]


def test_every_public_name_exists_and_is_documented() -> None:
    assert sorted(tunesmith_data.__all__) == sorted(set(tunesmith_data.__all__))
    for name in tunesmith_data.__all__:
        value = getattr(tunesmith_data, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
