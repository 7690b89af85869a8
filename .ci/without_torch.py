"""Print what pyproject.toml declares, decord too, less torch and what needs it."""

import re
import tomllib
from pathlib import Path

NEED_TORCH = {"accelerate", "torch", "transformers"}

text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
project = tomllib.loads(text)["project"]
for line in project["dependencies"] + project["optional-dependencies"]["decord"]:
    if re.split(r"[^\w-]", line)[0] not in NEED_TORCH:
        print(line)
