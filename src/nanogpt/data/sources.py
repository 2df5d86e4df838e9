"""Named files: looked for by file name in the folders of NANOGPT_DATA, then in the cache, then downloaded.

The sha256 is checked wherever the file was found.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanogpt.data.cache import cache_folder, key_of, publish, remember
from nanogpt.errors import RunError, UserError

TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""
BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A file with a public address ("": it has none, and must be in NANOGPT_DATA). `first_bytes`: only the beginning of
    what lies there; 0: all of it. `convert`: what makes the file of what lies there; the sha256 is of the result."""

    file: str
    sha256: str
    url: str
    first_bytes: int = 0
    convert: Callable[[bytes], bytes] | None = None


def sha256_of(path: Path) -> str:
    """The hash of a file's content, in little memory, remembered for as long as size and time stamp stay."""
    status = path.stat()

    def read() -> str:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    return str(remember(key_of("sha256", str(path.resolve()), status.st_size, status.st_mtime_ns), read))


def find(source: Source) -> Path:
    """Where the file lies on this machine; downloaded if it does not."""
    wrong = None
    for path in _candidates(source.file):
        if sha256_of(path) == source.sha256:
            return path
        wrong = wrong or path
    if wrong:
        raise UserError(
            f"{wrong}: sha256 {sha256_of(wrong)[:12]}..., but {source.file} has {source.sha256[:12]}...; "
            "move the file out of NANOGPT_DATA, or put the original there"
        )
    folder = cache_folder() / "files" / key_of(source.sha256)
    publish(folder, lambda temporary: _download(source, temporary / source.file), lambda f: (f / source.file).is_file())
    path = folder / source.file
    if sha256_of(path) != source.sha256:
        raise UserError(f"{path}: its sha256 is not {source.sha256[:12]}...; delete it, and it is fetched anew")
    return path


def _candidates(name: str) -> Iterator[Path]:
    for root in os.environ.get("NANOGPT_DATA", "").split(os.pathsep):
        if not root:
            continue
        if not Path(root).expanduser().is_dir():
            raise UserError(f"NANOGPT_DATA: no folder {root}")
        for folder, folders, files in os.walk(Path(root).expanduser()):
            folders.sort()
            if name in files:
                yield Path(folder) / name


def _download(source: Source, path: Path) -> None:
    if not source.url:
        raise RunError(
            f"{source.file} is not in NANOGPT_DATA, and has no public address as one file; "
            "put a copy into a folder and name the folder in NANOGPT_DATA"
        )
    headers = {"User-Agent": "nanogpt"}
    if source.first_bytes:
        headers["Range"] = f"bytes=0-{source.first_bytes - 1}"
    digest, left = hashlib.sha256(), source.first_bytes or float("inf")
    try:
        request = urllib.request.Request(source.url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, path.open("wb") as file:
            # A server may ignore Range and send everything: stop where the wanted part ends.
            while left and (block := answer.read(int(min(BLOCK, left)))):
                left -= len(block)
                digest.update(block)
                file.write(block)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, urllib.error.HTTPError):
            reason = error.code
            error.close()
        raise RunError(
            f"{source.file} is not in NANOGPT_DATA and cannot be fetched from {source.url} ({reason}); "
            "put a copy into a folder and name the folder in NANOGPT_DATA"
        ) from None
    if source.convert:
        try:
            content = source.convert(path.read_bytes())
        except Exception as error:  # whatever a damaged archive makes its reader raise
            raise RunError(f"{source.url}: not what {source.file} is made from ({error}); not used") from None
        path.write_bytes(content)
        digest = hashlib.sha256(content)
    if digest.hexdigest() != source.sha256:
        raise RunError(f"{source.url}: sha256 {digest.hexdigest()[:12]}..., expected {source.sha256[:12]}...; not used")
