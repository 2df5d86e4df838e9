"""Red bus and blue bus in a language model: words that mean nearly the same share the mass of one.

A model is trained on Shakespeare, and again on the same text in which thou and thee are you, thy is your, and hath is
has: all of them single tokens of its tokenizer. When "thy" leaves, softmax gives its mass to all tokens in proportion:
"your" should have p / (1 - p_thy). The second model shows what becomes of it. N held-out places where one of them
stands.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanogpt.study.builtin.models import Trained, folder, logits, shakespeare, trained
from nanogpt.study.folder import Study
from nanogpt.study.measurement import Chart, Measurement, Series
from nanogpt.tokenizers import Tokenizer

GROUPS = {"you": ("thou", "thee"), "your": ("thy",), "has": ("hath",)}
"""The word that stays, and those that become it."""
HELD_OUT = ("data.val=0.1", "data.test=0.03")
"""Places are counted in val; test lies between it and train, whose ends are not quite the same in the two texts."""
SAMPLES = 2000
"""Of the bootstrap."""


def modern(text: str) -> str:
    """The text with every old word in small letters replaced. A word after a space stays a word after a space, so that
    tokens stay where they are."""
    for new, old in GROUPS.items():
        text = re.sub(rf"(?<= )(?:{'|'.join(old)})\b(?!')", new, text)
    return text


def both(study: Study) -> tuple[Trained, Trained]:
    """The model of the text as it is, and that of the text with fewer words, in the same tokens."""
    out, steps = folder(study), 60 if study.quick else 400
    common = (f"train.steps={steps}", f"train.eval_every={steps // 2}", *HELD_OUT)
    text = shakespeare(out, "words")
    first = trained(out, "words", "fast-shakespeare", f"data.corpus={text}", "tokenizer=bpe(vocab_size=1536)", *common)
    text = shakespeare(out, "fewer-words", modern)
    tokenizer = out / "words" / "tokenizer.json"
    second = trained(out, "fewer-words", "fast-shakespeare", f"data.corpus={text}", f"tokenizer={tokenizer}", *common)
    return first, second


def token(tokenizer: Tokenizer, word: str) -> int:
    """Of a word after a space."""
    (found,) = tokenizer.encode(f" {word}").tolist()
    return int(found)


def chances(study: Study) -> dict[str, NDArray[np.float64]]:
    """Of each word that stays, at every held-out place where it or an old one stands: (N, 3) its chance, that of the
    old ones together, and its chance in the model that never saw those."""
    first, second = both(study)
    held_out = first.splits["val"]
    fewer = first.tokenizer.encode(modern(first.tokenizer.decode(held_out.ids.tolist())))
    z, y = logits(first.model, held_out, len(held_out))
    z_fewer, y_fewer = logits(second.model, replace(held_out, ids=fewer.astype(held_out.ids.dtype)), len(fewer))
    p, p_fewer, found = z.softmax(1), z_fewer.softmax(1), {}
    for new, old in GROUPS.items():
        stays, leave = token(first.tokenizer, new), [token(first.tokenizer, word) for word in old]
        here = torch.isin(y, torch.tensor([stays, *leave])) & (y_fewer == stays)
        columns = [p[here, stays], p[here][:, leave].sum(1), p_fewer[here, stays]]
        found[new] = torch.stack(columns, 1).double().numpy()
    return found


def returned(p_N3: NDArray[np.float64]) -> tuple[float, float]:
    """Of the mass of the old words, the share that the word that stays has got: (as measured, as softmax has it)."""
    stays, left, after = p_N3.T
    masked = stays / (1 - left)
    return float((after - stays).sum() / left.sum()), float((masked - stays).sum() / left.sum())


def twins(study: Study) -> Measurement:
    found = chances(study)
    whole = np.concatenate(list(found.values()))
    random = np.random.default_rng(1)
    draws = [returned(whole[random.integers(0, len(whole), len(whole))])[0] for _ in range(SAMPLES)]
    (share, iia), (low, high) = returned(whole), np.quantile(draws, [0.025, 0.975])
    stays, left, after = whole.T
    nats = np.log(after) - np.log(stays / (1 - left))
    half = 1.96 * float(nats.std(ddof=1)) / len(nats) ** 0.5
    names = list(found)
    rows = {name: p.mean(0) for name, p in found.items()}
    masked = {name: float((p[:, 0] / (1 - p[:, 1])).mean()) for name, p in found.items()}
    return Measurement(
        numbers={"twins: share of the mass that comes back": share, "twins: lower end of the 95% interval": float(low),
                 "twins: share by independence of irrelevant alternatives": iia,
                 "twins: nats a place that independence loses": float(nats.mean()), "twins: places": float(len(whole)),
                 **{f"{name}: share that comes back": returned(p)[0] for name, p in found.items()}},
        findings=[f"Words that mean nearly the same share the mass. At {len(whole):,} held-out places of thou, thee "
                  "and you, thy and your, hath and has, a model that never saw the old words gives the one that "
                  f"stays more, by {100 * share:.0f}% of what the old ones had (95% interval {100 * low:.0f} to "
                  f"{100 * high:.0f}%); striking them out of the softmax gives it {100 * iia:.0f}% of that, which "
                  f"costs {nats.mean():.2f} ± {half:.2f} nats a place."],
        charts=[Chart("When a word's twin leaves", "Mean chance at held-out places where the word or its twin stands.",
                      "word",
                      "probability", [
                          Series("it and its twins, together", names, [float(rows[n][0] + rows[n][1]) for n in names]),
                          Series("trained without the twins", names, [float(rows[n][2]) for n in names]),
                          Series("twins struck out", names, [masked[n] for n in names]),
                          Series("it alone", names, [float(rows[n][0]) for n in names]),
                      ], kind="bars")],
    )  # fmt: skip
