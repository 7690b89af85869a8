from .interleaved import InterleavedWindows as InterleavedWindows
from .windows import SpikeWindows as SpikeWindows
