"""Quality against diversity: what temperature, top-k, top-p and min-p buy, and for what.

A model of letters writes; a 5-gram with Kneser-Ney's discounts, fitted to the same training text, says how likely each
text is (nats a letter: quality), and its words how much is said twice (diversity). Real text is scored alike.
B texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import stats

from nanogpt.generate import Sampling, generate
from nanogpt.study.builtin.models import Trained, folder, shakespeare, trained, writer
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series

LETTERS = 120
"""Of each text: with its first one they fit the writer's window."""
WORDS = 18
"""Of each text that diversity is counted on: the same for all, since more words have more repeats."""
KNOBS: dict[str, list[Sampling]] = {
    "temperature": [Sampling(temperature=T) for T in (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5)],
    "top-k": [Sampling(top_k=k) for k in (2, 3, 5, 8, 16, 32)],
    "top-p": [Sampling(top_p=p) for p in (0.4, 0.6, 0.75, 0.9, 0.95, 0.99)],
    "min-p": [Sampling(min_p=p) for p in (0.5, 0.3, 0.2, 0.1, 0.05, 0.01)],
    "top-p, T = 1.5": [Sampling(temperature=1.5, top_p=p) for p in (0.4, 0.6, 0.75, 0.9, 0.95)],
    "min-p, T = 1.5": [Sampling(temperature=1.5, min_p=p) for p in (0.5, 0.3, 0.2, 0.1, 0.05)],
}
"""From the least to the most diverse."""
TOP_P, MIN_P = Sampling(temperature=1.5, top_p=0.9), Sampling(temperature=1.5, min_p=0.1)
"""Their usual sizes at a high temperature: Nguyen et al. 2024 (arXiv:2407.01082)."""


def distinct(texts: Sequence[Sequence[str]]) -> float:
    """Different pairs of neighbouring words, as a share of all (Li et al. 2016)."""
    pairs = [pair for words in texts for pair in pairwise(words)]
    return len(set(pairs)) / max(1, len(pairs))


def self_bleu(texts: Sequence[Sequence[str]], longest: int = 3) -> float:
    """Mean BLEU of each text with the others as its references (Zhu et al. 2018): 1 is all the same. An order without a
    match counts half a match; lengths are equal, so there is no penalty for brevity."""
    logs = np.zeros(len(texts))
    for n in range(1, longest + 1):
        counts = [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for words in texts]
        best: dict[tuple[str, ...], list[int]] = {}
        for found in counts:
            for gram, times in found.items():
                best[gram] = sorted([*best.get(gram, []), times])[-2:]
        for row, found in enumerate(counts):
            hits = 0
            for gram, times in found.items():
                others = list(best[gram])
                others.remove(times) if times in others else None
                hits += min(times, max(others, default=0))
            logs[row] += np.log(max(hits, 0.5) / max(1, found.total())) / longest
    return float(np.exp(logs).mean())


@torch.no_grad()
def nats(judge: Trained, texts: Sequence[str]) -> NDArray[np.float64]:
    """Nats a letter of each text, (B,)."""
    tokens_BT = torch.tensor(np.stack([judge.tokenizer.encode(text) for text in texts]), dtype=torch.long)
    logits = judge.model(tokens_BT[:, :-1]).float()
    losses = F.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none")
    return losses.view(len(texts), -1).mean(1).double().numpy()


def words(texts: Sequence[str]) -> list[list[str]]:
    return [text.split()[:WORDS] for text in texts if len(text.split()) >= WORDS]


def real(model: Trained, count: int) -> list[str]:
    """Texts of the test split, each from a line's beginning, evenly spaced."""
    text = model.tokenizer.decode(model.splits["test"].ids.tolist())
    starts = [place for place, letter in enumerate(text[: -LETTERS - 1]) if letter == "\n"]
    return [text[starts[n * len(starts) // count]:][: LETTERS + 1] for n in range(count)]  # fmt: skip


def written(model: Trained, how: Sampling, count: int) -> list[str]:
    """Texts that begin with a new line."""
    start = model.tokenizer.encode("\n").tolist()
    rows = generate(model.model, [start] * count, LETTERS, how)
    return ["\n" + model.tokenizer.decode(row) for row in rows]


def quality_and_diversity(study: Study) -> Measurement:
    count = 32 if study.quick else 160
    model = writer(study)
    text = shakespeare(folder(study), "shakespeare")
    judge = trained(folder(study), "judge", "ngram", f"data.corpus={text}", "model.embed=ngram(5, kneser_ney)",
                    f"model.context={LETTERS + 1}", "train.steps=1")  # fmt: skip
    texts = {how: written(model, how, count) for knob in KNOBS.values() for how in knob}
    scores = {how: nats(judge, found) for how, found in texts.items()}
    diverse = {how: distinct(words(found)) for how, found in texts.items()}
    bleu = {how: self_bleu(words(found)) for how, found in texts.items()}
    human = real(model, count)
    at_home = float(nats(judge, human).mean()), distinct(words(human)), self_bleu(words(human))
    order = {k: float(stats.spearmanr([scores[h].mean() for h in hows], [diverse[h] for h in hows]).statistic)
             for k, hows in KNOBS.items()}  # fmt: skip
    gap = scores[TOP_P] - scores[MIN_P]
    half = 1.96 * float(np.sqrt(scores[TOP_P].var(ddof=1) / count + scores[MIN_P].var(ddof=1) / count))
    pure = Sampling()
    numbers = {
        "real text: nats a letter": at_home[0], "real text: distinct pairs": at_home[1],
        "real text: self-BLEU": at_home[2],
        "T = 1: nats a letter": float(scores[pure].mean()), "T = 1: distinct pairs": diverse[pure],
        "smallest rank correlation of nats and distinct pairs": min(order.values()),
        "T = 1.5: nats a letter that min-p 0.1 saves against top-p 0.9": float(gap.mean()),
        "sampling: lower end of the 95% interval": float(gap.mean()) - half,
    }  # fmt: skip
    for knob, hows in KNOBS.items():
        loss = [float(scores[how].mean()) for how in hows]
        numbers[f"{knob}: distinct pairs at the nats of real text"] = float(
            np.interp(at_home[0], loss, [diverse[h] for h in hows])
        )
    says = (
        "Every knob pays for quality with diversity: nats a letter and distinct pairs of words rise together (rank "
        f"correlation {min(order.values()):.2f} or more). Sampled as it is the model has {scores[pure].mean():.2f} "
        f"nats a letter, real text {at_home[0]:.2f}. Where a knob gives as many nats as real text has, distinct pairs "
        "are "
        + ", ".join(f"{100 * numbers[f'{k}: distinct pairs at the nats of real text']:.1f}% ({k})" for k in KNOBS)
        + f"; real text has {100 * at_home[1]:.1f}%. At T = 1.5 min-p 0.1 saves {gap.mean():.2f} ± {half:.2f} nats a "
        "letter against top-p 0.9 (95% interval)."
    )
    charts = [_chart(KNOBS, scores, diverse, (at_home[0], at_home[1]), "distinct pairs of words (share)"),
              _chart(KNOBS, scores, bleu, (at_home[0], at_home[2]), "self-BLEU (1: all texts alike)")]  # fmt: skip
    return Measurement(numbers, [says], charts)


def _chart(knobs: dict[str, list[Sampling]], scores: dict[Sampling, NDArray[np.float64]], across: dict[Sampling, float],
           human: tuple[float, float], title: str) -> Chart:  # fmt: skip
    lines = [
        Series(knob, [across[how] for how in hows], [float(scores[how].mean()) for how in hows],
               dash="dash" if "T" in knob else "solid")
        for knob, hows in knobs.items()
    ]  # fmt: skip
    text = (
        "Each line is one knob, turned; the lower the nats, the likelier the text to a 5-gram of the training text. "
        "Real text is the mark."
    )
    lines.append(Series("real text", [human[1]], [human[0]]))
    return Chart(f"Quality by {title.partition(' (')[0]}", text, title, "nats a letter, by the 5-gram", lines)
