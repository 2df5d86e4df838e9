"""Why can't language models spell, reverse, add ...? Because of what they see: the questions of Karpathy's lecture
"Let's build the GPT Tokenizer" (2024), each with the texts whose tokens explain it."""

from __future__ import annotations

from typing import NamedTuple

from nanogpt.tokenizers.base import Tokenizer
from nanogpt.tokenizers.bytepair import Merging


class Question(NamedTuple):
    asked: str
    answer: str
    texts: tuple[str, ...]
    special: bool = False
    """Special tokens in the texts are allowed."""

    def ids(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Of one of its texts, as the question has it."""
        if self.special and isinstance(tokenizer, Merging):
            return tokenizer.encode_special(text, allowed="all").tolist()
        return tokenizer.encode(text).tolist()


FIZZBUZZ = """\
for i in range(1, 101):
    if i % 3 == 0 and i % 5 == 0:
        print("FizzBuzz")"""

QUESTIONS = (
    Question(
        "Why can't they count the letters of a word?",
        "A word that was frequent is one token: its letters are not in what the model sees. It must have learned from "
        "other texts how each token is spelled.",
        (".DefaultCellStyle", ". D e f a u l t"),
    ),
    Question(
        "Why can't they write a word backwards?",
        "For the same reason; with the letters apart, each is a token, and reversing is an easy permutation. So it "
        "helps to have them written apart first.",
        ("lollipop", "popillol", "l-o-l-l-i-p-o-p"),
    ),
    Question(
        "Why is arithmetic hard?",
        "Numbers are cut at arbitrary places: 804 may be one token and 8041 two, so digits of the same value do not "
        "stand under each other. Later vocabularies cut every three digits, from the left; Llama cuts each.",
        ("127 + 677 = 804\n1275 + 6773 = 8041",),
    ),
    Question(
        "Why are they worse in other languages?",
        "A vocabulary learned from English text spends its merges on English. Other languages are in smaller pieces: "
        "less text fits into the context, and each token means less.",
        ("Hello, nice to meet you.", "안녕하세요 👋 (hello in Korean!)", "नमस्ते, आपसे मिलकर अच्छा लगा।"),
    ),
    Question(
        "Why was GPT-2 bad at Python?",
        "Each space of an indentation is a token of its own in GPT-2. From GPT-4's on a run of spaces is one.",
        (FIZZBUZZ,),
    ),
    Question(
        "Why do they stop at <|endoftext|>?",
        "Read as a special token it is one id, that of the end. Whoever reads text of strangers must not allow that: "
        "then it is text like any other.",
        ("done<|endoftext|>more",),
        special=True,
    ),
    Question(
        "Why does a space at the end make it worse?",
        "A space belongs to the word that follows. A prompt that ends in one ends in a token that was hardly ever seen "
        "before a word in training.",
        ("Here is a tag line for an ice cream shop:", "Here is a tag line for an ice cream shop: "),
    ),
    Question(
        "Why did SolidGoldMagikarp break them?",
        "It is a token of GPT-2's vocabulary, the name of a user of a forum that was in the text the vocabulary was "
        "learned from and not in the text the model was. Its embedding was never trained: an unreached token.",
        (" SolidGoldMagikarp", " TheNitromeFan"),
    ),
    Question(
        "Why is the same word not the same?",
        "At the beginning, after a space, with a capital: each is another token, or several. That they mean the same "
        "has to be learned.",
        ("egg", " egg", "Egg", "EGG"),
    ),
    Question(
        "Why rather YAML than JSON?",
        "Quotes and braces are tokens too: the same facts, fewer of them.",
        (
            '{"title": "Emma", "pages": 474, "author": {"name": "Jane Austen", "born": 1775}}',
            "title: Emma\npages: 474\nauthor:\n  name: Jane Austen\n  born: 1775\n",
        ),
    ),
)
