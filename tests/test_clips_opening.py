"""Which set of clips lies at a path, and what every format gives through one interface."""

import pytest

from spikedata.clips import format_at


@pytest.mark.parametrize(
    ("files", "path", "found"),
    [
        (["s/zarr.json", "s/a.parquet"], "s", "zarr"),
        (["s.parquet/zarr.json"], "s.parquet", "zarr"),
        (["s/data/train-00000-of-00001.parquet"], "s", "parquet"),
        (["s/one.parquet"], "s", "parquet"),
        (["s/one.parquet"], "s/one.parquet", "parquet"),
        (["s/deep/er/one.parquet"], "s", None),
        (["s/rec.dat"], "s", None),
        (["s.h5"], "s.h5", "hdf5"),
        ([], "gone.h5", None),
        ([], "gone.zarr", None),
    ],
)
def test_names_tell_the_format(tmp_path, files, path, found):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert format_at(tmp_path / path) == format_at(str(tmp_path / path)) == found
