"""docs/catalogue.md says what the code says."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from nanogpt.parts import knobs_of
from nanogpt.show import AXES

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("make_catalogue", DOCS / "make_catalogue.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("docs")
    module.write(folder)
    return folder


def test_the_page_is_fresh(written: Path) -> None:
    again = "run: python docs/make_catalogue.py"
    assert (written / "catalogue.md").read_text() == (DOCS / "catalogue.md").read_text(), again


def test_every_activation_has_its_plot_and_no_other(written: Path) -> None:
    made, kept = ({p.name for p in (folder / "figures" / "activations").iterdir()} for folder in (written, DOCS))
    assert made == kept, "run: python docs/make_catalogue.py"


def test_every_knob_is_explained() -> None:
    """Each part names its knobs in its own docstring, or there is no telling what the table of knobs means."""
    for axis, (table, supplied) in AXES.items():
        for name, part in table.items():
            text = inspect.getdoc(getattr(part, "func", part)) or ""
            silent = [k for k in knobs_of(part, dict.fromkeys(supplied)) if not re.search(rf"\b{k}\b", text)]
            assert not silent, f"{axis}: {name} does not explain {silent}"


def test_every_part_has_a_text_and_says_where_it_comes_from(written: Path) -> None:
    page = (written / "catalogue.md").read_text()
    for axis, (table, _) in AXES.items():
        for name in table:
            after = page.split(f"\n### {name}\n", 1)[1].split("\n###", 1)[0]
            assert len(after.strip()) > 20, f"{axis}: {name} says nothing"
