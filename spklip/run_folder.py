"""The folder of a run: whose it is, what may be deleted in it, and the recipe it was made by."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from spikedata import SpikeDataError, to_dict, write_whole
from spklip.recipe import Recipe, read_recipe

NAMES = (
    "recipe.yaml",
    "checkpoints",
    "logs",
    "trainings",
    "features",
    "model",
    "report.html",
    "metrics.json",
)
"""All that a run writes, and all that is ever deleted."""
HEADER = "# The resolved recipe of a run of spklip-train."
"""First words of a run's ``recipe.yaml``, by which a run's folder is known; a recipe written by
hand does not make one of the folder it lies in."""


@contextlib.contextmanager
def full_disk_told(out: Path) -> Iterator[None]:
    """Turn a disk that takes no more into one line; what is there already is gone on from.

    Weights and optimisers are written by libraries whose errors are none of the system's.
    """
    try:
        yield
    except SpikeDataError:
        raise
    except Exception as error:
        told = _of_the_disk(error, out)
        if told is None:
            raise
        raise SpikeDataError(f"{told}. Make room, and go on with --resume") from error


def _of_the_disk(error: BaseException | None, out: Path) -> str | None:
    """What the disk has against being written, if it is that."""
    while error is not None:
        text = " ".join(str(error).split())
        by_rust = re.search(r"\(os error (\d+)\)", text)  # safetensors
        number = int(by_rust[1]) if by_rust else getattr(error, "errno", None)
        if number in _TAKES_NO_MORE:
            return f"{getattr(error, 'filename', None) or out}: {os.strerror(number)}"
        if isinstance(error, RuntimeError) and _TORCH_WRITES.search(text):  # tells no reason
            full = shutil.disk_usage(out).free < 1 << 20
            return f"{out}: {os.strerror(errno.ENOSPC) if full else f'cannot be written: {text}'}"
        error = error.__cause__ or error.__context__
    return None


_TAKES_NO_MORE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_TORCH_WRITES = re.compile(r"PytorchStreamWriter|iostream error|unexpected pos \d+ vs \d+")


def prepare_folder(recipe: Recipe, out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check what ``out`` holds, delete a run that is overwritten, and write ``recipe.yaml``.

    Raises:
        SpikeDataError: see :func:`check_folder`.
    """
    check_folder(recipe, out, resume=resume, overwrite=overwrite)
    if overwrite and is_run(out):
        for name in NAMES:
            _delete(out / name)
    out.mkdir(parents=True, exist_ok=True)
    for path in _half_written(out):
        path.unlink()
    write_whole(out / "recipe.yaml", resolved_recipe(recipe))


def _half_written(out: Path) -> list[Path]:
    """Files of a run that was killed while it wrote them, under names of :func:`write_whole`."""
    own = [path for name in NAMES for path in out.glob(f"{name}.*.partial")]
    own += [path for name in _WRITTEN_INTO for path in (out / name).rglob("*.partial")]
    return [path for path in own if re.search(r"\.\d+-\d+\.partial$", path.name)]


_WRITTEN_INTO = ("checkpoints", "trainings", "model")
"""Folders of a run that no other command writes into."""


def check_folder(recipe: Recipe, out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run of ``recipe`` may be written to ``out``; changes nothing.

    A run that was cut off before its first checkpoint has nothing to lose: it is begun again
    without being asked, also by another recipe.

    Raises:
        SpikeDataError: ``out`` holds something else, or a run that is neither to be resumed nor
            overwritten.
    """
    if not is_run(out):
        if out.exists() and (not out.is_dir() or {*out.iterdir()} - {*_half_written(out)}):
            raise SpikeDataError(f"{out}: exists and is not a run; name another folder with --out")
    elif overwrite:
        return
    elif is_finished(out):
        raise SpikeDataError(f"{out}: a finished run; {_ways_out(out, 'replaces it')}")
    elif has_checkpoints(out):
        if not resume:
            raise SpikeDataError(
                f"{out}: an unfinished run; --resume goes on with it, "
                f"{_ways_out(out, 'starts again')}"
            )
        check_same(read_recipe(out / "recipe.yaml"), recipe, out)


def is_finished(folder: Path) -> bool:
    """Whether a run in ``folder`` came to its end: then ``metrics.json`` is written."""
    return is_run(folder) and (folder / "metrics.json").exists()


def has_checkpoints(folder: Path) -> bool:
    """Whether a run in ``folder`` has got so far that there is something to go on from."""
    kept = ("checkpoints/checkpoint-*", "trainings/*/answers.pt")
    return is_run(folder) and any(any(folder.glob(pattern)) for pattern in kept)


def is_run(folder: Path) -> bool:
    """Whether a run made ``folder``."""
    recipe = folder / "recipe.yaml"
    return recipe.is_file() and recipe.read_bytes().startswith(HEADER.encode())


def recipe_of(checkpoint: Path | str) -> Path | None:
    """The recipe a model was trained by; None where none lies with it.

    Args:
        checkpoint: a run's folder, a saved model, or one of a run's checkpoints.
    """
    path = Path(checkpoint)
    folders = [path]
    if path.parent.name == "checkpoints":
        folders.append(path.parent.parent)
    return next((f / "recipe.yaml" for f in folders if is_run(f)), None)


def resolved_recipe(recipe: Recipe) -> str:
    """The text of a run's ``recipe.yaml``: every key, defaults written out."""
    body = yaml.safe_dump(to_dict(recipe), sort_keys=False)
    return f"{HEADER} Again: spklip-train THIS_FILE --out DIR\n{body}"


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _ways_out(out: Path, what: str) -> str:
    """Advice that costs nobody a file: ``--overwrite`` only where all there is is the run's."""
    others = sorted(path.name for path in out.iterdir() if path.name not in NAMES)
    if others:
        return f"it also holds {others[0]}: name another folder with --out"
    return f"--overwrite {what}, --out keeps it"


def check_same(before: Recipe, now: Recipe, out: Path) -> None:
    """Check that the run in ``out`` was made by the recipe of now.

    Raises:
        SpikeDataError: a key differs; the message names the first one.
    """
    old, new = _flat(to_dict(before)), _flat(to_dict(now))
    for key in old | new:
        if old.get(key) != new.get(key):
            raise SpikeDataError(
                f"{out}: was begun with {key}={old.get(key)}, the recipe now says "
                f"{new.get(key)}; {_ways_out(out, 'starts again')}"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
