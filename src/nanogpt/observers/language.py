"""What only a language model has: a stream, something to say at each depth, attention, a distribution over tokens.

No part is asked for its name. B batch, T time, D dim, L blocks, V vocabulary, N scored tokens, M of them for the lens.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.attention import Attend
from nanogpt.model.language_model import LanguageModel
from nanogpt.observers.attention import QUANTITIES, Heads, described
from nanogpt.observers.output import output
from nanogpt.observers.store import Observation

LENS = 64
"""Tokens at which the lens looks."""
TEXT = 16
"""Tokens of the short text whose likeliest next tokens are kept at each depth."""
LOGITS = 2**22
"""Logits of the probe at most that are scored: with a very large vocabulary it is fewer tokens."""


@dataclass
class Words:
    """A batch. Targets of -1 are not scored; `counts_V`: how often each token occurs in the training text."""

    tokens_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor | None = None
    documents_BT: Tensor | None = None
    counts_V: Tensor | None = None


@dataclass
class Reading:
    """The hooks of one pass, and what is worked out of what they saw."""

    model: LanguageModel
    words: Words
    stream: list[dict[str, Tensor]] = field(default_factory=list)
    depths: list[Tensor] = field(default_factory=list)
    flow: Any = None
    hidden: Tensor | None = None
    heads: dict[str, Heads] = field(default_factory=dict)

    def __enter__(self) -> Reading:
        self._stack = ExitStack()
        for block in self.model.blocks:
            self._stack.callback(block.register_forward_hook(self._block).remove)
        self._stack.callback(self.model.norm.register_forward_hook(self._norm).remove)
        for name, module in self.model.named_modules():
            if isinstance(module, Attend):
                heads = self.heads[name.removesuffix(".attend")] = Heads()
                self._stack.callback(module.register_forward_hook(heads, with_kwargs=True).remove)
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

    @torch.no_grad()
    def _block(self, block: Any, inputs: tuple[Any, ...], after: Tensor) -> None:
        before, self.flow = inputs[0].float(), inputs[1]
        self.depths.append(after.detach())
        now = after.float()
        self.stream.append(stream(self._real(before), self._real(now)))

    def _norm(self, module: Any, inputs: Any, hidden: Tensor) -> None:
        if self.hidden is None:
            self.hidden = hidden.detach()

    def _real(self, x_BTD: Tensor) -> Tensor:
        """(B T, D) without padding."""
        return x_BTD.flatten(0, 1) if self.words.mask_BT is None else x_BTD[self.words.mask_BT]

    def into(self, seen: Observation) -> None:
        """Add what was seen to an observation."""
        L = len(self.depths)
        if L:
            seen.names["stream"] = [f"blocks.{number}" for number in range(L)]
            for key in self.stream[0]:
                seen.arrays[f"stream/{key}"] = torch.stack([one[key] for one in self.stream]).cpu().numpy()
        heads = {name: one.logits for name, one in self.heads.items() if one.logits is not None}
        if heads:
            seen.names["attention"] = [f"{name}:{head}" for name, one in heads.items() for head in range(one.shape[1])]
            for key, row in zip(QUANTITIES, described(list(heads.values())).cpu().numpy(), strict=True):
                seen.arrays[f"attention/{key}"] = row
        if self.hidden is None:
            return
        scored = self._scored(LOGITS // self.model.vocab_size)
        if not len(scored):
            return
        targets = self.words.targets_BT.flatten()[scored]
        logits_NV = self._logits(self.hidden, scored)
        T = self.words.tokens_BT.shape[1]
        output(seen, logits_NV, targets, scored % T, T, self.words.counts_V)
        if L:
            self._lens(seen, logits_NV, scored)

    def _scored(self, most: int) -> Tensor:
        """Evenly spaced places among B T that have a target."""
        places = (self.words.targets_BT.flatten() >= 0).nonzero().flatten()
        most = max(TEXT, most)
        return places if len(places) <= most else places[_spread(len(places), most, places.device)]

    def _logits(self, hidden_BTD: Tensor, places: Tensor) -> Tensor:
        return self.model.logits(hidden_BTD.flatten(0, 1)[places][None])[0].float()

    def _lens(self, seen: Observation, logits_NV: Tensor, scored: Tensor) -> None:
        """The blocks' outputs, each through the last norm and the head (nostalgebraist 2020). Left out where a stream
        does not have the head's width."""
        T = self.words.tokens_BT.shape[1]
        of_text = (self.words.targets_BT[0] >= 0).nonzero().flatten()[-TEXT:]
        some = _spread(len(scored), min(LENS, len(scored)), scored.device)
        places = torch.cat([scored[some], of_text])
        M, last = len(some), self.model.blocks[-1]
        targets, final = self.words.targets_BT.flatten()[places[:M]], logits_NV[some].argmax(1)
        depths = [last.close(depth, self.flow).flatten(0, 1)[places] for depth in self.depths]  # type: ignore[operator]
        if depths[0].shape[-1] != self.hidden.shape[-1]:  # type: ignore[union-attr]
            return
        hidden = torch.stack([self.model.norm(depth[None])[0] for depth in depths])
        logits_LMV = self.model.logits(hidden).float()
        chances, tokens = logits_LMV[:, M:].softmax(2).max(2)
        logits_LMV = logits_LMV[:, :M]
        losses = F.cross_entropy(logits_LMV.flatten(0, 1), targets.repeat(len(depths)), reduction="none").view(-1, M)
        found = {
            "loss": losses.mean(1),
            "error": losses.std(1, correction=min(1, M - 1)) / M**0.5,
            "agree": (logits_LMV.argmax(2) == final).float().mean(1),
            "tokens": tokens.int(),
            "chances": chances,
        }
        seen.facts["scored"] = M
        seen.arrays |= {f"lens/{key}": values.cpu().numpy() for key, values in found.items()}
        seen.facts["text"] = self.words.tokens_BT.flatten()[of_text].tolist()
        seen.facts["targets"] = self.words.targets_BT.flatten()[of_text].tolist()
        assert int(of_text.max()) < T


def stream(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """Of one block, over tokens (N, D): the RMS after it; the length of what it added over that of what was there; the
    cosine between the two. Means over tokens, but for the RMS."""
    added = after - before
    was, adds = before.norm(dim=1), added.norm(dim=1)
    tiny = torch.finfo(torch.float32).tiny
    return {
        "rms": after.square().mean().sqrt(),
        "share": (adds / was.clamp(min=tiny)).mean(),
        "cosine": ((before * added).sum(1) / (was * adds).clamp(min=tiny)).mean(),
    }


def _spread(count: int, most: int, device: torch.device) -> Tensor:
    """`most` evenly spaced numbers below count."""
    return torch.arange(most, device=device) * count // max(1, most)
