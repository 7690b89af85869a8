"""The page's server: who may ask, what it answers, and that labels are kept or refused aloud."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tools import one_line_error, run_program

from spikedata import ClipServer, SpikeDataError, open_clips, pack_clips
from spikedata.bits import pack_ticks
from spikedata.camera import find_camera, write_recording
from spikedata.serving.routes import ASSETS, Routes
from spikedata.serving.server import MOST_BODY_BYTES

ROUTES = Routes(None, None).looks
"""Addresses that are looked at."""
ROOT = Path(__file__).resolve().parents[1]
TICKS, HEIGHT, WIDTH = 48, 8, 10
CAMERA = f"{HEIGHT}x{WIDTH}"
HOSTILE = '<img src=x onerror="document.title=1">\u202e'


def planes(seed: int, ticks: int = TICKS) -> np.ndarray:
    """Spike planes, uint8 (T, H, W): each pixel with a period of its own."""
    rng = np.random.default_rng(seed)
    period_hw, start_hw = rng.integers(2, 9, (2, HEIGHT, WIDTH))
    return ((np.arange(ticks)[:, None, None] + start_hw) % period_hw == 0).astype(np.uint8)


def write_folder(root: Path, classes: int = 3, each: int = 4) -> Path:
    """Class folders of small recordings."""
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        for k in range(each):
            packed_ghw = pack_ticks(planes(10 * c + k))
            file = root / f"class{c}" / f"r{'abcdefgh'[k]}.dat"  # not numbered: clips of their own
            write_recording(file, [packed_ghw], CAMERA, ticks=TICKS)
    return root


class Client:
    """What a browser would send; ``change`` any of it to be somebody else."""

    def __init__(self, server: ClipServer) -> None:
        self.parts = urlsplit(server.url)
        self.host = self.parts.netloc

    def send(self, method, name, *, body=None, word=None, **headers):
        """Status, headers and body of an answer."""
        word = self.parts.path if word is None else word
        connection = http.client.HTTPConnection(self.parts.hostname, self.parts.port, timeout=60)
        sent = {"Host": self.host} | {key.replace("_", "-"): v for key, v in headers.items()}
        try:
            connection.request(method, word + name, body, {k: v for k, v in sent.items() if v})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, name, **values):
        """What an address answers: JSON, or bytes."""
        status, headers, body = self.send("GET", f"{name}?{urlencode(values)}")
        is_json = headers["Content-Type"] == "application/json"
        return status, json.loads(body) if is_json else body

    def good(self, name, **values):
        status, answer = self.get(name, **values)
        assert status == 200, answer
        return answer

    def post(self, name, values, **headers):
        headers = {"Origin": f"http://{self.host}", "Content_Type": "application/json"} | headers
        status, _, body = self.send("POST", name, body=json.dumps(values), **headers)
        return status, json.loads(body)

    def label(self, clip_id, **changes):
        """Change labels that are as the server says."""
        clip = self.good("api/clip", id=clip_id)
        was = {key: clip[key] for key in changes}
        return self.post("api/label", {"id": clip_id, "changes": changes, "was": was})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("served") / "set")


@pytest.fixture(scope="module")
def shared_client(folder):
    """Of a server whose set no test changes."""
    with ClipServer(folder, camera=CAMERA) as server:
        yield Client(server)


@pytest.fixture
def own_folder(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "set"))


@pytest.fixture
def client(own_folder):
    with ClipServer(own_folder, camera=CAMERA) as server:
        yield Client(server)


# --- who may ask ----------------------------------------------------------------------------


def test_the_page_is_served_with_a_strict_policy(shared_client):
    status, headers, body = shared_client.send("GET", "")
    assert status == 200
    assert b"<title>" in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://", policy)
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_every_file_of_the_page_is_served_and_none_holds_code_of_elsewhere(shared_client):
    for name in ASSETS:
        status, _, body = shared_client.send("GET", name)
        assert status == 200, name
        text = body.decode()
        assert "://" not in text, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
    asked = {name for name, (_, kind) in ASSETS.items() if "script" in kind or "css" in kind}
    found = set(re.findall(r'(?:src|href)="([^":]+)"', shared_client.send("GET", "")[2].decode()))
    assert asked == found


@pytest.mark.parametrize("word", ["/", "/x/", "//", "/../", "/%2e%2e/"])
def test_without_the_word_nothing_is_told(shared_client, word):
    for name in ("", "api/set", "page.js"):
        status, _, body = shared_client.send("GET", name, word=word)
        assert status == 404
        assert b"class0" not in body
    status, _, _ = shared_client.send("GET", "api/set", word=shared_client.parts.path[:-2] + "/")
    assert status == 404


def test_another_host_gets_nothing(shared_client):
    for host in ("evil.example", "evil.example:80", f"evil.{shared_client.host}", "127.0.0.1"):
        assert shared_client.send("GET", "api/set", Host=host)[0] == 403
    assert (
        shared_client.send("GET", "api/set", Host=f"localhost:{shared_client.parts.port}")[0] == 200
    )


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1"])
def test_only_the_page_itself_changes_something(shared_client, origin):
    asked = {"id": "class0__ra", "changes": {"label": "x"}, "was": {}}
    status, answer = shared_client.post("api/label", asked, Origin=origin)
    assert status == 403
    assert "only this page" in answer["error"]
    assert shared_client.good("api/clip", id="class0__ra")["label"] == "class0"


def test_a_change_is_json_of_bounded_size(shared_client):
    send, origin = shared_client.send, f"http://{shared_client.host}"
    assert send("POST", "api/undo", body="{}", Origin=origin, Content_Type="text/plain")[0] == 415
    kind = {"Origin": origin, "Content_Type": "application/json"}
    for body in ("", "[]", "{", "nul", "[" * 50_000):
        assert send("POST", "api/undo", body=body, **kind)[0] == 400, body[:9]
    assert send("POST", "api/undo", body=b"x" * (MOST_BODY_BYTES + 1), **kind)[0] == 413
    assert send("POST", "api/undo", Content_Length="-1", **kind)[0] == 411
    assert send("POST", "api/undo", Transfer_Encoding="chunked", **kind)[0] == 411
    assert send("PUT", "api/undo", body="{}", **kind)[0] == 501
    assert send("GET", "api/undo")[0] == 404  # looking changes nothing
    assert send("POST", "api/set", body="{}", **kind)[0] == 404


def test_it_listens_on_this_machine_alone(shared_client):
    assert shared_client.parts.hostname == "127.0.0.1"
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in addresses - {"127.0.0.1", "127.0.1.1", "::1"}:
        with pytest.raises(OSError, match=r".*"):
            socket.create_connection((address, shared_client.parts.port), timeout=2).close()


def test_a_connection_that_ends_early_harms_nobody(shared_client):
    for sent in (
        b"",
        b"GET / HT",
        b"\x00\xff\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
    ):
        with socket.create_connection(
            (shared_client.parts.hostname, shared_client.parts.port)
        ) as s:
            s.sendall(sent)
    assert shared_client.good("api/set")["clips"] == 12


# --- what it answers ------------------------------------------------------------------------


def test_the_grid_is_paged_and_filtered(shared_client):
    ids = [f"class{c}__r{k}" for c in range(3) for k in "abcd"]

    def found(**query):
        listed = shared_client.good("api/clips", size=5, **query)
        return [clip["id"] for clip in listed["clips"]], listed["total"], listed["pages"]

    assert found() == (ids[:5], 12, 3)
    assert found(page=2) == (ids[10:], 12, 3)
    assert found(page=99) == (ids[10:], 12, 3)
    assert found(label="class1") == (ids[4:8], 4, 1)
    assert found(label="class1", text="RC") == (["class1__rc"], 1, 1)
    assert found(label="") == ([], 0, 1)
    assert found(split="") == (ids[:5], 12, 3)
    assert found(split="train") == ([], 0, 1)
    assert found(camera=CAMERA) == (ids[:5], 12, 3)
    assert found(camera="") == ([], 0, 1)
    assert found(text="a video of class2")[1] == 4
    counts = shared_client.good("api/set")["counts"]
    assert counts["labels"] == [["class0", 4], ["class1", 4], ["class2", 4]]


def test_a_clip_knows_its_neighbours_among_those_asked_for(shared_client):
    clip = shared_client.good("api/clip", id="class1__ra", label="class1")
    assert (clip["previous"], clip["next"]) == (None, "class1__rb")
    clip = shared_client.good("api/clip", id="class1__ra", label="class2")  # not one of them
    assert (clip["previous"], clip["next"]) == (None, "class2__ra")
    assert (clip["ticks"], clip["height_px"], clip["width_px"]) == (TICKS, HEIGHT, WIDTH)


def test_nothing_is_read_by_a_path(shared_client, tmp_path):
    secret = tmp_path / "secret.dat"
    secret.write_bytes(b"secret")
    for name in (
        "",
        "x" * 9_000,
        "..",
        "../../etc/passwd",
        str(secret),
        "class0/ra.dat",
        "class0__ra\x00",
    ):
        for what in ("api/clip", "api/still", "api/health"):
            status, answer = shared_client.get(what, id=name)
            assert status == 404, (what, answer)
    for name in (
        "../pyproject.toml",
        "assets/page.js",
        "..%2fserver.py",
        "page.js/../../server.py",
    ):
        assert shared_client.send("GET", name)[0] == 404


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("api/clips", {"page": "-1"}),
        ("api/clips", {"size": "x" * 5000}),
        ("api/clip", {}),
        ("api/frames", {"id": "class0__ra"}),
        ("api/frames", {"method": "os:system"}),
        ("api/frames", {"window": 0}),
        ("api/frames", {"start": TICKS + 1}),
        ("api/frames", {"step": 0}),
        ("api/pixel", {"x": WIDTH}),
        ("api/pixel", {"y": HEIGHT}),
        ("api/pixel", {"ticks": 0}),
        ("api/pixel", {"start": TICKS}),
        ("api/layouts", {"file": 0}),
        ("api/layout", {"file": 10**8, "number": 0}),
    ],
)
def test_a_request_that_does_not_fit_is_told(shared_client, name, values):
    good = {
        "api/frames": {"method": "tfp", "window": 8, "start": 0, "step": 1, "count": 1},
        "api/pixel": {"x": 0, "y": 0, "start": 0, "ticks": 8},
    }
    asked = {"id": "class0__ra"} | good.get(name, {}) | values
    asked = values if values in ({}, {"id": "class0__ra"}) else asked
    status, answer = shared_client.get(name, **asked)
    assert status == 400
    assert len(answer["error"]) > 10


def test_pictures_for_the_player_are_rates(shared_client):
    asked = {"id": "class0__rb", "method": "tfp", "window": 16, "start": 8, "step": 4, "count": 99}
    body = shared_client.good("api/frames", **asked)
    rate_nhw = np.frombuffer(body, "<u2").reshape(-1, HEIGHT, WIDTH) / 65535
    spikes_thw = planes(1)
    want = [spikes_thw[t : t + 16].mean(axis=0) for t in range(8, TICKS - 15, 4)]
    np.testing.assert_allclose(rate_nhw, want, atol=1 / 65535)
    for method in ("tfi", "adaptive"):
        body = shared_client.good("api/frames", **asked | {"method": method, "count": 2})
        assert len(body) == 2 * 2 * HEIGHT * WIDTH


def test_a_pixel_tells_when_it_and_its_neighbours_fired(shared_client):
    found = shared_client.good("api/pixel", id="class0__rc", x=0, y=3, start=5, ticks=20)
    spikes_thw = planes(2)
    assert {(train["x"], train["y"]) for train in found["trains"]} == {
        (x, y) for x in (0, 1) for y in (2, 3, 4)
    }
    for train in found["trains"]:
        want = np.flatnonzero(spikes_thw[5:25, train["y"], train["x"]]) + 5
        assert train["ticks"] == want.tolist()


def test_health_has_a_map_and_marks(shared_client):
    about = shared_client.good("api/health", id="class0__ra")
    assert about["ticks"] == TICKS
    rate_hw = np.frombuffer(shared_client.good("api/rates", id="class0__ra"), "<u2") / 65535
    np.testing.assert_allclose(rate_hw, planes(0).mean(axis=0).ravel(), atol=1 / 65535)
    assert len(shared_client.good("api/marked", id="class0__ra")) == HEIGHT * WIDTH


def test_small_pictures_are_webp_and_the_same_again(shared_client):
    for kind in ("still", "moving"):
        first = shared_client.good(f"api/{kind}", id="class0__ra", px=64)
        assert first[:4] + first[8:12] == b"RIFFWEBP"
        assert shared_client.good(f"api/{kind}", id="class0__ra", px=64) == first
    assert b"ANIM" in first


def test_a_folder_is_opened_without_reading_its_files(tmp_path):
    """This one is of a terabyte, all of it a hole."""
    file = tmp_path / "set" / "long.dat"
    file.parent.mkdir()
    with file.open("wb") as out:
        out.truncate(8_000_000 * 125_000)
    with ClipServer(file.parent, camera="1000x1000") as server:
        clip = Client(server).good("api/clip", id="long")
    assert clip["ticks"] == 8_000_000
    assert "sha256" not in clip["source"]


def test_a_damaged_clip_is_told_and_others_are_shown(client, own_folder):
    file = own_folder / "class1" / "rb.dat"
    file.write_bytes(file.read_bytes()[: TICKS // 2])
    status, answer = client.get("api/still", id="class1__rb")
    assert status == 400
    assert "rb.dat" in answer["error"]
    assert client.get("api/still", id="class1__rc")[0] == 200


# --- labels ---------------------------------------------------------------------------------


def stores(folder: Path) -> dict[str, Path]:
    """The set in each format, beside it."""
    made = {"dat": folder}
    for to in ("zarr", "parquet", "hdf5"):
        made[to] = folder.parent / f"packed.{to}"
        pack_clips([folder], camera=CAMERA, to=to, out=made[to])
    return made


def test_labels_are_kept_where_they_can_be_and_refused_where_not(own_folder):
    for kind, path in stores(own_folder).items():
        camera = CAMERA if kind == "dat" else None
        before = {i: open_clips(path, camera=camera).read(i).bits_sha256() for i in ("class0__ra",)}
        with ClipServer(path, camera=camera) as server:
            client = Client(server)
            why = client.good("api/set")["why_fixed"]
            assert client.get("api/still", id="class0__ra")[0] == 200
            changes = {"label": "jump", "captions": ["one", "two"], "split": "test", "group": "g"}
            status, answer = client.label("class0__ra", **changes)
            if kind in ("parquet", "hdf5"):
                assert status == 400
                assert why in answer["error"]
                assert f"labels in {kind} files cannot be changed" in why
                continue
            assert (status, why) == (200, None)
            assert {key: answer["clip"][key] for key in changes} == changes
            assert client.get("api/still", id="class0__ra")[0] == 200
            assert ["jump", 1] in client.good("api/set")["counts"]["labels"]
            assert client.good("api/clips", label="jump")["total"] == 1
        again = open_clips(path, camera=camera)
        clip = again.clips["class0__ra"].clip
        assert (clip.label, clip.captions, clip.split, clip.group) == (
            "jump",
            ("one", "two"),
            "test",
            "g",
        )
        assert len(again.clips) == 12
        assert {i: again.read(i).bits_sha256() for i in before} == before


def test_undo_takes_changes_back_one_by_one(client, own_folder):
    first = client.good("api/clip", id="class0__ra")
    client.label("class0__ra", label="x")
    client.label("class0__ra", split="train", group="g")
    status, answer = client.post("api/undo", {})
    assert status == 200
    assert (answer["clip"]["split"], answer["clip"]["group"]) == (None, None)
    assert answer["clip"]["label"] == "x"
    status, answer = client.post("api/undo", {})
    assert [answer["clip"][key] for key in ("label", "captions")] == [
        first[key] for key in ("label", "captions")
    ]
    assert client.label("class0__ra", label="y")[1]["clip"]["captions"] == ["a video of y"]
    assert client.post("api/undo", {})[0] == 200
    status, answer = client.post("api/undo", {})
    assert status == 409
    assert "nothing is left" in answer["error"]
    assert open_clips(own_folder, camera=CAMERA).clips["class0__ra"].label == "class0"


def test_what_somebody_else_changed_is_not_overwritten(client, own_folder):
    stale = {"label": "class0"}
    assert client.label("class0__ra", label="mine")[0] == 200
    asked = {"id": "class0__ra", "changes": {"label": "late"}, "was": stale}
    status, answer = client.post("api/label", asked)
    assert status == 409
    assert "'mine' meanwhile" in answer["error"]
    # Another program, too.
    metadata = own_folder / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace('"mine"', '"theirs"'))
    status, answer = client.label("class0__ra", label="late")
    assert status == 409
    assert "'theirs' meanwhile" in answer["error"]
    assert client.good("api/clip", id="class0__ra")["label"] == "theirs"
    assert client.label("class0__ra", label="later")[0] == 200


def test_a_group_on_both_sides_of_a_split_is_told(client):
    client.label("class0__ra", group="scene", split="train")
    _, answer = client.label("class0__rb", group="scene", split="test")
    assert answer["torn_groups"] == 1
    assert answer["clip"]["torn"] == {"train": 1, "test": 1}
    assert client.good("api/set")["torn"] == {"scene": {"train": 1, "test": 1}}
    _, answer = client.label("class0__rb", split="train")
    assert (answer["torn_groups"], answer["clip"]["torn"]) == (0, None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"id": "x"},
        {"split": "both"},
        {"label": 7},
        {"label": "x" * 5_000},
        {"captions": "one"},
        {"captions": [1]},
        {"captions": ["x"] * 1_000},
    ],
)
def test_labels_that_do_not_fit_are_told(shared_client, changes):
    status, answer = shared_client.post(
        "api/label", {"id": "class0__ra", "changes": changes, "was": {}}
    )
    assert status == 400
    assert answer["error"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\ud800", "\x00", "\u202e", "a\nb", "x" * 3_000, "10" * 400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
QUERY_NAMES = ["id", "px", "start", "ticks", "step", "count", "window", "method", "x", "y", "ids"]
VALUES = st.fixed_dictionaries(
    {"id": st.sampled_from(["class0__ra", "class1__rb"]) | JSON},
    optional={
        "changes": JSON
        | st.dictionaries(
            st.sampled_from(["label", "captions", "split", "group"]) | st.text(), JSON
        ),
        "was": JSON | st.just({}),
        "file": JSON,
        "camera": JSON | st.sampled_from(["vidar", CAMERA, "os:system"]),
        "every": JSON,
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["api/label", "api/camera", "api/undo"]), values=VALUES)
def test_a_change_that_anybody_made_up_is_done_or_told(client, own_folder, name, values):
    status, answer = client.post(name, values)
    assert status in (200, 400, 404, 409)
    assert (status == 200) != ("error" in answer)
    assert len(open_clips(own_folder, camera=CAMERA).clips) == 12


@given(
    name=st.sampled_from(sorted(name for name in ROUTES if name.startswith("api/"))),
    values=st.dictionaries(
        st.sampled_from(QUERY_NAMES),
        st.integers(-2, 60).map(str)
        | st.sampled_from(["class0__ra", "tfp", "tfi", "adaptive", '["class0__ra", "?"]', "\ud7ff"])
        | st.text(max_size=9),
    ),
)
def test_a_look_that_anybody_made_up_is_shown_or_told(shared_client, name, values):
    status, answer = shared_client.get(name, **values)
    assert status in (200, 400, 404)
    if status != 200:
        assert answer["error"]


def test_read_only_changes_nothing(own_folder):
    with ClipServer(own_folder, camera=CAMERA, read_only=True) as server:
        client = Client(server)
        assert client.good("api/set")["why_fixed"] == "opened with --read-only"
        status, answer = client.label("class0__ra", label="x")
        assert status == 400
        assert "--read-only" in answer["error"]
    assert not list(own_folder.glob("metadata*"))


def test_many_at_once_are_all_kept(client, own_folder):
    ids = [f"class{c}__r{k}" for c in range(3) for k in "abcd"]
    found = []

    def label(clip_id):
        found.append(client.label(clip_id, label=f"new {clip_id}")[0])

    threads = [threading.Thread(target=label, args=[clip_id]) for clip_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 12
    kept = open_clips(own_folder, camera=CAMERA).clips
    assert {clip_id: kept[clip_id].label for clip_id in ids} == {i: f"new {i}" for i in ids}


def test_text_of_anybody_is_kept_as_it_is(client, own_folder):
    caption = HOSTILE.rstrip("\u202e")
    status, answer = client.label("class0__ra", captions=[caption], label="<b>x</b>")
    assert status == 200
    assert answer["clip"]["captions"] == [caption]
    assert open_clips(own_folder, camera=CAMERA).clips["class0__ra"].label == "<b>x</b>"
    assert client.good("api/clips", text="onerror")["total"] == 1


# --- files of which nothing tells the camera ------------------------------------------------


def write_picture_like(path: Path, seed: int = 0, ticks: int = 200) -> None:
    """A recording of a smooth scene, 250x400 as Vidar writes it, so that its layout shows."""
    y, x = np.mgrid[:250, :400]
    rate_hw = 0.25 + 0.2 * np.sin(x / 31 + seed) * np.cos(y / 23)
    phase_hw = np.random.default_rng(seed).random((250, 400))
    charge_thw = rate_hw * np.arange(1, ticks + 1)[:, None, None] + phase_hw
    planes_thw = np.diff(np.floor(charge_thw), axis=0, prepend=np.floor(phase_hw)[None]) > 0
    write_recording(path, [pack_ticks(planes_thw)], "vidar", ticks=ticks)


def test_a_file_of_unknown_layout_becomes_a_clip_when_its_camera_is_named(tmp_path):
    folder = tmp_path / "unknown"
    (folder / "walk").mkdir(parents=True)
    write_picture_like(folder / "walk" / "a.dat")
    write_picture_like(folder / "walk" / "b.dat", seed=1, ticks=160)
    (folder / "walk" / "odd.dat").write_bytes(b"12345")
    with ClipServer(folder) as server:
        client = Client(server)
        told = client.good("api/set")
        assert (told["clips"], told["left_out"]) == (0, 3)
        assert [one["id"] for one in told["failures"]] == ["walk__a", "walk__b", "walk__odd"]
        found = client.good("api/layouts", file=0)
        first = found["candidates"][0]
        assert (first["name"], first["turned"]) == ("vidar", "250x400")
        turned, given = find_camera(first["turned"]), find_camera("vidar")
        assert turned == replace(
            given, bottom_up=False, name=turned.name, description=turned.description
        )
        assert client.good("api/layout", file=0, number=0)[1:4] == b"PNG"
        asked = {"file": 0, "camera": "vidar", "every": True}
        status, answer = client.post("api/camera", asked)
        assert (status, answer) == (
            200,
            {"opened": "walk__a", "told": "vidar is saved for 2 files"},
        )
        told = client.good("api/set")
        assert (told["clips"], told["left_out"]) == (2, 1)
        assert client.good("api/clip", id="walk__a")["camera"] == "vidar"
        assert client.good("api/clip", id="walk__a")["label"] == "walk"
        assert client.label("walk__b", label="run")[0] == 200
        assert client.post("api/camera", {"file": 9, "camera": "vidar", "every": False})[0] == 400
        status, answer = client.post("api/camera", {"file": 0, "camera": "vidar", "every": False})
        assert status == 400
        assert "odd.dat" in answer["error"]
    again = open_clips(folder)
    assert {key: stored.label for key, stored in again.clips.items()} == {
        "walk__a": "walk",
        "walk__b": "run",
    }


@pytest.mark.parametrize("every", [True, False])
def test_numbered_files_of_a_few_planes_become_one_clip_and_never_many(tmp_path, every):
    for clip in "ab":
        folder = tmp_path / "set" / "walk" / clip
        folder.mkdir(parents=True)
        for n in range(3):
            packed_ghw = pack_ticks(planes(n, ticks=8))
            write_recording(folder / f"{n:04}.dat", [packed_ghw], CAMERA, ticks=8)
    with ClipServer(tmp_path / "set") as server:
        client = Client(server)
        assert client.good("api/set")["left_out"] == 6
        status, answer = client.post("api/camera", {"file": 0, "camera": CAMERA, "every": every})
        assert (status, answer["told"]) == (200, f"all are read as {CAMERA}")
        listed = client.good("api/clips")["clips"]
        assert [(clip["id"], clip["ticks"]) for clip in listed] == [
            ("walk__a", 24),
            ("walk__b", 24),
        ]
        assert client.label("walk__a", label="run")[0] == 200
    assert open_clips(tmp_path / "set", camera=CAMERA).clips["walk__a"].label == "run"


def test_one_file_of_unknown_layout_is_opened_while_the_server_lasts(tmp_path):
    write_picture_like(tmp_path / "a.dat")
    with ClipServer(tmp_path / "a.dat") as server:
        client = Client(server)
        status, answer = client.post("api/camera", {"file": 0, "camera": "vidar", "every": False})
        assert (status, answer) == (200, {"opened": "a", "told": "all are read as vidar"})
        assert "Serve its folder" in client.good("api/set")["why_fixed"]
    assert sorted(os.listdir(tmp_path)) == ["a.dat"]


# --- the command ----------------------------------------------------------------------------


@pytest.mark.usefixtures("interruptible")
def test_the_command_prints_the_address_and_ends_on_ctrl_c(own_folder):
    words = [Path(sys.executable).parent / "spikedata", "serve", own_folder, "--camera", CAMERA]
    started = subprocess.Popen(
        [*words, "--no-open"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    url = started.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", url)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", urlsplit(url).path)
    assert connection.getresponse().status == 200
    connection.close()
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (0, "")
    assert "note: stopped" in err
    assert "Traceback" not in err


def test_what_cannot_be_served_is_told_in_one_line(tmp_path, own_folder):
    line = one_line_error(run_program("spikedata", "serve", "nothing", cwd=tmp_path), 1)
    assert "no such file or folder" in line
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SpikeDataError, match=f"port {port} .* cannot be had"):
            ClipServer(own_folder, camera=CAMERA, port=port)


def test_the_wheel_will_hold_the_page():
    """What is declared as data of the package is all that the server sends."""
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = declared["tool"]["setuptools"]["package-data"]["spikedata.serving"]
    package = ROOT / "spikedata" / "serving"
    held = {file.name for pattern in patterns for file in package.glob(pattern)}
    assert held == {name for name, _ in ASSETS.values()}
