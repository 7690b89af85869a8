"""The table of a sweep: the headline numbers of its runs as text, JSON, CSV and a page."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spikedata import Page, new_figure, write_page, write_whole
from spklip.columns import aligned
from spklip.energy_report import DEFAULT_COSTS, energy_figure

ENDS = ("value", "low", "high")
"""A share, and the ends of its 95% interval."""


def headline_numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one run that stand in the table of a sweep.

    Args:
        metrics: the content of a run's ``metrics.json``.

    Returns:
        numbers: ``top1`` of the model and ``mean_rate_top1`` on the closed set, ``directions_top1``
            of the model where order alone tells (see :mod:`spklip.directions`), ``few_shot`` by
            shots, each with ``value``, ``low`` and ``high`` (over groups of test clips) or None
            where it was not judged; ``ways`` of the episodes; ``skipped``, why there were none;
            ``energy_pj`` of the video tower a clip and ``firing_rate`` where it sees spikes, or
            None; ``train_seconds`` and ``evaluation_seconds``.

    Raises:
        ValueError: what must be a number is none.
        KeyError, TypeError, AttributeError: it is no ``metrics.json`` of a run.
    """
    closed, few = metrics["closed_set"], metrics["few_shot"]
    energy = metrics.get("energy", {})  # a run of before it was counted has none
    return {
        "top1": _interval(closed.get("spklip", {}).get("top1")),
        "mean_rate_top1": _interval(closed.get("mean_rate", {}).get("top1")),
        "directions_top1": _interval(metrics["directions"].get("top1", {}).get("spklip")),
        "ways": _real_or_none(few.get("ways")),
        "skipped": None if few.get("skipped") is None else str(few["skipped"]),
        "few_shot": _shots_of(few.get("by_group", {}).get("spklip", {})),
        "energy_pj": _real_or_none(energy.get("pj", {}).get(DEFAULT_COSTS)),
        "firing_rate": _real_or_none(energy.get("rate")),
        "train_seconds": _real(metrics["train"]["seconds"]),
        "evaluation_seconds": _real(metrics["evaluation_seconds"]),
    }


def sweep_table(table: Mapping[str, Any]) -> str:
    """The table as plain text, and under it what failed or was not judged.

    Args:
        table: the content of ``sweep.json``.
    """
    heads, rows = _shown(table)
    lines = aligned([heads, *rows])
    return "\n".join([*lines, *_gaps(table)])


def write_tables(table: Mapping[str, Any], out: Path) -> None:
    """Write ``sweep.json``, ``sweep.csv`` and ``sweep.html``.

    Args:
        table: what ``sweep.json`` is to hold.
        out: the folder, which is there.

    Raises:
        OSError: the disk is full, or the like.
    """
    write_whole(out / "sweep.csv", _csv(table))
    write_whole(out / "sweep.json", json.dumps(table, indent=1, allow_nan=False) + "\n")
    write_page(out / "sweep.html", lambda: _page(table))


def _interval(estimate: Mapping[str, Any] | None) -> dict[str, float] | None:
    return None if estimate is None else {end: _real(estimate[end]) for end in ENDS}


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise ValueError(f"expected a number, got {value!r:.40}")
    return value


def _real_or_none(value: Any) -> float | None:
    return None if value is None else _real(value)


def _shots_of(told: Mapping[str, Any]) -> dict[str, dict[str, float] | None]:
    """Estimates by number of shots."""
    if not all(re.fullmatch("[0-9]{1,9}", shots) for shots in told):
        raise ValueError(f"expected numbers of shots, got {list(told)!r:.80}")
    return {shots: _interval(estimate) for shots, estimate in told.items()}


def _shots(table: Mapping[str, Any]) -> list[str]:
    """Every number of shots that a run was judged with, in rising order."""
    return sorted({k for run in table["runs"] for k in run.get("few_shot", {})}, key=int)


def _shown(table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows for people."""
    shots = _shots(table)
    ways = {run["ways"] for run in table["runs"] if run.get("few_shot")}
    before = f"{ways.pop()}-way " if len(ways) == 1 else ""
    heads = ["run", "changes", "closed set, top-1", "mean rate, top-1"]
    heads += [before + (f"{k}-shot" if k != "0" else "text only") for k in shots]
    heads += ["directions, top-1", "energy, mJ", "firing rate", "training, s", "evaluation, s"]
    return heads, [_cells(run, shots) for run in table["runs"]]


def _cells(run: Mapping[str, Any], shots: Sequence[str]) -> list[str]:
    first = [run["name"], " ".join(run["overrides"])]
    if run["state"] != "done":
        return [*first, run["state"], *[""] * (len(shots) + 6)]
    mean_rate = run["mean_rate_top1"]
    return [
        *first,
        _percent(run["top1"]),
        "" if mean_rate is None else f"{mean_rate['value']:.1%}",
        *(_percent(run["few_shot"].get(k)) for k in shots),
        _percent(run.get("directions_top1")),
        _number(run.get("energy_pj"), 1e-9),
        _number(run.get("firing_rate")),
        f"{run['train_seconds']:.0f}",
        f"{run['evaluation_seconds']:.0f}",
    ]


def _percent(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"


def _number(value: float | None, times: float = 1.0) -> str:
    return "" if value is None else f"{value * times:.3g}"


def _gaps(table: Mapping[str, Any]) -> list[str]:
    """Why cells are empty: what failed, and which runs have no k-shot episodes."""
    lines = [f"failed: {run['name']}: {run['error']}" for run in table["runs"] if "error" in run]
    without: dict[str, list[str]] = {}
    for run in table["runs"]:
        if run.get("skipped"):
            without.setdefault(run["skipped"], []).append(run["name"])
    return lines + [
        f"no k-shot episodes in {', '.join(names)}: {why}" for why, names in without.items()
    ]


def _csv(table: Mapping[str, Any]) -> str:
    """One line a run; shares from 0 to 1, empty where there is none."""
    shots = _shots(table)
    names = ["top1", "mean_rate_top1", *(f"shot{k}_top1" for k in shots), "directions_top1"]
    shares = [name + end for name in names for end in ("", "_low", "_high")]
    numbers_of = ["energy_pj", "firing_rate", "train_seconds", "evaluation_seconds"]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["run", "changes", "state", *shares, *numbers_of, "error"])
    for run in table["runs"]:
        by_shots = run.get("few_shot", {})
        found = [run.get("top1"), run.get("mean_rate_top1"), *(by_shots.get(k) for k in shots)]
        found.append(run.get("directions_top1"))
        numbers = [None if one is None else one[end] for one in found for end in ENDS]
        first = [run["name"], " ".join(run["overrides"]), run["state"]]
        rest = [run.get(name) for name in (*numbers_of, "error")]
        lines.writerow([*first, *numbers, *rest])
    return text.getvalue()


def _page(table: Mapping[str, Any]) -> str:
    page = Page(table["name"])
    done = [run for run in table["runs"] if run["state"] == "done"]
    common = f", changed by {' '.join(table['set'])}" if table["set"] else ""
    page.text(f"{len(done)} of {len(table['runs'])} runs of {Path(table['recipe']).name}{common}.")
    heads, rows = _shown(table)
    page.table(heads, rows)
    page.text(
        "In brackets: 95% intervals, groups of test clips that share a scene resampled. Runs that "
        "are judged on the same clips share that luck: of two such runs the difference is surer "
        "than their intervals say. One seed each: another may change a run by as much.",
        small=True,
    )
    page.items(_gaps(table))
    if any(run["top1"] for run in done):
        page.figure(_figure([run for run in done if run["top1"]], _shots(table)))
    points = [
        (run["name"], run["energy_pj"], run["top1"])
        for run in done
        if run["top1"] and run.get("energy_pj")
    ]
    if points:
        page.figure(energy_figure(points))
    return page.render()


def _figure(runs: Sequence[Mapping[str, Any]], shots: Sequence[str]) -> Any:
    """Closed set and k shots of each run, with intervals, one run below the other."""
    series = [("closed set", [run["top1"] for run in runs])]
    series.append(("mean-rate image, closed set", [run["mean_rate_top1"] for run in runs]))
    series += [
        (f"{k}-shot" if k != "0" else "text only", [run["few_shot"].get(k) for run in runs])
        for k in shots
    ]
    figure, axes = new_figure(8, 1.2 + len(runs) * (0.25 + 0.12 * len(series)))
    for number, (name, estimates) in enumerate(series):
        _draw_series(axes, name, estimates, 0.7 * (number / max(1, len(series) - 1) - 0.5))
    axes.set_yticks(range(len(runs)), [run["name"] for run in runs])
    axes.invert_yaxis()
    axes.set(xlabel="top-1", xlim=(-0.02, 1.02))
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_series(
    axes: Any, name: str, estimates: Sequence[Mapping[str, float] | None], shift: float
) -> None:
    found = [(row, one) for row, one in enumerate(estimates) if one is not None]
    if not found:
        return
    spans = [
        [max(0.0, one["value"] - one["low"]) for _, one in found],
        [max(0.0, one["high"] - one["value"]) for _, one in found],
    ]
    x, y = [one["value"] for _, one in found], [row + shift for row, _ in found]
    axes.errorbar(x, y, xerr=spans, fmt="o", markersize=4, label=name)
