"""What makes training faster or smaller without changing what is learnt, and where its time goes.

Parts of a model are compiled or checkpointed in place, by their own ``forward``: names of weights,
saving and ``encode_*`` stay what they are. FeatureNorm is left out of both: it counts batches as
it goes, and would count twice where a part is done again.
"""

import ctypes
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spikedata import SpikeDataError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let what one step frees serve the next one, on Linux with glibc; nothing elsewhere.

    Every step asks for the same large tensors. glibc gives those above 32 MB back to the system at
    once, and the next step waits while the system clears them page by page: a quarter of a step of
    preset ``paper``. What a process holds at most stays what it was.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


HEAVY_PARTS = ("video.extractor", "video.backbone", "video.picture", "video.encoder.tower")
"""Parts of a model, where it has them, that do most of its arithmetic."""


def checkpoint_activations(model: Any) -> None:
    """Let a model keep less for its backward pass, and work the rest out again there.

    What transformers can checkpoint is (the text encoder from scratch, STAR-Net's blocks), and so
    are the pieces of the extractor and the stages of an image tower, which it knows nothing of. A
    part that neither learns nor has learning parts before it keeps nothing anyway.

    Args:
        model: SpklipModel; gradients stay the same.
    """
    # transformers 6 will know the first name alone, transformers before 5.20 the second.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for part in _repeated_parts(model):
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = False  # once is enough
        part.forward = functools.partial(checkpoint, part.forward, use_reentrant=False)


def _repeated_parts(model: Any) -> list[Any]:
    """Pieces of the extractor, and stages of the image tower."""
    video = model.video
    parts: list[Any] = []
    for extractor in (getattr(video, "extractor", None), getattr(video, "picture", None)):
        if extractor is not None:
            parts += [piece for part in extractor.children() for piece in _pieces(part)]
    encoder = getattr(video, "encoder", None)
    return parts + list(getattr(encoder, "stages", []))


def _pieces(part: nn.Module) -> list[nn.Module]:
    """A sequence of blocks piece by piece, which may be none; anything else whole."""
    layers = [next(piece.children(), None) is None for piece in part.children()]
    return list(part) if isinstance(part, nn.Sequential) and not any(layers) else [part]


def compile_parts(model: Any) -> None:
    """Compile what does most of a model's arithmetic, when it is first used.

    Not the whole model: what lies between the parts, as FeatureNorm, which counts, cannot be
    compiled and would be tried again and again; texts, whose length changes, are little work.

    Args:
        model: SpklipModel; gradients stay the same to rounding.
    """
    torch.compiler.reset()  # so many models of one process are compiled, and no more
    parts = [part for name in HEAVY_PARTS if (part := _part(model, name)) is not None]
    for part in parts or [model.video]:
        part.compile(dynamic=False)


def _part(model: Any, name: str) -> nn.Module | None:
    for step in name.split("."):
        model = getattr(model, step, None)
    return model if isinstance(model, nn.Module) else None


def run_as_written(model: Any) -> None:
    """Undo :func:`compile_parts` and :func:`checkpoint_activations`: a trained model is judged."""
    for part in model.modules():
        part._compiled_call_impl = None
        own = part.__dict__.get("forward")
        if isinstance(own, functools.partial) and own.func is checkpoint:
            del part.forward


def check_compiler() -> None:
    """Check that this machine can compile a model.

    Raises:
        SpikeDataError: it has no C++ compiler, or no Triton where it has a GPU.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler  # noqa: PLC0415  # loads a second long

    try:
        get_cpp_compiler()
    except (RuntimeError, OSError) as error:
        raise SpikeDataError(
            "train.compile=true needs a C++ compiler and finds none. Install one "
            "(`apt install g++`), name it in CXX, or use train.compile=false"
        ) from error
    if torch.cuda.is_available() and find_spec("triton") is None:
        raise SpikeDataError("train.compile=true on a GPU needs Triton: pip install 'spklip[gpu]'")


class LoaderClock:
    """How long training took, and how long of it a step waited for its clips, in one process."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """Start at nothing.

        Args:
            now: seconds that pass.
        """
        self._now = now
        self.loop_seconds = 0.0
        self.waited_seconds = 0.0
        self.features_kept = False
        """Whether what was waited for are kept features, which no other process reads ahead."""

    @contextmanager
    def loop(self) -> Iterator[None]:
        """Time the loop: steps, checkpoints and logs, of this process and this call alone."""
        began = self._now()
        try:
            yield
        finally:
            self.loop_seconds += self._now() - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the wait for the next batch."""
        began = self._now()
        try:
            yield
        finally:
            self.waited_seconds += self._now() - began

    @property
    def idle_share(self) -> float | None:
        """Share of the loop in which the step waited for clips, 0 to 1; None before any loop."""
        return self.waited_seconds / self.loop_seconds if self.loop_seconds else None
