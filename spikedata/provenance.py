"""Who made this: the versions that decide a store's bits."""

import functools
import platform
from collections.abc import Iterable
from importlib import metadata

DISTRIBUTION = "spklip"
"""Name that pip knows this by; ``spikedata`` is another project's there."""


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of spikedata, Python and the named installed packages."""
    found = {"spikedata": _version(DISTRIBUTION), "python": platform.python_version()}
    return found | {name: _version(name) for name in packages}


# A package's files are looked for and parsed each time: half a millisecond a clip.
_version = functools.cache(metadata.version)
