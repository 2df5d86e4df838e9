"""Sampling: one path for every mixer, with its cache.

prompts -> padded batch -> logits -> temperature, top-k, top-p, min-p -> one token each -> ... until `tokens` or a stop
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.kernels.prepared import Precision, prepared
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.part import Cache

AT_ONCE = 2**16
"""Probabilities worked out at once: these fit a cache, where a batch of a large vocabulary takes ten times as long."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its distribution.

    temperature: logits are divided by it; 0 takes the likeliest token. top_k: only the k likeliest (0: all).
    top_p: only the likeliest whose probabilities add up to p (Holtzman et al. 2019). min_p: only those at least
    p times as likely as the likeliest (Nguyen et al. 2024). seed: each row of a batch draws from a stream of
    its own, so a prompt's continuation does not depend on its company.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        bounds = {"temperature": (0, 1e6), "top_k": (0, 1e9), "top_p": (0, 1), "min_p": (0, 1), "seed": (0, 2**63 - 1)}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(
                    f"{name}={value} must be from {low:g} to {high:g}; nearest: {low if value < low else high:g}"
                )
        if self.top_p == 0:
            raise UserError(
                "top_p=0 leaves no token; nearest: a small number above 0, or temperature 0 for the likeliest"
            )


def distribution(logits_BV: Tensor, how: Sampling) -> Tensor:
    """Probabilities after temperature and the cuts, (B, V). The cuts see the tempered distribution."""
    below = logits_BV.double() - logits_BV.double().amax(-1, keepdim=True)  # in fp32 a tiny temperature would be 0
    p = (below / how.temperature).softmax(-1)
    keep = torch.ones_like(p, dtype=torch.bool)
    if how.top_k:
        keep &= p >= p.topk(min(how.top_k, p.shape[-1])).values[:, -1:]
    if how.min_p:
        keep &= p >= how.min_p * p.amax(-1, keepdim=True)
    if how.top_p < 1:
        sorted_p, order = p.sort(-1, descending=True)
        before = sorted_p.cumsum(-1) - sorted_p  # the token that reaches top_p is kept
        keep &= torch.zeros_like(keep).scatter(-1, order, before < how.top_p)
    p = p * keep
    return (p / p.sum(-1, keepdim=True)).float()  # only now: rounded earlier, near ties would be cut in another order


def choose(logits_BV: Tensor, how: Sampling, random: Sequence[torch.Generator]) -> Tensor:
    """One token for each row, (B,)."""
    if how.temperature == 0:
        return logits_BV.argmax(-1)
    B, V = logits_BV.shape
    size = max(1, AT_ONCE // V)
    rows = logits_BV.cpu()  # not every accelerator has fp64, or the same dice
    drawn = [_draw(distribution(rows[n : n + size], how), random[n : n + size]) for n in range(0, B, size)]
    return torch.cat(drawn).to(logits_BV.device)


def _draw(p_BV: Tensor, random: Sequence[torch.Generator]) -> Tensor:
    """The first token at which the chances so far exceed a number drawn evenly below their sum, (B,)."""
    so_far_BV = p_BV.double().cumsum(-1)
    dice_B1 = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in random])
    return torch.searchsorted(so_far_BV, dice_B1 * so_far_BV[:, -1:], right=True)[:, 0]


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    how: Sampling | None = None,
    stopped: Callable[[list[int]], bool] = lambda new: False,
    precision: Precision = "fp32",
) -> list[list[int]]:
    """Continue each prompt by at most `tokens` tokens; return the new tokens of each.

    stopped: given a row's new tokens, whether it is done. A row sees at most the last `model.context` tokens.
    precision: of the weights, see `prepared`, which also says how to prepare a model once for many calls.
    """
    new: list[list[int]] = [[] for _ in prompts]
    for step in stream(model, prompts, tokens, how, precision):
        for row, token in enumerate(step):
            if not (new[row] and stopped(new[row])):
                new[row].append(token)
        if all(row and stopped(row) for row in new):
            break
    return new


@torch.no_grad()
def stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    how: Sampling | None = None,
    precision: Precision = "fp32",
) -> Iterator[list[int]]:
    """The next token of every row, step by step."""
    how = how or Sampling()
    if not prompts or not all(prompts):
        raise UserError("a prompt has no tokens; give at least one token to continue from")
    device = next(chain(model.parameters(), model.buffers())).device  # counts are buffers
    rows = [list(p) for p in prompts]
    # A stream of chances for each row: the same for the same prompt in any company, another one for its second copy.
    copies = [rows[:number].count(row) for number, row in enumerate(rows)]
    random = [torch.Generator().manual_seed((how.seed + copy * 0x9E3779B97F4A7C15) % 2**63) for copy in copies]
    model = prepared(model, precision)
    training = model.training
    model.eval()
    try:
        logits, cache = _read(model, rows, tokens, device)
        for left in reversed(range(tokens)):
            chosen = choose(logits, how, random)
            step = chosen.tolist()
            for row, token in zip(rows, step, strict=True):
                row.append(token)
            yield step
            if left and cache.length < cache.capacity:
                logits = model.next_logits(chosen[:, None], cache=cache)
            elif left:  # full: a window moves on, and so does the place of every token in it; or keys turn otherwise
                logits, cache = _read(model, rows, left, device)
    finally:
        model.train(training)


def _read(model: LanguageModel, rows: list[list[int]], tokens: int, device: torch.device) -> tuple[Tensor, Cache]:
    """Read the last `context` tokens of each row, padded on the left; logits of the next token, and the memory."""
    seen = [row[-model.context :] for row in rows]
    width = max(map(len, seen))
    tokens_BT = torch.tensor([[0] * (width - len(row)) + row for row in seen], device=device)
    mask_BT = None
    if any(len(row) < width for row in seen):
        mask_BT = torch.tensor([[i >= width - len(row) for i in range(width)] for row in seen], device=device)
    until = (length for length in model.changes if length >= width)
    cache = model.new_cache(len(rows), min(model.context, width + tokens, *until))
    return model.next_logits(tokens_BT, mask_BT, cache), cache
