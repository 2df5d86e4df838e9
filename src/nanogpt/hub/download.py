"""Models on the Hugging Face hub, by plain https: the few files of a folder, kept in the cache."""

from __future__ import annotations

import os
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from nanogpt.data.cache import cache_folder, publish
from nanogpt.errors import RunError, UserError
from nanogpt.hub.source import INDEX, WEIGHTS, Source, open_folder, read_json

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
OPTIONAL = ("tokenizer.json", "generation_config.json", "tokenizer_config.json")


def fetch(hub_id: str) -> Source:
    """`org/name`. UserError where there is no such folder or it cannot be reached."""
    if not HUB_ID.fullmatch(hub_id):
        raise UserError(f"{hub_id}: no such file or folder, and not a model's name on the hub (org/name)")
    folder = cache_folder() / "hub" / hub_id.replace("/", "--")

    def fill(temporary: Path) -> None:
        _get(hub_id, "config.json", temporary)
        if _get(hub_id, INDEX, temporary, optional=True):
            files = read_json(temporary / INDEX).get("weight_map")
            if not isinstance(files, dict) or not all(Path(str(f)).name == f for f in files.values()):
                raise UserError(f"{hub_id}: {INDEX} names files that are not beside it")
            for file in sorted(set(files.values())):
                _get(hub_id, file, temporary)
        else:
            _get(hub_id, WEIGHTS, temporary)
        for file in OPTIONAL:
            _get(hub_id, file, temporary, optional=True)

    publish(folder, fill, lambda f: (f / "config.json").is_file())
    source = open_folder(folder)
    source.name = hub_id
    return source


def _get(hub_id: str, file: str, folder: Path, *, optional: bool = False) -> bool:
    """Download one file. False where an optional one is not there."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{hub_id}/resolve/main/{file}"
    headers = {"Authorization": f"Bearer {token}"} if (token := os.environ.get("HF_TOKEN")) else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as reply:
            with (folder / file).open("wb") as out:
                shutil.copyfileobj(reply, out, 2**20)
            wanted = reply.headers.get("Content-Length")
            if wanted is not None and (folder / file).stat().st_size != int(wanted):
                raise RunError(f"{url}: the connection broke after {(folder / file).stat().st_size} of {wanted} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404 and optional:
            return False
        reason = {
            401: "it is private or needs its terms accepted: set HF_TOKEN",
            403: "it is private or needs its terms accepted: set HF_TOKEN",
            404: f"it is not there; is there a model {hub_id}, and has it {file}?",
        }.get(error.code, error.reason)
        raise UserError(f"{url}: {reason}") from None
    except OSError as error:
        raise RunError(f"{url}: cannot be reached: {getattr(error, 'reason', error)}") from None
    return True
