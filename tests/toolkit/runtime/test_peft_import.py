"""PEFT and adapters of plain models import no bitsandbytes; a quantized model still does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith_torch.testing.tiny_model import save_tiny_model

# Forked processes share the imports that take seconds.
RUN_EACH = """
import os, sys
import tunesmith_torch.models.loading
import tunesmith_torch.runtime.peft_import
assert "bitsandbytes" not in sys.modules
for name, program in zip(sys.argv[2::2], sys.argv[3::2]):
    if os.fork() == 0:
        exec(program)
        os._exit(0)
    _, status = os.wait()
    assert status == 0, name
"""
ADAPT = """
import sys
from pathlib import Path
import torch
from tunesmith_torch.models.adapters import adapt_lora
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.models.quantization import Quantization, load_quantized
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import pick_precision

folder, cpu = Path(sys.argv[1]), torch.device("cpu")

def adapt(base, fused_kernels=True):
    precision = pick_precision(cpu, "fp32")
    model = adapt_lora(base, precision, AdapterOptions(), 0, fused_kernels=fused_kernels).model
    return type(model.base_model.model.model.layers[0].mlp.down_proj)

def plain(**options):
    return adapt(load_base(folder, device=cpu, dtype=torch.float32), **options).__module__

assert plain() == "tunesmith_torch.kernels.fused_lora"
assert plain(fused_kernels=False) == "peft.tuners.lora.layer"
assert "bitsandbytes" not in sys.modules
"""
QUANTIZE = """
base = load_quantized(folder, Quantization(), device=cpu, dtype=torch.float32)
assert "bitsandbytes" in sys.modules
assert adapt(base).__module__ == "tunesmith_torch.kernels.fused_lora"
quantized = load_quantized(folder, Quantization(), device=cpu, dtype=torch.float32)
assert adapt(quantized, fused_kernels=False).__module__ == "peft.tuners.lora.bnb"
assert plain(fused_kernels=False) == "peft.tuners.lora.layer"
"""
HELPER = """
import peft.helpers, bitsandbytes
assert peft.helpers.bnb.functional is bitsandbytes.functional
"""
FIRST_USED_BY_PEFT = """
import sys, tunesmith_torch.runtime.peft_import, peft.helpers
assert "bitsandbytes" not in sys.modules
assert peft.helpers.bnb.functional is sys.modules["bitsandbytes"].functional
"""


@pytest.mark.processes
def test_bitsandbytes_is_imported_when_it_is_used(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    programs = {
        "a plain model, then a quantized one": ADAPT + QUANTIZE + HELPER,
        "a helper of PEFT": FIRST_USED_BY_PEFT,
    }
    arguments = [text for program in programs.items() for text in program]
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH, str(folder), *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-3000:]
