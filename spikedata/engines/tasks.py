"""What a worker does with a part, in a process that nothing else of the run is in."""

import functools
import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from spikedata.errors import EngineError

Work = Callable[[Any, Sequence[Any], Any], list[Any]]
"""Does a part: from what all parts share, its items, and the kind of worker to their outcomes."""


def do_part(shared: bytes, items: bytes, lane: str) -> list[Any] | Exception:
    """The outcomes of a part; or what it raised, so that no engine wraps that.

    Args:
        shared: pickled pair of the :data:`Work` and what all parts share. That is unpickled once
            a process, so what it opens stays open from part to part.
        items: pickled.
        lane: the kind of worker.
    """
    try:
        work, context = _unpickled(shared)
        return work(context, pickle.loads(items), lane)
    except Exception as error:
        return _portable(error)


@functools.lru_cache(maxsize=2)
def _unpickled(shared: bytes) -> tuple[Work, Any]:
    work, context = pickle.loads(shared)
    return work, context


def _portable(error: Exception) -> Exception:
    """The error, if it survives being sent, with where it happened; else one that tells of it."""
    error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EngineError(f"{type(error).__name__}: {error}")
    return error
