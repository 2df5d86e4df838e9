"""Files that are there whole or, whatever happens, as they were before; and one line for what a disk refuses."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanogpt.errors import RunError

LEFT_OVER = re.compile(r"\.(\w+\.jsonl?\.)?[0-9a-f]{8}")
"""Names of what a killed process left half-written in a run: `.config.json.0f3a9c21`, `.0f3a9c21`."""


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the place, have it on the disk itself, rename."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut, on systems where a folder can be synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def one_line(doing: str) -> Iterator[None]:
    """What the system refuses, as one line: `with one_line(f"read {path}")`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot {doing}: {error.strerror or error}") from None


def short_name(item: str) -> str:
    """A short name for a corpus, fit for a folder: of `texts/**/*.md` it is `texts`."""
    plain = [part for part in Path(item).expanduser().absolute().parts if not set(part) & set("*?[")]
    return re.sub(r"[^\w.-]+", "-", Path(plain[-1]).stem) or "files"
