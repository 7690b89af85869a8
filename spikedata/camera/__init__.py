"""Recordings of real spike cameras: their layouts, one way to open, one way to write.

:func:`open_recording` opens any of them. Names load what they need when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
