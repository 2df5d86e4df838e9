"""The cache: whole or not there, whoever writes at the same time, whatever the disk does. Memory stays flat."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nanogpt.config import DataConfig
from nanogpt.data import open_corpus, prepare
from nanogpt.data.cache import publish, remember
from nanogpt.data.sources import Source, find, sha256_of
from nanogpt.errors import RunError, UserError
from nanogpt.tokenizers import tokenizer_for

PREPARE = """
import sys
from nanogpt.config import DataConfig
from nanogpt.data import open_corpus, prepare
from nanogpt.errors import UserError
from nanogpt.tokenizers import tokenizer_for
try:
    corpus = open_corpus(DataConfig(corpus=sys.argv[1]))
    tokens = prepare(corpus, tokenizer_for(sys.argv[2], corpus), corpus.batching)
    print({name: int(t.ids.sum(dtype='u8')) for name, t in tokens.items()})
except UserError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def python(code: str, *arguments: str) -> str:
    """What another process prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def story(path: Path, lines: int) -> Path:
    rng = np.random.default_rng(0)
    words = np.array(["the", "quick", "brown", "fox", "naïve", "jumps,", "over", "42", "dogs."])
    path.write_text("\n".join(" ".join(line) for line in words[rng.integers(0, len(words), (lines, 12))]) + "\n")
    return path


def test_tokens_are_made_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_corpus(DataConfig(corpus=str(story(tmp_path / "t.txt", 500))))
    tokenizer = tokenizer_for("bpe(vocab_size=300)", corpus)
    first = prepare(corpus, tokenizer, "stream")
    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "encode_batch", None)
        patch.setattr("nanogpt.tokenizers.recipes.train_bpe", None)
        again = open_corpus(DataConfig(corpus=str(tmp_path / "t.txt")))
        second = prepare(again, tokenizer_for("bpe(vocab_size=300)", again), "stream")
    for split in first:
        np.testing.assert_array_equal(first[split].ids, second[split].ids)
    assert isinstance(second["train"].ids.base, np.memmap)


def test_a_changed_text_is_encoded_anew(cache: Path, tmp_path: Path) -> None:
    path = story(tmp_path / "t.txt", 100)
    tokenizer = tokenizer_for("byte", open_corpus(DataConfig(corpus=str(path))))
    before = prepare(open_corpus(DataConfig(corpus=str(path))), tokenizer, "stream")["train"].ids.copy()
    text = path.read_text()
    path.write_text("!" + text[1:])
    os.utime(path, ns=(1, 1))
    after = prepare(open_corpus(DataConfig(corpus=str(path))), tokenizer, "stream")["train"].ids
    assert (before[0], after[0]) == (ord(text[0]), ord("!"))


@pytest.mark.parametrize("damage", ["truncate", "delete", "facts"])
def test_a_damaged_entry_is_made_anew(damage: str, cache: Path, tmp_path: Path) -> None:
    corpus = open_corpus(DataConfig(corpus=str(story(tmp_path / "t.txt", 100))))
    tokenizer = tokenizer_for("byte", corpus)
    whole = prepare(corpus, tokenizer, "stream")["train"].ids.copy()
    (ids,) = cache.glob("tokens/*/train.ids")
    if damage == "truncate":
        os.truncate(ids, 100)
    elif damage == "delete":
        ids.unlink()
    else:
        ids.with_suffix(".json").write_text("{")
    np.testing.assert_array_equal(prepare(corpus, tokenizer, "stream")["train"].ids, whole)


def test_processes_at_once_agree(cache: Path, tmp_path: Path) -> None:
    path = story(tmp_path / "t.txt", 4_000)
    command = [sys.executable, "-c", PREPARE, str(path), "bpe(vocab_size=300)"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {run.communicate()[0] for run in runs}
    assert len(answers) == 1
    assert "train" in answers.pop()
    assert not list(cache.glob("*/.*"))  # nothing half-written is left


def test_the_second_of_two_uses_the_firsts(tmp_path: Path) -> None:
    target = tmp_path / "thing"

    def fill(folder: Path) -> None:
        publish(target, lambda other: (other / "x").write_text("first") and None, lambda f: (f / "x").is_file())
        (folder / "x").write_text("second")

    publish(target, fill, lambda f: (f / "x").is_file())
    assert (target / "x").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    old, new = tmp_path / ".thing-old", tmp_path / ".thing-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    publish(tmp_path / "thing", lambda f: None, lambda f: f.is_dir())
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    path = story(tmp_path / "t.txt", 20_000)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    output = python(limit + PREPARE, str(path), "byte")
    assert output.startswith("RunError ")
    assert "the disk is full" in output
    assert output.count("\n") == 1
    assert not list(cache.glob("tokens/*"))
    assert not list(cache.glob("tokens/.*"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "file"))
    corpus = open_corpus(DataConfig(corpus=str(story(tmp_path / "t.txt", 100))))
    with pytest.raises(RunError, match="set NANOGPT_CACHE to a folder on another disk") as caught:
        prepare(corpus, tokenizer_for("byte", corpus), "stream")
    assert "\n" not in str(caught.value)


def test_facts_are_worked_out_once(cache: Path) -> None:
    calls: list[int] = []
    for _ in range(3):
        assert remember("key", lambda: calls.append(1) or {"a": 1}) == {"a": 1}
    assert calls == [1]


def test_a_hash_follows_the_content(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "t"
    for number, content in enumerate((b"one", b"two", b"three")):
        path.write_bytes(content)
        os.utime(path, ns=(number, number))
        assert sha256_of(path) == sha256_of(path) == hashlib.sha256(content).hexdigest()


# --- downloads ---------------------------------------------------------------------------------

CONTENT = b"0123456789" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    ranges: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.ranges.append(wanted)
        found = CONTENT[: int(wanted.split("-")[1]) + 1] if wanted and "honest" in self.path else CONTENT
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("NANOGPT_DATA", raising=False)
    Handler.ranges = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


def source(url: str, content: bytes, first_bytes: int = 0) -> Source:
    return Source("thing.txt", hashlib.sha256(content).hexdigest(), url, first_bytes)


def test_a_file_is_fetched_once_and_then_in_the_cache(cache: Path, server: str) -> None:
    paths = {find(source(f"{server}/a", CONTENT)) for _ in range(2)}
    assert paths.pop().read_bytes() == CONTENT
    assert len(Handler.ranges) == 1


@pytest.mark.parametrize("kind", ["honest", "deaf"])
def test_only_the_beginning_is_fetched_even_where_the_server_sends_all(kind: str, cache: Path, server: str) -> None:
    path = find(source(f"{server}/{kind}", CONTENT[:777], 777))
    assert path.read_bytes() == CONTENT[:777]
    assert Handler.ranges == ["bytes=0-776"]


def test_a_folder_of_nanogpt_data_comes_first(
    cache: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "one", tmp_path / "two" / "deep"]
    for folder, content in zip(folders, (b"another file of that name", CONTENT), strict=True):
        folder.mkdir(parents=True)
        (folder / "thing.txt").write_bytes(content)
    monkeypatch.setenv("NANOGPT_DATA", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    assert find(source(f"{server}/a", CONTENT)) == folders[1] / "thing.txt"
    assert not Handler.ranges


def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(cache: Path, server: str) -> None:
    cases = {
        f"{server}/missing": "cannot be fetched from .*404.*NANOGPT_DATA",
        "http://127.0.0.1:9/x": "cannot be fetched",
        f"{server}/wrong": r"sha256 [0-9a-f]{12}\.\.\., expected",
    }
    for url, message in cases.items():
        with pytest.raises(RunError, match=message) as caught:
            find(source(url, b"something else"))
        assert "\n" not in str(caught.value)
        assert not list(cache.glob("files/*"))
        assert not list(cache.glob("files/.*"))


def test_an_altered_file_in_the_cache_is_named(cache: Path, server: str) -> None:
    path = find(source(f"{server}/a", CONTENT))
    path.write_bytes(b"altered")
    with pytest.raises(UserError, match="delete it, and it is fetched anew"):
        find(source(f"{server}/a", CONTENT))


def test_a_folder_of_nanogpt_data_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_DATA", "/nowhere/at/all")
    with pytest.raises(UserError, match="NANOGPT_DATA: no folder /nowhere/at/all"):
        open_corpus(DataConfig(corpus="names"))


# --- memory ------------------------------------------------------------------------------------

MEASURE = (
    PREPARE.replace("int(t.ids.sum(dtype='u8'))", "len(t)")
    + """
from nanogpt.data import Sampler
sampler = Sampler(tokens["train"], 32, 256, "stream", 0)
for step in range(300):
    sampler.batch(step)
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""
)
"""Prints the peak memory in KiB: of this process alone, where getrusage would count its parent's before exec."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of peak memory")
@pytest.mark.parametrize(("spec", "sizes"), [("char", (6, 60)), ("byte", (6, 60)), ("bpe(vocab_size=512)", (6, 12))])
def test_memory_does_not_grow_with_the_corpus(spec: str, sizes: tuple[int, int], cache: Path, tmp_path: Path) -> None:
    """36 MB of text, then 360 (72 for the slower BPE): the same peak, from reading the file to training batches."""
    once = story(tmp_path / "t.txt", 100_000).read_bytes()
    peaks = []
    for times in sizes:
        path = tmp_path / f"{times}.txt"
        with path.open("wb") as file:
            for _ in range(times):
                file.write(once)
        output = python(MEASURE, str(path), spec)
        assert output.startswith("{"), output
        peaks.append(int(output.split()[-1]))
        path.unlink()
    print(spec, peaks)
    assert peaks[1] < 1.15 * peaks[0], peaks
