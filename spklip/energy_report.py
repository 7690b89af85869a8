"""Energy and firing rates for people: a line, a table, a section of a page, a sweep's picture.

All is made from what ``metrics.json`` and ``sweep.json`` hold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spikedata import Page, new_figure
from spklip.columns import aligned

DEFAULT_COSTS = "fp32"
"""Cost table of numbers that stand alone."""
MOST_BARS = 60
"""Layers whose firing rates are drawn: the first of them."""

_UNITS = ((1e12, "J"), (1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
_PREFIXES = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))


def shown_energy(pj: float) -> str:
    """An energy in the unit that suits it, three digits."""
    size, unit = next((one for one in _UNITS if pj >= one[0]), _UNITS[-1])
    return f"{_digits(pj / size)} {unit}"


def shown_count(count: float) -> str:
    """A large number with its prefix, three digits."""
    size, prefix = next((one for one in _PREFIXES if count >= one[0]), (1.0, ""))
    return f"{_digits(count / size)}{prefix}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 or value == 0 else f"{value:.3g}"


def energy_of(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run counted; one of before this was counted has nothing."""
    counted: Mapping[str, Any] = metrics.get("energy", {"skipped": "the run is older than this"})
    return counted


def energy_line(energy: Mapping[str, Any], costs: str = DEFAULT_COSTS) -> str:
    """What a clip costs, in a line; empty where it was not counted."""
    if "skipped" in energy:
        return ""
    told = [
        f"{shown_energy(energy['pj'][costs])} a clip",
        f"{energy['share']:.0%} of the arithmetic on spikes",
    ]
    if energy["rate"] is not None:
        told.append(f"{energy['rate']:.3g} spikes an input there")
    told.append(f"{shown_count(energy['macs'])} dense MACs")
    if "cnn_ratio" in energy:
        told.append(f"{energy['cnn_ratio'][costs]:.2f} of its CNN's energy")
    return f"energy of the video tower ({costs}, 45 nm): " + ", ".join(told)


def energy_rows(energy: Mapping[str, Any], costs: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of layers; the last row is the sum."""
    heads = ["layer", "kind", "sees", "dense MACs", "firing rate", "SOPs", "ACs", "parameters"]
    rows = [
        [
            layer["name"],
            layer["kind"],
            layer["sees"],
            shown_count(layer["macs"]),
            "" if layer["rate"] is None else f"{layer['rate']:.3g}",
            *(shown_count(layer[key]) if layer["spikes"] else "" for key in ("sops", "acs")),
            shown_count(layer["parameters"]) if layer["parameters"] else "",
            shown_energy(layer["pj"][costs]),
        ]
        for layer in energy["layers"]
    ]
    rate = "" if energy["rate"] is None else f"{energy['rate']:.3g}"
    total = ["all layers", "", f"{energy['share']:.0%} spikes", shown_count(energy["macs"])]
    total += [rate, *(shown_count(energy[key]) for key in ("sops", "acs", "parameters"))]
    return [*heads, "energy"], [*rows, [*total, shown_energy(energy["pj"][costs])]]


def energy_table(energy: Mapping[str, Any], costs: str = DEFAULT_COSTS) -> str:
    """The table of layers as plain text, and under it the line of a run's summary.

    Args:
        energy: what :func:`count_energy` gives.
        costs: whose energies it shows: ``fp32``, ``fp16`` or ``int8``.
    """
    heads, rows = energy_rows(energy, costs)
    return "\n".join([*aligned([heads, *rows]), energy_line(energy, costs)])


def add_energy(page: Page, energy: Mapping[str, Any], *, costs: str = DEFAULT_COSTS) -> None:
    """The section of a page: what it costs, layer by layer, and how often its neurons fire."""
    page.heading("Energy of the video tower")
    if "skipped" in energy:
        page.text(f"Not done: {energy['skipped']}.")
        return
    moved = energy["bytes"]
    page.text(
        f"One clip, mean over {energy['clips']} test clips: {shown_energy(energy['pj'][costs])} of "
        f"arithmetic ({costs}, 45 nm). Of {shown_count(energy['macs'])} MACs of the dense network "
        f"{energy['share']:.1%} see spikes; {shown_count(energy['sops'])} accumulates do instead "
        f"({shown_count(energy['acs'])} without what falls outside the picture). Were every one a "
        f"MAC, it would be {shown_energy(energy['dense_pj'][costs])}."
    )
    page.text(
        "By other costs: "
        + ", ".join(f"{name} {shown_energy(pj)}" for name, pj in energy["pj"].items())
        + f". Moved, and not priced: {shown_count(moved['weights'])}B of weights, "
        f"{shown_count(moved['inputs'])}B of inputs, {shown_count(moved['outputs'])}B of outputs. "
        f"Left out, as the convention does: {shown_count(energy['elementwise'])} values of "
        "normalisations, activations, neurons and sums, and the text, which is embedded once."
    )
    if "cnn_pj" in energy:
        page.text(
            f"The same network without spikes (encoder: cnn): "
            f"{shown_energy(energy['cnn_pj'][costs])}; this one takes "
            f"{energy['cnn_ratio'][costs]:.2f} of it."
        )
    heads, rows = energy_rows(energy, costs)
    page.table(heads, rows, marked={len(rows) - 1})
    page.text(
        "sees: bits are 0 and 1 (zeros: nothing came), counts whole numbers of spikes, signed "
        "counts those of two cells, ON and OFF. Firing rate: mean spikes of an input value. "
        "SOPs: firing rate times dense MACs, by which the energy goes. ACs: the accumulates that "
        "the spikes cause.",
        small=True,
    )
    if any(layer["spikes"] for layer in energy["layers"]):
        page.figure(_rates(energy["layers"]))


def _rates(layers: Sequence[Mapping[str, Any]]) -> Any:
    """Firing rate of every layer that sees spikes, as bars."""
    shown = [layer for layer in layers if layer["spikes"]][:MOST_BARS]
    figure, axes = new_figure(7, 0.8 + 0.22 * len(shown))
    axes.barh(range(len(shown)), [layer["rate"] for layer in shown], color="#c2410c")
    names = [f"{layer['name']} ({layer['sees']})" for layer in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("spikes of an input value, mean")
    return figure


def add_energy_against_accuracy(page: Page, metrics: Mapping[str, Any]) -> None:
    """The picture of a run: its energy and accuracy, and what others would take."""
    energy, closed = energy_of(metrics), metrics["closed_set"]
    if "skipped" in energy or "skipped" in closed or not energy["pj"][DEFAULT_COSTS]:
        return
    lines = [("every layer dense", energy["dense_pj"][DEFAULT_COSTS])]
    if "cnn_pj" in energy:
        lines.append(("encoder: cnn", energy["cnn_pj"][DEFAULT_COSTS]))
    point = (metrics["name"], energy["pj"][DEFAULT_COSTS], closed["spklip"]["top1"])
    page.figure(energy_figure([point], lines))


def energy_figure(
    points: Sequence[tuple[str, float, Mapping[str, float]]],
    lines: Sequence[tuple[str, float]] = (),
) -> Any:
    """Energy a clip against closed-set top-1.

    Args:
        points: name, pJ (not 0) and top-1 with interval, of each run.
        lines: name and pJ of what has an energy and no known accuracy.
    """
    figure, axes = new_figure(7, 3.4 + 0.12 * len(points))
    for name, pj, top1 in points:
        spans = [[max(0.0, top1["value"] - top1["low"])], [max(0.0, top1["high"] - top1["value"])]]
        axes.errorbar([pj / 1e9], [top1["value"]], yerr=spans, fmt="o", label=name)
    for style, (name, pj) in zip(("--", ":"), lines, strict=False):
        axes.axvline(pj / 1e9, color="gray", linestyle=style, label=name)
    found = [pj / 1e9 for pj in (*(one[1] for one in points), *(one[1] for one in lines))]
    decades = math.floor(math.log10(min(found))), math.floor(math.log10(max(found))) + 1
    axes.set_xscale("log")
    axes.set_xlim(10.0 ** decades[0], 10.0 ** decades[1])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel=f"energy a clip, mJ ({DEFAULT_COSTS})", ylabel="top-1", ylim=(-0.02, 1.02))
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
