"""Try cases by hand, and count what is found.

python tests/faults/run.py --case pack-zarr.kill.370   # one, by its name
python tests/faults/run.py --count 1000 --processes 2  # so many, with a table in Markdown
python tests/faults/run.py --count 1000 --draw 1       # others
python tests/faults/run.py --count 1000 --by verb      # likewise, by command
python tests/faults/run.py --grep parquet              # of those, the ones with this in them
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import Bench
from cases import Case, chosen, counted_as
from judge import MEANING, Finding

Tried = tuple[Case, list[Finding], float]


def try_all(cases: list[Case]) -> list[Tried]:
    """Try cases one after the other, on a bench of their own."""
    tried = []
    with tempfile.TemporaryDirectory() as scratch, Bench(Path(scratch)) as bench:
        for case in cases:
            started = time.monotonic()
            found = case.findings(bench)
            seconds = time.monotonic() - started
            tried.append((case, found, seconds))
            for finding in found:
                print(f"{case.name}  {finding}", file=sys.stderr, flush=True)
    return tried


def table(tried: Iterable[Tried], by: str) -> str:
    """Counts by kind of fault, by verb, or by both, in Markdown."""
    rows = {"kind": ("kind",), "verb": ("verb",), "both": ("verb", "kind")}[by]
    cases: Counter[str] = Counter()
    found: dict[str, Counter[str]] = {}
    for case, findings, _ in tried:
        told = {"verb": case.verb, "kind": counted_as(case.kind)}
        kind = ", ".join(told[row] for row in rows)
        cases[kind] += 1
        found.setdefault(kind, Counter()).update({finding.what for finding in findings})
    lines = [
        f"| {', '.join(rows)} | cases | {' | '.join(MEANING)} |",
        "|---" * (len(MEANING) + 2) + "|",
    ]
    for kind in sorted(cases):
        counts = " | ".join(str(found[kind][what]) for what in MEANING)
        lines.append(f"| {kind} | {cases[kind]} | {counts} |")
    total = " | ".join(str(sum(counts[what] for counts in found.values())) for what in MEANING)
    lines.append(f"| all | {cases.total()} | {total} |")
    return "\n".join(lines)


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="*", default=[], help="names of cases")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--draw", type=int, default=0, help="other cases, by this number")
    parser.add_argument("--grep", default="")
    parser.add_argument("--by", choices=["kind", "verb", "both"], default="kind")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    cases = [Case.named(name) for name in asked.case] or chosen(asked.count, asked.draw)
    cases = [case for case in cases if asked.grep in case.name]
    parts = [cases[number :: asked.processes] for number in range(asked.processes)]
    started = time.monotonic()
    with ProcessPoolExecutor(asked.processes) as pool:
        tried = [one for part in pool.map(try_all, parts) for one in part]
    print(table(tried, asked.by))
    slowest = max(seconds for _, _, seconds in tried)
    wall = time.monotonic() - started
    print(f"\n{len(tried)} cases in {wall:.0f} s, the slowest {slowest:.1f} s")
    sys.exit(any(found for _, found, _ in tried))


if __name__ == "__main__":
    main()
