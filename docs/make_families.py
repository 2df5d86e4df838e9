"""Writes docs/families/: a page and a drawing for each published family, from the presets alone.

    python docs/make_families.py [FOLDER [FAMILY ...]]

A family is a folder of presets/families. What is new in it and where it comes from is the comment that its presets
begin with, the numbers are those of `nanogpt show`; a test compares the pages with what this writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from nanogpt.config import compose, presets
from nanogpt.diagram import svg
from nanogpt.show import compare, describe

INTRO = """# Published families

Each of these is a preset: our parts, with the dimensions that were published, and parameter counts that agree to the
last digit. `python docs/make_families.py` writes these pages from the presets.

    nanogpt show llama-3-8b                          what it is made of, and what it costs
    nanogpt show llama-3-8b qwen3-8b olmo-2-7b       side by side, what differs is marked
    nanogpt show gemma-3-1b --svg gemma.svg          a drawing
    nanogpt train qwen3-8b --scale 10M               the same shape at a size for a laptop

[Beside `transformers`](speed.md): how near each family's logits and text are, and how fast it trains and writes.
"""
FURTHER = """
## A further family

takes no Python: a table in `src/nanogpt/hub/families/` says how its `config.json` names our parts and its tensors ours,
and a preset is its card. Arcee, ERNIE 4.5, EXAONE 4 and Seed-OSS came that way after the others, and
`tests/test_parity.py` holds each against `transformers`: logits, loss, gradients, greedy text. All of Arcee's:

```toml
{table}```

## What the cards were checked against

Parameter counts and cache bytes are equal to a table of exact numbers, in a test. What a count does not see (the eps of
norms, rotary bases and their scaling, contexts, windows, factors) was compared with stored copies of public
repositories in November 2026, the hub itself being out of reach:

- LitGPT's table of published models: Gemma 1, 2 and 3 (eps and 270M are not in it), Pythia, Llama 2 to 3.2, TinyLlama,
  Mistral 7B, OLMo 2 7B and 13B, Phi 3 and 4, Qwen2.5, Qwen3, SmolLM2.
- torchtune's builders, eps and contexts: Gemma 1 and 2, Llama 2 to 3.2, Mistral 7B, Phi 3 and 4, Qwen2.5, Qwen3.
- Copies of `config.json`, or of most of one, in other projects: Command R7B, ERNIE 4.5, Granite 3.1, Mistral Small 3.1,
  OLMo 2 1B, OLMo 3, Phi-3-mini, Seed-OSS, SmolLM3, StarCoder2, and Llama 1's `params.json`. `tests/test_cards.py` reads
  them through the families' tables, and what comes out must be the card, knob for knob.
- The authors' code, or code written after it: Gemma 1 and 2 (gemma_pytorch), OLMo 2 32B (OLMo-core), nanochat,
  llama2.c's stories; Gemma 3 270M (LLMs-from-scratch). Defaults of `transformers`: GPT-2, eps of Gemma 3.
- Of StableLM 2 only the context and the kinds of its parts were found, not its eps and its rotary base.

All agreed but for one: LitGPT gives Gemma 3 1B a context of 131,072; the card keeps the paper's 32k for its smallest.
"""


def families() -> dict[str, list[str]]:
    """Folder -> its presets."""
    found: dict[str, list[str]] = {}
    for name, path in presets().items():
        if path.parents[1].name == "families":
            found.setdefault(path.parent.name, []).append(name)
    return dict(sorted(found.items()))


def comment(name: str) -> list[str]:
    """The paragraphs that a preset begins with; the first line that does not fill up ends one."""
    lines = []
    for line in presets()[name].read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    paragraphs: list[str] = []
    for n, line in enumerate(lines):
        goes_on = (
            n > 0 and len(lines[n - 1]) + 1 + len(line.split(" ")[0]) > 116 and not lines[n - 1].endswith("parameters.")
        )
        if goes_on:
            paragraphs[-1] += " " + line
        else:
            paragraphs.append(line)
    return paragraphs


def linked(paragraph: str) -> str:
    """Papers as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paragraph)


def page(family: str, names: list[str], models: list[dict[str, Any]]) -> Iterator[str]:
    yield f"# {family}\n"
    texts = [comment(name) for name in names]
    seen: set[str] = set()
    for paragraph in (p for text in texts for p in text[1:]):
        if paragraph not in seen:
            seen.add(paragraph)
            yield linked(paragraph) + "\n"
    yield f"![The architecture of {names[0]}]({family}.svg)\n"
    yield "## Sizes\n"
    for name, text in zip(names, texts, strict=True):
        yield f"- `{name}`: {linked(text[0])}"
    rows = compare(models)
    shown = [row for row in rows if row["differs"] or len(models) == 1]
    yield "\n| | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for row in shown:
        yield f"| {row['key']} | " + " | ".join(row["values"]) + " |"
    alike = [f"{row['key']} {row['values'][0]}" for row in rows if not row["differs"]]
    if len(models) > 1:
        yield "\nThe same in all: " + ", ".join(f"`{said}`" for said in alike) + "."


def write(folder: Path, only: Iterable[str] = ()) -> None:
    """The pages and drawings of these families, or of all, and the page that lists them."""
    (folder / "families").mkdir(parents=True, exist_ok=True)
    wanted = set(only)
    found = families()
    lines = [INTRO]
    for family, names in found.items():
        lines.append(f"- [{family}]({family}.md): {', '.join(f'`{n}`' for n in names)}")
        if wanted and family not in wanted:
            continue
        models = sorted((describe(compose(name)) for name in names), key=lambda facts: facts["total_parameters"])
        ordered = [facts["preset"] for facts in models]
        text = "\n".join(page(family, ordered, models)) + "\n"
        (folder / "families" / f"{family}.md").write_text(text, encoding="utf-8")
        (folder / "families" / f"{family}.svg").write_text(svg(models[0]), encoding="utf-8")
    table = (resources.files("nanogpt.hub") / "families" / "arcee.toml").read_text(encoding="utf-8")
    lines.append(FURTHER.format(table=table))
    (folder / "families" / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent, sys.argv[2:])
