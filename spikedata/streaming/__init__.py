"""Windows of clips as a stream for training: shuffled, shared out, resumed exactly, interleaved."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
