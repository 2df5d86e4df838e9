"""Schedules against their closed forms, optimizers against torch's own, groups over every parameter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.optim.groups import check_cover, groups
from nanogpt.optim.muon import orthogonalise
from nanogpt.optim.optimizers import OPTIMIZERS, make_optimizers
from nanogpt.optim.schedules import SCHEDULES
from nanogpt.parts import build


def schedule(text: str) -> Any:
    return build(SCHEDULES, text)


# ---- schedules


@given(st.integers(0, 50), st.integers(60, 500), st.floats(0, 1), st.floats(1e-5, 1))
def test_cosine_is_nanogpts(warmup: int, steps: int, final: float, lr: float) -> None:
    """train.py of nanoGPT, get_lr, with lr_decay_iters = steps and min_lr = final * lr."""

    def get_lr(it: int) -> float:
        if it < warmup:
            return lr * (it + 1) / (warmup + 1)
        ratio = (it - warmup) / (steps - warmup)
        return final * lr + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (lr - final * lr)

    ours = schedule(f"cosine(warmup={warmup}, final={final})")
    for it in range(steps):
        assert ours(it, steps) * lr == pytest.approx(get_lr(it), rel=1e-12, abs=1e-15)


def test_wsd_is_warmup_stable_decay() -> None:
    ours = schedule("wsd(warmup=4, decay=10, final=0.5)")
    values = [ours(step, 100) for step in range(100)]
    assert values[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert values[4:91] == [1.0] * 87
    assert values[91:] == pytest.approx([1 - 0.5 * n / 10 for n in range(1, 10)])
    assert [ours(step, 200) for step in range(90)] == values[:90]  # more steps change nothing before the decay
    assert schedule("wsd(warmup=0, decay=0.1)")(89, 100) == 1.0 > schedule("wsd(decay=0.1)")(91, 100)


def test_linear_and_constant() -> None:
    assert [schedule("linear")(s, 4) for s in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [schedule("linear(final=0.2)")(s, 2) for s in range(2)] == pytest.approx([1.0, 0.6])
    assert [schedule("constant(warmup=3)")(s, 9) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(0, 300), st.integers(1, 200))
def test_every_schedule_stays_between_nothing_and_the_whole_rate(name: str, warmup: float, steps: int) -> None:
    ours = schedule(f"{name}(warmup={warmup:.3f})")
    values = [ours(step, steps) for step in range(steps)]
    assert all(0 < v <= 1 or (v == 0 and step > 0) for step, v in enumerate(values))


@pytest.mark.parametrize(
    "text, said",
    [
        ("cosine(warmup=-1)", "warmup=-1"),
        ("cosine(final=2)", "final=2.0 must lie between 0 and 1"),
        ("cosin", "did you mean 'cosine'"),
        ("wsd(decay=-0.1)", "decay=-0.1"),
    ],
)
def test_wrong_schedules_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        schedule(text)


# ---- optimizers


class Net(nn.Module):
    """A model with every kind of group: a table, matrices of equal and of other shapes, gains, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.a, self.b, self.wide = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 15, bias=False)
        self.tall, self.norm = nn.Linear(15, 6, bias=False), nn.LayerNorm(6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + self.b(self.a(x).tanh())
        return self.norm(x + self.tall(self.wide(x).relu()))

    def roles(self) -> dict[str, str]:
        matrices = {"a.weight", "b.weight", "wide.weight", "tall.weight"}
        return {name: "hidden" if name in matrices else "embedding" for name, _ in self.named_parameters()}


def trained(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        loss = model(torch.randint(11, (4, 5), generator=generator)).square().sum(-1).sin().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach() for p in model.parameters()]


def two_alike() -> tuple[Net, Net]:
    torch.manual_seed(torch.seed() % 2**31)  # fresh weights in every run
    one, two = Net(), Net()
    two.load_state_dict(one.state_dict())
    return one, two


def decayed(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """nanoGPT's rule, written again."""
    both = [[p for p in model.parameters() if p.dim() >= 2], [p for p in model.parameters() if p.dim() < 2]]
    return [{"params": both[0], "weight_decay": decay}, {"params": both[1], "weight_decay": 0.0}]


THEIRS = {
    "sgd(lr=0.3)": lambda m: torch.optim.SGD(decayed(m, 0), lr=0.3),
    "sgd(lr=0.1, momentum=0.8, weight_decay=0.2)": lambda m: torch.optim.SGD(decayed(m, 0.2), lr=0.1, momentum=0.8),
    "sgd(lr=0.1, momentum=0.8, form=nesterov)": lambda m: torch.optim.SGD(
        decayed(m, 0), lr=0.1, momentum=0.8, nesterov=True
    ),
    "rmsprop(lr=0.01, decay=0.9, momentum=0.5)": lambda m: torch.optim.RMSprop(
        decayed(m, 0), lr=0.01, alpha=0.9, momentum=0.5
    ),
    "adam(lr=0.01, weight_decay=0.3)": lambda m: torch.optim.Adam(decayed(m, 0.3), lr=0.01, betas=(0.9, 0.999)),
    "adamw(lr=0.01)": lambda m: torch.optim.AdamW(decayed(m, 0.1), lr=0.01, betas=(0.9, 0.95)),
    "adamw(lr=0.01, beta1=0.5, beta2=0.6, eps=1e-3, weight_decay=1)": lambda m: torch.optim.AdamW(
        decayed(m, 1.0), lr=0.01, betas=(0.5, 0.6), eps=1e-3
    ),
}


@pytest.mark.parametrize("text", THEIRS)
def test_optimizers_are_torchs(text: str) -> None:
    ours, theirs = two_alike()
    start = [p.detach().clone() for p in ours.parameters()]
    got = trained(ours, make_optimizers(text, ours))
    wanted = trained(theirs, [THEIRS[text](theirs)])
    for a, b, before in zip(got, wanted, start, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert not torch.equal(a, before)


@pytest.mark.parametrize("scale, adjust", [("original", "original"), ("moonlight", "match_rms_adamw")])
@pytest.mark.parametrize("form", ["nesterov", "classic"])
def test_muon_is_torchs(form: str, scale: str, adjust: str) -> None:
    """torch's runs its products in bf16, one matrix at a time; ours in the run's precision, all of a shape at once."""
    one, two = two_alike()
    rest = "adamw(lr=0.01, weight_decay=0.0)"
    text = f"muon(lr=0.05, momentum=0.9, form={form}, weight_decay=0.1, scale={scale}, rest={rest})"
    ours = make_optimizers(text, one, precision="bf16")
    names = two.roles()
    hidden = [p for n, p in two.named_parameters() if names[n] == "hidden"]
    others = [p for n, p in two.named_parameters() if names[n] != "hidden"]
    theirs = [
        torch.optim.Muon(
            hidden, lr=0.05, momentum=0.9, nesterov=form == "nesterov", weight_decay=0.1, adjust_lr_fn=adjust
        ),
        torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.95), weight_decay=0),
    ]
    generator = torch.Generator().manual_seed(torch.seed() % 2**31)
    for _ in range(5):
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        for optimizer in [*ours, *theirs]:
            optimizer.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0.05 * 5 * 0.01)  # 1% of the way gone: bf16 rounding


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 20, 5), (2, 5, 20)])
def test_orthogonalise_leaves_singular_values_near_one_and_their_vectors(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    out = orthogonalise(x, steps=8)
    assert out.shape == x.shape
    assert ((torch.linalg.svdvals(out) - 1).abs() < 0.35).all()
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    rotated = u.mT @ out @ vh.mT  # diagonal where the singular vectors are the same
    assert (rotated - torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1))).abs().max() < 0.02


# ---- groups


def test_groups_follow_role_and_shape() -> None:
    model = Net()
    found = groups(model)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in found.matrices} == {"a.weight", "b.weight", "wide.weight", "tall.weight"}
    assert {names[id(p)] for p in found.tables} == {"table.weight"}
    assert {names[id(p)] for p in found.vectors} == {"a.bias", "b.bias", "norm.weight", "norm.bias"}


def test_a_parameter_in_no_group_or_in_two_is_refused_by_name() -> None:
    model = Net()
    some = [p for n, p in model.named_parameters() if n != "wide.weight"]
    with pytest.raises(UserError, match=r"wide\.weight is in no optimizer group"):
        check_cover(model, [torch.optim.SGD(some)])
    with pytest.raises(UserError, match=r"table\.weight is in 2 optimizer groups"):
        check_cover(model, [torch.optim.SGD(model.parameters()), torch.optim.SGD([model.table.weight])])
    with pytest.raises(UserError, match="1 parameters in its groups are not the model's"):
        check_cover(model, [torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(1))])])


@pytest.mark.parametrize(
    "text, said",
    [
        ("adamw(lr=-1)", "lr=-1.0 must be at least 0"),
        ("adamw(beta1=1)", "beta1=1.0"),
        ("sgd(form=nesterov)", "needs momentum"),
        ("adamw(beta_1=0.9)", "did you mean 'beta1'"),
        ("adamm", "did you mean 'adam"),
        ("muon(rest=adamw(lr=-1))", "muon: adamw: lr=-1.0 must be at least 0"),
        ("muon(scale=big)", "scale=big is not one of its words"),
        ("muon(ns_steps=0)", "ns_steps=0"),
    ],
)
def test_wrong_optimizers_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(OPTIMIZERS, text, precision="fp32")


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_saved_text_builds_the_same_again(name: str) -> None:
    written = str(build(OPTIMIZERS, name, precision="bf16").spec)
    assert "lr=" in written and "precision" not in written
    assert str(build(OPTIMIZERS, written, precision="bf16").spec) == written
