"""Light to spikes: the sensor's definition, its fast backends, and who chooses between them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
