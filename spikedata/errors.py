"""Every error that is the user's to mend: one tree, so one ``except`` catches them all.

A caller's mistake (shape, dtype, range) is a ``ValueError`` or ``TypeError`` instead.
"""

from spikedata.wording import one_line


class SpikeDataError(Exception):
    """A problem with the user's files, recipe or installation, told in one line."""

    def __str__(self) -> str:
        """The message as one printable line: what it tells of may be anybody's text."""
        return one_line(super().__str__())


class VideoError(SpikeDataError):
    """A video cannot be opened or decoded."""


class RecordingError(SpikeDataError):
    """A camera recording does not fit the camera it is said to come from."""


class PackedSetError(SpikeDataError):
    """A file is a set of clips that spikedata packed, and no recording."""


class CorpusError(SpikeDataError):
    """A folder of videos or recordings is not laid out as expected."""


class StoreError(SpikeDataError):
    """A store breaks the format, is too new, or does not hold what was asked for."""


class RecipeError(SpikeDataError):
    """A recipe has an unknown key or a value that does not fit."""


class HubError(SpikeDataError):
    """Publishing to or fetching from the Hub failed."""


class MissingExtraError(SpikeDataError):
    """An optional package is not installed; the message names the pip command."""


class EngineError(SpikeDataError):
    """Workers of an engine cannot be had, or do not fit the process that hands out the work."""
