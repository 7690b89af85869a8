"""The program `spikedata`, run for real: what it prints, what it writes, how it fails."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
from importlib.metadata import version

import numpy as np
import pytest
from hub_server import HubServer
from PIL import Image
from tools import BIN, digest_of_folder, one_line_error, run_program, write_corpus, write_grey
from tools import random_frames as frames
from videos import write_video

from spikedata import (
    Clip,
    SensorMaps,
    calibrate_pixels,
    create_store,
    open_spikes,
    open_store,
    printable,
    read_recording,
)
from spikedata.analysis.calibrate import calibrated_maps
from spikedata.bits import pack_ticks


@pytest.fixture
def home(tmp_path):
    """A directory with a folder of videos in it."""
    write_corpus(tmp_path / "videos")
    return tmp_path


def simulate(home, *words, **how):
    return run_program("spikedata", "simulate", "videos", *words, cwd=home, **how)


def test_help_teaches_every_command(tmp_path):
    done = run_program("spikedata", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "spikedata simulate ucf101/ --threshold 2.0" in done.stdout
    done = run_program("spikedata", "--version", cwd=tmp_path)
    assert done.stdout.strip() == version("spklip")
    done = run_program("spikedata", "simulate", "--help", cwd=tmp_path)
    assert "--ticks-per-frame" in done.stdout


def test_simulate_writes_a_store_and_says_so(home):
    done = simulate(home, "--threshold", "1.5", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "store": "spikes.zarr",
        "written": 6,
        "skipped": 0,
        "failed": [],
        "losses": {},
        "notes": [],
    }
    store = open_store(home / "spikes.zarr")
    assert len(store.clips) == 6
    assert store.recipe["sensor"]["threshold"] == 1.5


def test_a_dry_run_shows_the_plan_and_writes_nothing(home):
    done = simulate(home, "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert (plan["clips"], plan["classes"]) == (6, 2)
    assert plan["recipe"]["sensor"]["threshold"] == 2.0
    assert sorted(path.name for path in home.iterdir()) == ["videos"]


def test_shards_of_a_corpus_pack_into_what_the_whole_gives(home):
    for number in (3, 1, 2):
        words = ["--shard", f"{number}/3", "--out", f"part{number}.zarr"]
        done = simulate(home, *words, "--threshold", "1.5", "--json")
        assert json.loads(done.stdout)["written"] == 2, done.stderr
    simulate(home, "--threshold", "1.5")
    parts = [f"part{number}.zarr" for number in (1, 2, 3)]
    for sources, out in ((parts, "joined.zarr"), (["spikes.zarr"], "whole.zarr")):
        done = run_program("spikedata", "pack", *sources, "--out", out, cwd=home)
        assert done.returncode == 0, done.stderr
    assert digest_of_folder(home / "joined.zarr") == digest_of_folder(home / "whole.zarr")


def test_options_reach_the_sensor_and_the_decoder(home):
    done = simulate(home, "--tick-rate", "100", "--resize", "4x6", "--limit", "2", "--seed", "7")
    assert done.returncode == 0, done.stderr
    store = open_store(home / "spikes.zarr")
    assert len(store.clips) == 2
    for clip in store.clips.values():
        assert (clip.height_px, clip.width_px, clip.ticks) == (4, 6, 6 * 4)
        assert clip.attributes["sensor"]["seed"] == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "2"], "--shard: expected I/N, for example 1/8, got '2'"),
        (["--shard", "0/4"], "shard must be from 1 to 4, got 0"),
        (["--threshold", "0"], "threshold must be a positive number, got 0.0"),
        (["--threshold", "-1"], "threshold must be a positive number, got -1.0"),
        (["--threshold", "1e9"], "the largest that fits is"),
        (["--ticks-per-frame", "0"], "ticks_per_frame must be at least 1, got 0"),
        (["--resize", "big"], "--resize: expected HxW or N, for example 120x160, got 'big'"),
        (["--resize", "²"], "--resize: expected HxW or N, for example 120x160, got '²'"),
        (["--resize", "4x²"], "--resize: expected HxW or N, for example 120x160, got '4x²'"),
        (["--shard", "²/4"], "--shard: expected I/N, for example 1/8, got '²/4'"),
        (["--tick-rate", "9", "--ticks-per-frame", "3"], "not both"),
        (["--tick-rate", "0"], "tick_rate_hz must be a positive number, got 0.0"),
        (["--tick-rate", "inf"], "tick_rate_hz must be a positive number, got inf"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(home, words, message):
    assert message in one_line_error(simulate(home, *words), 2)
    assert not (home / "spikes.zarr").exists()


def test_a_choice_that_does_not_exist_shows_those_that_do(home):
    done = simulate(home, "--reset", "maybe")
    assert done.returncode == 2
    assert "'maybe' is not one of 'subtract', 'zero'" in done.stderr


def test_an_unknown_class_is_refused_with_a_suggestion(home):
    done = simulate(home, "--classes", "clas0")
    assert "class0" in one_line_error(done, 1)


def test_a_missing_or_empty_folder_is_one_line(tmp_path):
    done = run_program("spikedata", "simulate", "nowhere", cwd=tmp_path)
    assert "nowhere" in one_line_error(done, 1)
    (tmp_path / "empty").mkdir()
    done = run_program("spikedata", "simulate", "empty", cwd=tmp_path)
    assert "empty" in one_line_error(done, 1)
    assert not (tmp_path / "spikes.zarr").exists()


def test_bad_videos_are_listed_and_the_rest_is_done(home):
    (home / "videos/class0/note.avi").write_text("not a video")
    whole = write_video(home / "whole.avi", frames(1, 40, 64, 64), codec="mpeg4").read_bytes()
    (home / "videos/class1/cut.avi").write_bytes(whole[:200])
    (home / "videos/class1/clip1.mkv").unlink()
    (home / "videos/class1/clip1.mkv").symlink_to(home / "gone.mkv")
    done = simulate(home)
    line = one_line_error(done, 1)
    assert "3 of 8 clips failed; see spikes.failures.jsonl" in line
    lines = (home / "spikes.failures.jsonl").read_text().splitlines()
    failed = [json.loads(line)["id"] for line in lines]
    assert failed == ["class0__note", "class1__clip1", "class1__cut"]
    assert len(open_store(home / "spikes.zarr").clips) == 5


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv to drop root's powers")
def test_an_unreadable_video_is_listed_and_the_rest_is_done(home):
    (home / "videos/class0/clip2.mkv").chmod(0)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    words = [*(drop if os.geteuid() == 0 else []), BIN / "spikedata", "simulate", "videos"]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True)
    assert "1 of 6 clips failed" in one_line_error(done, 1)
    assert "Permission denied" in (home / "spikes.failures.jsonl").read_text()


def test_a_full_disk_is_one_line_and_finished_clips_stay(home):
    """RLIMIT_FSIZE makes the big clip's file fail as a full disk does; small ones fit."""
    write_grey(home / "videos/class1/zbig.mkv", frames(9, 30, 120, 160))

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    words = [BIN / "spikedata", "simulate", "videos", "--workers", "1"]
    done = subprocess.run(
        words, cwd=home, capture_output=True, text=True, preexec_fn=small_files_only
    )
    assert "class1__zbig" in one_line_error(done, 1)
    assert "make room and run the same command again" in done.stderr
    assert len(open_store(home / "spikes.zarr").clips) == 6
    assert simulate(home).returncode == 0
    assert len(open_store(home / "spikes.zarr").clips) == 7


def kill_once(home, delay_s):
    process = subprocess.Popen(
        [BIN / "spikedata", "simulate", "videos", "--workers", "2"],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(timeout=delay_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_being_killed_at_random_moments_changes_no_byte(tmp_path, kills):
    write_corpus(tmp_path / "videos", classes=3, clips=3, frames=400)
    assert simulate(tmp_path, "--out", "whole.zarr").returncode == 0
    want = digest_of_folder(tmp_path / "whole.zarr")
    rng = random.Random(1)
    for _ in range(kills):
        kill_once(tmp_path, rng.uniform(0.4, 1.4))
        if (tmp_path / "spikes.zarr").exists() and rng.random() < 0.2:
            shutil.rmtree(tmp_path / "spikes.zarr")  # begin again, to be killed early again
    assert simulate(tmp_path).returncode == 0
    assert digest_of_folder(tmp_path / "spikes.zarr") == want


def test_ctrl_c_is_clean_and_the_next_run_goes_on(home):
    write_corpus(home / "videos", classes=2, clips=4, frames=1500)
    process = subprocess.Popen(
        [BIN / "spikedata", "simulate", "videos", "--workers", "1"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    clips = home / "spikes.zarr" / "clips"
    while process.poll() is None and not (clips.exists() and any(clips.iterdir())):
        pass
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "interrupted; run the same command again to go on" in stderr
    assert "Traceback" not in stderr
    assert simulate(home).returncode == 0
    assert len(open_store(home / "spikes.zarr").clips) == 8


def test_captions_follow_the_templates_given(home):
    done = simulate(home, "--caption", "a clip of {name}", "--caption", "{name}", "--limit", "1")
    assert done.returncode == 0, done.stderr
    (stored,) = open_store(home / "spikes.zarr").clips.values()
    assert stored.clip.captions == ("a clip of class0", "class0")


def test_pack_without_a_store_names_the_command_that_makes_one(tmp_path):
    done = run_program("spikedata", "pack", "--to", "zarr", cwd=tmp_path)
    assert "spikedata simulate" in one_line_error(done, 1)
    assert list(tmp_path.iterdir()) == []


def test_pack_info_validate_view_and_report_on_one_store(home):
    assert simulate(home).returncode == 0
    done = run_program("spikedata", "pack", "--to", "zarr", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == 6
    want = {k: c.bits_sha256 for k, c in open_store(home / "spikes.zarr").clips.items()}
    assert {k: c.bits_sha256 for k, c in open_store(home / "packed.zarr").clips.items()} == want

    done = run_program("spikedata", "info", "packed.zarr", "--json", cwd=home)
    assert json.loads(done.stdout)["clips"] == 6
    done = run_program("spikedata", "validate", "packed.zarr", cwd=home)
    assert (done.returncode, done.stdout) == (0, "packed.zarr: no problems\n")
    done = run_program("spikedata", "view", "class0__clip1", "--out", "a.png", cwd=home)
    assert done.returncode == 0, done.stderr
    assert (home / "a.png").read_bytes().startswith(b"\x89PNG")
    done = run_program("spikedata", "report", cwd=home)
    assert done.stdout == "spikes.html\n"
    assert "class0" in (home / "spikes.html").read_text()

    again = run_program("spikedata", "pack", cwd=home)
    assert "exists already. Give --overwrite" in one_line_error(again, 1)


def test_a_single_picture_equal_to_the_true_one_is_told_in_valid_json(tmp_path):
    size = {"height_px": 12, "width_px": 16, "tick_rate_hz": 20_000.0}
    with (
        create_store(tmp_path / "spikes.zarr", recipe={}, class_names=()) as writer,
        writer.clip(Clip(id="dark"), **size) as out,
    ):
        out.append(np.zeros((1, 12, 16), np.uint8))
        out.finish(ticks=8, attributes={})
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(tmp_path / "true.png")
    words = ["view", "--single", "--against", "true.png", "--json"]
    done = run_program("spikedata", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    # A difference of nought has no logarithm.
    assert told == {
        "out": "dark.png",
        "psnr_db": None,
        "psnr_of_best_gain_db": None,
        "ssim": 1.0,
        "notes": [],
    }


def write_scene(path, height=20, width=32, ticks=80):
    """A camera file of still light, brighter from left to right."""
    rate_w = np.linspace(0.05, 0.9, width)
    charge_thw = np.floor(np.arange(ticks + 1)[:, None, None] * rate_w + np.zeros((height, 1)))
    planes_thw = np.diff(charge_thw, axis=0) > 0
    path.write_bytes(np.packbits(planes_thw.reshape(ticks, -1), axis=1, bitorder="little"))


def test_view_takes_a_camera_file_a_folder_and_any_set_and_what_it_took_before(tmp_path):
    (tmp_path / "rec").mkdir()
    for name in ("one", "two"):
        write_scene(tmp_path / "rec" / f"{name}.dat")
    camera = ("--camera", "20x32")
    packed = run_program("spikedata", "pack", "rec", *camera, "--out", "p.h5", cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr
    stored = run_program("spikedata", "pack", "rec", *camera, "--out", "spikes.zarr", cwd=tmp_path)
    assert stored.returncode == 0, stored.stderr
    pages = []
    for words in (
        ["rec/one.dat", *camera],
        ["rec", "one", *camera],
        ["p.h5", "one"],
        ["one", "--store", "p.h5"],
        ["one"],  # of spikes.zarr
    ):
        done = run_program("spikedata", "view", *words, "--overwrite", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "one.png\n"), done.stderr
        pages.append((tmp_path / "one.png").read_bytes())
    assert len(set(pages)) == 1
    (tmp_path / "one").mkdir()
    for words, said in (
        (["one"], "one: a clip of spikes.zarr, and a file. Give --store spikes.zarr, or"),
        (["rec", "one", "--store", "p.h5"], "give the id of one clip and no PATH"),
    ):
        assert said in one_line_error(run_program("spikedata", "view", *words, cwd=tmp_path), 2)
    done = run_program("spikedata", "view", "p.h5", cwd=tmp_path)
    assert "holds 2 clips; name one" in one_line_error(done, 1)
    done = run_program("spikedata", "view", "nothing", cwd=tmp_path / "rec")
    assert "no such file, and no spikes.zarr here" in one_line_error(done, 1)


def test_a_movie_s_options_reach_it(tmp_path):
    import av

    write_scene(tmp_path / "a.dat", 240, 320)
    how = ["--start", "8", "--ticks", "40", "--step", "4", "--window", "16", "--fps", "10"]
    words = ["view", "a.dat", "--camera", "240x320", *how, "--plain", "--white", "1.8"]
    for method in ("adaptive", "my_method:mean"):
        (tmp_path / "my_method.py").write_text("def mean(p):\n    return p.mean(axis=0)\n")
        out = ("--picture", method, "--out", "a.mp4", "--overwrite")
        done = run_program("spikedata", *words, *out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        with av.open(str(tmp_path / "a.mp4")) as movie:
            frames = [frame.to_ndarray(format="gray") for frame in movie.decode(video=0)]
            assert movie.streams.video[0].average_rate == 10
        assert len(frames) == 7
        assert frames[0].shape == (240, 320)
        assert abs(int(frames[3][120, 310]) - 0.88 / 1.8 * 255) < 6
    done = run_program("spikedata", *words, "--picture", "mean", cwd=tmp_path)
    said = one_line_error(done, 1)
    assert "picture 'mean': expected tfp, tfi, adaptive or package.module:function" in said


def test_two_images_are_compared(tmp_path):
    rng = np.random.default_rng(0)
    truth_hw = rng.integers(0, 256, (20, 30)).astype(np.uint8)
    Image.fromarray(truth_hw).save(tmp_path / "true.png")
    Image.fromarray(truth_hw // 2).save(tmp_path / "half.png")
    Image.fromarray(truth_hw[1:]).save(tmp_path / "other.png")
    done = run_program("spikedata", "compare-images", "half.png", "true.png", cwd=tmp_path)
    error = ((truth_hw // 2 - truth_hw.astype(float)) ** 2).mean()
    assert f"psnr_db  {10 * np.log10(255**2 / error):.4f}\n" in done.stdout
    words = ["compare-images", "true.png", "true.png", "--json"]
    done = run_program("spikedata", *words, cwd=tmp_path)
    told = {"psnr_db": None, "psnr_of_best_gain_db": None, "ssim": 1.0}
    assert json.loads(done.stdout) == told
    done = run_program("spikedata", "compare-images", "other.png", "true.png", cwd=tmp_path)
    assert "pictures must be of one size" in one_line_error(done, 2)
    done = run_program("spikedata", "compare-images", "no.png", "true.png", cwd=tmp_path)
    assert "no.png: cannot be read as a picture" in one_line_error(done, 1)


def test_a_damaged_store_fails_validation_and_says_where(home):
    assert simulate(home).returncode == 0
    shard = next((home / "spikes.zarr/clips/class0__clip0").glob("c*"))
    data = bytearray(shard.read_bytes())
    data[8] ^= 0xFF
    shard.write_bytes(data)
    done = run_program("spikedata", "validate", cwd=home)
    assert "1 broken rules" in one_line_error(done, 1)
    assert done.stdout.startswith("class0__clip0: ")


def test_recordings_of_the_wrong_size_are_listed_and_the_rest_is_packed(tmp_path):
    (tmp_path / "rec/wave").mkdir(parents=True)
    (tmp_path / "rec/wave/good.dat").write_bytes(bytes(range(125)) * 200)
    (tmp_path / "rec/wave/bad.dat").write_bytes(bytes(24))
    done = run_program("spikedata", "pack", "rec", "--camera", "vidar", cwd=tmp_path)
    one_line_error(done, 1)
    assert "24 bytes is not a whole number of 400x250 planes (12,500 bytes each)" in done.stderr
    (stored,) = open_store(tmp_path / "packed.zarr").clips.values()
    assert (stored.ticks, stored.clip.label) == (2, "wave")


def test_a_store_of_a_newer_version_is_refused(home):
    assert simulate(home, "--limit", "1").returncode == 0
    root = home / "spikes.zarr/zarr.json"
    root.write_text(root.read_text().replace('"version": "1.1"', '"version": "2.0"'))
    for words in (["info"], ["pack"], ["simulate", "videos"], ["validate"]):
        done = run_program("spikedata", *words, cwd=home)
        assert done.returncode == 1
        assert "store version 2 is newer than this spikedata can read (1)" in (
            done.stdout + done.stderr
        )


def test_hostile_clip_ids_are_refused(home):
    assert simulate(home, "--limit", "1").returncode == 0
    clips = home / "spikes.zarr/clips"
    shutil.copytree(next(clips.iterdir()), clips / "..evil")
    done = run_program("spikedata", "pack", cwd=home)
    assert "'..evil' starts with a dot" in one_line_error(done, 1)
    assert not (home / "packed.zarr").exists()


def test_push_hub_and_pull_bring_back_the_same_bits(home):
    assert simulate(home).returncode == 0
    assert run_program("spikedata", "pack", cwd=home).returncode == 0
    with HubServer(home / "hub") as hub:
        env = hub.environment(home / "hf")
        done = run_program("spikedata", "push-hub", "--dry-run", cwd=home, env=env)
        assert done.returncode == 0, done.stderr
        assert hub.uploads() == []
        done = run_program("spikedata", "push-hub", "--json", cwd=home, env=env)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["repo"], report["private"], report["clips"]) == (
            "tester/videos-spikes",
            True,
            6,
        )
        assert env["HF_TOKEN"] not in done.stdout + done.stderr
        repo = report["repo"]
        done = run_program("spikedata", "pull", repo, "--out", "back.zarr", cwd=home, env=env)
        assert done.returncode == 0, done.stderr
        done = run_program("spikedata", "pull", repo, "--check", cwd=home, env=env)
        assert done.stdout == f"spikes.zarr: the same bits as {repo}\n"
        done = run_program("spikedata", "push-hub", cwd=home, env={**env, "HF_TOKEN": "hf_wrong"})
        assert "hf auth login" in one_line_error(done, 1)
        assert "hf_wrong" not in done.stderr
    want = {k: c.bits_sha256 for k, c in open_store(home / "spikes.zarr").clips.items()}
    assert {k: c.bits_sha256 for k, c in open_store(home / "back.zarr").clips.items()} == want


def test_a_preset_gives_the_sensor_and_options_win_over_it(home):
    words = ["--sensor", "vidar-20khz", "--threshold", "1.5", "--set", "noise.dead_time=0"]
    done = simulate(home, *words, "--dry-run", "--json")
    sensor = json.loads(done.stdout)["recipe"]["sensor"]
    assert (sensor["threshold"], sensor["noise"]["dead_time"]) == (1.5, 0.0)
    assert sensor["noise"]["dark_charge"] == 0.00468


def test_a_store_s_own_recipe_makes_the_same_store_again(home):
    words = ["--sensor", "vidar-20khz", "--resize", "6x8", "--tick-rate", "400", "--seed", "3"]
    assert simulate(home, *words).returncode == 0
    recipe = open_store(home / "spikes.zarr").recipe
    (home / "recipe.yaml").write_text(json.dumps(recipe))
    done = simulate(home, "--recipe", "recipe.yaml", "--out", "again.zarr")
    assert done.returncode == 0, done.stderr
    assert digest_of_folder(home / "again.zarr") == digest_of_folder(home / "spikes.zarr")
    done = simulate(
        home, "--recipe", "recipe.yaml", "--ticks-per-frame", "7", "--dry-run", "--json"
    )
    changed = json.loads(done.stdout)["recipe"]
    assert changed["sensor"] == recipe["sensor"] | {"ticks_per_frame": 7}
    assert changed["tick_rate_hz"] is None
    assert changed["video"] == recipe["video"]
    (home / "flow.yaml").write_text(json.dumps(recipe | {"interpolator": "flow"}))
    done = simulate(home, "--recipe", "flow.yaml", "--interpolation", "hold", "--dry-run", "--json")
    changed = json.loads(done.stdout)["recipe"]
    assert (changed["interpolator"], changed["sensor"]["interpolation"]) == (None, "hold")


def test_videos_of_variable_rate_are_told(tmp_path):
    times_ms = [0, 40, 80, 120, 400, 440]
    (tmp_path / "videos" / "a").mkdir(parents=True)
    write_video(tmp_path / "videos" / "a" / "1.mkv", frames(0), times_ms=times_ms, pix_fmt="gray")
    done = simulate(tmp_path)
    assert "note: 1 clip of variable frame rate, resampled" in done.stderr
    assert open_store(tmp_path / "spikes.zarr").clips["a__1"].ticks == 12 * 10


def test_an_interpolator_of_one_s_own_lies_beside_the_videos(home):
    (home / "mine.py").write_text("def hold(a, b, count): return a[None].repeat(count, 0)\n")
    done = simulate(home, "--interpolation", "mine:hold", apart=True)
    assert done.returncode == 0, done.stderr


def test_a_function_that_a_recipe_names_is_run_only_if_the_user_names_it_too(home):
    (home / "theirs.py").write_text(
        "open('ran', 'w')\ndef hold(a, b, count): return a[None].repeat(count, 0)\n"
    )
    (home / "recipe.yaml").write_text('{"interpolator": "theirs:hold"}')
    done = simulate(home, "--recipe", "recipe.yaml")
    told = one_line_error(done, 2)
    assert (
        "recipe.yaml: names a function, 'theirs:hold', that is not run unless you name it" in told
    )
    assert not (home / "ran").exists()
    done = simulate(home, "--recipe", "recipe.yaml", "--interpolation", "theirs:hold", apart=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "r.yaml", "--sensor", "ideal"], "give --recipe or --sensor, not both"),
        (["--recipe", "r.yaml"], "r.yaml: cannot be read: No such file"),
        (["--sensor", "vidar"], "unknown sensor 'vidar'. Known: ideal, vidar-20khz, vidar-40khz"),
        (["--set", "noise.dead_tme=0"], "Did you mean 'dead_time'?"),
        (["--sensor", "vidar-20khz", "--set", "noise.dark_spread=-1"], "dark_spread"),
        (["--sensor", "vidar-20khz", "--set", "noise.dark_charge=2"], "dark_charge"),
        (["--like", "x.npz"], "give a folder of videos, or --like RECORDING"),
    ],
)
def test_impossible_sensors_are_one_line(home, words, message):
    assert message in one_line_error(simulate(home, *words), 2)


def test_flow_makes_frames_between_and_keeps_the_clip_length(tmp_path):
    write_grey(tmp_path / "videos/a/1.mkv", frames(1, 5, 32, 48))
    done = simulate(tmp_path, "--interpolation", "flow")
    assert done.returncode == 0, done.stderr
    (stored,) = open_store(tmp_path / "spikes.zarr").clips.values()
    assert (stored.ticks, stored.tick_rate_hz) == (50, 250.0)
    done = simulate(tmp_path, "--interpolation", "cubic", "--out", "b.zarr")
    assert "expected flow or package.module:function" in one_line_error(done, 1)


def test_cuda_without_a_device_is_one_line(home):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    line = one_line_error(simulate(home, "--device", "cuda"), 1)
    assert "CUDA device" in line or "pip install 'spklip[gpu]'" in line
    assert not (home / "spikes.zarr").exists()


def test_a_recording_is_simulated_compared_and_exported(tmp_path):
    rng = np.random.default_rng(0)
    planes_hwt = (rng.random((12, 16, 400)) < 0.3).astype(np.uint8)
    np.savez(tmp_path / "real.npz", planes_hwt)
    how = ["--camera", "npz-hwt"]
    done = run_program(
        "spikedata", "simulate", "--like", "real.npz", *how, "--sensor", "vidar-20khz", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    done = run_program(
        "spikedata",
        "compare",
        "real.npz",
        "spikes.zarr",
        *how,
        "--json",
        "--out",
        "c.html",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rates = json.loads(done.stdout)["statistics"]["firing_rate"]
    assert rates["real"] == pytest.approx(planes_hwt.mean(), rel=1e-12)
    assert abs(rates["simulated"] - rates["real"]) < 0.01
    assert (tmp_path / "c.html").exists()
    done = run_program("spikedata", "export", "real.npz", "e.npy", *how, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(np.load(tmp_path / "e.npy")) == planes_hwt.sum()
    done = run_program("spikedata", "compare", "real.npz", "spikes.zarr", cwd=tmp_path)
    assert "Give --camera" in one_line_error(done, 1)


def test_a_still_scene_is_simulated_again_once_the_threshold_fits(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "real.npz", (rng.random((4, 4, 400)) < 0.9).astype(np.uint8))
    words = ["simulate", "--like", "real.npz", "--camera", "npz-hwt"]
    done = run_program("spikedata", *words, "--threshold", "4", cwd=tmp_path)
    line = one_line_error(done, 2)
    fits = re.search(r"take (\S+) or less", line)[1]
    done = run_program("spikedata", *words, "--threshold", fits, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path / "spikes.zarr")
    ran = store.clips["real"].attributes["sensor"]
    assert (ran["interpolation"], ran["ticks_per_frame"]) == ("hold", 50)
    assert store.clips["real"].clip.source["camera"] == "npz-hwt"
    before = digest_of_folder(tmp_path / "spikes.zarr")
    assert run_program("spikedata", *words, "--threshold", fits, cwd=tmp_path).returncode == 0
    assert digest_of_folder(tmp_path / "spikes.zarr") == before
    done = run_program("spikedata", *words, "--threshold", "1", cwd=tmp_path)
    assert "was made with sensor.threshold" in one_line_error(done, 1)


def test_a_still_scene_s_dry_run_writes_nothing_and_options_of_videos_are_refused(tmp_path):
    np.savez(tmp_path / "real.npz", np.ones((4, 4, 40), np.uint8))
    words = ["simulate", "--like", "real.npz", "--camera", "npz-hwt"]
    done = run_program("spikedata", *words, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["ticks"] == 40, done.stderr
    done = run_program("spikedata", *words, "--resize", "2x2", "--tick-rate", "9", cwd=tmp_path)
    line = one_line_error(done, 2)
    assert line.endswith("--like simulates a still scene and takes no --tick-rate, --resize")
    done = run_program("spikedata", *words, "--layout", "folder", cwd=tmp_path)
    assert one_line_error(done, 2).endswith("takes no --layout")
    assert [path.name for path in tmp_path.iterdir()] == ["real.npz"]


def test_three_flat_fields_make_a_sensor(tmp_path):
    rng = np.random.default_rng(0)
    for name, rate in (("dark", 0.01), ("medium", 0.2), ("bright", 0.5)):
        np.savez(tmp_path / f"{name}.npz", (rng.random((8, 8, 2000)) < rate).astype(np.uint8))
    files = ["dark.npz", "medium.npz", "bright.npz"]
    done = run_program(
        "spikedata", "calibrate", *files, "--camera", "npz-hwt", "--out", "mine.yaml", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    write_grey(tmp_path / "videos/a/1.mkv", frames(1, 5, 8, 8))
    done = simulate(tmp_path, "--sensor", "mine.yaml")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def lab(tmp_path):
    """Three flat fields, and a store with two clips of a class each."""
    rng = np.random.default_rng(0)
    for name, rate in (("dark", 0.01), ("medium", 0.2), ("bright", 0.5)):
        np.savez(tmp_path / f"{name}.npz", (rng.random((8, 8, 400)) < rate).astype(np.uint8))
    with create_store(tmp_path / "spikes.zarr", recipe={}, class_names=("jump", "wave")) as writer:
        for label in ("jump", "wave"):
            clip = Clip(id=f"a_{label}", label=label)
            with writer.clip(clip, height_px=8, width_px=8, tick_rate_hz=2e4) as target:
                target.append(pack_ticks(rng.random((80, 8, 8)) < 0.3))
                target.finish(ticks=80, attributes={})
    return tmp_path


FLAT_FIELDS = ["calibrate", "dark.npz", "medium.npz", "bright.npz", "--camera", "npz-hwt"]
OUTPUTS = {
    "mine.npz": [*FLAT_FIELDS, "--out", "mine.yaml"],
    "e.npy": ["export", "spikes.zarr", "e.npy", "--clip", "a_wave"],
    "a_wave.png": ["view", "a_wave"],
    "spikes.html": ["report"],
    "c.html": ["compare", "spikes.zarr", "spikes.zarr", "--clip", "a_wave", "--out", "c.html"],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_is_there_is_replaced_only_when_asked(lab, name):
    (lab / name).write_text("precious")
    done = run_program("spikedata", *OUTPUTS[name], cwd=lab)
    line = one_line_error(done, 1)
    assert line == f"error: {name}: exists already. Give --overwrite to replace it"
    assert (lab / name).read_text() == "precious"
    done = run_program("spikedata", *OUTPUTS[name], "--overwrite", cwd=lab)
    assert done.returncode == 0, done.stderr
    assert not (lab / name).read_bytes().startswith(b"precious")


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ([*FLAT_FIELDS, "--out", "bright.yaml"], "bright.npz"),
        (["export", "medium.npz", "./medium.npz", "--camera", "npz-hwt"], "medium.npz"),
        (["export", "spikes.zarr", "spikes.zarr/e.npy", "--clip", "a_wave"], "spikes.zarr"),
        (["report", "spikes.zarr", "--out", "spikes.zarr/clips/page.html"], "spikes.zarr"),
    ],
)
def test_what_is_read_is_not_replaced_even_when_asked(lab, words, read):
    before = digest_of_folder(lab)
    line = one_line_error(run_program("spikedata", *words, "--overwrite", cwd=lab), 1)
    assert f"would change {read}, which is read here. Choose another name" in line
    assert digest_of_folder(lab) == before


def test_a_folder_is_no_file_to_write(lab):
    for words in (["report"], ["compare", "spikes.zarr", "spikes.zarr", "--clip", "a_wave"]):
        done = run_program("spikedata", *words, "--out", ".", "--overwrite", cwd=lab)
        assert one_line_error(done, 1) == "error: .: is a folder; give the name of a file"


def test_clips_of_two_ids_compare(lab):
    words = ["compare", "spikes.zarr", "spikes.zarr", "--clip", "a_jump"]
    found = []
    for more in ([], ["--clip", "a_wave"]):
        done = run_program("spikedata", *words, *more, "--json", cwd=lab)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["statistics"]["firing_rate"]["distance"])
    assert found[0] == 0 < found[1]
    done = run_program("spikedata", *words, "--clip", "a", "--clip", "b", cwd=lab)
    assert "--clip: at most two, REAL's and SIMULATED's, got 3" in one_line_error(done, 2)


def test_an_exported_clip_keeps_its_class(lab):
    words = ["export", "spikes.zarr", "a.npz", "--clip", "a_wave"]
    assert run_program("spikedata", *words, cwd=lab).returncode == 0
    assert int(np.load(lab / "a.npz")["label"]) == 1
    assert read_recording(lab / "a.npz", "uhsr").label == "wave"
    done = run_program("spikedata", "export", "a.npz", "b.npz", "--camera", "uhsr", cwd=lab)
    assert done.returncode == 0, done.stderr
    assert read_recording(lab / "b.npz", "uhsr").label == "wave"


def test_rows_and_tick_rate_of_files_are_as_told(lab):
    words = ["export", "medium.npz", "--camera", "npz-hwt", "--flip"]
    done = run_program("spikedata", *words, "m.npy", "--tick-rate", "40000", cwd=lab)
    assert done.returncode == 0, done.stderr
    planes_hwt = np.load(lab / "medium.npz")["arr_0"]
    events = np.load(lab / "m.npy")
    np.testing.assert_array_equal(
        np.bincount(events["y"], minlength=8), planes_hwt.sum(axis=(1, 2))[::-1]
    )
    assert events["t"].max() == 25 * np.flatnonzero(planes_hwt.any(axis=(0, 1))).max()

    done = run_program("spikedata", *FLAT_FIELDS, "--flip", "--out", "mine.yaml", cwd=lab)
    assert done.returncode == 0, done.stderr
    upright = [open_spikes(lab / name, camera="npz-hwt") for name in FLAT_FIELDS[1:4]]
    want = calibrated_maps(calibrate_pixels(*upright), 1.0)
    turned_hw = SensorMaps.load(lab / "mine.npz").response_hw[::-1]
    np.testing.assert_array_equal(turned_hw, want.response_hw)

    words = ["compare", "medium.npz", "medium.npz", "--camera", "npz-hwt", "--json"]
    done = run_program("spikedata", *words, "--tick-rate", "40000", cwd=lab)
    assert json.loads(done.stdout)["real"]["tick_rate_hz"] == 40_000, done.stderr


def test_what_pack_passes_over_is_a_note_in_text_and_in_json(tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "a.dat").write_bytes(bytes(96))
    (folder / "read.srt").write_text("words")
    words = ["pack", "real", "--camera", "24x32"]
    done = run_program("spikedata", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["note: 1 file passed over: 1 .srt"]
    assert "notes" not in done.stdout
    done = run_program("spikedata", *words, "--overwrite", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["notes"] == ["1 file passed over: 1 .srt"]


@pytest.mark.parametrize("verb", ["info", "validate"])
def test_a_name_cannot_steer_the_terminal(home, verb):
    simulate(home, "--limit", "1")
    name = "red\x1b[31m.zarr"
    (home / "spikes.zarr").rename(home / name)
    done = run_program("spikedata", verb, name, cwd=home)
    assert done.returncode == 0
    assert r"red\x1b[31m.zarr" in done.stdout


def test_what_failed_cannot_steer_the_terminal(home):
    simulate(home, "--limit", "1")
    (home / "red\x1b[31m.dat").write_bytes(bytes(7))
    words = ["pack", "spikes.zarr", "red\x1b[31m.dat", "--camera", "24x32"]
    done = run_program("spikedata", *words, cwd=home)
    assert done.returncode == 1
    assert r"red\x1b[31m.dat: 7 bytes is not a whole number" in done.stderr


def test_text_that_is_printed_keeps_what_languages_need():
    assert printable("می\u200cخواهم") == "می\u200cخواهم"
    assert printable("a\nb\u202ec") == r"a\nb\u202ec"
