"""A local page on which recordings and clips are looked at, judged and labelled."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
