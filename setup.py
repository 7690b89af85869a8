"""Finds the packages; all else stands in pyproject.toml, which cannot find under other names."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["spikedata", "spikedata.*", "spklip", "spklip.*"]),
        "spikedata_cli",  # in cli/
        "spikedata_recipes",  # in recipes/, as what follows
        "spikedata_recipes.sensors",
        "spikedata_recipes.sweeps",
    ]
)
