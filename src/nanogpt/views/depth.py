"""Through depth: the residual stream, and what the model would say after each block (the logit lens)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from nanogpt.views.output import at, bars, span
from nanogpt.views.rows import of, per_run
from nanogpt.views.source import Numbers, Source
from nanogpt.views.theme import SEQUENTIAL, color, dash, faint, plain, shown, symbol
from nanogpt.views.view import Choice, Picture, View, axis, figure

PANELS = {
    "stream/rms": "RMS after the block",
    "stream/share": "‖added‖ / ‖stream‖",
    "stream/cosine": "cosine (added, stream)",
}


Looks: TypeAlias = "list[tuple[int, Numbers]]"


def looks(one: Source, array: str) -> Looks:
    """(step, a number for each block) of every look that has it."""
    values = one.layers.values(array)
    there = [n for n in range(len(values)) if np.isfinite(values[n]).any()]
    return [(one.steps[n], values[n]) for n in there]


def along_depth(
    found: Sequence[Source], array: str, axes: tuple[str, str] = ("x", "y"), legend: bool = True
) -> list[dict[str, Any]]:
    """For each run a faint line at its first look and a strong one at its last."""
    traces: list[dict[str, Any]] = []
    for one in found:
        held = looks(one, array)
        if not held:
            continue
        name, blocks, n = plain(one.name, 28), one.layers.names("stream"), one.number
        same = {"type": "scatter", "x": list(range(len(blocks))), "xaxis": axes[0], "yaxis": axes[1],
                "legendgroup": plain(one.name), "text": [plain(block) for block in blocks],
                "hovertemplate": "%{text}: %{y:.4~g}", "showlegend": legend}  # fmt: skip
        first = {"line": {"color": faint(color(n), 0.55), "width": 1.5, "dash": "dot"}, "mode": "lines"}
        traces.append({**same, **first, "y": held[0][1], "name": f"{name}, step {held[0][0]}"})
        look = {"line": {"color": color(n), "width": 2.2, "dash": dash(n)}, "mode": "lines+markers"}
        marks = {"marker": {"symbol": symbol(n), "size": 8, "color": color(n)}}
        traces.append({**same, **look, **marks, "y": held[-1][1], "name": f"{name}, at the step shown"})
    return traces


def scrubbed(found: Sequence[Source], arrays: Sequence[str]) -> list[dict[str, Any]]:
    """A frame for every step at which some run was looked at; each run shows its latest look until then.

    Traces stand as `along_depth` made them for one array after the other: the second of each pair changes.
    """
    held = [there for array in arrays for one in found if (there := looks(one, array))]
    traces = [2 * n + 1 for n in range(len(held))]
    return [
        {"name": str(step), "data": [{"y": at(there, step)} for there in held], "traces": traces}
        for step in sorted({step for there in held for step, _ in there})
    ]


def has(array: str) -> Any:
    def choices(found: Sequence[Source]) -> list[Choice]:
        return [{}] if any(looks(one, array) for one in found) else []

    return choices


def draw_stream(found: Sequence[Source]) -> Picture | None:
    data = []
    for n, array in enumerate(PANELS):
        place = str(n + 1) if n else ""
        data += along_depth(found, array, (f"x{place}", f"y{place}"), legend=n == 0)
    if not data:
        return None
    blocks = {"title": {"text": "block"}, "dtick": max(1, _deepest(found) // 6)}
    layout: dict[str, Any] = {"title": {"text": "Residual stream through depth"}, "height": 380}
    layout["legend"] = {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0}
    for n, title in enumerate(PANELS.values()):
        place = str(n + 1) if n else ""
        left, right = n * 0.355, n * 0.355 + 0.29
        layout[f"xaxis{place}"] = {**blocks, "domain": [left, right], "anchor": f"y{place}"}
        layout[f"yaxis{place}"] = axis(title, anchor=f"x{place}", **_span(found, list(PANELS)[n]))
    return {"data": data, "layout": layout, "frames": scrubbed(found, list(PANELS))}


def _span(found: Sequence[Source], array: str) -> dict[str, Any]:
    return span([values for one in found for _, values in looks(one, array)])


def _deepest(found: Sequence[Source]) -> int:
    return max((len(one.layers.names("stream")) for one in found), default=1)


def draw_lens(found: Sequence[Source]) -> Picture | None:
    data = along_depth(found, "lens/loss")
    if not data:
        return None
    across = axis("after block", dtick=max(1, _deepest(found) // 12))
    up = axis("loss (nats per token)", **_span(found, "lens/loss"))
    frames = scrubbed(found, ["lens/loss"])
    those = [one for one in found if looks(one, "lens/loss")]
    for n, one in enumerate(those):
        if errors := looks(one, "lens/error"):
            data[2 * n + 1]["error_y"] = bars(errors[-1][1])
            for frame in frames:
                frame["data"][n]["error_y"] = bars(at(errors, int(frame["name"])))
    scored = [seen.facts.get("scored") for one in those for seen in one.layers.seen[-1:]]
    counts = {count for count in scored if isinstance(count, int)}
    size = f" ({', '.join(map(str, sorted(counts)))} tokens; bars: 1 standard error)" if counts else ""
    picture = figure(f"Loss at each depth, through the model's own head{size}", data, across, up, 400)
    return {**picture, "frames": frames}


def lens_text_choices(found: Sequence[Source]) -> list[Choice]:
    return per_run(found, {one.name: [{}] for one in found if one.tokenizer and _said(one)})


def _said(one: Source) -> list[int]:
    """Looks that hold what the model would say of one short text."""
    return [n for n, seen in enumerate(one.layers.seen) if _fits(seen)]


def _fits(seen: Any) -> bool:
    tokens, chances = (seen.arrays.get(f"lens/{what}") for what in ("tokens", "chances"))
    blocks = len(seen.names.get("stream", []))
    if tokens is None or chances is None:
        return False
    return bool(tokens.shape == chances.shape and tokens.ndim == 2 and len(tokens) == blocks > 0)


def draw_lens_text(found: Sequence[Source], run: str) -> Picture | None:
    """A column for each token of the text, a row for each depth: the likeliest next token and its probability."""
    one = of(found, run)
    there = _said(one)
    if not there or one.tokenizer is None:
        return None
    words: dict[int, str] = {}

    def word(token: int) -> str:
        if token not in words:
            words[token] = shown(one.tokenizer.decode([token])) if one.tokenizer else ""
        return words[token]

    last = one.layers.seen[there[-1]]
    text = [int(token) for token in last.facts.get("text", [])]
    wide, names = last.arrays["lens/tokens"].shape[1], last.names["stream"]
    frames: list[dict[str, Any]] = []
    for n in there:
        seen = one.layers.seen[n]
        if seen.arrays["lens/tokens"].shape != last.arrays["lens/tokens"].shape:
            continue
        said = [[word(int(token)) for token in row] for row in seen.arrays["lens/tokens"]]
        change = {"z": seen.arrays["lens/chances"].astype(np.float32), "text": said}
        frames.append({"name": str(seen.step), "data": [change], "traces": [0]})
    data: dict[str, Any] = {
        "type": "heatmap", "x": list(range(wide)), "y": [plain(name) for name in names], **frames[-1]["data"][0],
        "texttemplate": "%{text}", "textfont": {"size": 11}, "colorscale": SEQUENTIAL, "zmin": 0, "zmax": 1,
        "colorbar": {"title": {"text": "probability"}}, "xgap": 1, "ygap": 1,
        "hovertemplate": "after %{y}: “%{text}” with probability %{z:.2f}<extra></extra>",
    }  # fmt: skip
    targets = [int(token) for token in last.facts.get("targets", [])]
    labels = [word(token) for token in text[:wide]] or [str(n) for n in range(wide)]
    if len(targets) == len(labels):
        labels = [f"{label}<br><i>{word(token)}</i>" for label, token in zip(labels, targets, strict=True)]
    marks = {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": labels, "tickangle": 0}
    across = axis("the text, and below it what came next", **marks, showgrid=False)
    up = axis("after block", type="category", showgrid=False)
    return {
        **figure("What it would say at each depth", [data], across, up, 150 + max(160, 30 * len(names))),
        "frames": frames,
    }


stream = View(
    "Residual stream",
    "Residual stream",
    "How large the stream is after each block, how much a block adds beside what is there, and in which direction.",
    draw_stream,
    has("stream/rms"),
)
lens = View(
    "Depth",
    "Loss by depth",
    "The loss if the model stopped after each block and its stream went through the last norm and the head. Bars: one "
    "standard error over the few tokens at which it is asked.",
    draw_lens,
    has("lens/loss"),
)
lens_text = View(
    "Depth",
    "What it would say",
    "For one short text: the likeliest next token after each block, the last block at the top, and its probability.",
    draw_lens_text,
    lens_text_choices,
)
