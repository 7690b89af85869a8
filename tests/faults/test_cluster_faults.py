"""A cluster and object storage that fail together: nothing is lost, nothing is there twice."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import ray
from filelock import FileLock
from ray.cluster_utils import Cluster
from s3_server import ERRORS, SECRETS, Fault, S3Server
from test_ray import ONE_RAY, pytestmark  # noqa: F401  what Ray leaves behind
from test_remote_faults import check_no_more, check_whole
from tools import write_corpus

from spikedata import SimulationRecipe, SpikeDataError, find_corpus, open_clips, simulate_corpus

STORE = "s3://bucket/s.zarr"
CLIPS = 24
SLOWLY = """
import time

def frames(first_hw, second_hw, count):
    time.sleep(0.02)
    return first_hw[None].repeat(count, 0)
"""
DRIVE = """
import sys
from spikedata import SimulationRecipe, find_corpus, simulate_corpus
recipe = SimulationRecipe(interpolator="slowly:frames")
simulate_corpus(find_corpus("videos"), sys.argv[1], recipe, engine="ray", address=sys.argv[2])
"""


@pytest.fixture(scope="module")
def s3():
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(s3):
    """Two nodes of a core each, whose workers have the keys from their own environment."""
    with FileLock(ONE_RAY, is_singleton=True), pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        s3.use(patched)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        made.add_node(num_cpus=1)
        ray.init(made.address, log_to_driver=False, logging_level="CRITICAL")
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    write_corpus(folder / "videos", classes=2, clips=CLIPS // 2)
    (folder / "slowly.py").write_text(SLOWLY)
    return folder


@pytest.fixture
def corpus(cluster, s3, home, monkeypatch):
    monkeypatch.chdir(home)
    s3.clear()
    return find_corpus("videos")


RECIPE = SimulationRecipe(interpolator="slowly:frames")


@pytest.fixture(scope="module")
def unharmed(home):
    before = os.getcwd()
    os.chdir(home)
    try:
        simulate_corpus(find_corpus("videos"), "here.zarr", RECIPE, workers=2)
    finally:
        os.chdir(before)
    return dict(open_clips(home / "here.zarr").clips)


def check(s3, unharmed):
    check_whole(STORE, unharmed)
    check_no_more(s3, STORE, CLIPS)


def test_requests_that_fail_and_slow_ones(corpus, s3, unharmed):
    for number, name in enumerate(("500", "drop", "cut")):
        s3.spoil(ERRORS[name], every=12, skip=4 * number, times=None)
    s3.spoil(Fault("delay", seconds=2.0), line="^put .*/c[.]", every=20, times=3)
    report = simulate_corpus(corpus, STORE, RECIPE, engine="ray")
    assert len(s3.spoilt) > 10
    s3.heal()
    assert (report.written, report.failures) == (CLIPS, ())
    check(s3, unharmed)


def test_keys_that_run_out_end_the_run(corpus, s3, unharmed, capfd):
    s3.spoil(ERRORS["expired"], skip=60, times=None)
    with pytest.raises((SpikeDataError, OSError)) as failed:
        simulate_corpus(corpus, STORE, RECIPE, engine="ray")
    s3.heal()
    told = str(failed.value) + "".join(capfd.readouterr())
    assert "ExpiredToken" in told or "403" in told
    assert not [secret for secret in SECRETS if secret in told]
    wait_for_the_lock(s3)
    again = simulate_corpus(corpus, STORE, RECIPE, engine="ray")
    assert again.skipped > 0
    assert (again.written + again.skipped, again.failures) == (CLIPS, ())
    check(s3, unharmed)


def test_a_driver_that_is_killed(corpus, s3, unharmed, cluster):
    words = [sys.executable, "-c", DRIVE, STORE, cluster.address]
    driver = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    while driver.poll() is None and len(whole(s3)) < CLIPS // 3:
        time.sleep(0.05)
    assert driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(whole(s3)) < CLIPS
    report = simulate_corpus(corpus, STORE, RECIPE, engine="ray")
    assert report.skipped >= CLIPS // 3
    assert (report.written + report.skipped, report.failures) == (CLIPS, ())
    check(s3, unharmed)


def test_a_node_that_is_killed(corpus, s3, unharmed, cluster):
    """The last on this cluster, which has one node less from then on."""
    (node,) = cluster.worker_nodes
    killing = threading.Thread(target=lambda: cluster.remove_node(node, allow_graceful=False))
    told = []

    def progress(outcome):
        told.append(outcome.id)
        if len(told) == 6:
            killing.start()

    report = simulate_corpus(corpus, STORE, RECIPE, engine="ray", progress=progress)
    killing.join()
    assert (report.written, report.failures) == (CLIPS, ())
    assert sorted(told) == sorted(unharmed)
    check(s3, unharmed)


def whole(s3) -> list[str]:
    return [key for key in s3.keys("s.zarr/clips/") if key.count("/") == 3 and "zarr.json" in key]


def wait_for_the_lock(s3) -> None:
    """What could not be removed without keys is removed by hand, as its holder lives on."""
    if s3.keys("s.zarr.lock"):
        from spikedata import place

        place("s3://bucket/s.zarr.lock").unlink()
