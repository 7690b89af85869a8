"""A set of clips on disk, in any format: one interface, one file or folder a format.

:class:`ClipSource` is the interface, :func:`open_clips` the one way to open; a verb is written
once, against these. Names load what they need when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
