"""Norms against PyTorch's and their formulas; batch normalisation in training, in evaluation and in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import RunConfig, validate
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.model.norms import NORMS
from nanogpt.optim.groups import groups
from nanogpt.parts import build
from nanogpt.runs import Run
from nanogpt.training import machine
from nanogpt.training.checkpoint import load, load_weights
from nanogpt.training.loop import resume, train
from nanogpt.training.setup import check
from nanogpt.training.world import World
from tests.helpers import count, make, model_config, scrambled, tokens


def randomised(text: str, dim: int) -> Any:
    part = build(NORMS, text, dim=dim)
    for parameter in part.parameters():
        nn.init.normal_(parameter)
    return part


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("layernorm(eps=0.1)", nn.LayerNorm(12, eps=0.1)),
        ("layernorm(bias=none)", nn.LayerNorm(12, bias=False)),
        ("rmsnorm(eps=0.1)", nn.RMSNorm(12, eps=0.1)),
        ("groupnorm(groups=1, eps=0.1)", nn.LayerNorm(12, eps=0.1)),
    ],
)
def test_norms_are_pytorchs(text: str, theirs: nn.Module) -> None:
    x, ours = torch.randn(3, 5, 12) * 3 + 1, randomised(text, 12)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groups_of_each_token_are_pytorchs(groups: int) -> None:
    x, ours, theirs = torch.randn(4, 5, 12) * 3 + 1, randomised(f"groupnorm({groups})", 12), nn.GroupNorm(groups, 12)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x.view(20, 12)).view(4, 5, 12), atol=1e-5, rtol=1e-5)


def test_norms_by_formula() -> None:
    x = torch.randn(4, 12, dtype=torch.float64)
    bare = build(NORMS, "rmsnorm(weight=none, eps=0.5)", dim=12)
    torch.testing.assert_close(bare(x), x / (x.square().mean(-1, keepdim=True) + 0.5).sqrt())
    assert not list(bare.parameters())
    dyt = randomised("dyt", 12).double()
    torch.testing.assert_close(dyt(x), dyt.weight * torch.tanh(dyt.a * x) + dyt.bias)
    assert sorted(k for k, _ in dyt.named_parameters()) == ["a", "bias", "weight"]
    assert torch.equal(build(NORMS, "none", dim=12)(x), x)
    for name in ("layernorm", "batchnorm", "groupnorm", "dyt"):
        assert "bias" not in dict(build(NORMS, f"{name}(bias=none)", dim=12).named_parameters())


@pytest.mark.parametrize("weight", ["ones", "plus_one", "none"])
def test_rms_norm_goes_back_as_pytorchs_does(weight: str) -> None:
    """Its backward pass is its own: first and second derivatives, of heads that lie across memory as well."""
    part = randomised(f"rmsnorm(eps=0.1, weight={weight})", 12).double()
    x = torch.randn(2, 5, 3, 12, dtype=torch.float64).transpose(1, 2).requires_grad_()
    given, grad = [x, *part.parameters()], torch.randn(2, 3, 5, 12, dtype=torch.float64)

    def pytorchs(x: Tensor, *w: Tensor) -> Tensor:
        return F.rms_norm(x, (12,), w[0] + (weight == "plus_one") if w else None, 0.1)

    y = part(x)
    assert "RootMeanSquare" in y.grad_fn.name()
    firsts = [torch.autograd.grad(out, given, grad, create_graph=True) for out in (y, pytorchs(*given))]
    seconds = [torch.autograd.grad(sum((f**2).sum() for f in first), given, retain_graph=True) for first in firsts]
    alone = torch.autograd.grad(y, given, grad)  # no second one wanted: by another path
    for found, wanted in (firsts, seconds, (alone, firsts[1])):
        torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(part(x), y)


def test_rms_norm_of_each_row_by_itself() -> None:
    """Gradients row by row, as for a privacy budget or a gradient's noise: torch.func goes through it."""
    part, x = randomised("rmsnorm", 12), torch.randn(4, 12)
    loss = lambda w, row: torch.func.functional_call(part, {"weight": w}, (row,)).cos().sum()  # noqa: E731
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(part.weight.detach(), x)
    for row, wanted in zip(x, found, strict=True):
        torch.testing.assert_close(torch.autograd.grad(part(row).cos().sum(), part.weight)[0], wanted)


def test_one_more_than_the_weight() -> None:
    gemma, plain = randomised("rmsnorm(weight=plus_one, eps=0.1)", 12), build(NORMS, "rmsnorm(eps=0.1)", dim=12)
    plain.load_state_dict({"weight": 1 + gemma.weight.detach()})
    x = torch.randn(3, 5, 12)
    assert torch.equal(gemma(x), plain(x))
    model = make(norm="rmsnorm(weight=plus_one)", mixer="attention(heads=2)", init="normal(std=0.5, bias=0.3)")
    same = make(norm="rmsnorm", mixer="attention(heads=2)", init="normal(std=0.5, bias=0.3)")
    assert not model.norm.weight.any() and (same.norm.weight == 1).all()
    assert torch.equal(model(tokens(2, 8)), same(tokens(2, 8)))


def test_dynamic_tanh_starts_at_a_half() -> None:
    model = make(norm="dyt", mixer="attention(heads=2)")
    x = torch.randn(3, 16)
    torch.testing.assert_close(model.norm(x), torch.tanh(x / 2))
    torch.testing.assert_close(make(norm="dyt(a=2)", mixer="attention(heads=2)").norm(x), torch.tanh(2 * x))
    assert resolve_model(model_config(norm="dyt")).norm == ["dyt(a=0.5, bias=zeros)"] * 2


@pytest.mark.parametrize("name", NORMS)
def test_what_a_norm_learns_is_never_decayed(name: str) -> None:
    model = make(norm=name, mixer="attention(heads=2)")
    vectors = {id(p) for p in groups(model).vectors}
    assert all(id(p) in vectors for p in model.norm.parameters())


def test_groups_by_default() -> None:
    for dim, expected in (
        (1, 1),
        (7, 1),
        (16, 1),
        (32, 2),
        (48, 3),
        (64, 4),
        (512, 32),
        (768, 32),
        (1024, 32),
        (37, 1),
    ):
        assert build(NORMS, "groupnorm", dim=dim).groups == expected
    assert (
        resolve_model(model_config(norm="groupnorm(groups=4)")).norm[0] == "groupnorm(groups=4, eps=1e-05, bias=zeros)"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("groupnorm(groups=5)", "groups=5 does not divide dim=12; nearest: groups=4"),
        ("groupnorm(groups=12)", "one number in each"),
        ("batchnorm(momentum=0)", "above 0 and at most 1"),
        ("batchnorm(momentum=2)", "above 0 and at most 1"),
        ("batchnorm(eps=-1)", "above 0; nearest: 1e-05"),
        ("batchnorm(eps=0)", "eps=0.0 must be above 0; nearest: 1e-05"),
        ("rmsnorm(weight=plusone)", "did you mean 'plus_one'?"),
    ],
)
def test_norms_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        build(NORMS, text, dim=12)
    assert words in str(caught.value)


# -- batch normalisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1])
def test_batch_norm_is_pytorchs_in_training_and_evaluation(momentum: float) -> None:
    ours = randomised(f"batchnorm(eps=0.1, momentum={momentum})", 6)
    theirs = nn.BatchNorm1d(6, eps=0.1, momentum=momentum)
    theirs.load_state_dict(ours.state_dict(), strict=False)  # theirs counts batches too
    for step in range(3):
        x = torch.randn(4, 5, 6) * (step + 1) + step
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = ours.train()(a), theirs.train()(b.mT).mT
        torch.testing.assert_close(y, z)
        (y**3).sum().backward()
        (z**3).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.mT).mT)


def test_batch_norm_by_formula_for_any_shape() -> None:
    ours = build(NORMS, "batchnorm(eps=0.5, momentum=0.25)", dim=3).double()
    nn.init.normal_(ours.weight), nn.init.normal_(ours.bias)
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64) + 2  # the queries of attention: (B, H, T, E)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2), unbiased=False)
    torch.testing.assert_close(ours(x), ours.weight * (x - mean) / (var + 0.5).sqrt() + ours.bias)
    torch.testing.assert_close(ours.running_mean, 0.25 * mean)
    torch.testing.assert_close(ours.running_var, 0.75 + 0.25 * var * 40 / 39)
    now = ours.eval()(x)
    torch.testing.assert_close(now, ours.weight * (x - ours.running_mean) / (ours.running_var + 0.5).sqrt() + ours.bias)
    assert torch.equal(ours.eval()(x), now)  # it does not move


BATCHED: dict[str, Any] = {"norm": "batchnorm", "mixer": "attention(heads=2)", "ffn": "mlp", "layout": "pre"}


def trained(**fields: Any) -> LanguageModel:
    """A scrambled model whose running statistics are no longer what they began as."""
    model = scrambled(**BATCHED | fields).train()
    with torch.no_grad():
        for seed in range(5):
            model(tokens(4, 8, seed))
    assert not torch.equal(model.norm.running_mean, torch.zeros(16))
    return model


@torch.no_grad()
def test_batch_norm_sees_the_future_in_training_and_not_in_evaluation() -> None:
    model, x = trained(), tokens(4, 8)
    other = x.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 13
    assert not torch.allclose(model.train()(x)[:, :5], model(other)[:, :5], atol=1e-3)
    model.eval()
    torch.testing.assert_close(model(x)[:, :5], model(other)[:, :5])
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))  # nor other texts
    cache = model.new_cache(4, 8)
    steps = torch.cat([model(piece, cache=cache) for piece in x.split([3, 1, 4], 1)], 1)
    torch.testing.assert_close(steps, model(x), atol=1e-5, rtol=1e-5)


def test_running_statistics_are_saved_with_the_weights() -> None:
    model, fresh = trained(), make(**BATCHED)
    assert (fresh.norm.running_var == 1).all() and not fresh.norm.running_mean.any()
    assert not torch.equal(model.eval()(tokens(2, 8)), fresh(tokens(2, 8)))
    load_weights(fresh, {k: v.clone() for k, v in model.state_dict().items()}, Path("here"))
    assert torch.equal(model(tokens(2, 8)), fresh(tokens(2, 8)))


def test_batch_norm_is_counted_without_memory() -> None:
    with torch.device("meta"):
        model = LanguageModel(model_config(**BATCHED))
    assert model.norm.running_mean.is_meta
    assert cost(model_config(**BATCHED)).total == count(model) == count(make(**BATCHED))
    assert resolve_model(model_config(**BATCHED)).norm == ["batchnorm(eps=1e-05, momentum=0.1, bias=zeros)"] * 2


def test_batch_norm_in_low_precision() -> None:
    model: LanguageModel = trained()
    x = tokens(4, 8)
    for training in (True, False):
        model.train(training)
        exact = model.losses(x, x)["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            low = model.losses(x, x)["loss"]
        torch.testing.assert_close(low, exact, atol=0.1, rtol=0.05)
        assert model.norm.running_var.dtype == torch.float32
    double: Tensor = model.double().train()(x)
    assert double.dtype == torch.float64


def run_config(tmp_path: Path, **fields: Any) -> RunConfig:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {n} and {n * 7 % 13}\n" for n in range(200)))
    sections: dict[str, Any] = {
        "preset": "tiny",
        "tokenizer": "char",
        "data": {"corpus": str(text)},
        "model": {"dim": 16, "n_layers": 1, "context": 8, "ffn": "mlp", "norm": "batchnorm"},
        "optim": {"schedule": "constant"},
        "train": {"steps": 4, "batch": 4, "device": "cpu", "precision": "fp32", "compile": "off", "threads": 1},
    }
    return validate(sections | {k: sections.get(k, {}) | v for k, v in fields.items()})


def test_a_run_goes_on_with_its_running_statistics(tmp_path: Path) -> None:
    whole = train(run_config(tmp_path), out=tmp_path / "a", quiet=True).run
    half = train(run_config(tmp_path, train={"steps": 2}), out=tmp_path / "b", quiet=True).run
    resume(half.path, ["train.steps=4"], quiet=True)
    a, b = (load(run.checkpoint("last")).weights for run in (whole, half))
    assert {"norm.running_mean", "norm.running_var", "blocks.0.ffn_norm.running_var"} < set(a)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_compiling_leaves_the_running_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass that compiles is no step: a run that stops on the way compiles twice, and ends as one that does not."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(machine, "has_compiler", lambda kind: True)
    plain = train(run_config(tmp_path), out=tmp_path / "a", quiet=True).run
    fast = train(run_config(tmp_path, train={"compile": "on"}), out=tmp_path / "b", quiet=True).run
    assert fast.config().train.compile == "on"
    a, b = (load(run.checkpoint("last")).weights for run in (plain, fast))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("fields", "world", "words"),
    [
        ({"train": {"batch": 1}}, World(), "needs at least 2 rows"),
        ({"train": {"batch": 4, "accumulate": 4}}, World(), "train.batch / train.accumulate is 1"),
        ({"train": {"batch": 8}}, World(0, 2), "on 2 processes"),
        ({"train": {"batch": 1}, "model": {"norm": "none", "embed": "token(norm=batchnorm)"}}, World(), "2 rows"),
        ({"train": {"batch": 1}, "model": {"norm": "layernorm"}}, World(), ""),
        ({"train": {"batch": 4, "accumulate": 2}}, World(), ""),
    ],
)
def test_batch_norm_needs_a_batch(tmp_path: Path, fields: Any, world: World, words: str) -> None:
    config, run = run_config(tmp_path, **fields), Run(tmp_path)
    if not words:
        check(run, config, world)
        return
    with pytest.raises(UserError, match=words):
        check(run, config, world)
