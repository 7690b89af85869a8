"""Packed bits: how spikes lie in bytes, and every kernel that orders, cuts, counts or unpacks them.

Names load what they need when they are first used: numba and torch take half a second each.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
