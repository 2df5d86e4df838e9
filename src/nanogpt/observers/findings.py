"""What an observer concludes, in words: where, what, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["bad", "warn", "good"]
ORDER: dict[str, int] = {"bad": 0, "warn": 1, "good": 2}


@dataclass(frozen=True)
class Finding:
    """One conclusion. `where`: a module's or parameter's name, or "" for the whole model; `score`: how far it is from
    health within its level, larger is worse, so that findings can be sorted worst first."""

    level: Level
    where: str
    words: str
    cure: str = ""
    score: float = 0.0

    def __str__(self) -> str:
        text = f"{self.where}: {self.words}" if self.where else self.words
        return f"{text}; {self.cure}" if self.cure else text

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def worst_first(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: (ORDER[f.level], -f.score, f.where))
