"""Ray's workers: parts are core tasks, which Ray runs and nothing more.

Ray is told never to retry: who dies with what is :mod:`~spikedata.engines.handing_out`'s to judge.
"""

import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from spikedata.engines.handing_out import (
    HandOut,
    LaneClosedError,
    PartDone,
    Ticket,
    WorkerLostError,
)
from spikedata.engines.tasks import Work
from spikedata.errors import EngineError, MissingExtraError, SpikeDataError
from spikedata.provenance import DISTRIBUTION
from spikedata.wording import one_line

Engine = Literal["local", "ray"]
"""Who does the work: threads of this process, or workers of a Ray cluster."""
PACKAGES = (DISTRIBUTION, "numpy", "zstandard", "av", "opencv-python-headless")
"""What decides the bits and the bytes: of the same version wherever a part is done."""
CPU, CUDA = "cpu", "cuda"
"""Kinds of worker: a core; a core and a GPU."""
GRACE_S = 10.0
"""Seconds that parts have to end when they are told to, before their processes are killed."""
ANSWER_S = 5.0
"""Seconds within which a cluster must answer."""
LOOK_S = 1.0
"""Seconds between two looks at how large the cluster is."""
OBJECTS_BYTES = 128 << 20
"""Memory for results that wait, on a Ray of our own: they are a few kB a clip."""


def check_ray() -> None:
    """Miss Ray before anything is begun.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("engine ray needs ray: pip install 'spklip[ray]'")


def lanes_of(
    resources: Mapping[str, float], *, device: str | None, workers: int | None
) -> dict[str, int]:
    """How many parts a cluster does at once, by kind of worker; the bits are the same.

    Args:
        resources: what the cluster has: its ``CPU`` and ``GPU``, if it has any.
        device: ``cpu`` or ``cuda`` alone; None: a part for each GPU, which needs a core too, and
            one for each core that is left.
        workers: parts at once at most; None: as many as there is room for.
    """
    cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    cuda = 0 if device == CPU else min(gpus, cores)
    cpu = 0 if device == CUDA else cores - cuda
    if workers is not None:
        cuda = min(cuda, workers)
        cpu = min(cpu, workers - cuda)
    return {CUDA: cuda, CPU: cpu}


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def planned_workers(
    engine: Engine = "local", *, address: str | None = None, workers: int | None = None
) -> int:
    """How many clips would be made at once, to tell beforehand.

    Args:
        engine: who would make them.
        address: of a Ray cluster, as for :func:`ray_workers`; it is asked.
        workers: at most; default all cores there are.

    Raises:
        MissingExtraError: the engine is not installed.
        EngineError: there is no such cluster.
    """
    if engine == "ray":
        check_ray()
        if not _is_local(address):
            with ray_workers(address=address, workers=workers) as ray:
                return sum(ray.lanes().values())
    return workers or available_cores()


@contextlib.contextmanager
def ray_workers(
    *,
    address: str | None = None,
    workers: int | None = None,
    device: str | None = None,
) -> "Iterator[RayWorkers]":
    """Ray's workers, while the ``with`` statement runs.

    If this program has called ``ray.init`` its Ray is used and left as it is. Else it is that at
    the ``address``, or at ``RAY_ADDRESS``; and if there is none, one on this machine is started,
    and shut down in the end.

    Args:
        address: of a cluster: ``auto`` for the one that this machine is in.
        workers: parts at once at most.
        device: ``cpu`` or ``cuda`` alone; None: GPUs where there are any.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: there is no such cluster, or it has no GPU and ``device`` is ``cuda``.
    """
    check_ray()
    import ray  # noqa: PLC0415  # half a second, and only this engine needs it

    with contextlib.ExitStack() as at_end:
        is_theirs = ray.is_initialized()
        if not is_theirs:
            at_end.enter_context(_quietly_started(ray, address, workers or available_cores()))
        made = RayWorkers(ray, workers, device, is_theirs=is_theirs)
        made.check_device()
        yield made


def _is_local(address: str | None) -> bool:
    """Whether a Ray of our own would be started."""
    ray = sys.modules.get("ray")
    is_there = ray is not None and ray.is_initialized()
    return not (is_there or address or os.environ.get("RAY_ADDRESS"))


@contextlib.contextmanager
def _quietly_started(ray: Any, address: str | None, cores: int) -> Iterator[None]:
    """Connect to a cluster, or start one, without a word on the terminal."""
    own: dict[str, Any] = {}
    if _is_local(address):
        own = {"num_cpus": cores, "object_store_memory": OBJECTS_BYTES, "include_dashboard": False}
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _environment(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0"):
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except (ConnectionError, OSError, RuntimeError, ValueError, AssertionError) as error:
        told = one_line(str(error)).strip()[:300]
        raise EngineError(f"ray: no cluster could be had at {address}: {told}") from error
    try:
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread() and at_sigterm is not None:
            signal.signal(signal.SIGTERM, at_sigterm)


def _check_answers(address: str) -> None:
    """Refuse an address that nobody answers at, where Ray itself would try for minutes.

    Raises:
        EngineError: nobody does.
    """
    host, colon, port = address.rpartition("://")[2].strip("/").rpartition(":")
    if not (colon and port.isdecimal()):  # a word of Ray's own, such as auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"ray: nobody answers at {address}: {error}") from error


@contextlib.contextmanager
def _environment(**wanted: str) -> Iterator[None]:
    """Variables that are set meanwhile, unless the user has set them."""
    added = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


class RayWorkers:
    """The workers of a Ray cluster, which do parts of one kind of work after another."""

    def __init__(
        self, ray: Any, workers: int | None, device: str | None, *, is_theirs: bool
    ) -> None:
        self._ray, self._workers, self._device = ray, workers, device
        self._lanes: dict[str, int] = {}
        self._looked_s = -LOOK_S
        self._without_gpus: str | None = None
        self.versions, do = _by_value("" if is_theirs else _unwanted_folder())
        self.task = ray.remote(do)
        self._given: list[HandOut[Any, Any]] = []

    def hand_out(
        self,
        work: Work,
        context: Any,
        items: Sequence[Any],
        *,
        lost: Callable[[Any, str], Any],
        stop: threading.Event,
        cost: Callable[[Any], float] = lambda _: 1.0,
    ) -> Generator[Any, None, None]:
        """Outcomes of all items, as they come; close it if not all are wanted.

        Args:
            work: a function of a module, which does a part: from the context, its items and the
                kind of worker to their outcomes.
            context: what all parts share, to be pickled; each worker unpickles it once.
            items: what is to be done, to be pickled.
            lost: outcome of an item that killed its workers.
            stop: set it to end early.
            cost: what an item costs, in any unit.

        Raises:
            EngineError: a worker has other versions of what decides the bits.
            Exception: whatever ``work`` raised.
        """
        tasks = _Tasks(self, self._ray, work, context)
        given: HandOut[Any, Any] = HandOut(items, tasks, lost=lost, stop=stop, cost=cost)
        self._given.append(given)
        return given.outcomes()

    def lanes(self) -> Mapping[str, int]:
        """How many parts may be under way at once, by kind of worker, as the cluster is now."""
        if time.monotonic() - self._looked_s >= LOOK_S:
            device = CPU if self._without_gpus else self._device
            resources = self._ray.cluster_resources()
            self._lanes = lanes_of(resources, device=device, workers=self._workers)
            self._looked_s = time.monotonic()
        return self._lanes

    def check_device(self) -> None:
        """Refuse ``cuda`` where there is no GPU at all.

        Raises:
            EngineError: there is none.
        """
        if self._device == CUDA and not self.lanes()[CUDA]:
            raise EngineError("device cuda: no node of the Ray cluster has a GPU")

    def use_no_gpus(self, why: SpikeDataError) -> None:
        """Go on without GPUs, if nobody asked for them.

        Raises:
            SpikeDataError: somebody did.
        """
        if self._device == CUDA:
            raise why
        self._without_gpus = str(why)
        self._looked_s = -LOOK_S

    def notes(self) -> list[str]:
        """What a user should know of the run, a sentence each."""
        lost = sum(given.workers_lost for given in self._given)
        again = sum(given.issued_again for given in self._given)
        told = [f"GPUs of the cluster were not used: {self._without_gpus}"]
        told = told if self._without_gpus else []
        if lost:
            told.append(f"workers that died: {lost}; what they were at was issued again")
        if again:
            told.append(f"parts that took too long: {again}; they were issued to a second worker")
        return told


class _Tasks:
    """One kind of work, as Ray's tasks: an :class:`~spikedata.engines.Executor`."""

    def __init__(self, workers: RayWorkers, ray: Any, work: Work, context: Any) -> None:
        self._workers, self._ray = workers, ray
        self._shared = pickle.dumps((work, context))
        self._here: dict[str, Any] = {"versions": workers.versions(), "folder": os.getcwd()}

    def lanes(self) -> Mapping[str, int]:
        return self._workers.lanes()

    def submit(self, lane: str, items: Sequence[Any]) -> Ticket:
        wants = self._workers.task.options(max_retries=0, num_cpus=1, num_gpus=int(lane == CUDA))
        ticket: Ticket = wants.remote(self._here, self._shared, pickle.dumps(items), lane)
        return ticket

    def ended(self, tickets: Sequence[Ticket], timeout_s: float) -> Sequence[Ticket]:
        if not tickets:
            time.sleep(timeout_s)  # until there are workers
            return []
        some, _ = self._ray.wait(tickets, num_returns=1, timeout=timeout_s)
        if not some:
            return []
        every, _ = self._ray.wait(tickets, num_returns=len(tickets), timeout=0)
        return list(every)

    def result(self, ticket: Ticket) -> PartDone:
        try:
            kind, where, value, seconds = self._ray.get(ticket)
        except self._ray.exceptions.RayError as error:
            raise WorkerLostError(_how(error)) from error
        if kind == "differs":
            raise EngineError(_difference(where, value, self._here["versions"]))
        if isinstance(value, LaneClosedError):
            self._workers.use_no_gpus(EngineError(f"node {where}: {value}"))
            raise value
        if isinstance(value, Exception):
            raise value
        return PartDone(value, seconds)

    def give_up(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._ray.cancel(ticket)

    def stop(self, tickets: Sequence[Ticket]) -> None:
        left = list(tickets)
        for force in (False, True):
            if left:
                for ticket in left:
                    self._ray.cancel(ticket, force=force)
                _, left = self._ray.wait(left, num_returns=len(left), timeout=GRACE_S)


def _difference(node: str, there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What is other on a node, in one line."""
    other = [
        f"{name} {there.get(name)} (here {version})"
        for name, version in here.items()
        if there.get(name) != version
    ]
    return (
        f"node {node} has {', '.join(other)}. Install the same versions on every node, so that "
        "all give the same bytes"
    )


def _how(error: Exception) -> str:
    """How a worker died, in a few words: Ray's own fill a screen."""
    names = {
        "NodeDiedError": "its node died",
        "LocalRayletDiedError": "its node died",
        "OutOfMemoryError": "it was killed for want of memory",
        "WorkerCrashedError": "its process died",
    }
    return names.get(type(error).__name__, type(error).__name__)


def _by_value(unwanted: str) -> tuple[Callable[[], dict[str, str]], Callable[..., Any]]:
    """Versions of what decides the bytes, and what Ray's workers run.

    Functions in a function are sent by value, so these work whatever is installed over there.

    Args:
        unwanted: a folder that Ray puts on the path of its workers, and that goes again.
    """
    packages = PACKAGES

    def versions() -> dict[str, str]:
        import sys  # noqa: PLC0415  # the worker's, as all of these
        from importlib import metadata  # noqa: PLC0415

        found = {"python": ".".join(map(str, sys.version_info[:3]))}
        for name in packages:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "not installed"
        return found

    def do(here: dict[str, Any], shared: bytes, items: bytes, lane: str) -> tuple[Any, ...]:
        import contextlib  # noqa: PLC0415
        import os  # noqa: PLC0415
        import platform  # noqa: PLC0415
        import sys  # noqa: PLC0415
        import time  # noqa: PLC0415

        if unwanted in sys.path:
            sys.path.remove(unwanted)
        there = versions()
        if there != here["versions"]:
            return "differs", platform.node(), there, 0.0
        from spikedata.engines import tasks  # noqa: PLC0415  # after it is known to be there

        folder = here["folder"] if os.path.isdir(here["folder"]) else os.getcwd()
        with contextlib.chdir(folder):  # so that relative paths mean the same
            began = time.perf_counter()
            value = tasks.do_part(shared, items, lane)
            return "done", platform.node(), value, time.perf_counter() - began

    return versions, do


def _unwanted_folder() -> str:
    """The working folder, unless this process may import from it; it may be a download."""
    here = os.getcwd()
    return "" if here in [os.path.abspath(place) for place in sys.path if place] else here
