"""Load the GPU simulator for the interpreter or for hardware, both in one process.

Triton decides when a kernel is defined, by ``TRITON_INTERPRET``, how it will run; so each way needs
a copy of the module of its own.
"""

import functools
import importlib
import os
import sys
from types import ModuleType
from unittest import mock

import pytest
import torch

PACKAGE = "spikedata.simulator"
NAMES = ("triton_kernels", "triton_batch", "triton_gpu")


@functools.cache
def load_triton_gpu(*, interpret: bool) -> ModuleType:
    """A copy of triton_gpu; the test is skipped where it cannot run."""
    pytest.importorskip("triton", reason="triton is for Linux alone")
    if not interpret and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return copy_of("triton_gpu", interpret=interpret)


def copy_of(name: str, *, interpret: bool) -> ModuleType:
    """The same of any of the modules; what was loaded before stays as it was."""
    package = importlib.import_module(PACKAGE)
    loaded = {other: sys.modules.pop(f"{PACKAGE}.{other}", None) for other in NAMES}
    try:
        with mock.patch.dict(os.environ, {"TRITON_INTERPRET": str(int(interpret))}):
            return importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        for other, module in loaded.items():
            sys.modules.pop(f"{PACKAGE}.{other}", None)
            vars(package).pop(other, None)
            if module is not None:
                sys.modules[f"{PACKAGE}.{other}"] = module
                setattr(package, other, module)
