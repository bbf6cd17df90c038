"""Importing the toolkits and the plugins changes nothing outside of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tunesmith_torch.runtime.environment import DEFAULTS

PROGRAM = '''
import importlib, json, logging, os, pkgutil, random, signal, sys, warnings

LIBRARIES = ("torch", "transformers", "peft", "numpy", "accelerate", "safetensors", "tokenizers")
for name in ("bitsandbytes", "kernels"):  # their imports have effects of their own
    sys.modules[name] = None
for name in (*LIBRARIES, "datasets", "trl", "sklearn.linear_model"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
# transformers and TRL load their parts when they are read for the first time.
import torch, numpy, transformers.integrations
import rich.live, rich.table  # rich draws a random number
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Trainer
from transformers import PrinterCallback, TrainerCallback, GenerationConfig
from peft import PeftModel, get_peft_model


def state():
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    loggers = [each for each in loggers if isinstance(each, logging.Logger)]
    return {
        "environment variables": dict(os.environ),
        "folder": os.getcwd(),
        "signal handlers": [repr(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)],
        "warning filters": [repr(each) for each in warnings.filters],
        "loggers": {
            each.name: (each.level, repr(each.handlers), repr(each.filters), each.propagate)
            for each in loggers
            if each.level or each.handlers or each.filters or not each.propagate
        },
        "Python's random generator": repr(random.getstate()),
        "NumPy's random generator": repr(numpy.random.get_state()),
        "torch's random generator": torch.get_rng_state().tolist(),
        "torch's threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's gradient mode": torch.is_grad_enabled(),
        "attention": sorted(transformers.AttentionInterface().keys()),
    }


def attributes():
    """Return the identity of what the libraries define: functions, classes, methods, constants."""
    found = {}
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] not in LIBRARIES:
            continue
        for attribute, value in list(vars(module).items()):
            if attribute.startswith("__"):
                continue
            found[f"{name}.{attribute}"] = value
            if isinstance(value, type) and value.__module__.partition(".")[0] in LIBRARIES:
                for method, function in list(vars(value).items()):
                    if callable(function) or isinstance(function, (property, classmethod)):
                        found[f"{value.__module__}.{value.__qualname__}.{method}"] = function
    return found


def modules(package):
    """Yield the names of the package and of all modules in it."""
    yield package
    home = importlib.import_module(package)
    for each in pkgutil.walk_packages(home.__path__, package + "."):
        if not each.name.endswith("__main__"):
            yield each.name


before, found = state(), attributes()
packages, extra = json.loads(sys.argv[1]), sys.argv[2]
names = []
for package in packages:
    for name in modules(package):
        importlib.import_module(name)
        names.append(name)


def changes():
    after, left = state(), attributes()
    changed = [key for key in before if before[key] != after[key]]
    return changed + [key for key, value in found.items() if left.get(key, value) is not value]


by_imports = changes()
exec(extra)
print("\\x1d" + json.dumps([names, by_imports, changes()]))
'''
PACKAGES = (
    "tunesmith_torch",
    "tunesmith_cli",
    "tunesmith_data",
    "tunesmith_evidence",
    "tunesmith_plugins",
    "tunesmith_python",
)


CHANGES = {
    "environment variables": "os.environ['MINE'] = '1'",
    "torch's threads": "torch.set_num_threads(7)",
    "torch's default dtype": "torch.set_default_dtype(torch.float64)",
    "torch's random generator": "torch.manual_seed(1)",
    "warning filters": "warnings.simplefilter('ignore')",
    "loggers": "logging.getLogger('transformers').setLevel(1)",
    "torch.nn.modules.linear.Linear.forward": "torch.nn.Linear.forward = print",
    "peft.get_peft_model": "import peft; peft.get_peft_model = print",
    "attention": "transformers.AttentionInterface.register('mine', print)",
}
"""Code that changes something, by the name under which it is found."""


@dataclass(frozen=True)
class Imports:
    """The report of a fresh process that imports every module and then makes ``CHANGES``."""

    names: list[str]
    """The modules."""
    changes: list[str]
    """Names of what the imports changed."""
    later_changes: list[str]
    """The same, after ``CHANGES``."""


@pytest.fixture(scope="module")
def imports() -> Imports:
    # A test before this one may have built a technique in this process, which sets them.
    inherited = {name: value for name, value in os.environ.items() if name not in DEFAULTS}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(PACKAGES), "\n".join(CHANGES.values())],
        env={**inherited, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout.rpartition("\x1d")[2]
    assert text, done.stderr[-3000:]
    return Imports(*json.loads(text))


@pytest.mark.processes
def test_importing_every_module_changes_nothing_outside(imports: Imports) -> None:
    assert "tunesmith_torch.training.loop" in imports.names
    assert "tunesmith_plugins.techniques.lora.technique" in imports.names
    assert imports.changes == []


@pytest.mark.processes
def test_changes_are_found(imports: Imports) -> None:
    """The check above is not blind."""
    assert set(CHANGES) <= set(imports.later_changes)
