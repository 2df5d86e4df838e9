"""llama2.c's .bin (Karpathy 2023): seven numbers, then the weights of a Llama in fp32. Its vocabulary is a file beside
it: tokN.bin, tokens with scores as of SentencePiece.

https://github.com/karpathy/llama2.c, export.py (version 0) and run.c.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.files import one_line
from nanogpt.hub.source import Source
from nanogpt.hub.tensors import LAYOUTS
from nanogpt.tokenizers.scores import tokenizer_json

HEADER = struct.Struct("<7i")
LARGEST = 2**24


def read(path: Path) -> Source:
    """A model file, and the vocabulary beside it where there is one. UserError where the sizes do not fit."""
    with one_line(f"read {path}"):
        content = path.read_bytes()
    if len(content) < HEADER.size:
        raise UserError(f"{path}: too short for llama2.c's .bin ({len(content)} bytes)")
    dim, hidden, layers, heads, kv_heads, signed_vocab, context = HEADER.unpack_from(content)
    vocab, tied = abs(signed_vocab), signed_vocab > 0  # a negative size says that the head has its own matrix
    sizes = (dim, hidden, layers, heads, kv_heads, vocab, context)
    if not all(0 < n <= LARGEST for n in sizes) or dim % heads or heads % kv_heads:
        raise UserError(f"{path}: not llama2.c's .bin: its header says {', '.join(map(str, sizes))}")
    head = dim // heads
    shapes = _shapes(dim, hidden, layers, heads, kv_heads, vocab, context, tied)
    wanted = HEADER.size + 4 * sum(math.prod(shape) for _, shape in shapes)
    if len(content) != wanted:
        raise UserError(f"{path}: {len(content)} bytes, but the model of its header has {wanted}: cut short or altered")
    tensors: dict[str, Tensor] = {}
    at = HEADER.size
    for name, shape in shapes:
        values = np.frombuffer(content, "<f4", math.prod(shape), at).reshape(shape)
        at += values.nbytes
        if name:
            tensors |= _named(name, torch.from_numpy(values.astype(np.float32)), head)
    config: dict[str, Any] = {
        "model_type": "llama", "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab, "rms_norm_eps": 1e-5,
        "max_position_embeddings": context, "tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return Source(str(path), config, tensors, _tokenizer(path, vocab))


def _shapes(
    dim: int, hidden: int, layers: int, heads: int, kv_heads: int, vocab: int, context: int, tied: bool
) -> list[tuple[str, tuple[int, ...]]]:
    """Every tensor in the order of the file; no name for the tables of angles, which are worked out here."""
    head, layer = dim // heads, "model.layers.{}."
    rows: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens", (vocab, dim)),
        (f"{layer}input_layernorm", (layers, dim)),
        (f"{layer}self_attn.q_proj", (layers, dim, dim)),
        (f"{layer}self_attn.k_proj", (layers, kv_heads * head, dim)),
        (f"{layer}self_attn.v_proj", (layers, kv_heads * head, dim)),
        (f"{layer}self_attn.o_proj", (layers, dim, dim)),
        (f"{layer}post_attention_layernorm", (layers, dim)),
        (f"{layer}mlp.gate_proj", (layers, hidden, dim)),
        (f"{layer}mlp.down_proj", (layers, dim, hidden)),
        (f"{layer}mlp.up_proj", (layers, hidden, dim)),
        ("model.norm", (dim,)),
        ("", (context, head // 2)),
        ("", (context, head // 2)),
    ]
    return rows if tied else [*rows, ("lm_head", (vocab, dim))]


def _named(name: str, values: Tensor, head: int) -> dict[str, Tensor]:
    if "{}" not in name:
        return {f"{name}.weight": values}
    if name.endswith(("q_proj", "k_proj")):  # rotary pairs are neighbours here
        values = torch.stack([LAYOUTS["paired"](v, False, heads=len(v) // head) for v in values])
    return {f"{name.replace('{}', str(n))}.weight": v for n, v in enumerate(values)}


def _tokenizer(path: Path, vocab: int) -> str | None:
    """tokN.bin, or tokenizer.bin, beside the model."""
    for name in (f"tok{vocab}.bin", "tokenizer.bin"):
        if (path.parent / name).is_file():
            with one_line(f"read {path.parent / name}"):
                return _vocabulary((path.parent / name).read_bytes(), vocab, path.parent / name)
    return None


def _vocabulary(content: bytes, vocab: int, path: Path) -> str:
    at, tokens, scores = 4, [], []
    try:
        for _ in range(vocab):
            score, length = struct.unpack_from("<fi", content, at)
            piece = content[at + 8 : at + 8 + length]
            if not 0 <= length == len(piece):
                raise ValueError("a token runs past the end")
            at += 8 + length
            tokens.append(piece.decode("utf-8"))
            scores.append(score)
    except (struct.error, ValueError) as error:
        raise UserError(f"{path}: not a vocabulary of {vocab} tokens, or cut short: {error}") from None
    tokens[:3] = ["<unk>", "<s>", "</s>"]  # stored with line ends around the last two
    # Spaces are stored as spaces; SentencePiece's own sign for them keeps words' beginnings apart in a tokenizer.json.
    return tokenizer_json([t if n < 259 and t != " " else t.replace(" ", "▁") for n, t in enumerate(tokens)], scores)
