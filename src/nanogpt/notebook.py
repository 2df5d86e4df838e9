"""In a notebook, a run, a model, a comparison and a study draw themselves. Importing this gives them the method.

Plotly's own JavaScript is put into the first output of a session and serves all later ones, so that a notebook that
was saved shows its figures without network. Numbers and findings are plain HTML, there whatever happens to scripts.
"""

from __future__ import annotations

import base64
import gzip
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from nanogpt.runs import Run, best_row
from nanogpt.study.folder import Study

if TYPE_CHECKING:
    from nanogpt.views.source import Source

STYLE = """<style>.nanogpt{font:14px/1.45 system-ui,sans-serif;max-width:1000px;overflow-wrap:anywhere}
.nanogpt table{border-collapse:collapse;margin:6px 0}.nanogpt .wide{overflow-x:auto}
.nanogpt th,.nanogpt td{text-align:left;vertical-align:top;padding:2px 14px 2px 0;overflow-wrap:normal}
.nanogpt .findings{list-style:none;padding:0}.nanogpt .cure{display:block;padding-left:2em}
.nanogpt .cure::before{content:"\\2192 "}.nanogpt .key{display:inline-block;width:.7em;height:.7em;margin-right:.4em}
</style>"""
FINDINGS = 8
"""Of a run: the worst."""
_sent = False
"""Whether an output of this session holds the plotting library."""
DRAW = """<div id="%(id)s" style="height:%(height)dpx;background:#fff"></div><script>(async () => {
const at = document.getElementById("%(id)s"), wait = (ms) => new Promise((done) => setTimeout(done, ms));
for (let tries = 0; !window.Plotly && tries < 100; tries++) await wait(100);
if (!window.Plotly) { at.style.height = ""; at.textContent = "%(lost)s"; return; }
window.Plotly.newPlot(at, %(data)s, %(layout)s, {displayModeBar: false, responsive: true});
})();</script>"""
LOST = "The figure needs the first output that this session drew: run the notebook again from its start."
LOAD = """<script>if (!window.Plotly) (async () => {
const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const script = document.createElement("script");
script.textContent = await new Response(stream).text();
document.head.append(script);
})();</script>"""


def run_html(run: Run) -> str:
    """Numbers, findings, curves; a run that has only begun says how it is set up."""
    from nanogpt.views.source import sources

    (one,) = sources(run)
    return _whole([one], f"<b>{escape(one.name)}</b>")


def _whole(found: Sequence[Source], title: str, between: str = "") -> str:
    """What a run and a comparison show alike; `between` stands above the curves."""
    from nanogpt.views import curves, page

    parts = [title, page.summary(found), between]
    for one in found:
        findings = [row for row in page.judge(one) if row.level != "good"][:FINDINGS]
        if findings:
            parts.append(page.findings({one.name: findings} if len(found) == 1 else {one.name: findings, "": []}))
    choices = curves.choices(found)
    if choices and (picture := curves.draw(found, **choices[0])):
        parts.append(figure_html(picture))
    else:
        parts.append("<p>Nothing is trained yet.</p>" + page.settings(found))
    problems = list(dict.fromkeys(p for one in found for p in one.problems))
    parts.append(page.problems(problems))
    return _box("".join(parts))


def _box(inside: str) -> str:
    return f'{STYLE}<div class="nanogpt">{inside}</div>'


def figure_html(picture: dict[str, Any]) -> str:
    """A figure, and the library before it where this session has not shown it yet."""
    from nanogpt.views.encode import in_script, jsonable
    from nanogpt.views.theme import template

    layout = {**picture["layout"], "template": template("light")}
    made = {"id": f"nanogpt-{secrets.token_hex(6)}", "height": layout["height"]}
    made |= {"lost": LOST, "data": in_script(jsonable(picture["data"])), "layout": in_script(jsonable(layout))}
    return _library() + DRAW % made


def _library() -> str:
    """The library, once. On Colab each output is a page of its own and needs it."""
    global _sent
    if _sent and "google.colab" not in sys.modules:
        return ""
    from plotly.offline import get_plotlyjs

    _sent = True
    return LOAD % base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode("ascii")


# -- a model ------------------------------------------------------------------------------------------------------


def model_html(model: LanguageModel) -> str:
    """Parts and parameters, and a drawing of how they are joined."""
    from nanogpt.views.page import table

    count = sum(p.numel() for p in model.parameters())
    title = f"<b>LanguageModel</b>: {count:,} parameters, {len(model.blocks)} layers, width {model.dim:,}, "
    title += f"context {model.context:,}, vocabulary {model.vocab_size:,}"
    try:
        facts = _facts(model)
    except UserError:  # a part that is not built from a spec
        rows = [
            [escape(name), f"{sum(p.numel() for p in child.parameters()):,}"] for name, child in model.named_children()
        ]
        return _box(title + table(["part", "parameters"], rows))
    from nanogpt.diagram import svg

    total = max(1, facts["total_parameters"])
    rows = [[escape(name), f"{n:,}", f"{n / total:.1%}"] for name, n in facts["parameters"].items()]
    image = base64.b64encode(svg(facts).encode()).decode("ascii")
    label = f"architecture: {escape(facts['pattern'])}"
    drawing = f'<img alt="{label}" style="max-width:100%" src="data:image/svg+xml;base64,{image}">'
    return _box(title + table(["part", "parameters", "share"], rows) + drawing)


def _facts(model: LanguageModel) -> dict[str, Any]:
    """`show.describe` of the configuration that would build this model."""
    from nanogpt.config import validate
    from nanogpt.show import describe

    blocks: list[Any] = list(model.blocks)
    positions: list[Any] = list(model.position)
    config: dict[str, Any] = {"dim": model.dim, "n_layers": len(blocks), "context": model.context}
    config |= {"vocab_size": model.vocab_size, "position": [str(positions[n].spec) for n in model._position_of]}
    ends = {"embed": model.embed, "head": model.head, "init": model.scheme, "objective": model.objective}
    config |= {name: str(part.spec) for name, part in ends.items()}
    config |= {"mixer": [str(b.mixer.spec) for b in blocks], "ffn": [str(b.ffn.spec) for b in blocks]}
    config |= {"layout": [str(b.spec) for b in blocks], "norm": [_norm(b, model) for b in blocks]}
    config = {name: value for name, value in config.items() if value != []}
    return describe(validate({"preset": "model", "model": config}))


def _norm(block: Any, model: Any) -> str:
    found = [child.spec for name, child in block.named_children() if name.endswith("_norm") and hasattr(child, "spec")]
    return str(found[0] if found else model.norm.spec)


# -- several runs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: `differences` of their settings, key -> a value for each run; `best`: each one's best row."""

    runs: tuple[Run, ...]
    differences: dict[str, list[Any]]
    best: list[dict[str, Any]]

    def __repr__(self) -> str:
        losses = ", ".join(f"{run.name} {_loss(row)}" for run, row in zip(self.runs, self.best, strict=True))
        return f"Comparison({losses}; {len(self.differences)} settings differ)"

    def _repr_html_(self) -> str:
        from nanogpt.views import page
        from nanogpt.views.source import sources

        found = sources(list(self.runs))
        names = [escape(one.name) for one in found]
        rows = [[escape(key), *map(page.brief, values)] for key, values in self.differences.items()]
        differ = page.table(["setting", *names], rows) if rows else "<p>No setting differs.</p>"
        return _whole(found, "", differ)


def compare(*runs: Run | Path | str) -> Comparison:
    """Two runs or more, side by side: `compare(a, "runs/b")`. UserError where there are fewer."""
    if len(runs) < 2:
        raise UserError(f"compare() needs two runs or more, not {len(runs)}")
    from nanogpt.views.source import differences, sources

    found = sources(runs)
    return Comparison(tuple(one.run for one in found), differences(found), [best_row(one.rows) for one in found])


def _loss(row: dict[str, Any]) -> str:
    loss = row.get("val/loss")
    return f"{loss:.4f}" if isinstance(loss, float) else "-"


# -- a study ------------------------------------------------------------------------------------------------------


def study_html(study: Study) -> str:
    """The question, the verdicts, the forest plot; how far it has come, where it has not ended."""
    from nanogpt.study.folder import Unfinished
    from nanogpt.views.studies import forest
    from nanogpt.views.studies.page import words

    try:
        parts = [words(study)]
        choices = forest.choices([study])
    except Unfinished as error:
        return _box(f"<b>{escape(study.name)}</b>: not finished: {escape(str(error))}")
    if choices and (picture := forest.draw([study], **choices[0])):
        parts.append(figure_html(picture))
    return _box("".join(parts))


Run._repr_html_ = run_html  # type: ignore[attr-defined]
LanguageModel._repr_html_ = model_html  # type: ignore[attr-defined]
Study._repr_html_ = study_html  # type: ignore[attr-defined]
