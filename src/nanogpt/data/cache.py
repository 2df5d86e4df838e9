"""The cache: what was downloaded or computed once, each thing in a folder that appears complete or not at all.

It lies in $NANOGPT_CACHE, or in ~/.cache/nanogpt, and may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nanogpt.errors import RunError
from nanogpt.files import write_whole

ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which an unfinished folder is taken for the rest of a process that was killed."""


def cache_folder() -> Path:
    return Path(os.environ.get("NANOGPT_CACHE") or Path.home() / ".cache" / "nanogpt").expanduser()


def key_of(*parts: Any) -> str:
    """A file name that stands for these values: equal values, equal name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk can refuse into one line that says what to do."""
    try:
        yield
    except OSError as error:
        elsewhere = "set NANOGPT_CACHE to a folder on another disk"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(f"{path}: the disk is full; free some space, or {elsewhere}") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise RunError(f"{path}: cannot be written ({error.strerror}); {elsewhere}") from None
        raise


def publish(folder: Path, fill: Callable[[Path], None], complete: Callable[[Path], bool]) -> Path:
    """Make `folder` once: `fill` writes into a hidden folder beside it, which is then renamed.

    Renaming is atomic, so nobody sees a half-written folder; of two processes that make the same
    one at the same time, the second finds the first's and drops its own.
    """
    if complete(folder):
        return folder
    with clear_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            fill(temporary)
            if not complete(folder):
                shutil.rmtree(folder, ignore_errors=True)  # damaged: a disk that lost the end of a file
            try:
                temporary.rename(folder)
            except OSError:
                if not complete(folder):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _sweep(parent: Path) -> None:
    """Delete what killed processes left half-written."""
    for path in parent.glob(".*-*"):
        with suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(path, ignore_errors=True)


def remember(key: str, make: Callable[[], Any]) -> Any:
    """`make()`, a small JSON value, computed once for this key. Where the cache cannot be used: each time."""
    path = cache_folder() / "facts" / f"{key}.json"
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    value = make()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value).encode())
    return value
