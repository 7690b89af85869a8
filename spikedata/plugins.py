"""Functions of the user's own, by the name ``package.module:function``.

Whoever calls this vouches that the user named the function: a name that comes from a file would
let the file run code.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from spikedata.errors import SpikeDataError


def find_function(name: str, what: str, others: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Args:
        name: a module that is installed, on PYTHONPATH or else in the working folder, a colon, and
            a function in it. Of the working folder nothing else is imported: what the module
            needs besides must lie in its package, or be found without that folder.
        what: what the function is to be, for errors.
        others: what could have been given instead, likewise.

    Raises:
        SpikeDataError: no such module or function, or the module cannot be imported.
    """
    module_name, colon, function_name = name.partition(":")
    if not (colon and function_name and all(map(str.isidentifier, module_name.split(".")))):
        raise SpikeDataError(f"{what} {name!r}: expected {others} or package.module:function")
    try:
        found = getattr(_import_named(module_name), function_name, None)
    except Exception as error:  # the module is somebody's own and may fail in any way
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            said += ". Of the working folder only the module named is imported; PYTHONPATH adds one"
        raise SpikeDataError(f"{what} {name!r}: cannot be imported: {said}") from error
    if not callable(found):
        raise SpikeDataError(f"{what} {name!r}: {module_name} has no such function")
    function: Callable[..., Any] = found
    return function


class _NamedModule(MetaPathFinder):
    """Finds one module in the working folder, while it is imported, and nothing else there.

    With the folder on the path, whatever that module imports, and what another thread imports
    meanwhile, could be a file that somebody put into a downloaded folder.
    """

    def __init__(self, name: str) -> None:
        self._name, self._folder = name, os.getcwd()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where the module lies; what lies in a package is found through that."""
        return PathFinder.find_spec(fullname, [self._folder]) if fullname == self._name else None


def _import_named(name: str) -> ModuleType:
    """Import a module of the installation or, if there is none, of the working folder."""
    finder = _NamedModule(name.partition(".")[0])
    sys.meta_path.append(finder)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
