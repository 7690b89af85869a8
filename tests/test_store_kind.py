"""One rule tells what kind of data set lies at a path."""

import pytest

from spikedata.clips.kind import kind_of


@pytest.mark.parametrize(
    ("files", "path", "kind"),
    [
        (["s/zarr.json", "s/a.parquet"], "s", "zarr"),
        (["s.parquet/zarr.json"], "s.parquet", "zarr"),
        (["s/data/train-00000-of-00001.parquet"], "s", "parquet"),
        (["s/one.parquet"], "s", "parquet"),
        (["s/one.parquet"], "s/one.parquet", "parquet"),
        (["s/deep/er/one.parquet"], "s", None),
        (["s/rec.dat"], "s", None),
        (["s.h5"], "s.h5", "hdf5"),
        ([], "gone.HDF5", "hdf5"),
        ([], "gone.parquet", "parquet"),
        ([], "gone.zarr", None),
    ],
)
def test_names_alone_tell_the_kind(tmp_path, files, path, kind):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert kind_of(tmp_path / path) == kind_of(str(tmp_path / path)) == kind
