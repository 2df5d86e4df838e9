"""A language model assembled from parts. It knows the name of none of them.

tokens -> embed -> [block, block, ...] -> norm -> head -> logits
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from nanogpt.config import ModelConfig
from nanogpt.errors import UserError
from nanogpt.init.base import Scheme, initialise, rates
from nanogpt.init.roles import roles as parameter_roles
from nanogpt.init.schemes import SCHEMES
from nanogpt.model.blocks import LAYOUTS, Block
from nanogpt.model.ends import EMBEDS, HEADS
from nanogpt.model.norms import NORMS
from nanogpt.model.objectives import IGNORED, OBJECTIVES
from nanogpt.model.part import Cache, Flow, Part, flops
from nanogpt.model.positions import POSITIONS, Position
from nanogpt.model.rules import check_compatible
from nanogpt.parts import build, field, is_users, must_be, number
from nanogpt.rehearsal import rehearse
from nanogpt.spec import Spec, expand


def per_layer(config: ModelConfig, name: str) -> list[Spec]:
    with field(f"model.{name}"):
        return expand(getattr(config, name), config.n_layers)


class LanguageModel(nn.Module):
    """The model that a configuration describes, its weights not yet filled (see `initialise`).

    B batch, T tokens, D dim, V vocabulary. Raises UserError, naming the field, for parts that cannot be built.
    only: layers to build, by number; all of them by default (counting needs one of each kind).
    """

    def __init__(self, config: ModelConfig, only: Sequence[int] | None = None) -> None:
        super().__init__()
        self.vocab_size, self.context = config.vocab_size, config.context
        self.dim = config.vocab_size if config.dim == "vocab" else config.dim
        if self.vocab_size < 1:
            raise UserError("model.vocab_size=0: a model needs the size of its vocabulary; nearest: 1")
        ends = {"dim": self.dim, "vocab_size": self.vocab_size}
        with field("model.embed"):
            self.embed = build(EMBEDS, config.embed, **ends)
        layers = {name: per_layer(config, name) for name in ("mixer", "ffn", "norm", "layout")}
        self.blocks = nn.ModuleList(
            self._block(config, layer, {name: specs[layer] for name, specs in layers.items()})
            for layer in (range(config.n_layers) if only is None else only)
        )
        self.position, self._position_of = self._positions(config)
        limits: list[int] = [p.limit for p in list[Any](self.position) if p.limit is not None]
        self.limit = min(limits, default=None)
        """The most tokens that the positions can tell apart; None where there is no end."""
        self.changes: list[int] = [p.changes for p in list[Any](self.position) if p.changes is not None]
        """Tokens of a memory beyond which positions turn its keys otherwise."""
        last_norm = layers["norm"][-1] if self.blocks and self.blocks[-1].final_norm else "none"
        with field("model.norm"):
            self.norm = build(NORMS, last_norm, dim=self.dim)
        with field("model.head"):
            self.head = build(HEADS, config.head, **ends)
        with field("model.objective"):
            self.objective = build(OBJECTIVES, config.objective, **ends, n_layers=config.n_layers)
        with field("model.init"):
            self.scheme = must_be(Scheme, build(SCHEMES, config.init, dim=self.dim, n_layers=config.n_layers))
        self._remembering: list[Any] = [m for m in self.modules() if hasattr(m, "new_state")]
        for slot, part in enumerate(self._remembering):
            part.slot = slot
        check_compatible(self)

    def _block(self, config: ModelConfig, layer: int, specs: dict[str, Spec]) -> Part:
        given = {"dim": self.dim, "layer": layer, "n_layers": config.n_layers, "context": config.context}
        with field("model.layout"):
            return must_be(Block, build(LAYOUTS, specs.pop("layout"), **given, **specs))

    def _positions(self, config: ModelConfig) -> tuple[nn.ModuleList, list[int]]:
        """One part for each distinct position; which one each layer has. Without layers one still places the tokens."""
        with field("model.position"):
            specs = expand(config.position, max(1, config.n_layers))
        distinct = list(dict.fromkeys(map(str, specs)))
        of = [distinct.index(str(s)) for s in specs]
        parts, blocks = nn.ModuleList(), cast("list[Block]", list(self.blocks))
        with field("model.position"):
            for which, text in enumerate(distinct):
                mixers = [block.mixer for block in blocks if of[block.layer] == which]
                sizes = {(number(m, "heads", 0), number(m, "head_dim", 0)) for m in mixers}
                for heads, head_dim in sorted(sizes - {(0, 0)}) or [(0, 0)]:  # it must suit each, so each is tried
                    given = {"dim": self.dim, "context": config.context, "heads": heads, "head_dim": head_dim}
                    part = must_be(Position, build(POSITIONS, text, **given))
                parts.append(part)
        return parts, of

    def initialise(self, seed: int) -> None:
        """Fill every parameter by the rule of its role (init/base.py)."""
        initialise(self, self.scheme, seed)

    def roles(self) -> dict[str, str]:
        """Role of every parameter by its name: what initialisation and optimizer groups go by."""
        return {name: role.name for name, role in parameter_roles(self).items()}

    def rates(self) -> dict[str, float]:
        """Factor on the optimizer's learning rate by the parameter's name: 1, but for a scheme that says otherwise."""
        return rates(self, self.scheme)

    def flow(
        self,
        tokens_BT: Tensor,
        mask_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Flow:
        """What travels beside the stream in this pass."""
        if cache is not None and documents_BT is not None:
            raise UserError("a cache holds one document a row: documents and a cache cannot go together")
        seen: int | Tensor = 0 if cache is None else cache.length
        if self.limit is not None and documents_BT is None and seen + tokens_BT.shape[1] > self.limit:
            raise UserError(
                f"{seen + tokens_BT.shape[1]} tokens are more than the {self.limit} positions of this model; "
                f"nearest: the last {self.limit}"
            )
        if cache is not None and (mask_BT is not None or cache.mask_BS is not None):
            seen = _remember_mask(cache, tokens_BT, mask_BT)
        positions = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        if mask_BT is not None:
            positions = mask_BT.cumsum(1) - 1
        if documents_BT is not None:
            starts = _starts(documents_BT)
            if mask_BT is not None:  # tokens before the start, not columns
                starts = (mask_BT.cumsum(1) - mask_BT.long()).gather(1, starts)
            positions = positions - starts
        positions = positions.clamp(min=0)  # padding before the first token
        position = [self.position[n] for n in self._position_of]
        return Flow(tokens_BT, positions + seen, mask_BT, documents_BT, cache, position)

    def hidden(self, flow: Flow) -> Tensor:
        """tokens -> what the head reads, x_BTD."""
        x = self.embed(flow.tokens_BT, flow)
        blocks: list[Any] = list(self.blocks)
        if blocks:
            x = blocks[0].open(x, flow)
            for block in blocks:
                x = block(x, flow)
            x = blocks[-1].close(x, flow)
        return self.norm(x)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return self.head(hidden_BTD, getattr(self.embed, "weight", None))

    def forward(
        self,
        tokens_BT: Tensor,
        mask_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits of the token after each one, (B, T, V).

        mask_BT: True where there is a token, False at padding. documents_BT: number of the document of each
        token, where a row holds several. cache: from `new_cache`; the tokens follow those it has seen.
        """
        hidden = self.hidden(self.flow(tokens_BT, mask_BT, documents_BT, cache))
        if cache is not None:
            cache.length += tokens_BT.shape[1]
        return self.logits(hidden)

    def next_logits(self, tokens_BT: Tensor, mask_BT: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits of the token after the last one only, (B, V): reading a prompt needs no others."""
        hidden = self.hidden(self.flow(tokens_BT, mask_BT, None, cache))
        if cache is not None:
            cache.length += tokens_BT.shape[1]
        return self.logits(hidden[:, -1:])[:, 0]

    def losses(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        mask_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        count: float | Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms in nats a token, and their sum `loss`. Targets of -1 are not scored.

        count: scored tokens to divide by, when these rows are a part of a larger batch; by default their own.
        """
        flow = self.flow(tokens_BT, mask_BT, documents_BT)
        own = (targets_BT != IGNORED).sum()
        terms: dict[str, Tensor] = dict(self.objective(self, self.hidden(flow), targets_BT, flow))
        for (name, _), value in flow.losses.items():  # a mean over these rows, so weighted by their share
            terms[name] = terms.get(name, 0.0) + value * own
        terms = {name: value / (own.clamp(min=1) if count is None else count) for name, value in terms.items()}
        return {"loss": torch.stack([*terms.values()]).sum(), **terms}

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty memory for `batch` rows of at most `capacity` tokens."""
        return Cache([part.new_state(batch, capacity) for part in self._remembering], capacity)

    def flops(self, tokens: int, context: int) -> float:
        """Floating-point operations of a forward pass over `tokens` tokens in windows of `context`."""
        return sum(flops(child, tokens, context) for child in self.children())


def _remember_mask(cache: Cache, tokens_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Add the new columns to the cache's mask; return how many real tokens each row had before, (B, 1)."""
    B, T = tokens_BT.shape
    if cache.mask_BS is None:
        cache.mask_BS = torch.ones(B, cache.capacity, dtype=torch.bool, device=tokens_BT.device)
    if mask_BT is not None:
        cache.mask_BS[:, cache.length : cache.length + T] = mask_BT
    return cache.mask_BS[:, : cache.length].sum(1, keepdim=True)


def _starts(documents_BT: Tensor) -> Tensor:
    """Column where the document of each token starts, (B, T)."""
    columns = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    new = torch.ones_like(documents_BT, dtype=torch.bool)
    new[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return torch.where(new, columns, 0).cummax(1).values


def resolve_model(config: ModelConfig) -> ModelConfig:
    """The same configuration with every layer's part and every knob written out.

    Builds the model without memory, and runs it where it has parts of the user's; raises UserError as `LanguageModel`
    and `rehearse` do. Resolving twice changes nothing.
    """
    with torch.device("meta"):
        if not config.n_layers:  # what no layer uses must be right all the same
            LanguageModel(config.model_copy(update={"n_layers": 1}))
        model = LanguageModel(config)
        if any(map(is_users, model.modules())):
            rehearse(model)
        with field("model.norm"):
            norms = [str(build(NORMS, spec, dim=model.dim).spec) for spec in expand(config.norm, config.n_layers)]
    blocks: list[Any] = list(model.blocks)
    positions: list[Any] = list(model.position)
    full: dict[str, Any] = {
        "dim": model.dim,
        "embed": str(model.embed.spec),
        "position": _cycle([positions[n].spec for n in model._position_of], config.position),
        "mixer": _cycle([b.mixer.spec for b in blocks], config.mixer),
        "ffn": _cycle([b.ffn.spec for b in blocks], config.ffn),
        "norm": norms or config.norm,
        "layout": _cycle([b.spec for b in blocks], config.layout),
        "head": str(model.head.spec),
        "init": str(model.scheme.spec),
        "objective": str(model.objective.spec),
    }
    return config.model_copy(update=full)


def _cycle(specs: list[Spec], given: Any) -> Any:
    return [str(s) for s in specs] if specs else given
