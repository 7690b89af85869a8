"""Which epoch it is, in a process and in the workers of a loader."""

import zlib
from typing import Any

import torch
import torch.distributed

_MOST_WORKERS = 1023
EPOCH_BITS, _RUN_BITS = 31, 31


class Epochs:
    """Which epoch is read, for this process and the workers of a loader, which share it.

    Every worker of one run over a loader must come to the same number, whichever of them begins
    first, though none hears of the others. Each notes the epoch that it begins, and in which run,
    in a slot of its own; who finds the run noted joins it. A slot is written at once, as one
    number.
    """

    def __init__(self) -> None:
        self._slots = torch.zeros(1 + _MOST_WORKERS, dtype=torch.int64)
        self._slots.share_memory_()  # type: ignore[no-untyped-call]
        self._runs = 0
        self._last: int | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._slots.share_memory_()  # type: ignore[no-untyped-call]

    def set(self, epoch: int) -> None:
        """Say which epoch comes."""
        self._slots.zero_()
        self._slots[0] = epoch << _RUN_BITS

    def coming(self) -> int:
        """The epoch that comes."""
        return _next(self._told())

    def in_workers(self) -> bool:
        """Whether the newest epoch was begun by a loader's workers."""
        (own, _), *others = self._told()
        return any(run and epoch >= own for epoch, run in others)

    def begin(self, epoch: int) -> None:
        """Note that this process has begun an epoch."""
        self._slots[0] = epoch << _RUN_BITS | 1

    def begin_in_worker(self, worker: Any, epoch: int | None) -> int:
        """Begin an epoch as a worker: the one given, or the one that its fellows begin."""
        if worker.id >= _MOST_WORKERS:
            raise ValueError(f"at most {_MOST_WORKERS} workers can share the clips of one loader")
        self._runs += 1
        # The seed is the same for all workers of a run, and each has seen as many runs.
        run = zlib.crc32(f"{worker.seed - worker.id} {self._runs}".encode()) >> 1 | 1
        self._last = self._agreed(worker.id + 1, run) if epoch is None else epoch
        self._slots[worker.id + 1] = self._last << _RUN_BITS | run
        return self._last

    def _agreed(self, slot: int, own_run: int) -> int:
        told = self._told()  # once: a fellow may write at any time
        fellows = [epoch for epoch, run in told[1:] if run == own_run]
        # A seed that was set anew makes two runs look like one: then a worker has begun it already.
        if fellows and told[slot] != (max(fellows), own_run):
            return max(fellows)
        was_set = not any(run for _, run in told)
        return _next(told) if was_set or self._last is None else self._last + 1

    def _told(self) -> list[tuple[int, int]]:
        """Epoch and run of every slot; a run of 0 has not begun."""
        return [divmod(slot, 1 << _RUN_BITS) for slot in self._slots.tolist()]


def _next(told: list[tuple[int, int]]) -> int:
    newest = max(epoch for epoch, _ in told)
    return newest + 1 if any(run for _, run in told) else newest
