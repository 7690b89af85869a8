"""The same readers under Atheris, which looks for inputs that reach new lines of our code.

    pip install atheris
    python -m tests.fuzz.atheris_targets parquet -max_total_time=600

All after the target's name goes to libFuzzer. It runs in this one process until something fails;
what failed lies in `failures/TARGET/`, from where it may go to `seeds/TARGET/`. Atheris has wheels
for Linux and is no dependency: nothing else here needs it.
"""

import importlib
import sys
import tempfile
from pathlib import Path

import atheris

from .targets import TARGETS, Told

OURS = ["spikedata", "spklip"]
COMPILED = ["spikedata.bits", "spikedata.simulator"]
"""Numba takes no code that counts its lines."""


def main() -> None:
    """Fuzz the target that is named first, from what is valid and what was kept."""
    name, *options = sys.argv[1:]
    target, home = TARGETS[name], Path(tempfile.mkdtemp(prefix="atheris-"))
    corpus = home / "corpus"
    corpus.mkdir()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # helpers of all tests
    importlib.import_module("spikedata.bits.time_order")
    with atheris.instrument_imports(include=OURS, exclude=COMPILED):
        places = target.build(home)
        target.read(places[0], Told(home))  # readers are imported where they are needed
    kept = sorted((Path(__file__).parent / "seeds" / name).glob("*"))
    for number, file in enumerate([*(place.file for place in places), *kept]):
        (corpus / f"{number}").write_bytes(file.read_bytes())
    scratch = home / "scratch"

    def read(data: bytes) -> None:
        place = places[len(data) % len(places)]
        place.file.write_bytes(data)
        scratch.mkdir(exist_ok=True)
        told = Told(scratch)
        target.read(place, told)
        if told.wrong:
            raise AssertionError(told.wrong)

    failures = Path(__file__).parent / "failures" / name
    failures.mkdir(parents=True, exist_ok=True)
    bounds = ["-timeout=10", "-rss_limit_mb=3000", f"-artifact_prefix={failures}/"]
    atheris.Setup([sys.argv[0], *bounds, *options, str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
