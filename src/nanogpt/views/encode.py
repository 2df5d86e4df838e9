"""Pictures as text for a page: plotly's JSON, its arrays as bytes, packed so that a page of hundreds stays small.

What is packed is base64 of gzip: nothing that came from a run can end a script or begin a tag in it.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

DTYPES = {"float64": "f8", "float32": "f4", "int32": "i4", "uint8": "u1", "int16": "i2"}
CHUNK = 600_000
"""Bytes of JSON that are packed together: what is unpacked at once when a picture is first asked for."""


def jsonable(value: Any) -> Any:
    """A picture with each array as plotly.js reads it from bytes; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: jsonable(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, (list, tuple)):
        return [jsonable(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _array(values: np.ndarray) -> Any:
    if values.dtype == np.int64:
        values = values.astype(np.int32 if values.size and np.abs(values).max() < 2**31 else np.float64)
    name = str(values.dtype)
    if name not in DTYPES or values.size < 8:
        return jsonable(values.tolist())
    data = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
    shape = {"shape": ", ".join(map(str, values.shape))} if values.ndim > 1 else {}
    return {"dtype": DTYPES[name], "bdata": data, **shape}


def packed(pictures: Iterable[Any]) -> Iterator[tuple[int, str]]:
    """(how many, base64 of gzip of their JSON list) of neighbours that are packed together."""
    held: list[str] = []
    for picture in pictures:
        held.append(json.dumps(jsonable(picture), ensure_ascii=True, separators=(",", ":")))
        if sum(map(len, held)) > CHUNK:
            yield len(held), _pack(held)
            held = []
    if held:
        yield len(held), _pack(held)


def _pack(held: list[str]) -> str:
    content = f"[{','.join(held)}]".encode("ascii")
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def in_script(value: Any) -> str:
    """JSON that may stand inside <script>: no tag begins or ends in it, no line is broken by U+2028."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
