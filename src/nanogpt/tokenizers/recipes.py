"""Tokenizers by name: a recipe is built from its text, then makes the tokenizer for a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

from nanogpt.data.cache import cache_folder, key_of, publish
from nanogpt.data.corpora import Corpus
from nanogpt.errors import UserError, nearest
from nanogpt.files import write_whole
from nanogpt.parts import build
from nanogpt.spec import Spec, parse
from nanogpt.tokenizers.base import Tokenizer
from nanogpt.tokenizers.bpe import JsonTokenizer, train_bpe
from nanogpt.tokenizers.parsing import from_json
from nanogpt.tokenizers.patterns import PATTERNS
from nanogpt.tokenizers.ranks import PUBLISHED, published
from nanogpt.tokenizers.tables import ByteTokenizer, CharTokenizer, read_table
from nanogpt.tokenizers.words import Words

Texts = Callable[[], Iterator[str]]


class Char:
    """One id for each character that the corpus has, in any split (as nanoGPT and makemore do)."""

    learns: ClassVar = True

    def size(self) -> tuple[int, bool]:
        return 65, False  # Tiny Shakespeare's

    def make(self, texts: Texts, held_out: Texts, documents: bool) -> Tokenizer:
        return CharTokenizer.of((text for source in (texts, held_out) for text in source()), documents)


class Byte:
    """One id for each byte."""

    learns: ClassVar = False

    def size(self) -> tuple[int, bool]:
        return 256, False  # and one more where there are documents

    def make(self, texts: Texts, held_out: Texts, documents: bool) -> Tokenizer:
        return ByteTokenizer(documents)


class Bpe:
    """Byte-level BPE learned from the training split (Sennrich 2016; on bytes: GPT-2).

    `vocab_size`: 256 bytes, the merges, and <|endoftext|>.
    `split`: the published pattern that first cuts text into words; no pair is merged across words.
    """

    learns: ClassVar = True

    def __init__(self, *, vocab_size: int = 2048, split: Literal["gpt2", "cl100k", "o200k"] = "cl100k") -> None:
        if vocab_size < 257:
            raise UserError(f"vocab_size={vocab_size} must be at least 257 (256 bytes and <|endoftext|>); nearest: 257")
        self.vocab_size, self.split = vocab_size, split

    def size(self) -> tuple[int, bool]:
        return self.vocab_size, True

    def make(self, texts: Texts, held_out: Texts, documents: bool) -> Tokenizer:
        return JsonTokenizer(train_bpe(texts(), self.vocab_size, PATTERNS[self.split], documents))


class Published:
    """A vocabulary of OpenAI's."""

    learns: ClassVar = False
    name: ClassVar[str]
    ids: ClassVar[int]

    def size(self) -> tuple[int, bool]:
        return self.ids, True

    def make(self, texts: Texts, held_out: Texts, documents: bool) -> Tokenizer:
        return JsonTokenizer(published_json(self.name))


class Gpt2(Published):
    name, ids = "gpt2", 50257


class Cl100k(Published):
    name, ids = "cl100k_base", 100277


class O200k(Published):
    name, ids = "o200k_base", 200019


class File:
    """A tokenizer.json, by its path."""

    learns: ClassVar = False

    def __init__(self, *, path: str) -> None:
        self.path = path
        if not Path(path).expanduser().is_file():
            raise UserError("no such file; tokenizer= takes a name or the path of a tokenizer.json")

    def size(self) -> tuple[int, bool]:
        return load_tokenizer(Path(self.path).expanduser()).vocab_size, True

    def make(self, texts: Texts, held_out: Texts, documents: bool) -> Tokenizer:
        return load_tokenizer(Path(self.path).expanduser())


TOKENIZERS: dict[str, Callable[..., Any]] = {
    "char": Char,
    "byte": Byte,
    "bpe": Bpe,
    "words": Words,
    "gpt2": Gpt2,
    "cl100k_base": Cl100k,
    "o200k_base": O200k,
}


def _recipe(text: str | Spec) -> Any:
    spec = parse(text)
    if spec.name.endswith(".json"):
        recipe = build({spec.name: File}, spec, path=spec.name)
    elif spec.name not in TOKENIZERS and ".py:" not in spec.name:
        raise UserError(f"no tokenizer '{spec.name}'{nearest(spec.name, TOKENIZERS)}, or the path of a tokenizer.json")
    else:
        recipe = build(TOKENIZERS, spec)
    return recipe


def check_tokenizer(text: str | Spec) -> None:
    """Refuse an unknown name, knob or file, without reading any data."""
    _recipe(text)


def resolve_tokenizer(text: str | Spec) -> str:
    """The same with every knob written out, for the saved configuration."""
    return str(_recipe(text).spec)


def expected_size(text: str | Spec) -> tuple[int, bool]:
    """Size of the vocabulary before any text is read, and whether it is certain."""
    size: tuple[int, bool] = _recipe(text).size()
    return size


def _nothing() -> Iterator[str]:
    return iter(())


def make_tokenizer(text: str | Spec, texts: Texts, documents: bool, held_out: Texts = _nothing) -> Tokenizer:
    """Make what `text` describes. `texts`: the training texts, as often as asked for. `held_out`: those of the other
    splits, whose characters an alphabet must cover; nothing else is learned from them. `documents`: texts are separate,
    so there is an <|endoftext|> between them."""
    tokenizer: Tokenizer = _recipe(text).make(texts, held_out, documents)
    return tokenizer


def tokenizer_for(text: str | Spec, corpus: Corpus) -> Tokenizer:
    """The tokenizer for a corpus; what was learned from the same text before comes from the cache."""
    recipe = _recipe(text)

    def make() -> Tokenizer:
        made: Tokenizer = recipe.make(lambda: corpus.split("train"), corpus.held_out, corpus.documents)
        return made

    if not recipe.learns:
        return make()
    key = key_of(str(recipe.spec), corpus.sha256, corpus.rule, corpus.splits, corpus.documents, version("tokenizers"))
    return read_tokenizer(_cached(f"{recipe.spec.name}-{key}", lambda: make().json), "the cache")


def published_json(name: str) -> str:
    """The tokenizer.json of a published vocabulary, kept in the cache: its merges are found again once."""
    files = [source.sha256 for source in PUBLISHED[name].files]
    key = key_of(name, files, PUBLISHED[name].pattern)
    return _cached(f"{name}-{key}", lambda: published(name).json)


def _cached(name: str, make: Callable[[], str]) -> str:
    def fill(temporary: Path) -> None:
        write_whole(temporary / "tokenizer.json", make().encode())

    folder = cache_folder() / "tokenizers" / name
    publish(folder, fill, lambda f: (f / "tokenizer.json").is_file())
    return (folder / "tokenizer.json").read_text(encoding="utf-8")


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer that a tokenizer.json holds."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a tokenizer.json: it is not text") from None
    return read_tokenizer(text, str(path))


def read_tokenizer(text: str, where: str) -> Tokenizer:
    """The tokenizer that the text of a tokenizer.json says; `where` it is from, for errors."""
    return from_json(text, where, lambda parts: read_table(parts) or JsonTokenizer(text, parts))
