"""Spike-camera data: video or camera file in, labelled spike data set out.

The public names stand in ``__init__.pyi``; each is loaded when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
