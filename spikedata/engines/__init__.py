"""Work handed out in small parts to workers on one machine or many, and its outcomes gathered.

:mod:`~spikedata.engines.handing_out` hands out, retries and issues again, whoever the workers are;
:mod:`~spikedata.engines.ray_workers` has Ray's do it. What is done, and what comes of it, is the
caller's.
"""

from spikedata.engines.handing_out import (
    MOST_ATTEMPTS,
    Executor,
    HandOut,
    LaneClosedError,
    PartDone,
    WorkerLostError,
    part_size,
)
from spikedata.engines.ray_workers import (
    Engine,
    RayWorkers,
    available_cores,
    check_ray,
    lanes_of,
    planned_workers,
    ray_workers,
)
from spikedata.engines.tasks import Work

__all__ = [
    "MOST_ATTEMPTS",
    "Engine",
    "Executor",
    "HandOut",
    "LaneClosedError",
    "PartDone",
    "RayWorkers",
    "Work",
    "WorkerLostError",
    "available_cores",
    "check_ray",
    "lanes_of",
    "part_size",
    "planned_workers",
    "ray_workers",
]
