"""What two clients of object storage cost a request, as a Markdown table.

``pip install s3fs`` and ``PYTHONPATH=tests python tests/benchmarks/measure_object_clients.py``: our
paths, which go through obstore, and s3fs read and write objects of a server of S3's protocol on
this machine, turn about. Both must give the same bytes. The server answers in Python, and takes
most of the time; what the client itself costs is told by the processor time of this process.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import s3fs
from s3_server import S3Server

from spikedata.remote import place

OBJECT_BYTES, RANGE_BYTES, PUT_BYTES = 4 << 20, 64 << 10, 4 << 20
ROUNDS, READS, PUTS, THREADS = 7, 100, 8, 16


def measure(
    calls: dict[str, Callable[[int], object]], requests: Iterable[int], threads: int
) -> dict[str, tuple[float, float]]:
    """Median of the wall and the processor time of a request, ms, by client."""
    requests = list(requests)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(ROUNDS + 1):
            for name, call in calls.items():
                wall, processor = time.perf_counter(), time.process_time()
                list(pool.map(call, requests))
                spent[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: tuple(  # type: ignore[misc]  # the first round warms up
            1000 * statistics.median(times) / len(requests)
            for times in zip(*rounds[1:], strict=True)
        )
        for name, rounds in spent.items()
    }


def main() -> None:
    """Print the table."""
    with S3Server() as s3:
        os.environ |= s3.environment() | {"AWS_ENDPOINT_URL": s3.direct_url}
        data = random.Random(0).randbytes(OBJECT_BYTES)
        s3.put("object", data)
        ours, theirs = place("s3://bucket/object"), s3fs.S3FileSystem(endpoint_url=s3.direct_url)
        starts = [random.Random(1).randrange(OBJECT_BYTES - RANGE_BYTES) for _ in range(READS)]
        read = {
            "obstore": lambda start: ours.read_range(start, RANGE_BYTES),
            "s3fs": lambda start: theirs.cat_file(
                "bucket/object", start=start, end=start + RANGE_BYTES
            ),
        }
        for start in starts[:5]:
            assert len({call(start) for call in read.values()} | {data[start:][:RANGE_BYTES]}) == 1
        part = data[:PUT_BYTES]
        put = {
            "obstore": lambda n: place(f"s3://bucket/ours{n}").write_bytes(part),
            "s3fs": lambda n: theirs.pipe_file(f"bucket/theirs{n}", part),
        }
        print("| a request | obstore, ms | of the processor | s3fs, ms | of the processor |")
        print("|---|---|---|---|---|")
        for what, calls, requests, threads in (
            ("64 kB read, one at a time", read, starts, 1),
            ("64 kB read, 16 at a time", read, starts, THREADS),
            ("4 MB written, one at a time", put, range(PUTS), 1),
        ):
            found = measure(calls, requests, threads)
            cells = (f"{ms:.2f}" for name in ("obstore", "s3fs") for ms in found[name])
            print(f"| {what} | {' | '.join(cells)} |")
        assert s3.get("ours0") == s3.get("theirs0") == part


if __name__ == "__main__":
    main()
