"""The report about a set: every clip by id, pages of many, cameras' health, names made harmless."""

import base64
import io
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from tools import digest_of_folder, run_in_process

from spikedata import create_store, open_clips, open_store, report_html, write_recording
from spikedata.analysis.clip_pages import PAGE_CLIPS
from spikedata.bits import pack_ticks
from spikedata.clip import Clip
from spikedata.errors import SpikeDataError

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\x1b[31m\u202e"


def planes(seed, ticks=64, rate=0.3):
    """Even grey with one dead pixel at (3, 2) and one hot and saturated one at (5, 4)."""
    planes_thw = np.random.default_rng(seed).random((ticks, 8, 12)) < rate
    planes_thw[:, 2, 3], planes_thw[:, 4, 5] = 0, 1
    return pack_ticks(planes_thw)


def make_store(path, clips, *, ticks=64, name="set", class_names=()):
    """A store of clips and their attributes."""
    labels = sorted({clip.label for clip, _ in clips if clip.label})
    with create_store(path, recipe={}, class_names=class_names or labels, name=name) as writer:
        for seed, (clip, attributes) in enumerate(clips):
            with writer.clip(clip, height_px=8, width_px=12, tick_rate_hz=20_000.0) as out:
                out.append(planes(seed % 7, ticks))
                out.finish(ticks=ticks, attributes=attributes)
    return open_store(path)


class Parsed(HTMLParser):
    """Tags, their attributes, and text of a page as a browser would see them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self._within = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    @property
    def links(self):
        return [attrs["href"] for tag, attrs in self.tags if tag == "a"]


def tiles_of(page):
    """Id and number of pictures of each tile of a page, in order."""
    found = re.findall(
        r"<figure>(?:<img [^>]*base64,([^\"]*)\">)?\s*<figcaption>(.*?)<br>", page, re.S
    )
    return [
        (clip_id, Image.open(io.BytesIO(base64.b64decode(data))).n_frames if data else 0)
        for data, clip_id in found
    ]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """230 clips of 101 classes, short ones."""
    clips = [
        (Clip(id=f"c{n:03}", label=f"class {n % 101:03}", split=("train", "test")[n % 2]), {})
        for n in range(230)
    ]
    path = tmp_path_factory.mktemp("many") / "a #1 set?.zarr"
    return make_store(path, clips, ticks=16)


def test_every_clip_of_a_small_set_moves_on_the_page_itself(tmp_path):
    clips = [(Clip(id=f"c{n}", label="a", captions=(f"words {n}",)), {}) for n in (3, 1, 2)]
    store = make_store(tmp_path / "s.zarr", clips)
    page = report_html(store, tmp_path / "s.html").read_text()
    assert [clip_id for clip_id, _ in tiles_of(page)] == ["c1", "c2", "c3"]
    assert all(pictures > 1 for _, pictures in tiles_of(page))
    assert all(f"words {n}<br>" in page for n in (1, 2, 3))
    assert {path.name for path in tmp_path.iterdir()} == {"s.zarr", "s.html"}


def test_a_large_set_has_pages_by_id_that_lead_to_one_another(many, tmp_path):
    out = report_html(many, tmp_path / "a #1 set?.html", threads=2)
    front, folder = out.read_text(), tmp_path / "a #1 set?.report"
    names = [f"page-000{n}.html" for n in (1, 2, 3)]
    assert sorted(path.name for path in folder.iterdir()) == names
    pages = [(folder / name).read_text() for name in names]
    ids = [[clip_id for clip_id, _ in tiles_of(page)] for page in pages]
    assert [len(found) for found in ids] == [PAGE_CLIPS, PAGE_CLIPS, 30]
    assert sum(ids, []) == list(many.clips)
    assert len(tiles_of(front)) == 48
    # Every link leads to a file that is there: from the front to each page, and back.
    for path in (out, *sorted(folder.iterdir())):
        links = Parsed(path.read_text()).links
        assert links
        for href in links:
            assert (path.parent / unquote(href)).is_file(), href
    assert {unquote(href).split("/")[-1] for href in Parsed(front).links} == set(names)
    assert [len(Parsed(page).links) for page in pages] == [4, 6, 4]
    # Each class leads to the page where its first clip is.
    assert 'href="./a%20%231%20set%3F.report/page-0002.html">class 100</a>' in front
    assert 'href="./a%20%231%20set%3F.report/page-0001.html">class 099</a>' in front


def test_101_classes_stand_side_by_side(many, tmp_path):
    page = report_html(many, tmp_path / "r.html", thumbnails=0).read_text()
    classes = page[page.index("<h2>Classes") : page.index("<h2>Health")]
    tables = classes.split("<table>")[1:]
    assert [table.count("class ") for table in tables] == [34, 34, 33]


@pytest.mark.parametrize(("thumbnails", "moving"), [(0, 0), (7, 7), (None, 230)])
def test_as_many_thumbnails_move_as_wanted_and_the_others_stand_still(
    many, tmp_path, thumbnails, moving
):
    report_html(many, tmp_path / "r.html", thumbnails=thumbnails, threads=2)
    found = [
        pictures
        for page in sorted((tmp_path / "r.report").iterdir())
        for _, pictures in tiles_of(page.read_text())
    ]
    assert sum(pictures > 1 for pictures in found) == moving
    assert sum(pictures == 1 for pictures in found) == 230 - moving


def test_a_report_that_is_broken_off_leaves_what_was_there(many, tmp_path):
    def broken_off(stage, done, total):
        if (stage, done) == ("clips", 170):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report_html(many, tmp_path / "r.html", progress=broken_off)
    assert list(tmp_path.iterdir()) == []
    report_html(many, tmp_path / "r.html", thumbnails=0)
    before = digest_of_folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        report_html(many, tmp_path / "r.html", progress=broken_off, overwrite=True)
    assert digest_of_folder(tmp_path) == before


def test_pages_are_replaced_and_removed_only_when_asked(many, tmp_path):
    out = tmp_path / "r.html"
    report_html(many, out, thumbnails=0)
    small = make_store(tmp_path / "small.zarr", [(Clip(id="a"), {})])
    out.unlink()
    with pytest.raises(SpikeDataError, match=r"r\.report: exists already. Give --overwrite"):
        report_html(small, out)
    report_html(small, out, overwrite=True)
    assert not (tmp_path / "r.report").exists()


def test_a_folder_of_other_things_is_not_replaced(many, tmp_path):
    (tmp_path / "r.report").mkdir()
    (tmp_path / "r.report" / "thesis.tex").write_text("years of work")
    with pytest.raises(SpikeDataError, match=r"thesis\.tex: is no page of a report"):
        report_html(many, tmp_path / "r.html", overwrite=True)
    assert (tmp_path / "r.report" / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("number", [3, PAGE_CLIPS + 1])
def test_hostile_names_and_captions_are_shown_as_text(tmp_path, number):
    attributes = {"camera": {"name": EVIL, "lost": [[1, 2, 3]]}}
    clips = [
        (Clip(id=f"c&'{n:03}", label=EVIL, captions=(EVIL,) * 5), attributes) for n in range(number)
    ]
    store = make_store(tmp_path / "s.zarr", clips, name=EVIL, ticks=16)
    out = report_html(store, tmp_path / "javascript:alert(1).html", thumbnails=2)
    pages = [out, *tmp_path.glob("*.report/*")]
    assert len(pages) == (1 if number == 3 else 3)
    drawn = {"svg", "metadata", "rdf:rdf", "cc:work", "dc:type", "dc:date", "dc:format", "defs"}
    drawn |= {"dc:creator", "cc:agent", "dc:title", "style", "g", "path", "use", "clippath", "rect"}
    drawn |= {"image", "text", "tspan"}
    own = {"html", "head", "meta", "title", "body", "h1", "h2", "p", "ul", "li", "table", "tr"}
    own |= {"th", "td", "div", "figure", "figcaption", "br", "img", "a"}
    for path in pages:
        page = path.read_text()
        parsed = Parsed(page)
        assert {tag for tag, _ in parsed.tags} <= own | drawn
        assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
        assert all(href.startswith(("./", "page-")) for href in parsed.links)
        assert "\x1b" not in page
        assert "\u202e" not in page
        assert "{{ 7*7 }}" in "".join(parsed.text)
    shown = "".join(Parsed(pages[-1].read_text()).text)
    assert shown.count("<script>alert(1)</script>") >= number % PAGE_CLIPS


def test_captions_of_any_length_and_number_leave_a_tile_small(tmp_path):
    captions = ("long " * 100_000, "b", "c", "d", "e")
    store = make_store(tmp_path / "s.zarr", [(Clip(id="a", captions=captions), {})])
    page = report_html(store, tmp_path / "s.html").read_text()
    assert "and 2 more captions" in page
    assert len(page) < 300_000


def test_one_recording_has_its_health_in_full(tmp_path, capsys):
    write_recording(tmp_path / "rec.dat", [planes(0, 2000)], "8x12", ticks=2000)
    words = ["report", tmp_path / "rec.dat", "--camera", "8x12"]
    assert run_in_process("spikedata", list(map(str, words))) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "rec.html")
    page = (tmp_path / "rec.html").read_text()
    assert "<li>1 hot pixel: at (5, 4).</li>" in page
    assert "<li>1 dead pixel: at (3, 2).</li>" in page
    assert "<li>1 saturated pixel: at (5, 4).</li>" in page
    assert "<li>No flicker at 100 or 120 Hz.</li>" in page
    assert page.count("<svg") == 3  # the map, rate over time and spectrum, intervals
    assert "camera 8x12<br>" in page


def test_clips_of_a_camera_are_taken_together(tmp_path):
    camera = {"camera": {"name": "vidar"}}
    lost = {"camera": {"name": "vidar", "lost": [[9, 2, 77]]}}
    clips = [(Clip(id="a"), camera), (Clip(id="b"), lost), (Clip(id="c"), {}), (Clip(id="d"), {})]
    page = report_html(make_store(tmp_path / "s.zarr", clips), tmp_path / "s.html").read_text()
    assert "vidar, 8x12, 20000 Hz: 2 clips taken together." in page
    assert "simulated, 8x12, 20000 Hz: 2 clips taken together." in page
    row = "<td>1</td><td>1</td><td>1</td><td>too short</td>"
    assert re.search(rf"<td>a</td><td>0\.\d+</td>{row}<td>0</td>", page)
    assert re.search(rf"<td>b</td><td>0\.\d+</td>{row}<td>2</td>", page)
    spans = page[page.index("<h2>Lost spans") : page.index("<h2>Classes")]
    want = "<tr><td>b</td><td>9</td><td>0.45</td><td>2</td><td>77</td></tr>"
    assert want in spans
    assert "2 ticks lost in 1 place<br>" in page


def test_one_damaged_clip_costs_no_report(tmp_path):
    store = make_store(tmp_path / "s.zarr", [(Clip(id=name), {}) for name in "abc"])
    for shard in (tmp_path / "s.zarr/clips/b").glob("c.*"):
        shard.write_bytes(shard.read_bytes()[:-40])
    page = report_html(store, tmp_path / "s.html").read_text()
    assert [pictures > 1 for _, pictures in tiles_of(page)] == [True, False, True]
    assert page.count("<li>left out: b: ") == 1
    assert "cannot be read: " in page


def test_one_damaged_recording_costs_no_report(tmp_path):
    (tmp_path / "real").mkdir()
    for name in "ab":
        write_recording(tmp_path / f"real/{name}.dat", [planes(1)], "8x12", ticks=64)
    source = open_clips(tmp_path / "real", camera="8x12")
    (tmp_path / "real/a.dat").write_bytes(b"short now")
    page = report_html(source, tmp_path / "r.html").read_text()
    assert [clip_id for clip_id, _ in tiles_of(page)] == ["b"]
    assert "<li>left out: a: " in page


def test_an_empty_set_has_a_page(tmp_path):
    page = report_html(make_store(tmp_path / "s.zarr", []), tmp_path / "s.html").read_text()
    assert "<td>clips</td><td>0</td>" in page
    assert "<h2>Health" not in page


def test_thumbnails_are_a_number_or_all(tmp_path, capsys):
    make_store(tmp_path / "s.zarr", [(Clip(id="a"), {})])
    assert (
        run_in_process("spikedata", ["report", str(tmp_path / "s.zarr"), "--thumbnails", "x"]) == 2
    )
    assert "--thumbnails: expected a number or all, got 'x'" in capsys.readouterr().err
    for value in ("0", "all"):
        words = ["report", str(tmp_path / "s.zarr"), "--thumbnails", value, "--overwrite"]
        assert run_in_process("spikedata", words) == 0
    with pytest.raises(ValueError, match="thumbnails must be at least 0, got -1"):
        report_html(open_store(tmp_path / "s.zarr"), tmp_path / "x.html", thumbnails=-1)
