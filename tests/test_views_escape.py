"""What came from a run stays text: in the page, in the JSON inside it, in plotly's own texts."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nanogpt.observers.store import read, write
from nanogpt.runs import Run
from nanogpt.views.encode import in_script, jsonable, packed
from nanogpt.views.report import report
from nanogpt.views.theme import plain, shown
from tests.observations import make_run

EVIL = "<script>alert(1)<%2Fscript>"
SAMPLE = "<img src=x onerror=alert(2)></pre></script>&amp;\u2028 and %{x}"


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run whose name, sample, settings and modules are all HTML."""
    folder = tmp_path_factory.mktemp("evil")
    run = make_run(folder, EVIL, steps=20, layers=2, sample=SAMPLE)
    settings = json.loads((run.path / "config.json").read_text())
    settings["preset"] = "<b onclick=alert(3)>gpt</b>"
    settings["<u>section</u>"] = {"<s>key</s>": "</td><script>alert(4)</script>"}
    (run.path / "config.json").write_text(json.dumps(settings))
    for path in run.layers.glob("*.npz"):
        seen = read(path)
        seen.names["activations"][3] = "blocks.0.<img src=x onerror=alert(5)>"
        write(run.layers, seen)
    with (run.path / "metrics.jsonl").open("a") as out:
        out.write(json.dumps({"step": 51, "train/<iframe>": 1.0, "</script>": 2.0}) + "\n")
    sorted(run.layers.glob("*.npz"))[2].write_bytes(b"<script>alert(6)</script>")
    report(run, folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


def test_no_tag_of_the_page_comes_from_the_run(page: str) -> None:
    found = Tags()
    found.feed(page)
    kinds = {tag for tag, _ in found.tags}
    assert not kinds & {"img", "iframe", "b", "u", "s", "object", "embed"}
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert [a for a in scripts if a.get("type") is None] == [{}, {}]  # the library and the page's own
    assert not [a for _, attributes in found.tags for a in attributes if a.startswith("on")]
    words = "".join(found.words)
    assert EVIL in words
    assert "<img src=x onerror=alert(2)></pre></script>&amp;" in words
    assert "<b onclick=alert(3)>gpt</b>" in words


def test_what_plotly_shows_is_text_too(page: str) -> None:
    """plotly reads tags in its texts: every one in the packed pictures is ours."""
    ours = re.compile(r"</?(sub|sup|br|i|extra)>")
    count = 0
    for pack in re.findall(r'<script type="application/gzip" id="[\w-]+">([^<]*)</script>', page):
        for text in strings(json.loads(gzip.decompress(base64.b64decode(pack)))):
            assert "<" not in ours.sub("", text), text
            count += 1
    assert count > 100


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in strings(one)]


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    found = Tags()
    found.feed(page)
    links = [a[key] for _, a in found.tags for key in ("src", "href", "action", "srcset", "data") if a.get(key)]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links if link)
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "a & b", "\u2028\u2029", "<\\/script>", "{{}} ${x} $y", "\U0001f600"]
)  # fmt: skip
def test_json_in_a_script_is_the_same_json_and_ends_nothing(text: str) -> None:
    encoded = in_script({text: [text]})
    assert json.loads(encoded) == {text: [text]}
    assert not re.search("[<>&\u2028\u2029]", encoded)


def test_text_for_plotly() -> None:
    assert plain("<b>x</b> & %{y}") == "&lt;b&gt;x&lt;/b&gt; &amp; %&#123;y}"
    assert plain("a\u202eb\x00c\nd") == "a b c d"
    assert plain("x" * 99, 10) == "x" * 9 + "\u2026"
    assert shown(" \n\t") == "\u00b7\u21b5\u2192"
    assert shown("") == "\u2205"


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    import numpy as np

    picture = {"y": np.array([1.0, np.nan]), "x": [float("inf"), np.float32(2), np.int64(3)], "z": np.arange(20.0)}
    assert jsonable(picture)["y"] == [1, None]
    assert jsonable(picture)["x"] == [None, 2, 3]
    read_back = base64.b64decode(jsonable(picture)["z"]["bdata"])
    assert np.frombuffer(read_back, "<f8").tolist() == list(range(20))
    ((count, text),) = packed([{"a": 1}, {"b": "é</script>"}])
    assert count == 2
    assert json.loads(gzip.decompress(base64.b64decode(text))) == [{"a": 1}, {"b": "é</script>"}]


def test_a_name_with_a_slash_like_character_is_one_file_name(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a b$`'\"", steps=4)
    assert isinstance(run, Run)
    report(run, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"file":"a-b"' in text
