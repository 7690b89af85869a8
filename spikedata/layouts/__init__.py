"""Which layout a camera file has, judged by what it shows: no format carries its geometry."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
