"""Parts as text: read, written back, spread over depth, and refused where they cannot be read."""

from __future__ import annotations

import contextlib
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.errors import UserError
from nanogpt.spec import Spec, compress, expand, parse, parse_depth, parse_value, to_text

WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
QUOTED = st.text(st.characters(blacklist_characters="'", blacklist_categories=["Cs"]), min_size=1, max_size=12)
NUMBERS = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
SPECS = st.deferred(
    lambda: st.builds(
        Spec, WORDS | QUOTED, st.lists(VALUES, max_size=2).map(tuple), st.dictionaries(WORDS, VALUES, max_size=3)
    )
)
FULL = SPECS.filter(lambda s: bool(s.args or s.knobs))  # as a value, a part without knobs is its bare name
VALUES = st.deferred(lambda: NUMBERS | WORDS | QUOTED | FULL | st.lists(NUMBERS | WORDS, max_size=3))


@settings(deadline=None, max_examples=200)
@given(SPECS)
def test_what_is_written_is_read_back_the_same(spec: Spec) -> None:
    assert parse(str(spec)) == spec


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_values_too_and_with_their_type(value: object) -> None:
    back = parse_value(to_text(value))  # type: ignore[arg-type]
    assert back == value
    assert type(back) is type(value)


def test_the_grammar_by_example() -> None:
    spec = parse(" moe(3, [1, 2.5], expert=swiglu(hidden=512), path='a b.txt', eps=1e-6, ) ")
    assert spec.name == "moe"
    assert spec.args == (3, [1, 2.5])
    assert spec.knobs == {"expert": Spec("swiglu", (), {"hidden": 512}), "path": "a b.txt", "eps": 1e-6}
    assert parse("none()") == parse("none") == Spec("none")
    assert parse("my_parts.py:Mine(-3)") == Spec("my_parts.py:Mine", (-3,))
    assert parse("/tmp/a-b/my_parts.py:Mine").name == "/tmp/a-b/my_parts.py:Mine"
    assert parse("'with space/p.py:M'(x=1)") == Spec("with space/p.py:M", (), {"x": 1})


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "(",
        "a(",
        "a)",
        "a(b",
        "a(b=",
        "a(b=)",
        "a(=1)",
        "a(,)",
        "a b",
        "a(b c)",
        "a(1 2)",
        "a(b=1, 2)",
        "a(b=1, b=2)",
        "3",
        "a(1e999)",
        "a(-1e999)",
        "a(" + "9" * 30 + ")",
        "a(" + "9" * 5000 + ")",
        "a([1)",
        "a(1])",
        "'a",
        "a'",
        "''",
        "é",
        "a(é)",
        "a\x00",
        "a,b",
        "a+b",
        "*a",
        "2*a",
        "a" * 30_000,
        "a(" * 10_000,
        "a(b=" * 5000 + "c" + ")" * 5000,
        "a(" + "[" * 9000,
        "a(1_000)",
        "a(0x10)",
        "a(\n",
        "a\nb",
        "a\u2028b",
    ],
)
def test_bad_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 2100


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="ab1.5e-+*()[]=,' \n\té\x00", max_size=30) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse, parse_value, parse_depth):
        try:
            read(text)
        except UserError as error:
            assert len(str(error).splitlines()) == 1


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    text = "a(" + ", ".join(["1"] * 6000) + ")"
    assert len(parse(text).args) == 6000


def names(value: object, n_layers: int) -> str:
    return "".join(s.name for s in expand(value, n_layers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "n_layers", "result"),
    [
        ("a", 3, "aaa"),
        (["a", "b"], 5, "ababa"),
        ("2*a + b", 7, "aabaaba"),
        ("3*a + *b", 5, "aaabb"),
        ("*a + 2*b", 5, "aaabb"),
        ("a + *b + c", 5, "abbbc"),
        ("3*a + *b", 3, "aaa"),
        (["2*a", "b"], 4, "aaba"),
        ("999999999*a + b", 4, "aaaa"),
        ("a", 0, ""),
        ("*a", 0, ""),
        (["a", "b", "c"], 2, "ab"),
    ],
)
def test_depth(value: object, n_layers: int, result: str) -> None:
    assert names(value, n_layers) == result


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("*a + *b", "only one"),
        ("4*a + *b", "names 4 layers; the model has 3"),
        ("0*a", "0 layers"),
        ("1.5*a", "1.5 layers"),
        ("-2*a", "-2 layers"),
        ("9999999999*a", "9999999999 layers"),
        ("9" * 5000 + "*a", "layers"),
        ("a +", "name of a part"),
        ("2 a", "'*' after a count"),
        ([], "empty list"),
        ("a b", "end of the text"),
    ],
)
def test_bad_depths(value: object, word: str) -> None:
    with pytest.raises(UserError, match=word.replace("*", r"\*")):
        expand(value, 3)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["a", "b(x=1)", "c"]), min_size=1, max_size=12))
def test_compressing_loses_nothing(texts: list[str]) -> None:
    short = compress([parse(t) for t in texts])
    assert [str(s) for s in expand(short, len(texts))] == texts
    assert len(short) <= len(texts)


def test_compressing_finds_the_cycle() -> None:
    assert compress([parse(t) for t in "abab"]) == ["a", "b"]
    assert compress([]) == []


def test_random_ascii_never_breaks_the_reader() -> None:
    dice = random.Random()
    for _ in range(2000):
        text = "".join(dice.choices(string.printable, k=dice.randrange(40)))
        with contextlib.suppress(UserError):  # any other exception fails here
            assert parse(str(parse(text))) == parse(text)
