"""Clips found by a sentence, and their embeddings for other programs."""

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from spikedata_cli.train import eval_app
from test_train import TINY
from typer.testing import CliRunner

from spikedata import (
    Clip,
    Page,
    SpikeClips,
    SpikeDataError,
    animate_clip,
    create_store,
    open_clips,
    pack_clips,
)
from spikedata.bits import pack_ticks
from spklip import embed_store, read_recipe, recipe_of_run, search_store
from spklip import embedding as embedding_module
from spklip.embed import Embedder
from spklip.judge import embed_texts
from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
from spklip.run_folder import resolved_recipe

FED = ["data.window_ticks=32", "data.segments=2", "train.precision=fp32", "eval.batch_size=4"]
HOSTILE = "<img src=x onerror=alert(1)>&'"
SENTENCES = ["a bright band", "a person waving"]


def write_clips(path: Path, count: int = 11, *, odd_size: bool = False) -> Path:
    """Clips of three labels, one of them hostile, in three splits or none, some without a label."""
    rng = np.random.default_rng(0)
    with create_store(path, recipe={}, class_names=("up", "down", HOSTILE)) as writer:
        for n in range(count):
            clip = Clip(
                id=f"clip&{n:02d}'",
                label=(None, "up", "down", HOSTILE)[n % 4],
                captions=("one", "two") if n % 2 else (),
                split=(None, "train", "validation", "test")[n // 2 % 4],
                group=f"g{n}" if n % 3 else None,
            )
            height = 14 if odd_size and n == 1 else 12
            spikes = rng.random((64, height, 16)) < 0.1 + 0.08 * (n % 8)
            with writer.clip(clip, height_px=height, width_px=16, tick_rate_hz=250.0) as out:
                out.append(pack_ticks(spikes))
                out.finish(ticks=64, attributes={})
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> SimpleNamespace:
    """A run's folder with a tiny untrained model, and a store."""
    folder = tmp_path_factory.mktemp("home")
    config = SpklipConfig.preset("tiny", **TINY, pool_px=1)
    torch.manual_seed(0)
    model = SpklipModel(config).eval()
    tokenizer = build_tokenizer(config)
    run = folder / "run"
    model.save_pretrained(run / "model")
    tokenizer.save_pretrained(run / "model")
    store = write_clips(folder / "clips.zarr")
    recipe = read_recipe(os.devnull, [*FED, f"data.path={json.dumps(str(store))}"])
    (run / "recipe.yaml").write_text(resolved_recipe(recipe), encoding="utf-8")
    return SimpleNamespace(folder=folder, run=run, store=store, model=model, tokenizer=tokenizer)


def judged(home: Any, recipe: Any, split: str | None = None) -> tuple[list[str], torch.Tensor]:
    """Ids, and the embeddings (N, D) that judging makes of them."""
    clips = SpikeClips(home.store, split=split, window_ticks=32, segments=2)
    embedder = Embedder(home.model, recipe, home.folder / "features", None, progress=False)
    return clips.ids, embedder.vectors(clips, "judged")["spklip"]


@pytest.mark.parametrize("split", [None, "test"])
def test_ranking_is_that_of_all_cosines(home, split):
    recipe = recipe_of_run(home.run)
    report = search_store(home.run, recipe, SENTENCES, split=split, top=100, progress=False)
    ids, video_nd = judged(home, recipe, split)
    assert len(ids) == (11 if split is None else 2)
    assert report.clips == len(ids)
    assert report.failures == ()
    text_md = embed_texts(home.model, home.tokenizer, SENTENCES)
    for sentence, text_d in zip(SENTENCES, text_md, strict=True):
        cosine = {
            i: float(torch.nn.functional.cosine_similarity(text_d, video_d, dim=0))
            for i, video_d in zip(ids, video_nd, strict=True)
        }
        hits = report.hits[sentence]
        assert [hit.rank for hit in hits] == list(range(1, len(ids) + 1))
        assert [hit.id for hit in hits] == sorted(ids, key=lambda i: (-cosine[i], i))
        for hit in hits:
            # Two ways to add sixteen products of float32.
            assert hit.score == pytest.approx(cosine[hit.id], abs=1e-6)
            stored = open_clips(home.store).clips[hit.id]
            assert (hit.label, hit.split) == (stored.label, stored.clip.split)


def test_the_best_are_the_first_of_all_however_clips_come_in_batches(home):
    recipe = recipe_of_run(home.run, ["eval.batch_size=3"])
    every = search_store(home.run, recipe, SENTENCES, top=11, progress=False)
    few = search_store(home.run, recipe, [*SENTENCES, SENTENCES[0]], top=4, progress=False)
    assert few.hits == {sentence: hits[:4] for sentence, hits in every.hits.items()}


@pytest.mark.parametrize("words", [[], ["eval.windows=1"], ["data.workers=2"]])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # workers of a data loader
def test_the_file_holds_what_judging_sees_and_what_is_known_of_each_clip(
    home, tmp_path, words, monkeypatch
):
    monkeypatch.setattr(embedding_module, "ROWS_PER_GROUP", 4)
    recipe = recipe_of_run(home.run, words)
    report = embed_store(home.run, recipe, tmp_path / "e" / "e.parquet", progress=False)
    assert (report.clips, report.features, report.failures) == (11, 16, ())
    file = pq.ParquetFile(report.out)
    assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [4, 4, 3]
    table = pq.read_table(report.out)
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<")
    ids, video_nd = judged(home, recipe)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ids
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), video_nd)
    clips = open_clips(home.store).clips
    for row in rows:
        clip = clips[row["id"]].clip
        known = (clip.label, clip.split, clip.group, list(clip.captions), 64)
        assert known == tuple(row[k] for k in ("label", "split", "group", "captions", "ticks"))


def test_the_file_tells_the_model_how_it_was_fed_and_the_versions(home, tmp_path):
    report = embed_store(home.run, recipe_of_run(home.run), tmp_path / "e.parquet", progress=False)
    told = pq.read_schema(report.out).metadata
    assert told[b"spklip:checkpoint"].decode() == str(home.run)
    data = json.loads(told[b"spklip:recipe"])["data"]
    assert (data["path"], data["window_ticks"], data["segments"]) == (str(home.store), 32, 2)
    assert {"spikedata", "torch", "python"} <= json.loads(told[b"spklip:versions"]).keys()


def pictures_of(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert all(len(base64.b64decode(data)) <= 60_000 for data in found)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def evaluate(home: Any, monkeypatch: Any, folder: Path, *words: str) -> Any:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(eval_app, [str(home.run), *words])


def test_the_page_plays_and_needs_no_other_file(home, tmp_path, monkeypatch):
    words = [word for sentence in SENTENCES for word in ("--search", sentence)]
    done = evaluate(home, monkeypatch, tmp_path, *words, "--top", "5")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "search.html").read_text(encoding="utf-8")
    assert "http" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert re.findall("<h2>(.*)</h2>", page) == SENTENCES
    pictures = pictures_of(page)
    assert len(pictures) == 10
    for picture in pictures:
        assert picture.format == "WEBP"
        assert 10 <= picture.n_frames <= 14
        assert picture.size == (128, 96)
    assert [path.name for path in tmp_path.iterdir()] == ["search.html"]
    lines = done.stdout.splitlines()
    assert lines[0] == SENTENCES[0]
    assert lines[1].split() == ["rank", "score", "clip", "label"]
    assert re.match(r"  +1  +-?0\.\d{3}  clip&\d\d'  ", lines[2])
    assert lines[-2:] == ["clips: 11", "page: search.html"]


def test_ids_labels_and_sentences_are_text_on_the_page_and_no_part_of_a_file_s_name(
    home, tmp_path, monkeypatch
):
    hostile = 'con: <script>alert("1")</script> a/b\\c?*|.'
    done = evaluate(home, monkeypatch, tmp_path, "--search", hostile, "--embed", "e.parquet")
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"search.html", "e.parquet"}
    page = (tmp_path / "search.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;&#39;" in page
    assert "clip&amp;00&#39;" in page
    assert len(pictures_of(page)) == 11


def test_json_tells_all_and_one_pass_makes_page_and_file(home, tmp_path, monkeypatch):
    words = ["--search", "x", "--embed", "e.parquet", "--split", "all", "--json", "--out", "p.html"]
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["clips"], told["page"], told["embeddings"]) == (11, "p.html", "e.parquet")
    (search,) = told["searches"]
    assert search["sentence"] == "x"
    score = {hit["id"]: hit["score"] for hit in search["hits"]}
    text_d = embed_texts(home.model, home.tokenizer, ["x"])[0].numpy()
    for row in pq.read_table(tmp_path / "e.parquet").to_pylist():
        # Two ways to add sixteen products of float32.
        assert score[row["id"]] == pytest.approx(float(row["embedding"] @ text_d), abs=1e-6)
    assert done.stderr.count("clip/s]\n") == 1


def test_a_split_and_overrides_choose_clips(home, tmp_path, monkeypatch):
    words = ["--embed", "e.parquet", "--split", "test", "data.classes=[up]"]
    assert (
        "no clips to embed in split 'test'" in evaluate(home, monkeypatch, tmp_path, *words).stderr
    )
    assert evaluate(home, monkeypatch, tmp_path, "--embed", "e.parquet", words[-1]).exit_code == 0
    assert set(pq.read_table(tmp_path / "e.parquet")["label"].to_pylist()) == {"up"}


def test_classes_of_the_run_leave_no_clip_out(home, tmp_path, monkeypatch):
    recipe = recipe_of_run(home.run, ["data.classes=[up]"])
    (tmp_path / "recipe.yaml").write_text(resolved_recipe(recipe), encoding="utf-8")
    shutil.copytree(home.run / "model", tmp_path / "model")
    other = SimpleNamespace(run=tmp_path)
    done = evaluate(other, monkeypatch, tmp_path, "--embed", "e.parquet", "--json")
    assert json.loads(done.stdout)["clips"] == 11


def test_a_damaged_clip_is_told_and_the_rest_is_done(home, tmp_path, monkeypatch):
    store = write_clips(tmp_path / "damaged.zarr")
    for n in (3, 8, 9, 10):  # the last batch is lost whole
        (shard,) = (store / "clips" / f"clip&{n:02d}'").glob("c.*")
        data = bytearray(shard.read_bytes())
        data[len(data) // 3] ^= 0xFF
        shard.write_bytes(data)
    words = ["--data", "damaged.zarr", "--search", "x", "--embed", "e.parquet"]
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in told] == [f"clip&{n:02d}'" for n in (3, 8, 9, 10)]
    assert "error: 4 clips could not be read; the rest is done" in done.stderr
    page = (tmp_path / "search.html").read_text(encoding="utf-8")
    assert len(pictures_of(page)) == 7
    assert "<h2>Could not be read</h2>" in page
    whole = embed_store(home.run, recipe_of_run(home.run), tmp_path / "whole.parquet")
    rows = {row["id"]: row for row in pq.read_table(whole.out).to_pylist()}
    found = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert len(found) == 7
    for row in found:
        # A batch of another size is added up in another order.
        assert np.allclose(row["embedding"], rows[row["id"]]["embedding"], atol=1e-5)


def test_a_store_of_which_nothing_can_be_read_is_an_error_and_leaves_no_file(home, tmp_path):
    store = write_clips(tmp_path / "damaged.zarr", 1)
    (shard,) = (store / "clips" / "clip&00'").glob("c.*")
    shard.write_bytes(b"x")
    recipe = recipe_of_run(home.run, [f"data.path={json.dumps(str(store))}"])
    with pytest.raises(SpikeDataError, match="none of 1 clips could be read: "):
        embed_store(home.run, recipe, tmp_path / "e.parquet", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.zarr"]


def test_clips_of_several_sizes_are_cut_to_the_smallest(home, tmp_path, caplog):
    store = write_clips(tmp_path / "sizes.zarr", odd_size=True)
    recipe = recipe_of_run(home.run, [f"data.path={json.dumps(str(store))}"])
    report = embed_store(home.run, recipe, tmp_path / "e.parquet", progress=False)
    assert report.clips == 11
    assert "clips of 2 sizes, 12x16 to 14x16" in caplog.text
    told = json.loads(pq.read_schema(report.out).metadata[b"spklip:recipe"])
    assert told["data"]["size"] == [12, 16]


@pytest.mark.parametrize(
    ("words", "name"),
    [(["--embed", "there"], "there"), (["--search", "x", "--out", "there"], "there")],
)
def test_a_file_that_is_there_stays_without_overwrite(home, tmp_path, monkeypatch, words, name):
    (tmp_path / name).write_text("mine")
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == 1
    assert f"error: {name}: exists already. Give --overwrite to replace it" in done.stderr
    assert (tmp_path / name).read_text() == "mine"
    assert evaluate(home, monkeypatch, tmp_path, *words, "--overwrite").exit_code == 0
    assert (tmp_path / name).read_bytes() != b"mine"


@pytest.mark.parametrize("option", [["--embed"], ["--search", "x", "--out"]])
def test_what_is_read_is_never_written(home, tmp_path, monkeypatch, option):
    store = write_clips(tmp_path / "clips.zarr", 2)
    monkeypatch.chdir(tmp_path)
    pack_clips([store], to="hdf5", out="clips.h5")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for data, name in (("clips.zarr", "clips.zarr/zarr.json"), ("clips.h5", "clips.h5")):
        words = ["--data", data, *option, name, "--overwrite"]
        done = evaluate(home, monkeypatch, tmp_path, *words)
        assert done.exit_code == 1
        assert f"{name}: would change {data}, which is read here" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--search", " "], 2, "a search needs a sentence"),
        (["--top", "3", "--embed", "e"], 2, "--top means something with --search alone"),
        (["--out", "p", "--embed", "e"], 2, "--embed names its own file"),
        (["--search", "x", "--out", "e", "--embed", "e"], 1, "the page and the file of embeddings"),
        (["--search", "x", "--out", "."], 1, ".: is a folder; give the name of a file"),
        (["--embed", "e", "train.max_steps=1"], 1, "changes nothing in a model that is trained"),
        (["--embed", "e", "data.window_ticks=12"], 1, "6 ticks each; a window of the model has 7"),
        (["--embed", "e", "--data", "gone.zarr"], 1, "gone.zarr: no such store"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(home, tmp_path, monkeypatch, words, status, message):
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == status, done.output
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_an_animation_is_small_and_reads_only_the_ticks_it_shows(home, monkeypatch):
    source = open_clips(home.store)
    read, counted = type(source).read, []

    def counting(self: Any, clip_id: str, start: int = 0, ticks: int | None = None) -> Any:
        counted.append((start, ticks))
        return read(self, clip_id, start, ticks)

    monkeypatch.setattr(type(source), "read", counting)
    webp = animate_clip(source, "clip&03'", pictures=4, exposure_ticks=8)
    # Pictures begin at ticks 0, 19, 37 and 56; eight ticks are in one byte.
    assert counted == [(0, 8), (16, 16), (32, 16), (56, 8)]
    assert Image.open(io.BytesIO(webp)).n_frames == 4
    small = animate_clip(source, "clip&03'", most_bytes=3000)
    assert len(small) <= 3000
    with pytest.raises(ValueError, match="must be at least 1"):
        animate_clip(source, "clip&03'", pictures=0)


def test_a_grid_of_animations_escapes_its_text_and_is_nothing_without_tiles():
    page = Page("t")
    page.animations([])
    assert '<div class="tiles">' not in page.render()
    page.animations([(b"RIFF", ['a"b', "<i>"]), (None, ["no picture"])])
    shown = page.render()
    assert shown.count("<img") == 1
    assert 'alt="a&#34;b, &lt;i&gt;"' in shown
    assert "no picture<br>" in shown
