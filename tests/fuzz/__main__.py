"""Fuzz all readers, or some, and print the table: `python -m tests.fuzz --cases 10000`."""

import argparse
import sys

from .harness import Tally, Worker, fuzz, kept_cases, load_case, table
from .targets import TARGETS


def main() -> int:
    """Status 1 if a case came to anything but the right answer or one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"default all: {', '.join(TARGETS)}")
    parser.add_argument("--cases", type=int, default=10_000, help="shared out over the targets")
    parser.add_argument("--draw", type=int, help="other cases than the usual ones, by this number")
    parser.add_argument("--kept", action="store_true", help="read the kept inputs instead")
    asked = parser.parse_args()
    names = asked.targets or list(TARGETS)
    tallies = []
    with Worker() as worker:
        for name in names:
            if asked.kept:
                tally = Tally(target=name)
                for target, path in kept_cases():
                    if target == name:
                        case = load_case(worker, name, path)
                        found = worker.run(name, case)
                        tally.add(case, found)
                        print(f"{found.outcome:8} {name}/{path.name} {found.why}", file=sys.stderr)
            else:
                tally = fuzz(worker, name, -(-asked.cases // len(names)), asked.draw)
            tallies.append(tally)
            print(f"{name}: {tally.cases} cases, {tally.other} failed", file=sys.stderr)
            for failure in tally.failures:
                print(f"  {failure}", file=sys.stderr)
    print(table(tallies))
    return 1 if any(tally.other for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
