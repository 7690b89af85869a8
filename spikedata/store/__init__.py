"""The Zarr store of labelled spike streams."""
