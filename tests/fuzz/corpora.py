"""The corpora: texts that reach what others do not, one file for each target, a line of base64 for each text."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "corpora"


def path_of(target: str, folder: Path = FOLDER) -> Path:
    """Return where a target's corpus stands."""
    return folder / f"{target.replace(' ', '_')}.txt"


def read(target: str, folder: Path = FOLDER) -> list[bytes]:
    """Return a target's corpus; empty where there is none."""
    path = path_of(target, folder)
    return [b64decode(line) for line in path.read_text().split()] if path.exists() else []


def write(target: str, texts: Iterable[bytes], folder: Path = FOLDER) -> None:
    """Write a target's corpus, the shortest text first."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [b64encode(text).decode() for text in sorted(set(texts), key=lambda text: (len(text), text))]
    path_of(target, folder).write_text("".join(f"{line}\n" for line in lines))
