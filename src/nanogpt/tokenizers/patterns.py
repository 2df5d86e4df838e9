r"""The published patterns that cut text into words before pairs are merged.

As tiktoken states them (github.com/openai/tiktoken, tiktoken_ext/openai_public.py), written for
Oniguruma, the engine behind Hugging Face's library: there `{1,3}+` is a repetition rather than
possessive, and `$` ends a line, so the end of the text is `\z`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"""
    r"""|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"""
)

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "o200k": O200K}


def byte_level(pattern: str) -> dict[str, object]:
    """The pre_tokenizer of a tokenizer.json: cut by this pattern, then write bytes as symbols."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, level]}


def pattern_of(before: Mapping[str, Any]) -> str | None:
    """The pattern by which such a pre_tokenizer cuts words; None where it does something else."""
    steps = before.get("pretokenizers", [before])
    if [step.get("type") for step in steps] not in (["Split", "ByteLevel"], ["ByteLevel"]):
        return None
    level = steps[-1]
    if level.get("add_prefix_space"):
        return None
    if len(steps) == 1:
        return GPT2 if level.get("use_regex", True) else ""
    split = steps[0]
    plain = split.get("behavior") == "Isolated" and not split.get("invert") and not level.get("use_regex", True)
    return split["pattern"].get("Regex") if plain else None


DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
