"""Who made this: the versions that decide a store's bits."""

import platform
from collections.abc import Iterable
from importlib import metadata


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of spikedata, Python and the named installed packages."""
    found = {"spikedata": metadata.version("spikedata"), "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in packages}
