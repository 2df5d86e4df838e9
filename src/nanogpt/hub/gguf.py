"""GGUF, the format of llama.cpp: one file with everything, the weights often in 4 or 8 bits.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file is read by the `gguf` package, an extra; its names
become those of the family's own checkpoint by a table (gguf.toml), and from there on it is imported as such.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanogpt.errors import UserError, nearest
from nanogpt.hub.source import Lazy, Source
from nanogpt.hub.tensors import LAYOUTS
from nanogpt.tokenizers.patterns import DECODER, PATTERNS, byte_level
from nanogpt.tokenizers.scores import tokenizer_json
from nanogpt.tokenizers.tables import BPE, file_json

MAGIC = b"GGUF"
READABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
IRRELEVANT = re.compile(r"general\.|tokenizer\.|GGUF\.|quantize\.|split\.")
TURNED = "rope.dimension_count"
CONTROL = 3
"""The type of tokens that stand for no text."""


LIES: dict[str, Callable[..., Tensor]] = {**LAYOUTS, "less_one": lambda x, back, heads: x - 1.0}
"""How a tensor lies in the file, by the word after its name in gguf.toml."""


@cache
def _tables() -> dict[str, dict[str, Any]]:
    """The table of each architecture over the one that it is like."""
    raw = {name: table for name, table in _file().items() if name != "words"}
    return {name: _over(raw, name) for name in raw}


def _over(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = raw[name]
    base = _over(raw, table.get("like", "")) if name else {}
    merged = {key: {**base.get(key, {}), **table.get(key, {})} for key in ("keys", "tensors", "present")}
    return {**base, **table, **merged}


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads((resources.files("nanogpt.hub") / "gguf.toml").read_text(encoding="utf-8"))


def read(path: Path) -> Source:
    """A GGUF file. UserError for an architecture, a key or a kind of numbers that cannot be read, or a damaged file."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"{path}: reading GGUF needs the gguf package: pip install 'nanogpt[gguf]'") from None
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # the package meets a damaged file with whatever breaks first
        raise UserError(f"{path}: damaged or cut short: {error}") from None
    architecture = fields.get("general.architecture")
    known = [name for name in _tables() if name]
    if architecture not in known:
        raise UserError(
            f"{path}: architecture {architecture} of GGUF cannot be read{nearest(str(architecture), known)}"
        )
    config = _config(fields, architecture, path)
    config["tie_word_embeddings"] = "output.weight" not in tensors
    config |= {key: name in tensors for key, name in _tables()[architecture]["present"].items()}
    if "token_embd.weight" not in tensors:
        raise UserError(f"{path} has no tensor 'token_embd.weight'")
    config.setdefault("vocab_size", int(tensors["token_embd.weight"].shape[1]))
    names = _names(architecture)
    readers = {}
    for name, tensor in tensors.items():
        kind = tensor.tensor_type.name
        if kind not in READABLE:
            raise UserError(f"{path}: tensor '{name}' is stored as {kind}; {', '.join(READABLE)} can be read")
        theirs, how = names(name)
        readers[theirs] = _reader(tensor, how, config["head_dim"], path)
    return Source(str(path), config, Lazy(readers), _tokenizer(fields))


def _config(fields: Mapping[str, Any], architecture: str, path: Path) -> dict[str, Any]:
    """config.json of the same model."""
    table = _tables()[architecture]
    prefix = f"{architecture}."
    facts = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    config = {ours: facts.pop(theirs) for ours, theirs in table["keys"].items() if theirs in facts}
    head_dim = config.get("head_dim", config.get("hidden_size", 0) // max(1, config.get("num_attention_heads", 1)))
    turned = facts.pop(TURNED, head_dim)
    if "share" in table and head_dim:
        config[table["share"]] = turned / head_dim
        turned = head_dim
    for key, value in ((TURNED, turned), *((key, facts.pop(key, head_dim)) for key in table["same"])):
        if value != head_dim:
            raise UserError(f"{path}: {prefix}{key} is not {head_dim}, the numbers in a head, and has no part here")
    if facts.get("rope.scaling.type") == "none":
        facts.pop("rope.scaling.type")
    left = [prefix + k for k in facts] + [k for k in fields if not k.startswith(prefix) and not IRRELEVANT.match(k)]
    if left:
        raise UserError(f"{path}: {min(left)}={fields[min(left)]} is a key that cannot be read")
    return {"model_type": architecture, "head_dim": head_dim, **config}


def _names(architecture: str) -> Callable[[str], tuple[str, str]]:
    """A function: GGUF's name of a tensor -> the family's, and how it lies."""
    table = _tables()[architecture]["tensors"]

    def name(theirs: str) -> tuple[str, str]:
        stem, _, suffix = theirs.rpartition(".")
        number = next(iter(re.findall(r"(?<=^blk\.)\d+", stem)), "")
        target, _, how = table.get(stem.replace(f"blk.{number}.", "blk.{}."), theirs).partition("|")
        found = target.strip().replace("{}", number)
        return (found if found == theirs else f"{found}.{suffix}"), how.strip()

    return name


def _reader(tensor: Any, how: str, head_dim: int, path: Path) -> Callable[[], Tensor]:
    def read() -> Tensor:
        from gguf import quants

        values = torch.from_numpy(np.array(quants.dequantize(tensor.data, tensor.tensor_type), np.float32))
        try:
            return LIES[how](values, False, heads=max(1, len(values) // max(1, head_dim))) if how else values
        except RuntimeError:
            shape = list(values.shape)
            raise UserError(f"{path}: tensor '{tensor.name}' is {shape}, not heads of {head_dim} numbers") from None

    return read


def _tokenizer(fields: Mapping[str, Any]) -> str | None:
    """tokenizer.json of the vocabulary inside; None where it is of a kind that is not known."""
    kind, tokens = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.tokens")
    types = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens or ())
    words = _file()["words"].get(fields.get("tokenizer.ggml.pre", "default"))
    if kind == "llama" and tokens and types[:3].count(1) == 0:
        return tokenizer_json(tokens, fields["tokenizer.ggml.scores"])
    if kind != "gpt2" or not tokens or words is None:
        return None
    merges = [pair.split(" ") for pair in fields["tokenizer.ggml.merges"]]
    vocab = {token: n for n, token in enumerate(tokens)}
    model = {**BPE, "ignore_merges": words["pattern"] != "gpt2", "vocab": vocab, "merges": merges}
    cut: dict[str, Any] = byte_level(PATTERNS[words["pattern"]])
    if words.get("digits") == "each":
        cut["pretokenizers"] = [{"type": "Digits", "individual_digits": True}, *cut["pretokenizers"]]
    specials = [token for token, type_ in zip(tokens, types, strict=True) if type_ == CONTROL]
    return file_json(model, {token: vocab[token] for token in specials}, cut, DECODER)
