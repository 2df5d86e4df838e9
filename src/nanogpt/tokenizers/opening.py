"""Any tokenizer by its name or its file, run by hand or by Hugging Face's library: what `nanogpt tokenizer` opens."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nanogpt.errors import UserError, nearest
from nanogpt.files import one_line
from nanogpt.tokenizers.base import Tokenizer
from nanogpt.tokenizers.bpe import JsonTokenizer
from nanogpt.tokenizers.bytepair import BytePair, Merging, read_model, read_ranks, recover_merges
from nanogpt.tokenizers.bytepair.tokenizer_json import read
from nanogpt.tokenizers.parsing import from_json
from nanogpt.tokenizers.ranks import PUBLISHED
from nanogpt.tokenizers.recipes import TOKENIZERS, published_json
from nanogpt.tokenizers.tables import ByteTokenizer, read_table

By = Literal["hand", "library"]


def open_tokenizer(name: str, by: By = "hand", split: str = "cl100k") -> Tokenizer:
    """The tokenizer of a name (gpt2, cl100k_base, o200k_base, byte), a tokenizer.json, a run folder that holds one, a
    SentencePiece .model, or a .tiktoken rank file, whose words are cut by `split`. UserError for what is none."""
    if name == "byte":
        return ByteTokenizer(documents=False)
    path = Path(name).expanduser()
    if path.suffix in (".model", ".tiktoken") and path.is_file():
        made = read_model(path) if path.suffix == ".model" else read_rank_file(path, split)
        return made if by == "hand" else JsonTokenizer(made.json)
    text, where = _json(name, path)
    if by == "library":
        return from_json(text, where, lambda parts: JsonTokenizer(text, parts))
    found = from_json(text, where, lambda parts: read_table(parts) or read(parts))
    if found is None:
        raise UserError(f"{where}: neither byte pairs on bytes nor SentencePiece's on characters; --by library runs it")
    return found


def read_rank_file(path: Path, split: str) -> BytePair:
    """The tokenizer of a rank file; its pattern is not in it."""
    tokens = read_ranks(path)
    return BytePair(tokens, recover_merges(tokens), split, whole=True)


def by_hand(tokenizer: Tokenizer, name: str) -> Merging:
    """The same, where it is one of merges that is run by hand; else UserError."""
    if not isinstance(tokenizer, Merging):
        raise UserError(f"{name}: has no merges that are run by hand")
    return tokenizer


def _json(name: str, path: Path) -> tuple[str, str]:
    """The text of a tokenizer.json, and where it is from."""
    if name in PUBLISHED:
        return published_json(name), name
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        kind = name.partition("(")[0]
        if kind in TOKENIZERS:
            raise UserError(f"{name} learns from a text: nanogpt tokenizer train TEXT -o FILE.json makes a file of it")
        known = nearest(name, [*PUBLISHED, "byte"])
        raise UserError(f"no tokenizer '{name}'{known}, nor is there such a .json, .model or .tiktoken file")
    with one_line(f"read {path}"):
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a tokenizer.json: it is not text") from None
