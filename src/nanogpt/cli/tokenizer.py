"""nanogpt tokenizer train, encode, decode, show, compare, import."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nanogpt.cli.base import Json, print_json
from nanogpt.errors import UserError

if TYPE_CHECKING:
    from nanogpt.tokenizers import Tokenizer

tokenizer = typer.Typer(
    help="Text to tokens and back, by the byte-pair tokenizer written by hand, or by Hugging Face's library.\n\n"
    "\b\nnanogpt tokenizer train my.txt -o mine.json --vocab-size 1024\n"
    "nanogpt tokenizer encode --tokenizer mine.json --text 'hello'\n"
    "nanogpt tokenizer show --tokenizer gpt2 --tokenizer o200k_base --text 'hello' --html tokens.html\n"
    "nanogpt tokenizer compare gpt2 cl100k_base\n"
    "nanogpt tokenizer import tokenizer.model llama.json",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DEFAULT = Path("tokenizer.json")
NAMES = "gpt2, cl100k_base, o200k_base, byte, a run, a .json, .model or .tiktoken file."
Name = Annotated[str, typer.Option("--tokenizer", "-t", help=NAMES)]
Names = Annotated[list[str] | None, typer.Option("--tokenizer", "-t", help=f"May be given again: {NAMES}")]
By = Annotated[Literal["hand", "library"], typer.Option(help="Who runs it: our code, or Hugging Face's library.")]
Split = Annotated[str, typer.Option(help="Where words are cut: gpt2, cl100k, o200k, a regular expression.")]
TextOption = Annotated[str | None, typer.Option("--text", help="The text itself.")]
FileOption = Annotated[Path | None, typer.Option("--file", help="A file with the text; by default what is piped in.")]


@tokenizer.command()
def train(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", show_default=False,
                                               help="Files, folders, globs, or named texts; read whole.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .json, or a .tiktoken rank file.")] = DEFAULT,
    vocab_size: Annotated[int, typer.Option(help="Tokens: 256 bytes, merges, specials.")] = 2048,
    split: Split = "gpt2",
    tie: Annotated[Literal["lowest", "greatest"], typer.Option(
        help="Of equally frequent pairs: that of the oldest symbols, or of the greatest bytes.")] = "lowest",
    special: Annotated[list[str] | None, typer.Option(help="A special token; may be given again.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Learn merges from texts of any length, in flat memory.

    \b
    nanogpt tokenizer train shakespeare --vocab-size 512
    nanogpt tokenizer train notes/ -o notes.json --special "<|endoftext|>"
    nanogpt tokenizer train corpus.en --vocab-size 500 --tie greatest -o ranks.tiktoken
    """
    from nanogpt.data.corpora import paths_of
    from nanogpt.data.text import in_pieces, read
    from nanogpt.tokenizers.bytepair import BytePair

    _check_out(out, special or [])
    paths = [path for text in texts for path in paths_of(text)]
    pieces = (piece for path in paths for piece in in_pieces(read(path)))
    made = BytePair.train(pieces, vocab_size, split, tie, special or [])
    _save(made, out)
    facts = {"file": str(out), "vocab_size": made.vocab_size, "merges": len(made.merges), "split": split, "tie": tie}
    if json:
        return print_json(facts)
    few = "" if made.vocab_size == vocab_size else f" (no pair was left to merge, so not {vocab_size:,})"
    print(f"{out}: {made.vocab_size:,} tokens{few}, {len(made.merges):,} merges")
    if out.suffix == ".json":
        print(f"next:\n  nanogpt tokenizer show --tokenizer {out} --text 'some text'\n  nanogpt train tokenizer={out}")
    return None


@tokenizer.command()
def encode(
    name: Name = "gpt2", text: TextOption = None, file: FileOption = None, by: By = "hand", split: Split = "cl100k",
    allow: Annotated[list[str] | None, typer.Option(help="A special token that becomes its id, or all.")] = None,
    disallow: Annotated[list[str] | None, typer.Option(help="One that the text must not hold, or all.")] = None,
    raw: Annotated[bool, typer.Option("--bytes", help="The text need not be UTF-8.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Print the ids of a text. A special token in it is text, unless it is allowed.

    \b
    nanogpt tokenizer encode --tokenizer cl100k_base --file notes.txt --json
    nanogpt tokenizer encode --text "hello world" --by library
    nanogpt tokenizer encode --text "a<|endoftext|>b" --allow "<|endoftext|>"
    nanogpt tokenizer encode --tokenizer llama.json --bytes --file picture.png
    """
    from nanogpt.tokenizers.opening import by_hand, open_tokenizer

    opened = open_tokenizer(name, by, split)
    data = _data(text, file)
    if raw:
        ids = _byte_level(opened, name).encode_bytes(data)
    elif allow or disallow:
        ids = by_hand(opened, name).encode_special(_decoded(data, file), _some(allow), _some(disallow))
    else:
        ids = opened.encode(_decoded(data, file))
    if json:
        return print_json({"tokenizer": name, "by": by, "bytes": len(data), "tokens": len(ids), "ids": ids.tolist()})
    print(*ids.tolist())
    return None


@tokenizer.command()
def decode(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", show_default=False,
                                                    help="By default piped in.")] = None,
    name: Name = "gpt2", by: By = "hand", split: Split = "cl100k",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the bytes here, UTF-8 or not.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Print the text of ids: numbers, or what encode printed.

    \b
    nanogpt tokenizer decode --tokenizer gpt2 31373 995
    nanogpt tokenizer encode --text hi --json | nanogpt tokenizer decode
    """
    from nanogpt.files import one_line, write_whole
    from nanogpt.tokenizers.opening import by_hand, open_tokenizer

    opened = open_tokenizer(name, by, split)
    numbers = _ids(" ".join(ids) if ids else _piped().decode(errors="replace"))
    if wrong := next((i for i in numbers if not 0 <= i < opened.vocab_size), None):
        raise UserError(f"id {wrong} is none of {name}'s, which go from 0 to {opened.vocab_size - 1}")
    if out is not None:
        with one_line(f"write {out}"):
            return write_whole(out, by_hand(opened, name).decode_bytes(numbers))
    if json:
        return print_json({"tokenizer": name, "by": by, "tokens": len(numbers), "text": opened.decode(numbers)})
    print(opened.decode(numbers))
    return None


@tokenizer.command()
def show(
    names: Names = None, text: TextOption = None, file: FileOption = None, by: By = "hand", split: Split = "cl100k",
    why: Annotated[bool, typer.Option("--why", help="The questions of the lecture, with their tokens.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one page that opens offline.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Colour the tokens of a text, under one vocabulary or several; as a page, with the merges of each word.

    \b
    nanogpt tokenizer show --text "Hello, world" --tokenizer gpt2 --tokenizer o200k_base
    nanogpt tokenizer show --file poem.txt --html tokens.html
    nanogpt tokenizer show --why
    nanogpt tokenizer show --why --html why.html
    """
    from nanogpt.cli.tokens import json_of, print_tokens, print_why
    from nanogpt.tokenizers.opening import open_tokenizer

    chosen = names or (["gpt2", "cl100k_base", "o200k_base"] if why else ["gpt2"])
    opened = {name: open_tokenizer(name, by, split) for name in chosen}
    if why and (text or file):
        raise UserError("--why has texts of its own; leave out --text and --file")
    said = "" if why else _decoded(_data(text, file), file)
    if html is not None:
        from nanogpt.views.tokens import tokens_page, why_page, write_page

        write_page(html, why_page(opened) if why else tokens_page(opened, said))
    if json:
        print_json(json_of(opened, None if why else said))
    elif html is not None:
        print(f"{html}: {html.stat().st_size / 1e3:.0f} kB; open it in a browser")
    elif why:
        print_why(opened)
    else:
        print_tokens(opened, said)


@tokenizer.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="TOKENIZER...", show_default=False, help=NAMES)],
    file: Annotated[list[Path] | None, typer.Option("--file", help="A text of your own; may be given again.")] = None,
    by: By = "hand", split: Split = "cl100k", json: Json = False,
) -> None:  # fmt: skip
    """Table bytes per token, tokens per word and use of the vocabulary, by language and by kind of text.

    \b
    nanogpt tokenizer compare gpt2 cl100k_base o200k_base
    nanogpt tokenizer compare mine.json gpt2 --file notes.txt --file letters.txt
    """
    from nanogpt.cli.tokens import print_comparison
    from nanogpt.tokenizers.comparing import compare as measured
    from nanogpt.tokenizers.comparing import samples
    from nanogpt.tokenizers.opening import open_tokenizer

    opened = {name: open_tokenizer(name, by, split) for name in names}
    texts = {"file": {str(path): _decoded(_data(None, path), path) for path in file}} if file else samples()
    found = measured(opened, texts)
    if json:
        return print_json(found)
    return print_comparison(found)


def import_(
    source: Annotated[str, typer.Argument(show_default=False, help=NAMES)],
    out: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="A .json, or a .tiktoken rank file.")],
    split: Split = "cl100k",
    special: Annotated[list[str] | None, typer.Option(
        metavar="TOKEN=ID", help="A special token of a rank file, which names none; may be given again.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Make a tokenizer.json, or a rank file, of a published vocabulary: tiktoken's ranks, a SentencePiece model.

    \b
    nanogpt tokenizer import tokenizer.model llama.json
    nanogpt tokenizer import cl100k_base.tiktoken cl100k.json --split cl100k --special "<|endoftext|>=100257"
    nanogpt tokenizer import gpt2 gpt2.tiktoken
    """
    from nanogpt.tokenizers.bytepair import BytePair
    from nanogpt.tokenizers.opening import by_hand, open_tokenizer

    made = by_hand(open_tokenizer(source, split=split), source)
    if special:
        level = _byte_level(made, source)
        made = BytePair(
            level.ordinary, level.merges, level.pattern, level.specials | _specials(special), bool(level.whole)
        )
    _check_out(out, [])
    _save(made, out)
    facts = {"file": str(out), "kind": type(made).__name__, "vocab_size": made.vocab_size, "merges": len(made.merges),
             "specials": made.specials}  # fmt: skip
    if json:
        return print_json(facts)
    print(f"{out}: {made.vocab_size:,} tokens, {len(made.merges):,} merges, {len(made.specials)} special")
    return None


tokenizer.command(name="import")(import_)


# -- what they are given and give -----------------------------------------------------------------------------------


def _data(text: str | None, file: Path | None) -> bytes:
    if text is not None and file is not None:
        raise UserError("--text and --file: give one of them")
    if text is not None:
        return text.encode("utf-8", errors="surrogateescape")  # as the shell gave it
    if file is None:
        return _piped()
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def _piped() -> bytes:
    if sys.stdin.isatty():
        raise UserError("no text: give --text or --file, or pipe one in")
    return sys.stdin.buffer.read()


def _decoded(data: bytes, file: Path | None) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file or 'the text'}: byte {error.start:,} is not UTF-8 ({error.reason}); encode --bytes reads any bytes"
        ) from None


def _ids(text: str) -> list[int]:
    """Numbers between white space, as a JSON list, or what encode --json printed."""
    try:
        found: Any = json_text.loads(text if text.lstrip()[:1] in ("[", "{") else f"[{','.join(text.split())}]")
        ids = list(found["ids"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, TypeError, RecursionError):
        ids = [text.strip()[:40]]
    if wrong := [i for i in ids if type(i) is not int]:
        raise UserError(f"ids are whole numbers, as encode prints them; {wrong[0]!r} is none")
    return ids


def _some(names: list[str] | None) -> list[str] | Literal["all"]:
    return "all" if names == ["all"] else names or []


def _specials(pairs: list[str]) -> dict[str, int]:
    from nanogpt.tokenizers.parsing import check_ids

    found = []
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        if not name or not number.isdecimal():
            raise UserError(f"--special {pair}: write TOKEN=ID, as '<|endoftext|>=100257'")
        found.append((name, int(number)))
    check_ids(found)
    return dict(found)


def _byte_level(opened: Tokenizer, name: str) -> Any:
    from nanogpt.tokenizers.bytepair import BytePair

    if not isinstance(opened, BytePair):
        raise UserError(f"{name}: not byte pairs on bytes, run by hand")
    return opened


def _check_out(out: Path, specials: list[str]) -> None:
    if out.suffix not in (".json", ".tiktoken"):
        raise UserError(f"{out}: must end in .json or .tiktoken, which says what is written")
    if out.suffix == ".tiktoken" and specials:
        raise UserError(f"{out}: a rank file has no special tokens; write a .json, or leave out --special")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}")


def _save(made: Tokenizer, out: Path) -> None:
    from nanogpt.files import one_line
    from nanogpt.tokenizers.bytepair import write_ranks

    if out.suffix == ".tiktoken":
        return write_ranks(out, _byte_level(made, str(out)).ordinary)
    with one_line(f"write {out}"):
        made.save(out)
    return None
