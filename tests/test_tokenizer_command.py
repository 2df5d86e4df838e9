"""nanogpt tokenizer: what it prints and writes, and what it refuses in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Engine
from typer.testing import CliRunner

from nanogpt.cli import app
from nanogpt.errors import UserError
from nanogpt.tokenizers import load_tokenizer
from nanogpt.tokenizers.comparing import compare, samples
from nanogpt.tokenizers.opening import open_tokenizer
from nanogpt.tokenizers.questions import QUESTIONS
from nanogpt.tokenizers.tables import ByteTokenizer
from nanogpt.views.tokens import tokens_page, why_page

TEXT = "def f(x):\n    return x + 1  # naïve 世界\n\nclass Café:\n\tpass\n<|end|>" * 60


def run(*words: str, piped: str | bytes = "") -> str:
    done = CliRunner().invoke(app, ["tokenizer", *words], input=piped)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    words = ["--vocab-size", "298", "--split", "cl100k", "--special", "<|end|>", "--json"]
    facts = json.loads(run("train", str(folder / "text.txt"), "-o", str(folder / "mine.json"), *words))
    assert (facts["vocab_size"], facts["merges"]) == (298, 41)
    assert load_tokenizer(folder / "mine.json").vocab_size == 298
    return folder / "mine.json"


def test_encode_and_decode_by_hand_and_by_the_library(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text(TEXT, encoding="utf-8")
    found = {
        by: json.loads(run("encode", "-t", str(mine), "--file", str(tmp_path / "f.txt"), "--by", by, "--json"))
        for by in ("hand", "library")
    }
    engine = Engine.from_file(str(mine))
    engine.encode_special_tokens = True
    assert found["hand"]["ids"] == found["library"]["ids"] == engine.encode(TEXT).ids
    assert found["hand"]["bytes"] == len(TEXT.encode())
    numbers = " ".join(map(str, found["hand"]["ids"]))
    assert run("decode", "-t", str(mine), piped=json.dumps(found["hand"])) == TEXT + "\n"
    assert run("decode", "-t", str(mine), "--by", "library", piped=numbers) == TEXT + "\n"


def test_special_tokens_are_text_unless_allowed(mine: Path) -> None:
    text = "a<|end|>b"
    assert len(run("encode", "-t", str(mine), "--text", text).split()) > 3
    assert run("encode", "-t", str(mine), "--text", text, "--allow", "<|end|>").split() == ["97", "297", "98"]
    with pytest.raises(UserError, match="holds the special token"):
        run("encode", "-t", str(mine), "--text", text, "--disallow", "all")
    with pytest.raises(UserError, match="no special token 'x'"):
        run("encode", "-t", str(mine), "--text", text, "--allow", "x")


def test_bytes_that_are_no_text_come_back(mine: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(2000)
    (tmp_path / "f").write_bytes(data)
    ids = run("encode", "-t", str(mine), "--file", str(tmp_path / "f"), "--bytes", "--json")
    run("decode", "-t", str(mine), "-o", str(tmp_path / "g"), piped=ids)
    assert (tmp_path / "g").read_bytes() == data


def test_rank_files_and_back(mine: Path, tmp_path: Path) -> None:
    run("import", str(mine), str(tmp_path / "r.tiktoken"))
    words = ["--split", "cl100k", "--special", "<|end|>=297"]
    facts = json.loads(run("import", str(tmp_path / "r.tiktoken"), str(tmp_path / "r.json"), *words, "--json"))
    assert facts["specials"] == {"<|end|>": 297}
    for name in (str(tmp_path / "r.json"), str(tmp_path / "r.tiktoken")):
        assert run("encode", "-t", name, "--text", TEXT) == run("encode", "-t", str(mine), "--text", TEXT)


def test_the_imported_vocabulary_of_llama(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "tokenizers" / "llama2" / "tokenizer.model"
    run("import", str(source), str(tmp_path / "llama.json"))
    ids = [run("encode", "-t", str(name), "--text", "hello 안") for name in (source, tmp_path / "llama.json")]
    assert ids[0] == ids[1] == run("encode", "-t", str(source), "--text", "hello 안", "--by", "library")


def test_tokens_are_shown_without_colours_between_bars(mine: Path) -> None:
    shown = run("show", "-t", str(mine), "-t", "byte", "--text", "return 世")
    assert "byte: 10 tokens, 1.00 bytes a token" in shown
    assert "r|e|t|u|r|n|·|" in shown
    rows = json.loads(run("show", "-t", str(mine), "--text", "世\n", "--json"))[str(mine)]
    assert "".join(row["token"] for row in rows).endswith("↵")


ATTACK = "</p><script>alert(1)</script>&amp;\"' \u202e"


def test_pages_open_offline_and_escape_what_they_show(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "<b>.json").write_bytes(mine.read_bytes())
    opened = {str(path): open_tokenizer(str(path)) for path in (mine, tmp_path / "<b>.json")}
    for page in (tokens_page(opened, ATTACK + TEXT), why_page(opened)):
        assert page.count("<script>") == page.count("</script>") == 1
        assert "<b>" not in page
        assert "http" not in page.replace("http-equiv", "")
        assert "default-src 'none'" in page
    assert "How words form" in tokens_page(opened, "return return")
    out = tmp_path / "page.html"
    run("show", "-t", str(mine), "--text", "return", "--html", str(out))
    both = json.loads(run("show", "-t", str(mine), "--text", "return", "--html", str(out), "--json"))
    assert "".join(row["token"] for row in both[str(mine)]) == "return"
    assert out.read_text(encoding="utf-8") == tokens_page({str(mine): open_tokenizer(str(mine))}, "return")


def test_a_word_forms_merge_by_merge(mine: Path) -> None:
    page = tokens_page({"mine": open_tokenizer(str(mine))}, " return")
    assert "<code>·return</code>" in page
    rows = page.split("<ol>")[1].split("</ol>")[0].split("<li")[1:]
    assert [row.count('class="t ') for row in rows] == [7, 6, 5, 4, 3, 2, 1]
    assert [row.count(" new") for row in rows] == [0, 1, 1, 1, 1, 1, 1]


def test_comparing_counts_tokens_words_and_use() -> None:
    found = compare({"byte": ByteTokenizer(False)}, {"language": {"English": "abc abc", "Greek": "αβγ"}})
    assert found["texts"]["language"]["English"]["byte"] == {
        "tokens": 7, "bytes_per_token": 1.0, "fertility": 3.5, "used": 4, "premium": 1.0
    }  # fmt: skip
    assert found["texts"]["language"]["Greek"]["byte"]["premium"] == 6 / 7
    assert found["vocabulary"]["byte"] == {"size": 256, "used": 8, "share": 8 / 256}
    chinese = compare({"byte": ByteTokenizer(False)}, {"x": {"Chinese": "人人"}})["texts"]["x"]["Chinese"]
    assert chinese["byte"]["fertility"] is None


def test_compare_has_languages_and_kinds_of_text(mine: Path, tmp_path: Path) -> None:
    found = json.loads(run("compare", "byte", str(mine), "--json"))
    assert set(found["texts"]) == {"language", "kind"}
    assert len(samples()["language"]) >= 10
    assert "Finnish" in run("compare", "byte")
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    assert list(json.loads(run("compare", "byte", "--file", str(tmp_path / "a.txt"), "--json"))["texts"]) == ["file"]


@pytest.mark.slow
def test_the_answers_of_the_lecture(data_dir: Path) -> None:
    """How many tokens each text has under gpt2, cl100k_base, o200k_base, as tiktoken counts them."""
    opened = [open_tokenizer(name) for name in ("gpt2", "cl100k_base", "o200k_base")]
    counts = {text: [len(q.ids(t, text)) for t in opened] for q in QUESTIONS for text in q.texts}
    assert counts[".DefaultCellStyle"] == [4, 1, 3]
    assert counts[" SolidGoldMagikarp"] == [1, 5, 5]
    assert counts["127 + 677 = 804\n1275 + 6773 = 8041"] == [16, 18, 18]
    assert counts["안녕하세요 👋 (hello in Korean!)"] == [21, 12, 9]
    python = next(q for q in QUESTIONS if "Python" in q.asked).texts[0]
    assert counts[python] == [40, 34, 34]
    assert counts["done<|endoftext|>more"] == [3, 3, 3]
    assert all(len(t.encode("<|endoftext|>")) > 1 for t in opened)
    shop = "Here is a tag line for an ice cream shop:"
    assert [a - b for a, b in zip(counts[shop + " "], counts[shop], strict=True)] == [1, 1, 1]
    letters = counts["l-o-l-l-i-p-o-p"]
    assert all(n >= 8 > counts["lollipop"][i] for i, n in enumerate(letters))
    one = [opened[1].encode(text).tolist() for text in ("egg", " egg", "Egg", "EGG")]
    assert len({tuple(ids) for ids in one}) == 4
    json_text, yaml = QUESTIONS[-1].texts
    assert all(counts[yaml][i] < counts[json_text][i] for i in range(3))


SPECIAL = ["import", "plain.tiktoken", "x.json", "--special"]
REFUSED = {
    "no tokenizer 'gpt3'; did you mean 'gpt2'": ["encode", "-t", "gpt3", "--text", "a"],
    "bpe learns from a text: nanogpt tokenizer train": ["encode", "-t", "bpe", "--text", "a"],
    "give one of them": ["encode", "-t", "byte", "--text", "a", "--file", "b"],
    "nowhere.txt": ["encode", "-t", "byte", "--file", "nowhere.txt"],
    "byte 1 is not UTF-8": ["encode", "-t", "byte", "--file", "bad.txt"],
    "id 256 is none of byte's, which go from 0 to 255": ["decode", "-t", "byte", "256"],
    "ids are whole numbers, as encode prints them; 'a' is none": ["decode", "-t", "byte", "a"],
    "as encode prints them; 98.7 is none": ["decode", "-t", "byte", "[97, 98.7]"],
    "as encode prints them; '7' is none": ["decode", "-t", "byte", '{"ids": ["7"]}'],
    "as encode prints them; True is none": ["decode", "-t", "byte", "true"],
    "as encode prints them; '[[[[": ["decode", "-t", "byte", "[" * 100_000],
    "no special token '<x>'; it has none": ["encode", "-t", "plain.tiktoken", "--text", "a", "--allow", "<x>"],
    "no tokenizer 'nowhere.model'": ["import", "nowhere.model", "x.json"],
    "no tokenizer 'nowhere.tiktoken'": ["import", "nowhere.tiktoken", "x.json"],
    "'<a>' has two ids, 300 and 301": [*SPECIAL, "<a>=300", "--special", "<a>=301"],
    "'<a>' and '<b>' have the same id, 300": [*SPECIAL, "<a>=300", "--special", "<b>=300"],
    "the token '<a>' has the id 9999999999": [*SPECIAL, "<a>=9999999999"],
    "1 special token are more; nearest: 257": [
        "train",
        "good.txt",
        "-o",
        "x.json",
        "--vocab-size",
        "256",
        "--special",
        "e",
    ],
    "must end in .json or .tiktoken": ["train", "good.txt", "-o", "x.txt"],
    "a rank file has no special tokens": ["train", "good.txt", "-o", "x.tiktoken", "--special", "<e>"],
    "there is no folder": ["train", "good.txt", "-o", "nowhere/x.json"],
    "the 256 bytes alone are more": ["train", "good.txt", "-o", "x.json", "--vocab-size", "100"],
    "not a text file: no UTF-8 at byte 1": ["train", "bad.txt", "-o", "x.json"],
    "nor a regular expression": ["train", "good.txt", "-o", "x.json", "--split", "("],
    "has no merges that are run by hand": ["import", "byte", "x.json"],
    "write TOKEN=ID": ["import", "t.json", "x.json", "--special", "e"],
    "not byte pairs on bytes": ["encode", "-t", "byte", "--text", "a", "--bytes"],
    "--why has texts of its own": ["show", "-t", "byte", "--why", "--text", "a"],
    "not a tokenizer.json": ["encode", "-t", "good.txt", "--text", "a"],
    "--by library runs it": ["encode", "-t", "words.json", "--text", "a"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(
    message: str, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_text("good text")
    Path("bad.txt").write_bytes(b"a\xff")
    run("train", "good.txt", "-o", "plain.tiktoken")
    Path("t.json").write_bytes(mine.read_bytes())
    parts = json.loads(mine.read_text(encoding="utf-8"))
    Path("words.json").write_text(json.dumps(parts | {"pre_tokenizer": {"type": "WhitespaceSplit"}}))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        run(*REFUSED[message])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 2
    assert sorted(tmp_path.iterdir()) == before


def test_the_help_needs_no_torch() -> None:
    code = "import sys\nfrom nanogpt.cli import app\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
