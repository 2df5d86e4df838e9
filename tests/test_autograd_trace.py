"""The traced graph of a model: every byte accounted for, every node in its module, and the drawing of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from nanogpt.autograd.folded import fold, layers_text
from nanogpt.autograd.layout import apart_enough, layered
from nanogpt.autograd.picture import dot, svg
from nanogpt.autograd.trace import Trace, checkpointed, more_operations, more_time, trace
from nanogpt.cli import app
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from tests.helpers import TINY, VOCAB, scrambled


def pass_of(model: LanguageModel, rows: int = 3) -> tuple[Trace, Tensor, Tensor]:
    tokens, targets = torch.randint(VOCAB, (2, rows, 8)).unbind()
    return trace(model, lambda: model.losses(tokens, targets)["loss"], tokens.numel()), tokens, targets


def test_bytes_of_a_small_network_are_those_of_its_formulas() -> None:
    """x (N, 5) -> Linear 7 -> tanh -> Linear 3 -> mean square: each input and each result once, in float32."""
    N = 11
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    x, y = torch.randn(N, 5), torch.randn(N, 3)
    found = trace(model, lambda: (model(x) - y).square().mean(), N)
    assert found.by(lambda node: node.module) == {
        "0": N * 5 * 4, "1": N * 7 * 4, "loss": N * 3 * 4,
    }  # fmt: skip
    assert found.kept == N * (5 + 7 + 3) * 4 and found.recomputed == 0
    again = [s for node in found.nodes for s in node.saved if s.kind == "again"]
    assert [s.shape for s in again] == [[N, 7]]  # the second matrix reads what tanh keeps


@pytest.mark.parametrize("name", TINY)
def test_all_that_is_saved_belongs_to_a_node(name: str) -> None:
    model = scrambled(**TINY[name]).train()
    found, tokens, targets = pass_of(model)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}
    with saved_tensors_hooks(
        lambda t: seen.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage()), lambda t: t
    ):  # type: ignore[arg-type, return-value]
        loss = model.losses(tokens, targets)["loss"]
    total = sum(memory.nbytes() for address, memory in seen.items() if address not in weights)
    assert loss.requires_grad and found.kept == sum(node.bytes for node in found.nodes) == total
    assert found.checkpointed < found.kept and found.recomputed > 0


def test_gradients_that_arrive_are_those_of_the_parameters() -> None:
    model = scrambled(**TINY["llama"]).eval()
    found, tokens, targets = pass_of(model)
    assert all(p.grad is None for p in model.parameters())
    model.losses(tokens, targets)["loss"].backward()
    leaves = {node.parameter: node.gradient for node in found.nodes if node.parameter}
    assert set(leaves) == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        assert p.grad is not None and leaves[name] == pytest.approx(float(p.grad.square().mean().sqrt()), rel=1e-4)


def test_nodes_are_in_the_module_that_made_them() -> None:
    model = scrambled(**TINY["gpt2"])
    found, *_ = pass_of(model)
    where: dict[str, set[str]] = {}
    for node in found.nodes:
        if not node.parameter and not node.is_view:
            where.setdefault(node.module, set()).add(node.op)
    assert where["blocks.1.mixer_norm"] == {"NativeLayerNorm"} and where["blocks.0.ffn.act"] == {"Gelu"}
    assert "Addmm" in where["blocks.0.mixer.q"] and "LogSoftmax" in where["objective"]
    assert next(n for n in found.nodes if n.parameter == "blocks.1.ffn.up.weight").module == "blocks.1.ffn.up"
    assert all(before < node.id for node in found.nodes if not node.parameter for before in node.inputs)


def test_recomputing_blocks_changes_no_gradient_and_leaves_the_model_as_it_was() -> None:
    model = scrambled(**TINY["modern"]).eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found, *_ = pass_of(model)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all("forward" not in vars(block) for block in model.blocks)
    again, *_ = pass_of(model)
    assert len(again.nodes) == len(found.nodes) and again.kept == found.kept


def test_checkpointing_adds_the_operations_of_its_blocks_once_more() -> None:
    """Predicted from the parts, beside what torch counts while both run."""
    model = scrambled(**TINY["llama"]).train()
    tokens, targets = torch.randint(VOCAB, (2, 3, 8)).unbind()
    counted = []
    for around, whole in ((nullcontext(), nullcontext()), (checkpointed(model), set_checkpoint_early_stop(False))):
        with around, whole, FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model.losses(tokens, targets)["loss"].backward()
        counted.append(counter.get_total_flops())
    assert more_operations(model, 8) == pytest.approx(counted[1] / counted[0] - 1, rel=0.1)
    assert more_operations(nn.Sequential(nn.Linear(2, 2)), 8) == 0.0
    assert more_time(model, lambda: model.losses(tokens, targets)["loss"]) > -0.5
    assert all("forward" not in vars(block) for block in model.blocks)


def test_blocks_that_are_called_with_keywords_are_checkpointed_too() -> None:
    class Block(nn.Linear):
        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            return super().forward(x).tanh() * scale

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(4, 4), Block(4, 4)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x, scale=2.0)
            return x

    model, x = Model(), torch.randn(3, 4)
    found = trace(model, lambda: model(x).sum(), 3)
    assert found.recomputed and found.checkpointed < found.kept


def test_a_function_of_one_s_own_is_traced_too() -> None:
    model = scrambled(**TINY["llama"]).train()
    tokens, targets = torch.randint(VOCAB, (2, 2, 8)).unbind()

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model.losses(tokens, targets)["loss"]

    found = trace(model, loss, 16)
    (causal, *_) = [node for node in found.nodes if node.op == "Causal"]
    assert causal.module == "blocks.0.mixer.attend" and {s.dtype for s in causal.saved} == {"bfloat16"}
    assert found.kept == sum(node.bytes for node in found.nodes)


def test_a_loss_without_a_graph_is_refused() -> None:
    with pytest.raises(UserError, match="depends on no weight"):
        trace(nn.Linear(2, 2), lambda: torch.ones(()))


# -- drawing ----------------------------------------------------------------------------------------------------------


def test_layers_that_are_alike_are_drawn_once() -> None:
    mixer = ["attention(heads=2)", "attention(heads=2)", "none", "attention(heads=2)"]
    model = scrambled(**(TINY["llama"] | {"mixer": mixer, "n_layers": 4, "position": "none"}))
    found, *_ = pass_of(model)
    folded = fold(found)
    assert folded.frames == {1: [0, 1, 3], 2: [2]} and layers_text([0, 1, 3]) == "0-1, 3"
    drawn = [n for box in folded.boxes.values() for n in box.nodes]
    layers = {n.module.split(".")[1] for n in drawn if n.module.startswith("blocks.")}
    assert layers == {"0", "2"} and not any(n.is_view or n.parameter for n in drawn)
    order = list(folded.boxes)
    assert all(
        order.index(p) < order.index(b) for b in order if folded.boxes[b].frame != 1 for p in folded.boxes[b].parents
    )


@pytest.mark.parametrize("name", TINY)
def test_the_drawing_is_whole_and_boxes_do_not_overlap(name: str) -> None:
    found, *_ = pass_of(scrambled(**TINY[name]))
    folded = fold(found)
    text = svg(found, "a <b>")
    root = ET.fromstring(text)
    boxes = [e for e in root.iter() if e.get("class") == "box"]
    assert len(boxes) == len(folded.boxes) and "a &lt;b&gt;" in text and "2 alike" in text
    places = [tuple(float(e.get(k) or 0) for k in ("x", "y", "width", "height")) for e in boxes]
    for n, (x, y, w, h) in enumerate(places):
        for u, v, _, _ in places[n + 1 :]:
            assert abs(x - u) >= w - 0.2 or abs(y - v) >= h
    right, low = (float(n) for n in (root.get("viewBox") or "").split()[2:])
    assert all(x >= 0 and x + w < right and y + h < low for x, y, w, h in places)
    assert "@media screen and (prefers-color-scheme:dark)" in text and "@media print{svg{max-width:100%" in text
    assert dot(found).count("label=") - dot(found).count("subgraph") == len(found.nodes)


def test_places_keep_order_and_distance_and_move_least() -> None:
    assert apart_enough([0.0, 10.0], [4.0]) == [0.0, 10.0]
    assert apart_enough([5.0, 5.0], [4.0]) == [3.0, 7.0]
    assert apart_enough([9.0, 0.0, 20.0], [2.0, 2.0]) == [3.5, 5.5, 20.0]


def test_two_chains_that_cross_are_untangled() -> None:
    edges = [("a", "d"), ("b", "c"), ("c", "e"), ("d", "f")]
    laid = layered(list("abcdef"), edges, dict.fromkeys("abcdef", 10.0), 5.0)
    assert laid.places["a"] == pytest.approx(laid.places["d"]) and laid.places["b"] == pytest.approx(laid.places["c"])
    assert laid.ranks == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 2, "f": 2}


# -- commands ---------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["autograd", *arguments], catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text("".join(f"line {n} of a text\n" for n in range(2000)))
    small = ["gpt", "data.corpus=my.txt", "model.dim=32", "model.mixer.heads=2", "model.context=16", "model.n_layers=3"]
    said = run("trace", *small, "--svg", "g.svg", "--dot", "g.dot")
    assert "blocks.*.ffn.act" in said and "with each block checkpointed" in said and "predicted" in said
    assert "blocks 0-2: 3 alike" in Path("g.svg").read_text() and Path("g.dot").exists()
    facts = json.loads(run("trace", *small, "--json"))
    assert facts["bytes"]["kept"] == sum(node["bytes"] for node in facts["nodes"]) > facts["bytes"]["checkpointed"]
    assert 0.2 < facts["checkpointing"]["more_operations"] < 0.34 and "more_time" in facts["checkpointing"]
    assert len(json.loads(run("ninja", "--json"))["parts"]) == 12
    assert "RMS norm" in run("ninja") and "26 gradients" in run("ninja", "--seed", "3")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trace", "gtp"], "did you mean 'gpt'"),
        (["trace", "gpt", "model.n_layer=2"], "n_layers"),
        (["trace", "llama-3-8b"], "nearest: --scale 10M"),
        (["trace", "ngram"], "no weights"),
        (["trace", "gpt", "llama"], "two presets"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        app(["autograd", *arguments], standalone_mode=False)
    assert not list(tmp_path.iterdir())
