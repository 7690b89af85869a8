"""Energy of a model's video tower on real test clips, for a run's metrics or on its own.

The clips go the way they go in judging, in 32-bit floats, one at a time, as a camera gives them: so
what is read of the weights is read for each. A frozen tower, whose vectors are kept, sees the bits
all the same. The text tower is left out: a text is embedded once, for all clips.
"""

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor
from tqdm import tqdm

from spikedata import SpikeClips, SpikeDataError, collate
from spklip.batches import middle
from spklip.embed import draw_windows
from spklip.energy import COSTS, LayerCount, ModuleCount, count_layers
from spklip.model import SpklipModel
from spklip.recipe import Recipe
from spklip.splits import take_turns


def read_energy(
    model: Any, clips: SpikeClips, recipe: Recipe, *, progress: bool = True
) -> dict[str, Any]:
    """What :func:`count_energy` counts, or ``skipped``, why not: a run is not lost for it."""
    if not recipe.eval.energy_clips:
        return {"skipped": "eval.energy_clips is 0"}
    try:
        return count_energy(model, clips, recipe, progress=progress)
    except SpikeDataError as error:
        return {"skipped": str(error)}


def count_energy(
    model: Any, clips: SpikeClips, recipe: Recipe, *, progress: bool = True
) -> dict[str, Any]:
    """Count what the video tower of a SpklipModel does for a clip, mean over some clips.

    Args:
        model: the model, on any device.
        clips: ``eval.energy_clips`` of them are taken, the classes taking turns; of each the first
            drawing of its windows.
        recipe: how clips are fed.
        progress: show a bar on standard error.

    Returns:
        ``clips``; for one of them ``macs`` (of the dense layers), ``spike_macs`` (those that see
        spikes), ``share`` (the one of the other), ``spike_count``, ``rate`` (firing rate, mean over
        those; None without spikes), ``sops``, ``acs``, ``pj`` by cost table, ``dense_pj`` (every
        product a MAC), ``elementwise``, ``bytes`` (weights, inputs, outputs); ``parameters``;
        ``layers``, each with the fields of :class:`spklip.energy.LayerCount`. Of a spiking encoder
        also ``cnn_pj``, what its counterpart with ``encoder: cnn`` takes for the same clips, and
        ``cnn_ratio``.

    Raises:
        SpikeDataError: a clip cannot be read, or the tower hides what it multiplies.
    """
    drawing = draw_windows(clips, recipe, 0)
    chosen = take_turns([int(label) for label in clips.labels], recipe.eval.energy_clips)
    batches = (collate([drawing[index]]) for index in chosen)
    passes = [
        (middle(batch["packed_bsghw"], recipe.data.crop), batch["ticks"]) for batch in batches
    ]
    own = _count(model, passes, progress)
    told = {"clips": len(chosen)} | _described(own, model)
    if model.config.encoder != "cnn":
        told |= _beside(told["pj"], _count(counterpart(model), passes, progress))
    return told


def _count(model: Any, passes: Sequence[tuple[Tensor, int]], progress: bool) -> ModuleCount:
    def embed(packed_bsghw: Tensor, ticks: int) -> None:
        packed_bsghw = packed_bsghw.to(model.device)
        model.encode_features(*model.window_features(packed_bsghw, ticks))

    model.eval()
    shown = tqdm(passes, desc="count energy", file=sys.stderr, disable=not progress)
    return count_layers(model.video, shown, run=embed)


def counterpart(model: Any) -> Any:
    """The same network without spikes of its own, untrained: no training changes what it costs."""
    config: Any = copy.deepcopy(model.config)
    config.encoder = "cnn"
    return SpklipModel(config, pretrained=False).to(model.device)


def _beside(own_pj: Mapping[str, float], cnn: ModuleCount) -> dict[str, Any]:
    cnn_pj = {name: cnn.energy_pj(costs) for name, costs in COSTS.items()}
    return {"cnn_pj": cnn_pj, "cnn_ratio": {name: own_pj[name] / cnn_pj[name] for name in COSTS}}


def _described(found: ModuleCount, model: Any) -> dict[str, Any]:
    layers = [_row(layer) for layer in found.layers]
    spiking = [layer for layer in found.layers if layer.spikes]
    sops = sum(layer.sops for layer in spiking)
    return {
        "macs": _number(found.macs),
        "spike_macs": _number(found.spike_macs),
        "share": found.spike_macs / found.macs if found.macs else 0.0,
        "spike_count": sum(layer.spike_count for layer in spiking),
        "rate": sops / found.spike_macs if found.spike_macs else None,
        "sops": sops,
        "acs": sum(layer.acs for layer in spiking),
        "pj": {name: found.energy_pj(costs) for name, costs in COSTS.items()},
        "dense_pj": {name: costs.mac_pj * found.macs for name, costs in COSTS.items()},
        "elementwise": _number(found.elementwise),
        "parameters": sum(one.numel() for one in model.video.parameters()),
        "bytes": {
            "weights": _number(sum(layer.weight_bytes for layer in found.layers)),
            "inputs": _number(sum(layer.input_bytes for layer in found.layers)),
            "outputs": _number(sum(layer.output_bytes for layer in found.layers)),
        },
        "layers": layers,
    }


def _row(layer: LayerCount) -> dict[str, Any]:
    fields = {name: _number(value) for name, value in asdict(layer).items()}
    moved = {name: fields.pop(f"{name[:-1]}_bytes") for name in ("weights", "inputs", "outputs")}
    pj = {name: layer.energy_pj(costs) for name, costs in COSTS.items()}
    return fields | {"spikes": layer.spikes, "bytes": moved, "pj": pj}


def _number(value: Any) -> Any:
    """A count as a whole number where the mean is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
