"""Compare a wheel with the packages' files in the tree: nothing missing, nothing else.

Run it as ``python .ci/check_wheel.py WHEEL``.
"""

import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "cli": "spikedata_cli",
    "recipes": "spikedata_recipes",
    "spikedata": "spikedata",
    "spklip": "spklip",
}
"""Package that each folder becomes."""

wanted = {
    f"{package}/{file.relative_to(ROOT / folder).as_posix()}"
    for folder, package in FOLDERS.items()
    for file in (ROOT / folder).rglob("*")
    if file.is_file() and "__pycache__" not in file.parts
}
packed = {name for name in ZipFile(sys.argv[1]).namelist() if ".dist-info/" not in name}
if wanted != packed:
    sys.exit(f"not in the wheel: {wanted - packed}; in the wheel alone: {packed - wanted}")
print(f"{len(packed)} files, all that the tree has")
