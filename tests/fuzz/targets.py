"""Every reader of outside data, as something that one changed file is given to.

A target makes valid data in a folder and says which of its files is changed; then it opens all of
it and reads everything, as a command would. :class:`~spikedata.errors.SpikeDataError` is the one
exception allowed, on one line.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spikedata.errors import SpikeDataError

MOST_LETTERS = 1000
"""Of a message: a screen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A file that is changed, and the folder of the valid data around it."""

    file: Path
    home: Path


@dataclass
class Told:
    """What a reader said of the data."""

    scratch: Path
    """An empty folder, for what is written."""
    refusals: list[str] = field(default_factory=list)
    wrong: str = ""
    """What it must not have done; empty if nothing."""

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Let it refuse what is done within, in one line."""
        try:
            yield
        except SpikeDataError as error:
            self.refusals.append(str(error))
            self.line(str(error))

    def line(self, text: str) -> None:
        """Something that is told must be one line, of a screen at most."""
        if len(text.splitlines()) > 1:
            self.wrong = f"told in several lines: {text[:120]!r}"
        if len(text) > MOST_LETTERS:
            self.wrong = f"told at length: {len(text):,} letters, {text[:60]!r}...{text[-60:]!r}"

    def lines(self, texts: Iterable[str]) -> None:
        """Several such things."""
        for text in texts:
            self.line(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One reader."""

    kind: str
    """What :mod:`fuzz.inputs` may know of the files: ``json``, ``zip``, ``bytes`` and others."""
    build: Callable[[Path], list[Place]]
    """Make valid data in a folder, and name the files in it that are changed, one at a time."""
    read: Callable[[Place, Told], None]
    """Open and read everything."""
    needs: str | None = None
    """A package without which it cannot be read at all."""


# --- sets of clips --------------------------------------------------------------------------------

TICKS, HEIGHT, WIDTH = 70, 5, 9


def _planes(number: int) -> Any:
    import numpy as np

    return np.random.default_rng(number).integers(0, 2, (TICKS, HEIGHT, WIDTH), np.uint8)


def _store(home: Path) -> Path:
    from spikedata.bits import pack_ticks
    from spikedata.clip import Clip
    from spikedata.clips import create_store

    path = home / "set.zarr"
    with create_store(path, recipe={"a": 1}, class_names=["x", "y"], name="toy") as writer:
        for number in range(4):
            clip = Clip(
                id=f"c{number}",
                label="xy"[number % 2],
                captions=("one", "two"),
                split=("train", "test")[number // 2],
                source={"name": f"{number}.avi", "sha256": "ab" * 32},
            )
            with writer.clip(clip, height_px=HEIGHT, width_px=WIDTH, tick_rate_hz=300.5) as out:
                out.append(pack_ticks(_planes(number)))
                out.finish(ticks=TICKS, attributes={"sensor": {"threshold": 2.5}})
    return path


def _in_store(name: str) -> Callable[[Path], list[Place]]:
    def build(home: Path) -> list[Place]:
        return [Place(file=_store(home) / name, home=home)]

    return build


def _packed(to: Any, name: str, inside: str = "") -> Callable[[Path], list[Place]]:
    def build(home: Path) -> list[Place]:
        from spikedata.pack import pack_clips

        store = _store(home)
        with contextlib.chdir(home):
            pack_clips([store], to=to, out=home / name)
        return [Place(file=home / name / inside, home=home)]

    return build


def _undigested(target: Target) -> Target:
    """The same set without digests of its facts."""

    def build(home: Path) -> list[Place]:
        from .undigested import make_undigested

        places = target.build(home)
        for path in home.glob("set.*"):
            make_undigested(path)
        return places

    return replace(target, build=build)


def _read_set(path: Path, told: Told) -> None:
    """Open a set of clips, tell all of it, read all bits in three ways, and check it."""
    from spikedata.clips import open_clips, validate

    with told.refusing():
        source = open_clips(path)
        _read_source(source, told)
    with told.refusing():
        told.lines(problem.message for problem in validate(path))


def _read_source(source: Any, told: Told) -> None:
    from spikedata.bits import BitsHasher, pack_ticks

    repr(source)
    told.lines(source.notes)
    told.lines(failure.error for failure in source.left_out)
    for clip_id in source.clips:
        with told.refusing():
            stored = source.clips[clip_id]
            if stored.packed_bytes > 1 << 26:
                continue  # its planes are 512 MB; whoever reads all at once asks for as much
            stream = source.read(clip_id)
            planes = source.read_planes(clip_id)
            hasher = BitsHasher()
            hasher.update(stream.packed_ghw)
            if stored.bits_sha256 and hasher.hexdigest() != stored.bits_sha256:
                told.wrong = "read() gave other bits than were noted"
            if not (pack_ticks(planes) == stream.packed_ghw).all():
                told.wrong = "read_planes() gives other bits than read()"
            source.verify(clip_id)
    with told.refusing():
        json.dumps(source.summary(), allow_nan=False)


def _set_target(name: str) -> Callable[[Place, Told], None]:
    def read(place: Place, told: Told) -> None:
        _read_set(place.home / name, told)

    return read


def _read_loaded(place: Place, told: Told) -> None:
    """Rows as ``datasets`` has them in memory."""
    import datasets
    import pyarrow.parquet as pq

    from spikedata.clips.rows import DatasetRows

    try:
        loaded = datasets.Dataset(pq.read_table(place.file))
    except Exception:
        return  # `datasets` has no such rows
    with told.refusing():
        _read_source(DatasetRows(loaded), told)


# --- recordings -----------------------------------------------------------------------------------


def _dat(camera: str) -> Target:
    def build(home: Path) -> list[Place]:
        import numpy as np

        from spikedata.bits import pack_ticks
        from spikedata.camera import find_camera, write_recording

        known = find_camera(camera)
        ticks = 2 if known.layout == "half_rows" else 3
        planes = np.random.default_rng(0).integers(0, 2, (ticks, *known.size), np.uint8)
        file = home / "recording.dat"
        write_recording(file, [pack_ticks(planes)], camera, ticks=ticks)
        return [Place(file=file, home=home)]

    return Target(kind="bytes", build=build, read=_camera_read(camera))


def _npz(camera: str) -> Target:
    def build(home: Path) -> list[Place]:
        import numpy as np

        file = home / "recording.npz"
        arrays: dict[str, Any] = {"spk": _planes(0)}
        if camera == "npz-hwt":
            arrays = {"spikes": np.ascontiguousarray(_planes(0).transpose(1, 2, 0))}
        np.savez_compressed(file, **arrays, label=np.int64(3), label_name=np.array("wave"))
        return [Place(file=file, home=home)]

    return Target(kind="npz", build=build, read=_camera_read(camera))


def _array(suffix: str, camera: str, *, chunked: bool = False) -> Target:
    """An array of another program: ``.npy``, or HDF5 as one piece or in chunks."""

    def build(home: Path) -> list[Place]:
        import h5py
        import numpy as np

        file = home / f"recording{suffix}"
        if suffix == ".npy":
            np.save(file, _planes(0).astype(np.float32))
        else:
            with h5py.File(file, "w") as made:
                how = {"chunks": (4, HEIGHT, WIDTH), "compression": "gzip"} if chunked else {}
                made.create_dataset("raw_spike", data=_planes(0), **how)
        return [Place(file=file, home=home)]

    return Target(kind="bytes", build=build, read=_camera_read(camera))


def _rsir(home: Path) -> list[Place]:
    import numpy as np

    from spikedata.bits import pack_ticks

    planes = _planes(0)
    file = home / "recording.npz"
    np.savez_compressed(file, seq=pack_ticks(planes), length=np.int64(len(planes)))
    return [Place(file=file, home=home)]


def _camera_read(camera: str) -> Callable[[Place, Told], None]:
    def read(place: Place, told: Told) -> None:
        from spikedata.camera import read_recording
        from spikedata.clips import open_clips, validate

        with told.refusing():
            recording = read_recording(place.file, camera)
            for _ in recording.blocks():
                pass
        with told.refusing():
            _read_source(open_clips(place.file, camera=camera), told)
        with told.refusing():
            told.lines(problem.message for problem in validate(place.file, camera=camera))

    return read


def _build_numbered(home: Path) -> list[Place]:
    from spikedata.bits import pack_ticks
    from spikedata.camera import write_recording

    for number in range(3):
        file = home / "set" / "wave" / f"{number:04d}.dat"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_recording(file, [pack_ticks(_planes(number)[:8])], f"{HEIGHT}x{WIDTH}", ticks=8)
    return [Place(file=home / "set" / "wave" / "0001.dat", home=home)]


def _read_numbered(place: Place, told: Told) -> None:
    from spikedata.clips import open_clips

    with told.refusing():
        _read_source(open_clips(place.home / "set", camera=f"{HEIGHT}x{WIDTH}"), told)


def _read_recordings(place: Place, told: Told) -> None:
    """A folder of camera files, with what tells of them."""
    _read_set(place.home / "set.dat", told)


# --- corpora --------------------------------------------------------------------------------------


def _video(path: Path) -> None:
    import numpy as np
    from videos import write_video

    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    write_video(path, frames, pix_fmt="gray", color_range=2)


def _corpus_with(name: str, text: str, videos: tuple[str, ...]) -> Callable[[Path], list[Place]]:
    def build(home: Path) -> list[Place]:
        for video in videos:
            _video(home / "corpus" / video)
        file = home / "corpus" / name
        file.write_text(text, encoding="utf-8")
        return [Place(file=file, home=home)]

    return build


def _read_corpus(place: Place, told: Told) -> None:
    from spikedata.corpora import find_corpus

    with told.refusing():
        corpus = find_corpus(place.home / "corpus")
        told.lines(corpus.notes)
        told.lines(failure.note() for failure in corpus.left_out)
        json.dumps([item.clip.to_dict() for item in corpus.clips], allow_nan=False).encode()
        for item in corpus.clips:
            if not item.path.resolve().is_relative_to((place.home / "corpus").resolve()):
                told.wrong = f"names a file outside the folder: {item.path}"


_METADATA = [
    {"file_name": "a/one.mkv", "label": "wave", "captions": ["one", "two"], "split": "train"},
    {"file_name": "a/two", "class": "jump", "caption": "three", "group": 7, "id": "t", "x": None},
    {"file_name": "three.mkv", "label": 3.0, "capture_fps": 240.5, "licence": "CC-BY-4.0"},
]
_CSV = """video,label,captions,subset,capture_fps,id
a/one.mkv,wave,"['one', 'two']",train,,
a/two,"ju""mp",three,,240,t
three.mkv,3.0,"[""four""]",test,"1,5",
"""
_UCF_LIST = """PullUps/v_PullUps_g08_c01.avi 70
PullUps/v_PullUps_g09_c02.avi 70
Wave/v_Wave_g10_c01.avi 2
"""
_UCF_VIDEOS = tuple(
    f"{name.split('_')[1]}/{name}.mkv"
    for name in ("v_PullUps_g01_c01", "v_PullUps_g08_c01", "v_PullUps_g09_c02", "v_Wave_g10_c01")
)
_HMDB_VIDEOS = tuple(f"wave/Film{n}_wave_f_nm_np1_fr_med_{n}.mkv" for n in range(3))
_HMDB_LIST = "".join(f"Film{n}_wave_f_nm_np1_fr_med_{n}.avi {n} \n" for n in range(3))
_UCF_TEST = "PullUps/v_PullUps_g01_c01.avi\n"


def _ucf101(name: str, text: str) -> Callable[[Path], list[Place]]:
    def build(home: Path) -> list[Place]:
        places = _corpus_with(name, text, _UCF_VIDEOS)(home)
        for other, words in (("trainlist01.txt", _UCF_LIST), ("testlist01.txt", _UCF_TEST)):
            if other != name:
                (home / "corpus" / other).write_text(words)
        return places

    return build


# --- video ----------------------------------------------------------------------------------------

_VIDEOS = {
    ".mkv": {"codec": "ffv1"},
    ".mp4": {"codec": "mpeg4"},
    ".avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    ".webm": {"codec": "libvpx-vp9", "pix_fmt": "yuv420p"},
    ".mov": {"codec": "libx264", "pix_fmt": "yuv420p"},
}


def _build_videos(home: Path) -> list[Place]:
    import numpy as np
    from videos import write_video

    places = []
    grid = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8)
    frames = np.stack([grid + 9 * number for number in range(4)]).astype(np.uint8)
    for suffix, how in _VIDEOS.items():
        file = home / f"clip{suffix}"
        write_video(file, frames, **{"pix_fmt": "yuv420p", **how})
        places.append(Place(file=file, home=home))
    return places


def _video_target(decoder: Any) -> Target:
    def read(place: Place, told: Told) -> None:
        from spikedata.video import VideoConfig, open_video

        for damaged in ("keep", "refuse"):
            with (
                told.refusing(),
                open_video(place.file, VideoConfig(decoder=decoder, damaged=damaged)) as video,
            ):
                _read_video(video, told)

    needs = decoder if decoder == "decord" else None
    return Target(kind="bytes", build=_build_videos, read=read, needs=needs)


def _read_video(video: Any, told: Told) -> None:
    for _ in video.blocks():
        pass
    account = video.account()
    json.dumps(account, allow_nan=False)
    told.lines(account["problems"])


def _build_pictures(home: Path) -> list[Place]:
    import cv2
    import numpy as np

    places = []
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".hdr"):
        folder = home / suffix[1:]
        folder.mkdir()
        for number in range(3):
            picture = np.random.default_rng(number).integers(0, 256, (8, 9, 3)).astype(np.uint8)
            if suffix == ".hdr":
                picture = picture.astype(np.float32) / 255
            cv2.imwrite(str(folder / f"f{number}{suffix}"), picture)
        places.append(Place(file=folder / f"f1{suffix}", home=home))
    return places


def _read_pictures(place: Place, told: Told) -> None:
    from spikedata.analysis import read_picture
    from spikedata.video import VideoConfig, open_video

    with told.refusing(), open_video(place.file.parent, VideoConfig(fps=25)) as video:
        _read_video(video, told)
    if place.file.suffix != ".hdr":
        with told.refusing():
            read_picture(place.file)


# --- recipes, sensors, maps -----------------------------------------------------------------------


def _recipes_at(folder: str) -> list[tuple[str, str]]:
    from importlib.resources import files

    place = Path(str(files("spikedata_recipes"))) / folder
    return [(file.stem, file.read_text("utf-8")) for file in sorted(place.glob("*.yaml"))]


def _yaml_files(folder: str, *names: str) -> Callable[[Path], list[Place]]:
    def build(home: Path) -> list[Place]:
        places = []
        for name, text in _recipes_at(folder):
            if not names or name in names:
                file = home / f"{name}.yaml"
                file.write_text(text)
                places.append(Place(file=file, home=home))
        return places

    return build


def _build_simulation(home: Path) -> list[Place]:
    import yaml

    from spikedata.recipe import to_dict
    from spikedata.simulation import simulation_recipe

    file = home / "simulation.yaml"
    file.write_text(yaml.safe_dump(to_dict(simulation_recipe(sensor="vidar-20khz"))))
    return [Place(file=file, home=home)]


def _read_simulation(place: Place, told: Told) -> None:
    from spikedata.recipe import to_dict
    from spikedata.simulation import simulation_recipe

    with told.refusing():
        json.dumps(to_dict(simulation_recipe(file=place.file)), allow_nan=False)


def _read_sensor(place: Place, told: Told) -> None:
    from spikedata.recipe import to_dict
    from spikedata.simulator import load_sensor

    with told.refusing():
        json.dumps(to_dict(load_sensor(place.file)), allow_nan=False)


def _read_training(place: Place, told: Told) -> None:
    from spikedata.recipe import to_dict
    from spklip.building import new_config
    from spklip.recipe import read_recipe

    with told.refusing():
        recipe = read_recipe(place.file)
        json.dumps(to_dict(recipe))
        if recipe.model.checkpoint is None and not recipe.model.image_encoder:
            new_config(recipe.model)


def _read_sweep(place: Place, told: Told) -> None:
    from spklip.sweep import plan_sweep, read_sweep

    recipe = place.home / "smoke.yaml"
    recipe.write_text(dict(_recipes_at(""))["smoke"])
    with told.refusing():
        sweep = read_sweep(place.file)
        # Those packaged are of another recipe: only a name or a key that is not there is refused.
        with told.refusing():
            plan_sweep(sweep, recipe, told.scratch / "runs")


def _build_maps(home: Path) -> list[Place]:
    from spikedata.simulator.maps import camera_maps
    from spikedata.simulator.noise import NoiseConfig

    file = home / "maps.npz"
    camera_maps(NoiseConfig(), 0, HEIGHT, WIDTH).save(file)
    return [Place(file=file, home=home)]


def _read_maps(place: Place, told: Told) -> None:
    from spikedata.simulator.maps import SensorMaps, camera_maps
    from spikedata.simulator.noise import NoiseConfig

    with told.refusing():
        SensorMaps.load(place.file)
    with told.refusing():
        camera_maps(NoiseConfig(maps=str(place.file)), 0, HEIGHT, WIDTH)


def _build_calibration(home: Path) -> list[Place]:
    from dataclasses import fields

    import numpy as np

    from spikedata.analysis.calibrate import Calibration, save_calibration

    values: dict[str, Any] = {}
    for one in fields(Calibration):
        kind = np.bool_ if one.name == "bad_hw" else np.float64
        values[one.name] = np.ones((HEIGHT, WIDTH), kind) if one.name.endswith("_hw") else 1.0
    file = home / "calibration.npz"
    save_calibration(Calibration(**values), file)
    return [Place(file=file, home=home)]


def _read_calibration(place: Place, told: Told) -> None:
    from spikedata.analysis.calibrate import load_calibration

    with told.refusing():
        load_calibration(place.file)


# --- runs and models ------------------------------------------------------------------------------

_CHANGES = {
    "pool_px": 2,
    "windows_per_segment": 1,
    "extractor_channels": 8,
    "group_blocks": (1,),
    "group_width": 8,
    "pool_heads": 1,
    "temporal_width": 8,
    "temporal_layers": 1,
    "temporal_heads": 1,
    "embed_dim": 8,
    "text_width": 8,
    "text_layers": 1,
    "text_heads": 1,
    "branch_channels": (1, 1, 1, 1),
}


def _run_folder(home: Path) -> Path:
    """What a run leaves, of a tiny model that has learnt nothing."""
    import torch

    from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
    from spklip.recipe import DataConfig, Recipe
    from spklip.run_folder import resolved_recipe

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = SpklipConfig.preset("tiny", **_CHANGES)
    run = home / "run"
    SpklipModel(config).save_pretrained(run / "model")
    build_tokenizer(config).save_pretrained(run / "model")
    recipe = resolved_recipe(Recipe(data=DataConfig(path="set.zarr", window_ticks=62)))
    (run / "recipe.yaml").write_text(recipe)
    (run / "model" / "recipe.yaml").write_text(recipe)
    (run / "metrics.json").write_text(json.dumps(_METRICS))
    return run


_INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75}
_METRICS = {
    "metrics_version": 4,
    "closed_set": {"spklip": {"top1": _INTERVAL}, "mean_rate": {"top1": _INTERVAL}},
    "few_shot": {"ways": 5, "by_group": {"spklip": {"1": _INTERVAL, "5": _INTERVAL}}},
    "directions": {"top1": {"spklip": _INTERVAL}},
    "energy": {"pj": {"fp32": 1e6}, "rate": 0.125},
    "train": {"seconds": 3.5},
    "evaluation_seconds": 1.25,
}


def _in_run(name: str) -> Callable[[Path], list[Place]]:
    def build(home: Path) -> list[Place]:
        return [Place(file=_run_folder(home) / name, home=home)]

    return build


def _read_run(place: Place, told: Told) -> None:
    """As `spklip-eval` does: the recipe, the config, the weights; then a sentence is embedded."""
    import torch

    from spikedata.recipe import to_dict
    from spklip.building import build_model, load_model_parts
    from spklip.recipe import ModelConfig
    from spklip.run import recipe_of_run

    run = place.home / "run"
    with told.refusing():
        recipe = recipe_of_run(run)
        json.dumps(to_dict(recipe))
        model = ModelConfig(checkpoint=str(run))
        config, tokenizer = load_model_parts(model)
        words = tokenizer(["a wave"], return_tensors="pt", padding=True)
        built = build_model(model, config)
        with torch.no_grad():
            built.encode_text(words["input_ids"], words["attention_mask"])


def _read_metrics(place: Place, told: Told) -> None:
    """As a sweep does whose run is done."""
    from spklip.sweep import PlannedRun, _row
    from spklip.sweep_report import write_tables

    with told.refusing():
        run = PlannedRun(
            name="run", overrides=(), recipe=_recipe(), folder=place.home / "run", state="done"
        )
        told_row = _row(run)
        table = {"sweep_version": 1, "name": "s", "recipe": "r", "set": [], "runs": [told_row]}
        write_tables(table, told.scratch)


def _recipe() -> Any:
    from spklip.recipe import Recipe

    return Recipe()


def _build_answers(home: Path) -> list[Place]:
    import dataclasses

    import torch

    from spklip.judge import Judged, write_judged

    file = home / "answers.pt"
    # Judged as far as its fields have to be given; a file is read whole or not at all.
    given = {
        one.name: torch.ones(2, 3)
        for one in dataclasses.fields(Judged)
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    }
    write_judged(file, Judged(**given))
    return [Place(file=file, home=home)]


def _read_answers(place: Place, told: Told) -> None:
    """As a run does that goes on."""
    from spklip.judge import read_judged

    with told.refusing():
        read_judged(place.file)


def _build_state(home: Path) -> list[Place]:
    _store(home)
    file = home / ".spikedata.json"
    file.write_text('{"packed": "set.zarr"}\n')
    return [Place(file=file, home=home)]


def _read_state(place: Place, told: Told) -> None:
    from spikedata.pack import last_packed

    with told.refusing():
        last_packed(place.home)


def _cut_off(name: str) -> Callable[[Path], list[Place]]:
    """A store with what a killed recording left, of which a file is changed."""

    def build(home: Path) -> list[Place]:
        import numpy as np

        from spikedata.bits import pack_ticks
        from spikedata.clip import Clip
        from spikedata.clips import create_store

        planes = np.random.default_rng(0).integers(0, 2, (300, HEIGHT, WIDTH), np.uint8)
        size = {"height_px": HEIGHT, "width_px": WIDTH}
        with create_store(home / "set.zarr", recipe={}, class_names=["x"]) as writer:
            clip = Clip(id="c", label="x")
            with writer.clip(clip, **size, tick_rate_hz=128, live={"a": 1}) as out:
                out.append(pack_ticks(planes))
        return [Place(file=home / "set.zarr/.partial" / name, home=home)]

    return build


def _read_cut_off(place: Place, told: Told) -> None:
    import shutil

    from spikedata import open_clips, record_stream

    shutil.copytree(place.home / "set.zarr", told.scratch / "set.zarr")
    with told.refusing():
        record_stream(None, told.scratch / "set.zarr", resume=True, tell=told.line)
        _read_source(open_clips(told.scratch / "set.zarr"), told)


def _read_stream(place: Place, told: Told) -> None:
    from spikedata import RecordingConfig, open_clips, record_stream

    config = RecordingConfig(camera="sps100", ring_bytes=1 << 20)
    with told.refusing():
        record_stream(place.file, told.scratch / "set.zarr", config)
        _read_source(open_clips(told.scratch / "set.zarr"), told)


def _build_live(home: Path) -> list[Place]:
    _video(home / "corpus" / "wave" / "one.mkv")
    _video(home / "corpus" / "jump" / "two.mkv")
    _open_live(home)
    (file,) = (home / "index").glob("videos-*.jsonl")
    return [Place(file=file, home=home)]


def _open_live(home: Path) -> Any:
    from spikedata.corpora import find_corpus
    from spikedata.live import open_videos
    from spikedata.simulation import SimulationRecipe

    return open_videos(find_corpus(home / "corpus"), SimulationRecipe(), index=home / "index")


def _read_live(place: Place, told: Told) -> None:
    with told.refusing():
        _read_source(_open_live(place.home), told)


# --- the Hub --------------------------------------------------------------------------------------

_COMMIT = "0" * 40
_NAMES = ("data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet", "README.md")


def _build_hub(home: Path) -> list[Place]:
    """What a Hub answers of each kind, as one JSON object; the shards themselves stay whole."""
    import hashlib

    _packed("parquet", "set.parquet")(home)
    shards = {name: (home / "set.parquet" / name) for name in _NAMES if name.startswith("data/")}
    entries = [
        {"type": "file", "path": name, "size": file.stat().st_size, "oid": _COMMIT}
        | {
            "lfs": {
                "oid": hashlib.sha256(file.read_bytes()).hexdigest(),
                "size": file.stat().st_size,
                "pointerSize": 99,
            }
        }
        for name, file in shards.items()
    ]
    url = "https://huggingface.co/datasets/tester/toy"
    answers = {
        "whoami-v2": {"type": "user", "name": "tester", "orgs": [], "auth": {}},
        "validate-yaml": {"errors": [], "warnings": []},
        "create": {"url": url, "name": "tester/toy"},
        "preupload": {
            "files": [
                {"path": name, "shouldIgnore": False, "oid": None}
                | {"uploadMode": "lfs" if name in shards else "regular"}
                for name in (*_NAMES, "recipe.yaml")
            ]
        },
        "commit": {"commitUrl": f"{url}/commit/{_COMMIT}", "commitOid": _COMMIT, "success": True},
        "tree": [*entries, {"type": "file", "path": "README.md", "size": 9, "oid": _COMMIT}],
        "paths-info": entries,
        "batch": {
            "transfer": "basic",
            "objects": [{"oid": e["lfs"]["oid"], "size": e["size"]} for e in entries],
        },
        "refs": {"branches": [], "tags": [], "converts": []},
        "info": {
            "id": "tester/toy",
            "sha": _COMMIT,
            "private": True,
            "siblings": [{"rfilename": name} for name in _NAMES],
            "tags": [],
            "downloads": 0,
        },
    }
    file = home / "answers.json"
    file.write_text(json.dumps(answers))
    return [Place(file=file, home=home)]


def _kind_of(path: str) -> str:
    """Which of the answers a request is for."""
    parts = path.strip("/").split("/")
    if parts[-1] in ("whoami-v2", "validate-yaml", "create", "batch"):
        return parts[-1]
    kind = parts[4] if len(parts) > 4 else "info"
    return "info" if kind == "revision" else kind


@contextlib.contextmanager
def _hub_answers(place: Place) -> Iterator[None]:
    """A Hub that gives these answers; if they are no object, the file is what it always says."""
    import importlib

    import huggingface_hub

    # Which package of this interface it is has changed between its versions.
    package = type(huggingface_hub.get_session()).__module__.partition(".")[0]
    httpx: Any = importlib.import_module(package)
    data = place.file.read_bytes()
    answers = _raw_values(data)

    def answer(request: Any) -> Any:
        path, headers = request.url.path, {"x-repo-commit": _COMMIT, "etag": '"e"'}
        if "/resolve/" in path:
            shard = place.home / "set.parquet" / path.partition("/resolve/")[2].partition("/")[2]
            if shard.is_file():
                return _part(httpx, request, shard.read_bytes(), headers)
        headers["content-type"] = "application/json"
        kind = _kind_of(path)
        body = data if answers is None else answers.get(kind, b"")
        if kind == "batch":
            body = _only_asked(body, request.content)
        return httpx.Response(200, content=body, headers=headers)

    transport = httpx.MockTransport(answer)
    huggingface_hub.set_client_factory(lambda: httpx.Client(transport=transport))
    try:
        yield
    finally:
        huggingface_hub.close_session()


def _raw_values(data: bytes) -> dict[str, bytes] | None:
    """The text of each answer, if there are several."""
    try:
        found = json.loads(data)
        if isinstance(found, dict):
            return {key: json.dumps(value).encode() for key, value in found.items()}
    except (ValueError, RecursionError):
        pass
    return None


def _only_asked(body: bytes, asked: bytes) -> bytes:
    """An answer on all shards, without those whose digest was not asked about."""
    try:
        answer = json.loads(body)
        others = [one for one in answer["objects"] if str(one["oid"]).encode() not in asked]
        answer["objects"] = [one for one in answer["objects"] if one not in others]
        return json.dumps(answer).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return body


def _part(httpx: Any, request: Any, data: bytes, headers: dict[str, str]) -> Any:
    """A file, or the part of it that is asked for."""
    wanted = request.headers.get("range")
    headers = headers | {"accept-ranges": "bytes"}
    if request.method == "HEAD":
        return httpx.Response(200, headers=headers | {"content-length": str(len(data))})
    if not wanted:
        return httpx.Response(200, content=data, headers=headers)
    first, _, last = wanted.partition("=")[2].partition("-")
    end = min(int(last) if last else len(data) - 1, len(data) - 1)
    headers["content-range"] = f"bytes {first}-{end}/{len(data)}"
    return httpx.Response(206, content=data[int(first) : end + 1], headers=headers)


def _read_pull(place: Place, told: Told) -> None:
    from spikedata.hub import check_regenerated, pull

    with _hub_answers(place):
        with told.refusing():
            pull("tester/toy", told.scratch / "pulled.zarr")
        with told.refusing():
            told.lines(check_regenerated("tester/toy", place.home / "set.parquet"))


def _read_push(place: Place, told: Told) -> None:
    from spikedata.hub import push_hub

    with _hub_answers(place), told.refusing():
        push_hub(place.home / "set.parquet", repo="tester/toy")


# --- all of them ----------------------------------------------------------------------------------

_SHARD = "data/train-00000-of-00001.parquet"
_DOTS = f"{HEIGHT}x{WIDTH}"

TARGETS: dict[str, Target] = {
    "zarr_root": Target(kind="json", build=_in_store("zarr.json"), read=_set_target("set.zarr")),
    "zarr_clip": Target(
        kind="json", build=_in_store("clips/c1/zarr.json"), read=_set_target("set.zarr")
    ),
    "zarr_catalog": Target(
        kind="jsonl", build=_in_store("catalog.jsonl"), read=_set_target("set.zarr")
    ),
    "zarr_shard": Target(
        kind="shard", build=_in_store("clips/c1/c.0.0.0"), read=_set_target("set.zarr")
    ),
    "parquet": Target(
        kind="parquet",
        build=_packed("parquet", "set.parquet", _SHARD),
        read=_set_target("set.parquet"),
    ),
    "hdf5": Target(kind="hdf5", build=_packed("hdf5", "set.h5"), read=_set_target("set.h5")),
    "dat_set_list": Target(
        kind="jsonl", build=_packed("dat", "set.dat", "metadata.jsonl"), read=_read_recordings
    ),
    "dat_set_about": Target(
        kind="json", build=_packed("dat", "set.dat", "spikedata.json"), read=_read_recordings
    ),
    "dataset_rows": Target(
        kind="parquet", build=_packed("parquet", "set.parquet", _SHARD), read=_read_loaded
    ),
    "dat_vidar": _dat("vidar"),
    "dat_vidar_raw": _dat("vidar-raw"),
    "dat_easy2spike": _dat("easy2spike"),
    "dat_sps100": _dat("sps100"),
    "dat_plain": _dat(_DOTS),
    "dat_numbered": Target(kind="bytes", build=_build_numbered, read=_read_numbered),
    "npz_hwt": _npz("npz-hwt"),
    "npz_rsir": Target(kind="npz", build=_rsir, read=_camera_read("rsir")),
    "npy": _array(".npy", "thw"),
    "hdf5_raw_spike": _array(".h5", "thw"),
    "hdf5_raw_spike_chunks": _array(".h5", "hwt", chunked=True),
    "npz_uhsr": _npz("uhsr"),
    "metadata_jsonl": Target(
        kind="jsonl",
        build=_corpus_with(
            "metadata.jsonl",
            "".join(json.dumps(line) + "\n" for line in _METADATA),
            ("a/one.mkv", "a/two.mkv", "three.mkv"),
        ),
        read=_read_corpus,
    ),
    "metadata_csv": Target(
        kind="csv",
        build=_corpus_with("metadata.csv", _CSV, ("a/one.mkv", "a/two.mkv", "three.mkv")),
        read=_read_corpus,
    ),
    "ucf101_list": Target(
        kind="text", build=_ucf101("trainlist01.txt", _UCF_LIST), read=_read_corpus
    ),
    "ucf101_classes": Target(
        kind="text", build=_ucf101("classInd.txt", "1 PullUps\n2 Wave\n"), read=_read_corpus
    ),
    "hmdb51_list": Target(
        kind="text",
        build=_corpus_with("wave_test_split1.txt", _HMDB_LIST, _HMDB_VIDEOS),
        read=_read_corpus,
    ),
    "recipe_simulation": Target(kind="yaml", build=_build_simulation, read=_read_simulation),
    "recipe_sensor": Target(kind="yaml", build=_yaml_files("sensors"), read=_read_sensor),
    "recipe_training": Target(
        kind="yaml",
        build=_yaml_files("", "smoke", "spiking", "fewshot"),
        read=_read_training,
        needs="torch",
    ),
    "recipe_sweep": Target(
        kind="yaml",
        build=_yaml_files("sweeps", "ticks", "windows"),
        read=_read_sweep,
        needs="torch",
    ),
    "maps": Target(kind="npz", build=_build_maps, read=_read_maps),
    "calibration": Target(kind="npz", build=_build_calibration, read=_read_calibration),
    "video_pyav": _video_target("pyav"),
    "video_opencv": _video_target("opencv"),
    "video_decord": _video_target("decord"),
    "pictures": Target(kind="bytes", build=_build_pictures, read=_read_pictures),
    "run_config": Target(
        kind="json", build=_in_run("model/config.json"), read=_read_run, needs="torch"
    ),
    "run_recipe": Target(kind="yaml", build=_in_run("recipe.yaml"), read=_read_run, needs="torch"),
    "run_metrics": Target(
        kind="json", build=_in_run("metrics.json"), read=_read_metrics, needs="torch"
    ),
    "run_weights": Target(
        kind="safetensors", build=_in_run("model/model.safetensors"), read=_read_run, needs="torch"
    ),
    "run_tokenizer": Target(
        kind="json", build=_in_run("model/tokenizer_config.json"), read=_read_run, needs="torch"
    ),
    "run_answers": Target(kind="bytes", build=_build_answers, read=_read_answers, needs="torch"),
    "state_file": Target(kind="json", build=_build_state, read=_read_state),
    "cut_off_note": Target(kind="json", build=_cut_off("0.json"), read=_read_cut_off),
    "cut_off_shard": Target(kind="bytes", build=_cut_off("0/c.0.0.0"), read=_read_cut_off),
    "stream_sps100": replace(_dat("sps100"), read=_read_stream),
    "live_index": Target(kind="jsonl", build=_build_live, read=_read_live),
    "hub_pull": Target(kind="json", build=_build_hub, read=_read_pull),
    "hub_push": Target(kind="json", build=_build_hub, read=_read_push),
}
"""All readers by name."""

# Not shards: those of before have no checksums, and only whoever hashes all of a clip can know.
_DIGESTED = (
    "zarr_root",
    "zarr_clip",
    "zarr_catalog",
    "parquet",
    "hdf5",
    "dat_set_list",
    "dat_set_about",
    "dataset_rows",
)
TARGETS |= {f"{name}_undigested": _undigested(TARGETS[name]) for name in _DIGESTED}
