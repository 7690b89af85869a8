"""The bits of one clip's folder: shard files, decoded group by group.

Shapes: G groups of eight ticks, P pixels, H rows, W columns.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.clips.rules import check_past_end
from spikedata.clips.source import ClipBits
from spikedata.clips.store.layout import ArrayLayout
from spikedata.clips.store.shard import ShardReader
from spikedata.clips.stored import StoredClip
from spikedata.remote import RemotePath


class ShardedBits(ClipBits):
    """The bits of one clip's folder."""

    def __init__(self, folder: Path, stored: StoredClip, layout: ArrayLayout) -> None:
        # Of a file each chunk is found at once; an object is asked for as much as is kept.
        self.step = layout.shard_groups if isinstance(folder, RemotePath) else layout.chunk_groups
        self.stored = stored
        self._folder, self._layout = folder, layout

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Decode the chunks that hold groups ``first`` to ``end``: uint8 (end - first, H, W).

        Raises:
            RuleBrokenError: a shard or chunk is missing or damaged, or bits past the last tick
                are set.
        """
        packed_ghw = read_groups(self._folder, self._layout, first, end)
        if end == self._layout.groups:
            check_past_end(packed_ghw, self.stored.ticks)
        return packed_ghw


def read_groups(folder: Path, layout: ArrayLayout, first: int, end: int) -> NDArray[np.uint8]:
    """Decode groups ``first`` to ``end`` of the clip in ``folder``: uint8 (end - first, H, W).

    Raises:
        RuleBrokenError: a shard or chunk is missing or damaged.
    """
    shards = range(first // layout.shard_groups, -(-end // layout.shard_groups))
    with ExitStack() as stack:
        # Opening checks the index, before memory is taken for what may not be there.
        readers = [stack.enter_context(ShardReader(folder, layout, shard)) for shard in shards]
        packed_gp = np.empty((end - first, layout.height_px * layout.width_px), np.uint8)
        for shard, reader in zip(shards, readers, strict=True):
            base = shard * layout.shard_groups
            low = max(0, first - base)
            high = min(layout.shard_groups, end - base)
            _fill(packed_gp[base + low - first :], reader, layout, low, high)
    return packed_gp.reshape(-1, layout.height_px, layout.width_px)


def _fill(
    out_gp: NDArray[np.uint8], reader: ShardReader, layout: ArrayLayout, low: int, high: int
) -> None:
    """Decode a shard's groups ``low`` to ``high`` into the first rows of ``out_gp``."""
    size, band = layout.chunk_groups, layout.chunk_rows * layout.width_px
    chunk_gp = np.empty((size, band), np.uint8)
    reader.will_read(low // size * layout.bands, -(-high // size) * layout.bands)
    for step in range(low // size, -(-high // size)):
        g0, g1 = max(low, step * size), min(high, (step + 1) * size)
        for row in range(layout.bands):
            chunk_pg = reader.chunk_pg(step * layout.bands + row)
            target_gp = out_gp[g0 - low : g1 - low, row * band : (row + 1) * band]
            if g1 - g0 == size and layout.chunk_rows == layout.height_px:  # nothing to cut off
                bits.to_time_first(chunk_pg, target_gp)
            else:
                bits.to_time_first(chunk_pg, chunk_gp)
                begin = g0 - step * size
                target_gp[:] = chunk_gp[begin : begin + g1 - g0, : target_gp.shape[1]]
