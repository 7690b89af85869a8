"""Names: how a class is spoken, what a clip is called."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from spikedata.clip import BIDI_CONTROLS, MAX_ID_BYTES, check_clip_id, is_dangerous, is_plain_id
from spikedata.errors import CorpusError

CAPTION_TEMPLATES = ("a video of {name}",)
"""Captions of a clip that has none of its own; ``{name}`` is the spoken class name."""

_NOT_IN_IDS = re.compile(r'[/\\:*?"<>|\s]')


def spoken_name(class_name: str) -> str:
    """The class name as one would say it.

    ``ApplyEyeMakeup`` is "apply eye makeup", ``kick_ball`` "kick ball", ``TaiChi`` "tai chi".
    Acronyms inside a name stay: ``BMXRiding`` is "BMX riding".
    """
    words = re.split(r"[\s_\-.]+", unicodedata.normalize("NFC", class_name).strip())
    parts = [part for word in words for part in _split_case(word)]
    shouted = class_name.isupper()
    spoken = [
        part if len(part) > 1 and part.isupper() and not shouted else part.lower() for part in parts
    ]
    return " ".join(spoken) or class_name


def _split_case(word: str) -> list[str]:
    """Cut before a capital that follows a small letter, or that a small letter follows."""
    cuts = [0]
    for i in range(1, len(word)):
        after_small = not word[i - 1].isupper() and word[i - 1].isalpha()
        before_small = word[i - 1].isupper() and i + 1 < len(word) and word[i + 1].islower()
        if word[i].isupper() and (after_small or before_small):
            cuts.append(i)
    return [word[a:b] for a, b in zip(cuts, [*cuts[1:], len(word)], strict=True) if word[a:b]]


def captions_of(class_name: str, templates: Sequence[str]) -> tuple[str, ...]:
    """Each template with the spoken class name in it."""
    name = spoken_name(class_name)
    return tuple(template.replace("{name}", name) for template in templates)


def check_templates(templates: Sequence[str]) -> None:
    """Check that each template has a place for the name.

    Raises:
        CorpusError: a template lacks ``{name}``.
    """
    for template in templates:
        if "{name}" not in template:
            raise CorpusError(
                f"caption template {template!r} has no {{name}}: {CAPTION_TEMPLATES[0]!r} has"
            )


def clean_text(text: str, *, is_name: bool = True) -> str:
    """Text on one line, in Unicode normal form C, with what languages need: joiners, variations.

    Args:
        text: what somebody wrote.
        is_name: of a class or a file, which nothing may show in another order than it is.

    Raises:
        ValueError: it holds control characters, half a surrogate pair, or as a name characters that
            override the direction of writing; the message ends a sentence that begins with it.
    """
    line = " ".join(unicodedata.normalize("NFC", text).split())
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in line):
        raise ValueError("holds control characters")
    if is_name and any(c in BIDI_CONTROLS for c in line):
        raise ValueError("holds characters that override the direction of writing")
    return line


def class_of(name: str) -> str:
    """A class as a folder or a file is named: in normal form C, ``_`` for what is not shown."""
    text = unicodedata.normalize("NFC", as_text(name))
    return "".join("_" if _is_not_shown(c) else c for c in text)


def is_changed(name: str) -> bool:
    """Whether :func:`class_of` puts ``_`` for a character of ``name``."""
    return any(map(_is_not_shown, name))


def _is_not_shown(character: str) -> bool:
    """A control character, or one that overrides the direction of writing."""
    return unicodedata.category(character) == "Cc" or character in BIDI_CONTROLS


def as_text(name: str) -> str:
    """A file system's name as text that can be written: bytes that are not UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def clip_id_of(*parts: str) -> str:
    """A clip id from path parts: joined by ``__``, made safe as a file name.

    Unsafe characters become ``_``; an id that would be too long keeps its beginning and gets a
    digest of the whole. The same parts always give the same id.
    """
    text = unicodedata.normalize("NFC", "__".join(parts))
    if is_plain_id(text):
        return text
    safe = "".join("_" if _NOT_IN_IDS.match(c) or is_dangerous(c) else c for c in text)
    safe = safe.strip().lstrip(".").rstrip(".") or "_"
    if len(safe.encode()) > MAX_ID_BYTES:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        safe = safe.encode()[: MAX_ID_BYTES - 13].decode("utf-8", "ignore") + "-" + digest
    return check_clip_id(safe)
