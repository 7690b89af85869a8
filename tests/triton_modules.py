"""Load the GPU simulator for the interpreter or for hardware, both in one process.

Triton decides when a kernel is defined, by ``TRITON_INTERPRET``, how it will run; so each way needs
a copy of the module of its own.
"""

import functools
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import torch

import spikedata

NAME = "spikedata.simulator.triton_gpu"
FILE = Path(spikedata.__file__).parent / "simulator/triton_gpu.py"


@functools.cache
def load_triton_gpu(*, interpret: bool) -> ModuleType:
    """A copy of the module; the test is skipped where it cannot run."""
    pytest.importorskip("triton", reason="triton is for Linux alone")
    if not interpret and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return copy_of_triton_gpu(interpret=interpret)


def copy_of_triton_gpu(*, interpret: bool) -> ModuleType:
    """The same, wherever triton is installed."""
    name = f"{NAME}_{'interpreted' if interpret else 'compiled'}"
    spec = importlib.util.spec_from_file_location(name, FILE)
    copy = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": str(int(interpret))}):
        sys.modules[name] = copy  # dataclasses look their module up
        spec.loader.exec_module(copy)
    return copy
