"""minGPT's models as JSON, as bbycroft/llm-viz stores them: `config`, then each tensor as base64 fp32 with a shape."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.hub.source import Source, read_json


def read(path: Path) -> Source:
    """A model file. UserError where it is of another kind or a tensor is cut short."""
    content = read_json(path)
    config = content.pop("config", None)
    if not isinstance(config, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise UserError(f"{path}: not a model (minGPT's JSON has a 'config' and tensors with 'shape' and 'data')")
    return Source(str(path), config, {name: decode(row, f"{path}: tensor '{name}'") for name, row in content.items()})


def decode(row: dict[str, Any], where: str) -> Tensor:
    """One tensor: {"shape": [3, 48], "dtype": "torch.float32", "data": base64}."""
    try:
        raw = base64.b64decode(row["data"], validate=True)
        values = np.frombuffer(raw, "<f4").reshape([int(n) for n in row["shape"]])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise UserError(f"{where}: {error}") from None
    if row.get("dtype", "torch.float32") != "torch.float32":
        raise UserError(f"{where}: {row['dtype']}; only torch.float32 can be read")
    return torch.from_numpy(values.astype(np.float32))
