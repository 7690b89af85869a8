"""The page in Chromium, by mouse and keyboard; skipped, visibly, where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_chromium
from test_serve import CAMERA, HEIGHT, TICKS, WIDTH, planes, write_folder, write_picture_like

from spikedata import ClipServer, open_clips
from spikedata.bits import pack_ticks
from spikedata.camera import write_recording

SEEN = """(() => {
  const tiles = [...document.querySelectorAll(".tile img")];
  const seen = tiles.filter((one) => one.getBoundingClientRect().top < innerHeight);
  return seen.length && seen.every((one) => one.naturalWidth > 0) ? seen.length : 0;
})()"""
"""How many tiles are in sight, once all of them have their picture."""
IS_OPEN = (
    "!document.getElementById('clip-view').hidden && document.getElementById('clock').textContent"
)
IS_DRAWN = """(() => {
  const picture = document.getElementById("picture");
  const data = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height).data;
  return data.some((value, n) => n % 4 === 0 && value > 0);
})()"""
IS_SAVED = "document.getElementById('saved').textContent.startsWith('saved')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    needs_chromium()
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """A page about twelve small recordings, and where they are."""
    folder = write_folder(tmp_path / "set", each=8)
    with ClipServer(folder, camera=CAMERA) as server:
        browser.open(server.url)
        browser.wait(SEEN, "the grid")
        yield browser, folder
        assert browser.errors() == []


def labels_of(folder: Path) -> dict[str, str | None]:
    return {key: one.label for key, one in open_clips(folder, camera=CAMERA).clips.items()}


def saved(browser: Browser, clip_id: str) -> None:
    """Wait until everything is saved, this clip last."""
    browser.wait(f"document.getElementById('saved').textContent === 'saved {clip_id}'")


def test_a_folder_of_1000_recordings_shows_its_first_screen(browser, tmp_path):
    packed_ghw = pack_ticks(planes(0))
    for n in range(1_000):
        folder = tmp_path / "set" / f"class{n % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        write_recording(folder / f"r{n}x.dat", [packed_ghw], CAMERA, ticks=TICKS)
    with ClipServer(tmp_path / "set", camera=CAMERA) as server:
        browser.open(server.url)
        assert browser.wait(SEEN, "the first screen") >= 20
        assert browser.text("#total") == "1,000 of 1,000 clips"
        assert browser.text("#page-told") == "1–96 of 1,000"
        browser.click("#page-on")
        browser.wait("document.getElementById('page-told').textContent === '97–192 of 1,000'")
        browser.run("document.getElementById('text').value = 'r999'")
        browser.run("document.getElementById('text').dispatchEvent(new Event('input'))")
        browser.wait("document.getElementById('total').textContent === '1 of 1,000 clips'")
        browser.reload()  # the address says it all
        browser.wait("document.getElementById('total').textContent === '1 of 1,000 clips'")
        assert browser.run("return document.getElementById('text').value") == "r999"
        assert browser.errors() == []


def test_20_clips_labelled_by_keyboard_are_kept(opened):
    browser, folder = opened
    want = labels_of(folder)
    ids = list(want)
    browser.press("Right")  # the first tile
    for n, clip_id in enumerate(ids[:10]):  # in the grid, by digits
        browser.press(str(3 - n % 3), "t" if n % 2 else "e", "Right")
        want[clip_id] = f"class{2 - n % 3}"
    saved(browser, ids[9])
    browser.press("Enter")
    for n, clip_id in enumerate(ids[10:20]):  # in the clips themselves, by typing
        browser.wait(f"document.getElementById('clip-id').textContent === '{clip_id}'")
        browser.press("l", f"typed {n % 4}", "Enter", "g", f"scene {n}", "Enter", "n")
        want[clip_id] = f"typed {n % 4}"
    saved(browser, ids[19])
    browser.press("Escape")
    browser.reload()
    browser.wait(SEEN)
    clips = "[...document.querySelectorAll('.tile')].map(element => element.tile.clip)"
    shown = browser.run(f"return {clips}.map(clip => [clip.id, clip.label])")
    assert dict(shown) == want
    assert labels_of(folder) == want
    clips = open_clips(folder, camera=CAMERA).clips
    assert [clips[i].clip.split for i in ids[:10]] == ["test", "train"] * 5
    assert [clips[i].clip.group for i in ids[10:20]] == [f"scene {n}" for n in range(10)]


def test_what_is_typed_faster_than_it_is_saved_is_kept_in_order(opened):
    browser, folder = opened
    browser.press("Right", "Enter")
    browser.wait(IS_OPEN)
    # A new label changes the caption that named the old one; the caption typed then counts.
    browser.press("1", "2", "3", "t", "v", "e", "x", "l", "run", "Enter", "t", "g", "a", "Enter")
    browser.press("x", "v")
    saved(browser, "class0__ra")
    clip = open_clips(folder, camera=CAMERA).clips["class0__ra"].clip
    assert (clip.label, clip.split, clip.group) == ("run", "validation", "a")
    assert clip.captions == ("a video of run",)
    assert browser.run("return document.getElementById('edit-captions').value") == "a video of run"
    assert browser.run("return document.querySelectorAll('.error').length") == 0


def test_undo_and_a_conflict_are_seen(opened):
    browser, folder = opened
    browser.press("Right", "2")
    saved(browser, "class0__ra")
    assert labels_of(folder)["class0__ra"] == "class1"
    browser.press("u")
    browser.wait("document.querySelector('.tile-label').textContent === 'class0'")
    assert labels_of(folder)["class0__ra"] == "class0"
    metadata = folder / "metadata.jsonl"  # another program changes it
    lines = [json.loads(line) for line in metadata.read_text().splitlines()]
    lines[0]["label"] = "theirs"
    metadata.write_text("".join(json.dumps(line) + "\n" for line in lines))
    browser.press("3")
    told = browser.wait("document.querySelector('.error span')?.textContent", "the conflict")
    assert '"label":"class2"' in told  # what was wanted is not lost
    assert "'theirs' meanwhile" in told
    browser.wait("document.querySelector('.tile-label').textContent === 'theirs'")
    assert labels_of(folder)["class0__ra"] == "theirs"
    assert ["409" in line for line in browser.errors()] == [True]


def test_what_is_played_is_kept_in_the_address(opened):
    browser, _ = opened
    browser.click(".tile:nth-child(5)")
    browser.wait(IS_OPEN)
    browser.wait(IS_DRAWN, "a picture")
    browser.press("[", "[", "Right", "Right", "m")
    browser.wait("location.search.includes('tick=16') && location.search.includes('method=tfi')")
    browser.press(" ")
    browser.wait("Number(document.getElementById('scrub').value) !== 16", "it to play")
    browser.press(" ", "Home", "Right")
    browser.wait("location.search.includes('tick=8')")
    browser.reload()
    browser.wait(IS_OPEN)
    browser.wait(IS_DRAWN)
    assert browser.text("#clip-id") == "class0__re"
    assert browser.text("#clock").startswith("tick 8–22 of 48   ·   0.40 ms of 2.40 ms")
    assert browser.run("return document.getElementById('method').value") == "tfi"
    browser.press("Escape")
    browser.wait("!document.getElementById('grid-view').hidden")


def test_the_picture_is_upright_and_has_the_rates(browser, tmp_path):
    """The left upper pixel fires most, the one to its right half as often."""
    (tmp_path / "set").mkdir()
    planes_thw = np.zeros((TICKS, HEIGHT, WIDTH), np.uint8)
    planes_thw[:, 0, 0] = 1
    planes_thw[::2, 0, 1] = 1
    write_recording(tmp_path / "set" / "one.dat", [pack_ticks(planes_thw)], CAMERA, ticks=TICKS)
    with ClipServer(tmp_path / "set", camera=CAMERA) as server:
        browser.open(f"{server.url}?clip=one&white=1")
        browser.wait(IS_OPEN)
        browser.wait(IS_DRAWN)
        script = """const picture = document.getElementById("picture").getContext("2d");
        return [...picture.getImageData(0, 0, 3, 2).data].filter((value, n) => n % 4 === 0)"""
        assert browser.run(script) == [255, 128, 0, 0, 0, 0]


def test_a_pixel_and_the_health_are_shown(opened):
    browser, _ = opened
    browser.press("Right", "Enter")
    browser.wait(IS_OPEN)
    browser.wait(IS_DRAWN)
    browser.click("#marks")
    told = browser.wait(
        "document.querySelector('#pixel p').textContent.includes('spikes in') && "
        "document.querySelector('#pixel p').textContent"
    )
    spikes_thw = planes(0)
    x, y = (
        int(browser.run(f"return new URLSearchParams(location.search).get('{a}')")) for a in "xy"
    )
    assert told.startswith(f"x {x}, y {y}: {spikes_thw[:, y, x].sum()} spikes in 48 ticks")
    browser.press("h")
    browser.wait("!document.querySelector('.health-parts').hidden", "the health")
    assert "hot" in browser.text(".legend")
    browser.reload()
    browser.wait("!document.querySelector('.health-parts').hidden", "the health again")


HOSTILE = '<img src=x onerror="window.hit=1"><b>&amp;</b>'


def test_text_of_files_is_shown_as_text(browser, tmp_path):
    name = "<img src=x onerror=window.hit=1>"
    folder = tmp_path / "set" / "<b>bold"
    folder.mkdir(parents=True)
    write_recording(folder / f"{name}.dat", [pack_ticks(planes(0))], CAMERA, ticks=TICKS)
    write_recording(folder / "b.dat", [pack_ticks(planes(1))], CAMERA, ticks=TICKS)
    (folder / f"{name}bad.dat").write_bytes(b"x")
    (tmp_path / "set" / f"{name}.dat").write_bytes(b"x")
    with ClipServer(tmp_path / "set", camera=CAMERA) as server:
        browser.open(server.url)
        browser.wait(SEEN)
        assert browser.run("return document.querySelector('.tile-label').textContent") == "<b>bold"
        browser.press("Right", "Enter")
        browser.wait(IS_OPEN)
        browser.press("l", HOSTILE, "Enter", "c", f"{HOSTILE}", "Escape", "g", HOSTILE, "Enter")
        browser.wait(IS_SAVED)
        browser.press("c", HOSTILE)
        browser.run("document.getElementById('edit-captions').blur()")
        browser.wait(IS_SAVED)
        browser.press("g", "a\u202eb", "Enter")  # would be written backwards, with all that follows
        told = browser.wait("document.querySelector('.error span')?.textContent")
        assert "\u202e" not in told
        assert "\\u202e" in told
        assert ["400" in line for line in browser.errors()] == [True]
        browser.press("f")
        clip_id = browser.text("#clip-id")
        browser.press("Escape", "Escape")
        for _ in range(2):
            browser.wait(SEEN)
            shown = browser.run("return document.body.textContent")
            assert HOSTILE in shown  # the label
            assert "could not be opened" in shown
            browser.reload()
        stray = "img[src=x], .tile b, #banner b, #banner img, datalist b, #digits b, option b, dd b"
        assert browser.run("return document.querySelectorAll(arguments[0]).length", stray) == 0
        assert browser.run("return window.hit ?? null") is None
        assert browser.errors() == []
    clip = open_clips(tmp_path / "set", camera=CAMERA).clips[clip_id].clip
    assert (clip.label, clip.group, clip.captions) == (HOSTILE, HOSTILE, (HOSTILE,))


@pytest.mark.parametrize("turn", [False, True])
def test_a_layout_is_chosen_by_its_picture(browser, tmp_path, turn):
    folder = tmp_path / "set"
    folder.mkdir()
    write_picture_like(folder / "scene.dat")
    with ClipServer(folder) as server:
        browser.open(server.url)
        browser.wait("document.querySelector('.failure button')")
        browser.click(".failure button")
        browser.wait("[...document.querySelectorAll('.candidate img')].some(i => i.naturalWidth)")
        assert browser.text(".candidate strong").startswith("vidar")
        if turn:
            browser.run("document.querySelector('#layout-view input').click()")
        browser.click(".candidate")
        browser.wait(IS_OPEN)
        browser.wait(IS_DRAWN)
        assert browser.errors() == []
    camera = open_clips(folder).clips["scene"].attributes["camera"]
    assert camera["name"] == ("250x400" if turn else "vidar")
    assert camera["flip"] is not turn


def test_80_columns_of_tiles_stay_legible(browser, tmp_path):
    folder = write_folder(tmp_path / "set", classes=12, each=8)
    with ClipServer(folder, camera=CAMERA, read_only=True) as server:
        browser.open(f"{server.url}?tile=20")
        browser.run("document.getElementById('tiles').style.width = '1900px'")
        browser.wait("document.querySelectorAll('.tile').length === 96")
        top = "Math.min(...[...document.querySelectorAll('.tile')].map(t => t.offsetTop))"
        row = f"[...document.querySelectorAll('.tile')].filter(t => t.offsetTop === {top}).length"
        assert browser.run(f"return {row}") >= 80
        browser.press("Right", "Right")
        assert browser.text("#detail").startswith("class0__rb  ·  class0")
        size = "getComputedStyle(document.getElementById('detail')).fontSize"
        assert float(browser.run(f"return {size}").removesuffix("px")) >= 12
        browser.press("3")
        told = browser.wait("document.querySelector('.error span')?.textContent")
        assert "Read-only: opened with --read-only" in told
        assert labels_of(folder)["class0__rb"] == "class0"
