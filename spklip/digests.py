"""Digests of the files of a folder, so that a damaged one is told and not taken for what it was."""

import json
from pathlib import Path

from spikedata import file_sha256, write_whole

DIGESTS = "sha256.json"
"""File of a folder with the SHA-256 of the others, by name. It is written last."""
_CARD = "README.md"
"""A model's card is there to be changed by people, and decides nothing."""
_MAY_GO = "recipe.yaml"
"""Without it a model is fed by defaults, and that is told."""
_MOST_BYTES = 1 << 20


def write_digests(folder: Path) -> None:
    """Note the SHA-256 of every file that lies in ``folder``, but for a README.md.

    Raises:
        OSError: one cannot be read, or the disk is full.
    """
    told = {
        path.name: file_sha256(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in (DIGESTS, _CARD)
    }
    write_whole(folder / DIGESTS, json.dumps(told, indent=1) + "\n")


def damage_of(folder: Path) -> str:
    """What is wrong with the files of a folder, in a few words.

    Returns:
        Empty where all are as they were written, or no digests lie there to tell.
    """
    if not (folder / DIGESTS).exists():
        return ""
    name = DIGESTS
    try:
        with open(folder / DIGESTS, "rb") as file:
            told = json.loads(file.read(_MOST_BYTES))
        # By the names that are there: what a stranger's list names may lie anywhere.
        there = {path.name: path for path in folder.iterdir() if path.is_file()}
        for name, digest in told.items():
            if name not in there:
                if name == _MAY_GO:
                    continue
                return f"{name:.80} is missing"
            if file_sha256(there[name]) != digest:
                return f"{name:.80} is not what was written, its SHA-256 is another"
    except OSError as error:
        return f"{name:.80} cannot be read ({error.strerror})"
    except (ValueError, AttributeError, RecursionError):
        return f"{DIGESTS} is no list of digests"
    return ""
