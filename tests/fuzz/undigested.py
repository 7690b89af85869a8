"""Sets of clips as they were before their facts had digests.

Where facts have a digest, one that was changed is refused for it before it is looked at; these
show what the readers themselves do with it, and what may come from who makes digests anew.
"""

import json
from pathlib import Path

import h5py
import pyarrow.parquet as pq
from tools import without_digests

FACTS = "facts_sha256"
DIGESTS = ("set_sha256", FACTS, "clips")


def make_undigested(path: Path) -> None:
    """Take the digests of facts out of a set, whatever its layout; those of the bits stay."""
    if path.suffix == ".zarr":
        without_digests(path)
    elif path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            del file.attrs["set_sha256"]
            for clip in file["clips"].values():
                del clip.attrs[FACTS]
    elif path.suffix == ".parquet":
        for shard in sorted(path.rglob("*.parquet")):
            table = pq.read_table(shard).drop_columns([FACTS])
            about = json.loads(table.schema.metadata[b"spikedata"])
            told = {b"spikedata": json.dumps(_without(about)).encode()}
            table = table.replace_schema_metadata(table.schema.metadata | told)
            pq.write_table(table, shard)
    else:
        about, listed = path / "spikedata.json", path / "metadata.jsonl"
        about.write_text(json.dumps(_without(json.loads(about.read_text()))))
        lines = [_without(json.loads(line)) for line in listed.read_text().splitlines()]
        listed.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _without(told: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in told.items() if key not in DIGESTS}
