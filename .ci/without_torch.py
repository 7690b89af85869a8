"""Print the dependencies that pyproject.toml declares, less torch and what needs it."""

import tomllib
from pathlib import Path

NEED_TORCH = ("accelerate", "torch", "transformers")

text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
for line in tomllib.loads(text)["project"]["dependencies"]:
    if not line.startswith(NEED_TORCH):
        print(line)
