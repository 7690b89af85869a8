"""How the windows of a clip see each other by spikes alone.

Shapes: B clips, V windows of a clip, D levels of a count, C channels, E channels of a head.
"""

from torch import Tensor, nn

from spklip.model.config import SpklipConfig
from spklip.model.spiking import SpikeConv1d, SpikeLinear, SpikeNeuron, SpikeNorm


class SpikeProducts(nn.Module):
    """Queries times keys times values, all of them spikes: sums that need additions alone.

    Shapes: (D, B, heads, V, E); D is 1 where counts are not in steps.
    """

    def __init__(self, *, levels: int, kind: str) -> None:
        super().__init__()
        self.levels, self.kind = levels, kind

    def forward(self, ask: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Whole sums (B, heads, V, E); every product has spikes for one of its two factors."""
        value_bhve = value.sum(dim=0)
        table_bhee = (key.mT @ value_bhve).sum(dim=0)
        found_bhve = (ask @ table_bhee).sum(dim=0)
        if self.kind == "sdsa":
            return found_bhve
        # (2q - D)(2k - D)^T v + D^2 E v, worked out so that spikes alone are multiplied.
        levels, width = self.levels, ask.shape[-1]
        all_bh1e = value_bhve.sum(dim=2, keepdim=True)
        ask_bhv1 = ask.sum(dim=(0, -1), keepdim=True)[0]
        key_bhv1 = key.sum(dim=(0, -1), keepdim=True)[0]
        by_key_bh1e = (key_bhv1 * value_bhve).sum(dim=2, keepdim=True)
        return (
            4 * found_bhve
            - 2 * levels * ask_bhv1 * all_bh1e
            - 2 * levels * by_key_bh1e
            + 2 * levels**2 * width * all_bh1e
        )


class SpikeAttention(nn.Module):
    """Attention without softmax: queries, keys and values are spikes, and only additions follow.

    ``sdsa`` adds up q (k^T v): a key's spikes add the values of its window to a table, a query's
    spikes read rows of it. ``hamming`` weighs windows by how many spikes of query and key agree,
    silence included.

    Sources: E-SDSA, M. Yao et al., arXiv:2411.16061; Hamming attention, S. Zou et al.,
    "SpikeVideoFormer", arXiv:2505.10352.
    """

    binary = False

    def __init__(self, width: int, heads: int, *, levels: int, kind: str) -> None:
        super().__init__()
        self.heads, self.levels = heads, levels
        self.products = SpikeProducts(levels=levels, kind=kind)
        self.enter = SpikeNeuron(width, levels=levels)
        self.ask, self.key, self.value = (
            SpikeLinear(width, width, levels=levels, norm=SpikeNorm(width)) for _ in range(3)
        )
        self.fire_ask, self.fire_key, self.fire_value, self.fire_found = (
            SpikeNeuron(width, levels=levels) for _ in range(4)
        )
        self.norm = SpikeNorm(width)
        self.leave = SpikeLinear(width, width, levels=levels, norm=SpikeNorm(width, gain=0.5))

    def forward(self, membrane_bvc: Tensor) -> Tensor:
        """What the windows tell each other, to be added to the membranes (B, V, C)."""
        shape = membrane_bvc.shape
        spikes_nc = self.enter(membrane_bvc.flatten(0, 1))
        ask, key, value = (
            self._by_head(fire(line(spikes_nc)), shape[0])
            for line, fire in (
                (self.ask, self.fire_ask),
                (self.key, self.fire_key),
                (self.value, self.fire_value),
            )
        )
        found_bhve = self.products(ask, key, value)
        found_nc = found_bhve.transpose(1, 2).reshape(-1, shape[-1])
        found_nc = found_nc / (self.levels**2 * self.heads)  # near 1
        told_nc: Tensor = self.leave(self.fire_found(self.norm(found_nc)))
        return told_nc.view(shape)

    def _by_head(self, spikes_nc: Tensor, clips: int) -> Tensor:
        """Spikes (D B V, C) as (D, B, heads, V, E); D is 1 where counts are not in steps."""
        steps = self.levels if self.binary else 1
        spikes = spikes_nc.view(steps, clips, -1, self.heads, spikes_nc.shape[1] // self.heads)
        return spikes.transpose(2, 3)


class SpikeMixing(nn.Module):
    """Neighbouring windows see each other through a convolution over time, by spikes."""

    def __init__(self, width: int, *, levels: int) -> None:
        super().__init__()
        self.enter = SpikeNeuron(width, levels=levels)
        self.mix = SpikeConv1d(width, width, levels=levels, norm=SpikeNorm(width, gain=0.5))

    def forward(self, membrane_bvc: Tensor) -> Tensor:
        """What neighbouring windows tell each other, to be added to the membranes (B, V, C)."""
        told_bcv: Tensor = self.mix(self.enter(membrane_bvc.mT))
        return told_bcv.mT


class SpikeMlp(nn.Module):
    """Two linear layers on the spikes of each window."""

    def __init__(self, width: int, *, levels: int) -> None:
        super().__init__()
        inner = 4 * width
        self.enter = SpikeNeuron(width, levels=levels)
        self.widen = SpikeLinear(width, inner, levels=levels, norm=SpikeNorm(inner))
        self.fire = SpikeNeuron(inner, levels=levels)
        self.narrow = SpikeLinear(inner, width, levels=levels, norm=SpikeNorm(width, gain=0.5))

    def forward(self, membrane_bvc: Tensor) -> Tensor:
        """To be added to the membranes (B, V, C)."""
        spikes_nc = self.enter(membrane_bvc.flatten(0, 1))
        told_nc: Tensor = self.narrow(self.fire(self.widen(spikes_nc)))
        return told_nc.view(membrane_bvc.shape)


class SpikingTime(nn.Module):
    """Blocks that add to the membranes of windows what they tell each other.

    Membrane shortcuts: what is added are membranes, and spikes alone enter a layer. In
    ``full_spiking`` windows attend to each other, in ``spiking_resnet`` a convolution mixes
    neighbours.
    """

    def __init__(self, config: SpklipConfig) -> None:
        super().__init__()
        width, levels = config.temporal_width, config.spike_levels
        self.parts = nn.ModuleList()
        for _ in range(config.temporal_layers):
            if config.encoder == "full_spiking":
                heads, kind = config.temporal_heads, config.spike_attention
                self.parts.append(SpikeAttention(width, heads, levels=levels, kind=kind))
            else:
                self.parts.append(SpikeMixing(width, levels=levels))
            self.parts.append(SpikeMlp(width, levels=levels))

    def forward(self, membrane_bvc: Tensor) -> Tensor:
        """Membranes (B, V, C) to membranes (B, V, C)."""
        for part in self.parts:
            membrane_bvc = membrane_bvc + part(membrane_bvc)
        return membrane_bvc
