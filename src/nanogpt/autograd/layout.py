"""Where to draw the nodes of a directed graph: in ranks, with few crossings and straight edges.

Sugiyama, Tagawa & Toda 1981: (1) a rank for each node, after all its parents; (2) an edge over several ranks gets a
place in each; (3) each rank is sorted by the mean place of its neighbours, up and down a few times; (4) places are
moved towards their neighbours as far as the distances between them allow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

SWEEPS = 12
Point = tuple[float, float]


@dataclass
class Layout:
    """places: the middle of each node across the ranks. ranks: which it stands in. routes: for each edge, where it
    passes through each rank from its start to its end."""

    places: dict[Hashable, float] = field(default_factory=dict)
    ranks: dict[Hashable, int] = field(default_factory=dict)
    routes: dict[tuple[Hashable, Hashable], list[tuple[int, float]]] = field(default_factory=dict)


def layered(
    nodes: Sequence[Hashable], edges: Sequence[tuple[Hashable, Hashable]], sizes: Mapping[Hashable, float], gap: float
) -> Layout:
    """nodes: each after its parents. sizes: how much room across the ranks a node takes. gap: between two of them."""
    ranks = _ranks(nodes, edges)
    rows: dict[int, list[Hashable]] = defaultdict(list)
    for node in nodes:
        rows[ranks[node]].append(node)
    before: dict[Hashable, list[Hashable]] = defaultdict(list)
    after: dict[Hashable, list[Hashable]] = defaultdict(list)
    chains: dict[tuple[Hashable, Hashable], list[Hashable]] = {}
    for a, b in dict.fromkeys(edges):
        chain: list[Hashable] = [a, *((a, b, rank) for rank in range(ranks[a] + 1, ranks[b])), b]
        for rank, stop in enumerate(chain[1:-1], ranks[a] + 1):
            rows[rank].append(stop)
        for x, y in pairwise(chain):
            after[x].append(y)
            before[y].append(x)
        chains[a, b] = chain
    ordered = [rows[rank] for rank in sorted(rows)]
    wide = {stop: sizes.get(stop, gap / 2) for row in ordered for stop in row}
    places = _placed(_sorted(ordered, before, after), before, after, wide, gap)
    routes = {
        edge: [(ranks[edge[0]] + n, places[stop]) for n, stop in enumerate(chain)] for edge, chain in chains.items()
    }
    return Layout({node: places[node] for node in nodes}, ranks, routes)


def _ranks(nodes: Sequence[Hashable], edges: Sequence[tuple[Hashable, Hashable]]) -> dict[Hashable, int]:
    """The longest way from a start; what has no parents then stands just before the first that uses it."""
    parents, children = defaultdict(list), defaultdict(list)
    for a, b in edges:
        parents[b].append(a)
        children[a].append(b)
    ranks: dict[Hashable, int] = {}
    for node in nodes:
        ranks[node] = max((ranks[p] + 1 for p in parents[node]), default=0)
    for node in nodes:
        if not parents[node] and children[node]:
            ranks[node] = min(ranks[c] for c in children[node]) - 1
    return ranks


def _sorted(
    rows: list[list[Hashable]], before: Mapping[Hashable, list[Hashable]], after: Mapping[Hashable, list[Hashable]]
) -> list[list[Hashable]]:
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = before if down else after
        at: dict[Hashable, int] = {}  # in the row that was sorted last, where all neighbours are
        for row in rows if down else reversed(rows):
            key = {s: _mean([at[x] for x in neighbours.get(s, ())], n) for n, s in enumerate(row)}
            row.sort(key=key.__getitem__)
            at = {stop: n for n, stop in enumerate(row)}
    return rows


def _placed(
    rows: list[list[Hashable]], before: Mapping[Hashable, list[Hashable]], after: Mapping[Hashable, list[Hashable]],
    wide: Mapping[Hashable, float], gap: float,
) -> dict[Hashable, float]:  # fmt: skip
    places: dict[Hashable, float] = {}
    for row in rows:
        at = 0.0
        for stop in row:
            places[stop] = at + wide[stop] / 2
            at += wide[stop] + gap
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            wanted = [
                _mean([places[x] for x in (before if down else after).get(s, ())] or
                      [places[x] for x in (after if down else before).get(s, ())], places[s])
                for s in row
            ]  # fmt: skip
            apart = [(wide[a] + wide[b]) / 2 + gap for a, b in pairwise(row)]
            for stop, place in zip(row, apart_enough(wanted, apart), strict=True):
                places[stop] = place
    return places


def apart_enough(wanted: Sequence[float], apart: Sequence[float]) -> list[float]:
    """The places nearest to those wanted (least squares) that keep their order and their distances.

    With the distances subtracted it is a rising line through points: neighbours that fall are pooled into their mean
    (pool adjacent violators, Ayer et al. 1955).
    """
    shifts = list(accumulate(apart, initial=0.0))
    pools: list[list[float]] = []  # [sum, count]
    for place, shift in zip(wanted, shifts, strict=True):
        pools.append([place - shift, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1] = [pools[-1][0] + total, pools[-1][1] + count]
    level = [total / count for total, count in pools for _ in range(int(count))]
    return [value + shift for value, shift in zip(level, shifts, strict=True)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
