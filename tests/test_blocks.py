"""Layouts and residual joins: each against its formula, and what a block is at the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.blocks import LAYOUTS
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.model.residuals import RESIDUALS
from tests.helpers import count, make, model_config, scrambled, tokens

F = Callable[[Tensor], Tensor]
Join = Callable[[Tensor, Tensor, str], Tensor]
JOINS = ["plain", "none", "rezero", "layerscale", "deepnorm", "scaled(by=0.22)"]
PARTS: dict[str, Any] = {"mixer": "attention(heads=2)", "ffn": "mlp", "norm": "rmsnorm(eps=0.01)"}
EVERY = [*(name for name in LAYOUTS if name != "parallel"), "parallel(norms=one)", "parallel(norms=two)"]


def with_join(layout: str, residual: str) -> str:
    return f"{layout[:-1]}, residual={residual})" if layout.endswith(")") else f"{layout}(residual={residual})"


def children(model: LanguageModel) -> dict[str, F]:
    """The parts of the first block as functions of x alone."""
    block, flow = model.blocks[0], model.flow(tokens(2, 6))
    found: dict[str, F] = {n: m for n, m in block.named_children() if n.endswith("norm")}
    return found | {"f": lambda x: block.mixer(x, flow), "g": lambda x: block.ffn(x, flow)}


def by_formula(layout: str, x: Tensor, m: dict[str, F], join: Join) -> Tensor:
    f, g = m["f"], m["g"]
    if layout == "pre":
        x = join(x, f(m["mixer_norm"](x)), "mixer")
        return join(x, g(m["ffn_norm"](x)), "ffn")
    if layout == "post":
        x = m["mixer_norm"](join(x, f(x), "mixer"))
        return m["ffn_norm"](join(x, g(x), "ffn"))
    if layout == "sandwich":
        x = join(x, m["mixer_out_norm"](f(m["mixer_norm"](x))), "mixer")
        return join(x, m["ffn_out_norm"](g(m["ffn_norm"](x))), "ffn")
    if layout == "reordered":
        x = join(x, m["mixer_norm"](f(x)), "mixer")
        return join(x, m["ffn_norm"](g(x)), "ffn")
    if layout == "parallel(norms=one)":
        return join(x, f(m["mixer_norm"](x)) + g(m["mixer_norm"](x)), "both")
    if layout == "parallel(norms=two)":
        return join(x, f(m["mixer_norm"](x)) + g(m["ffn_norm"](x)), "both")
    assert layout == "none"
    x = join(x, f(x), "mixer")
    return join(x, g(x), "ffn")


def join_of(residual: str, model: LanguageModel) -> Join:
    def weight(branch: str) -> Tensor:
        return model.get_parameter(f"blocks.0.{branch}_residual.weight")

    return {
        "plain": lambda x, f, branch: x + f,
        "none": lambda x, f, branch: f,
        "rezero": lambda x, f, branch: x + weight(branch).item() * f,
        "layerscale": lambda x, f, branch: x + f @ torch.diag(weight(branch)),
        "deepnorm": lambda x, f, branch: 1.5650845800732873 * x + f,  # 6^(1/4), three layers
        "scaled(by=0.22)": lambda x, f, branch: x + 0.22 * f,
    }[residual]


@pytest.mark.parametrize("residual", JOINS)
@pytest.mark.parametrize("layout", EVERY)
def test_layouts_and_residuals_by_formula(layout: str, residual: str) -> None:
    model = scrambled(layout=with_join(layout, residual), n_layers=3, **PARTS).double()
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    expected = by_formula(layout, x, children(model), join_of(residual, model))
    got = model.blocks[0](x, model.flow(tokens(2, 6)))
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-8)
    if residual != "plain":
        plain = by_formula(layout, x, children(model), join_of("plain", model))
        assert not torch.allclose(got, plain, atol=1e-3)


def test_every_residual_is_tested_above() -> None:
    assert {name.partition("(")[0] for name in JOINS} == set(RESIDUALS)


def test_where_the_stream_is_normed_before_the_head() -> None:
    """GPT-1 has no norm after its last block; GPT-2, Gemma 2, OLMo 2, GPT-NeoX and Cohere have one."""
    final = {layout: type(make(layout=layout, **PARTS).norm).__name__ == "RMSNorm" for layout in LAYOUTS}
    assert final == {
        "pre": True,
        "post": False,
        "sandwich": True,
        "reordered": True,
        "parallel": True,
        "none": False,
    }


@pytest.mark.parametrize(
    ("layout", "norms"),
    [("pre", 2), ("post", 2), ("sandwich", 4), ("reordered", 2), ("none", 0), (EVERY[-2], 1), (EVERY[-1], 2)],
)
def test_how_many_norms_a_block_has(layout: str, norms: int) -> None:
    given = PARTS | {"norm": "layernorm", "n_layers": 1}
    block = make(layout=layout, **given).blocks[0]
    names = {n.rpartition(".")[0] for n, _ in block.named_parameters() if "norm" in n}
    assert len(names) == norms
    parts = cost(model_config(layout=layout, **given)).parameters
    assert parts.get("norm", 0) == 32 * (norms + LAYOUTS[layout.partition("(")[0]].final_norm)


@pytest.mark.parametrize("residual", JOINS)
def test_what_a_residual_learns(residual: str) -> None:
    for layout, joins in (("pre", 2), ("parallel", 1)):
        layout = with_join(layout, residual)
        extra = {"rezero": 1, "layerscale": 16}.get(residual, 0) * joins * 2  # layers
        assert count(make(layout=layout, **PARTS)) - count(make(layout=layout.partition("(")[0], **PARTS)) == extra
        counted = cost(model_config(layout=layout, **PARTS))
        assert counted.parameters.get("layout", 0) == extra and counted.total == count(make(layout=layout, **PARTS))


# -- at the start --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("layout", [name for name in EVERY if name != "post"])
def test_rezero_starts_as_the_identity_and_learns(layout: str) -> None:
    """Bachlechner et al. 2020: the signal reaches the top as it is, and only the new numbers have a gradient."""
    model, x = make(layout=with_join(layout, "rezero"), n_layers=4, **PARTS), torch.randn(2, 6, 16)
    for block in model.blocks:
        assert torch.equal(block(x, model.flow(tokens(2, 6))), x)
    with torch.enable_grad():
        model.train().losses(tokens(2, 6), tokens(2, 6, seed=2))["loss"].backward()
    for name, parameter in model.named_parameters():
        if name.startswith("blocks"):
            assert bool(parameter.grad.any()) == ("residual" in name), name


@torch.no_grad()
def test_layerscale_starts_close_to_the_identity() -> None:
    x, flow = torch.randn(2, 6, 16), make().flow(tokens(2, 6))
    full = make(layout="pre", init="xavier", n_layers=1, **PARTS).blocks[0](x, flow) - x
    for init in (1e-4, 0.1):
        model = make(layout=f"pre(residual=layerscale(init={init}))", init="xavier", n_layers=1, **PARTS)
        assert torch.equal(model.blocks[0].ffn_residual.weight, torch.full((16,), init))
        moved = model.blocks[0](x, flow) - x
        assert 0.5 * init < moved.norm() / full.norm() < 2 * init
    assert torch.equal(make(layout="pre(residual=layerscale(init=0))", **PARTS).blocks[0](x, flow), x)
    assert "layerscale(init=0.0001)" in str(resolve_model(model_config(layout="pre(residual=layerscale)")).layout)


@pytest.mark.parametrize(("n_layers", "alpha"), [(1, 1.18921), (8, 2.0), (50, 3.16228), (128, 4.0)])
def test_deepnorm_weighs_the_stream_by_the_depth(n_layers: int, alpha: float) -> None:
    join = RESIDUALS["deepnorm"](n_layers=n_layers)
    x, f = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(join(x, f), alpha * x + f, atol=1e-4, rtol=1e-5)


# -- branches that are not there -----------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", JOINS)
@pytest.mark.parametrize("layout", EVERY)
def test_a_branch_that_is_nothing_leaves_the_stream(layout: str, residual: str) -> None:
    x, flow = torch.randn(2, 6, 16), make().flow(tokens(2, 6))
    given = {"layout": with_join(layout, residual), "norm": "layernorm"}
    neither = make(mixer="none", ffn="none", **given)
    assert torch.equal(neither.blocks[0](x, flow), x)
    assert not list(neither.blocks.parameters())
    model = scrambled(mixer="none", ffn="mlp", n_layers=3, **given)
    m, join = children(model), join_of(residual, model)
    f_or_g: Join = lambda x, f, branch: x if branch == "mixer" else join(x, f, branch)  # noqa: E731
    if layout == "post":
        m["mixer_norm"] = lambda x: x
    expected = by_formula(layout, x, m, f_or_g)
    torch.testing.assert_close(model.blocks[0](x, flow), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_no_norm_and_no_residual_is_one_part_after_the_other() -> None:
    """The first transformer of "Let's build GPT": embed, attend, (feed forward,) head."""
    parts = {"mixer": "attention(heads=1, out=none)", "ffn": "mlp", "layout": "none(residual=none)"}
    model = scrambled(n_layers=1, norm="rmsnorm", **parts)
    flow = model.flow(tokens(2, 6))
    mixed = model.blocks[0].mixer(model.embed(flow.tokens_BT, flow), flow)
    expected = model.logits(model.blocks[0].ffn(mixed, flow))
    torch.testing.assert_close(model(tokens(2, 6)), expected)


@torch.no_grad()
@pytest.mark.parametrize("residual", JOINS)
@pytest.mark.parametrize("layout", EVERY)
def test_padding_documents_and_a_cache(layout: str, residual: str) -> None:
    model = scrambled(
        layout=with_join(layout, residual),
        mixer=["attention(heads=2)", "none", "attention(heads=2)"],
        ffn=["none", "mlp", "mlp"],
        norm="rmsnorm(eps=0.01)",
        position="rotary",
        n_layers=3,
    ).double()
    x, same = tokens(2, 8), {"atol": 1e-8, "rtol": 1e-6}
    whole = model(x)
    cache = model.new_cache(2, 8)
    torch.testing.assert_close(torch.cat([model(p, cache=cache) for p in x.split([3, 1, 4], 1)], 1), whole, **same)
    documents = torch.tensor([[0] * 3 + [1] * 5] * 2)
    torch.testing.assert_close(model(x, documents_BT=documents)[:, 3:], model(x[:, 3:]), **same)
    mask = torch.arange(8)[None] >= torch.tensor([[3], [0]])
    torch.testing.assert_close(model(x, mask)[0, 3:], model(x[:1, 3:])[0], **same)
    torch.testing.assert_close(model(x, mask)[1], whole[1], **same)


# -- dropping ------------------------------------------------------------------------------------------------------


def test_drop_path_skips_rows_and_keeps_the_mean() -> None:
    """Huang et al. 2016, eq. 5: layer l of N is skipped with the probability (l / N) p."""
    torch.manual_seed(3)
    model = scrambled(n_layers=4, layout="pre(drop_path=0.6)", ffn="mlp", norm="rmsnorm").train()
    row = torch.randn(1, 6, 16)
    x, flow = row.expand(4000, 6, 16), model.flow(tokens(1, 6))
    for layer, block in enumerate(model.blocks):
        rate = 0.6 * (layer + 1) / 4
        full = block.ffn(block.ffn_norm(row), flow)
        added = block(x, flow) - x
        skipped = (added == 0).all(2).all(1)
        assert abs(skipped.float().mean() - rate) < 0.03
        kept = added[~skipped]
        torch.testing.assert_close(kept, (full / (1 - rate)).expand_as(kept), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(added.mean(0), full[0], atol=0.2, rtol=0.1)
        assert torch.equal(block.eval()(row, flow), row + full)


@pytest.mark.parametrize("layout", EVERY)
def test_dropping_works_in_every_layout_and_only_in_training(layout: str) -> None:
    for knob in ("dropout", "drop_path"):
        name = with_join(layout, "plain").replace("residual=plain", f"{knob}=0.5")
        model, plain = scrambled(layout=name, **PARTS), scrambled(layout=layout, **PARTS)
        x = tokens(8, 8)
        assert torch.equal(model(x), plain(x))
        assert not torch.equal(model.train()(x), model(x))


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("pre(drop_path=1)", "drop_path=1.0 must be at least 0 and below 1"),
        ("pre(drop_path=-0.1)", "nearest: 0"),
        ("none(residual=none, drop_path=0.1)", "would skip the stream itself; nearest: drop_path=0.0"),
        ("pre(residual=plan)", "did you mean 'plain'?"),
        ("pre(residual=scaled)", "'by' needs a value"),
        ("pre(residual=scaled(by=-1))", "nearest: 0"),
        ("pre(residual=layerscale(init=-1))", "nearest: 0"),
        ("pre(norms=two)", "no knob 'norms'"),
        ("parallel(norms=three)", "one, two"),
        ("sandwhich", "did you mean 'sandwich'?"),
    ],
)
def test_what_is_refused(layout: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(layout=layout)
    assert words in str(caught.value) and str(caught.value).startswith("model.layout: ")


@pytest.mark.parametrize(
    ("residual", "init", "refused"),
    [
        ("rezero", "zero_output", True),
        ("rezero", "by_role(residual=zeros)", True),
        ("rezero", "zeros", True),
        ("rezero", "deepnorm(rest=zero_output)", True),
        ("layerscale(init=0)", "zero_output", True),
        ("layerscale", "zero_output", False),
        ("rezero", "by_role(rest=zeros, residual=normal)", False),
        ("rezero", "gpt2", False),
    ],
)
def test_two_zeros_in_a_row_never_learn(residual: str, init: str, refused: bool) -> None:
    """0 * 0: the gradient of each factor is the other, so both stay where they are."""
    fields = {"layout": f"pre(residual={residual})", "init": init, **PARTS}
    if not refused:
        make(**fields)
        return
    with pytest.raises(UserError, match=r"model\.layout: .*model\.init=.*nearest: model\.init="):
        make(**fields)


@pytest.mark.parametrize("residual", JOINS)
@pytest.mark.parametrize("layout", EVERY)
def test_what_is_resolved_can_be_built_again(layout: str, residual: str) -> None:
    config = resolve_model(model_config(layout=with_join(layout, residual), mixer="none + attention(heads=2)"))
    assert resolve_model(config) == config
    assert all(residual.partition("(")[0] in text for text in config.layout)
    if "two" in layout:
        assert all("norms=two" in text for text in config.layout)
