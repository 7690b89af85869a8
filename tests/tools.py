"""What several test files use: tiny corpora, the real programs, and a folder's digest."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from videos import write_video

BIN = Path(sys.executable).parent


def random_frames(
    seed: int, frames: int = 6, height: int = 8, width: int = 10
) -> NDArray[np.uint8]:
    """Random grey frames, uint8 (N, H, W)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, height, width), dtype=np.uint8)


def write_grey(path: Path, luma_nhw: NDArray[np.uint8]) -> Path:
    """Write a video at 25 Hz that reads back as exactly these full-range codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, luma_nhw, pix_fmt="gray", color_range=2)


def write_corpus(root: Path, *, classes: int = 2, clips: int = 3, frames: int = 6) -> Path:
    """Write class folders of tiny lossless videos, each with frames of its own."""
    for c in range(classes):
        for k in range(clips):
            write_grey(root / f"class{c}" / f"clip{k}.mkv", random_frames(100 * c + k, frames))
    return root


def without_digests(store: Path) -> Path:
    """Make a store of version 1.0 of one of today: that had digests of the bits alone."""
    for file in (store / "zarr.json", *store.glob("clips/*/zarr.json")):
        meta = json.loads(file.read_text())
        for shard in file.parent.glob("c.*"):
            whole = meta["chunk_grid"]["configuration"]["chunk_shape"]
            chunk = meta["codecs"][0]["configuration"]["chunk_shape"]
            chunks = whole[0] // chunk[0] * (whole[1] // chunk[1])
            data, index = shard.read_bytes(), 16 * chunks + 4
            shard.write_bytes(data[: -index - 4 * chunks] + data[-index:])
        for key in ("facts_sha256", "shards_crc32c", "catalog_sha256", "clips"):
            meta["attributes"].pop(key, None)
        if file.parent == store:
            meta["attributes"]["version"] = "1.0"
        file.write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
    lines = [json.loads(line) for line in (store / "catalog.jsonl").read_text().splitlines()]
    for line in lines:
        del line["facts_sha256"]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (store / "catalog.jsonl").write_text(text)
    return store


def run_program(
    name: str,
    *words: object,
    cwd: Path,
    env: dict[str, str] | None = None,
    apart: bool = False,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and capture what it prints.

    Args:
        apart: run the installed console script. ``spikedata`` otherwise runs within this process,
            a second faster, if it needs no environment of its own.
    """
    if name == "spikedata" and env is None and not apart:
        out, err = io.StringIO(), io.StringIO()
        quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with contextlib.chdir(cwd), quiet[0], quiet[1]:
            status = run_in_process(name, list(map(str, words)))
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())
    return subprocess.run(
        [BIN / name, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def run_in_process(name: str, words: Sequence[str]) -> int:
    """Run a command within this process, a second faster than its program; gives the status."""
    from spikedata_cli.data import app

    assert name == "spikedata"
    try:
        app(list(words), standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def one_line_error(done: subprocess.CompletedProcess[str], status: int) -> str:
    """Check that a program failed with ``status`` and one ``error:`` line; give that line."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def digest_of_folder(root: Path, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """SHA-256 of every file below ``root``, by relative path."""
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.name not in leave_out
    }
