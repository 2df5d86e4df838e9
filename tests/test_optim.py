"""Schedules against their closed forms, optimizers against torch's own, groups over every parameter."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nanogpt.errors import UserError
from nanogpt.optim.groups import check_cover, groups
from nanogpt.optim.muon import orthogonalise
from nanogpt.optim.optimizers import OPTIMIZERS, make_optimizers
from nanogpt.optim.schedules import SCHEDULES
from nanogpt.parts import build
from nanogpt.training.checkpoint import load_optimizer_state, optimizer_state


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


def test_step_is_makemores() -> None:
    """lr = 0.1 if i < 100000 else 0.01, of 200,000 steps."""
    for text in ("step", "step(at=0.5, factor=0.1)", "step(at=100000)", "step(every=0.5)", "step(every=100000)"):
        values = [0.1 * schedule(text)(i, 200_000) for i in (0, 99_999, 100_000, 199_999)]
        assert values == pytest.approx([0.1, 0.1, 0.01, 0.01]), text


def test_step_is_torchs() -> None:
    """torch.optim.lr_scheduler's MultiStepLR and StepLR."""
    made = torch.optim.lr_scheduler
    for text, theirs in (
        ("step(at=[3, 0.7, 25], factor=0.4)", lambda o: made.MultiStepLR(o, [3, 21, 25], 0.4)),
        ("step(every=4, factor=0.5)", lambda o: made.StepLR(o, 4, 0.5)),
        ("step(every=0.1, factor=0.5)", lambda o: made.StepLR(o, 3, 0.5)),
    ):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
        scheduler, ours = theirs(optimizer), schedule(text)
        for step in range(30):
            assert ours(step, 30) == pytest.approx(scheduler.get_last_lr()[0]), (text, step)
            optimizer.step()
            scheduler.step()


@given(st.integers(0, 600), st.integers(1, 300))
def test_inverse_sqrt_is_vaswanis_and_t5s(warmup: int, steps: int) -> None:
    w = warmup + 1
    rise, flat = (schedule(f"inverse_sqrt(warmup={warmup}, before={before})") for before in ("rise", "flat"))
    for n in range(1, steps + 1):
        vaswani = min(n**-0.5, n * w**-1.5) * w**0.5
        assert math.isclose(rise(n - 1, steps), vaswani)
        t5 = max(n, w) ** -0.5 * w**0.5
        assert math.isclose(flat(n - 1, steps), t5)


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
        ("step(at=-2)", "at=-2 must be steps or shares"),
        ("step(at=[0.5, half])", "at=[0.5, half] must be"),
        ("step(at=0.5, every=3)", "give one of them"),
        ("step(factor=2)", "factor=2.0 must lie between 0 and 1"),
    ],
)
def test_wrong_schedules_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
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


def two_alike(dtype: torch.dtype = torch.float32) -> tuple[Net, Net]:
    """In float64 what is compared may be compared closely: where a gradient is near zero Adam divides rounding by its
    root, and Lion takes its sign."""
    torch.manual_seed(torch.seed() % 2**31)  # fresh weights in every run
    one, two = Net().to(dtype), Net().to(dtype)
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


THEIRS |= {
    "adagrad(lr=0.1, lr_decay=0.2, weight_decay=0.1)": lambda m: torch.optim.Adagrad(
        decayed(m, 0.1), lr=0.1, lr_decay=0.2
    ),
    "adadelta(decay=0.8, eps=1e-3)": lambda m: torch.optim.Adadelta(decayed(m, 0), rho=0.8, eps=1e-3),
    "adamax(lr=0.01, beta1=0.8, weight_decay=0.1)": lambda m: torch.optim.Adamax(
        decayed(m, 0.1), lr=0.01, betas=(0.8, 0.999)
    ),
    "nadam(lr=0.01, beta2=0.9, weight_decay=0.1)": lambda m: torch.optim.NAdam(
        decayed(m, 0.1), lr=0.01, betas=(0.9, 0.9)
    ),
    "radam(lr=0.01, beta2=0.9, weight_decay=0.1)": lambda m: torch.optim.RAdam(
        decayed(m, 0.1), lr=0.01, betas=(0.9, 0.9)
    ),
}


@pytest.mark.parametrize("text", THEIRS)
def test_optimizers_are_torchs(text: str) -> None:
    ours, theirs = two_alike(torch.float64)
    start = [p.detach().clone() for p in ours.parameters()]
    got = trained(ours, make_optimizers(text, ours))
    wanted = trained(theirs, [THEIRS[text](theirs)])
    for a, b, before in zip(got, wanted, start, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
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


def test_lion_is_the_papers_formula() -> None:
    """Algorithm 2, one parameter at a time; matrices decay, vectors do not."""
    ours, theirs = two_alike(torch.float64)
    optimizers = make_optimizers("lion(lr=0.02, beta1=0.8, beta2=0.95, weight_decay=0.5)", ours)
    momenta = [torch.zeros_like(p) for p in theirs.parameters()]
    for seed in range(6):
        torch.manual_seed(seed)
        for p, q, m in zip(ours.parameters(), theirs.parameters(), momenta, strict=True):
            g = torch.randn_like(p)
            p.grad = g.clone()
            c = 0.8 * m + (1 - 0.8) * g
            update = c.sign() + (0.5 * q if q.ndim > 1 else 0)
            q.data = q.data - 0.02 * update.detach()
            m.copy_(0.95 * m + (1 - 0.95) * g)
        optimizers[0].step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_lion_without_decay_moves_every_weight_by_lr() -> None:
    model = Net()
    start = [p.detach().clone() for p in model.parameters()]
    for a, b in zip(trained(model, make_optimizers("lion(lr=0.25)", model), steps=1), start, strict=True):
        moved = (a - b).abs()
        torch.testing.assert_close(moved[moved > 0], torch.full_like(moved[moved > 0], 0.25), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_what_an_optimizer_remembers_is_saved_and_given_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Three steps, through files, three more, against six in one go."""
    straight, broken = two_alike()
    made = make_optimizers(name, straight)
    generator = torch.Generator().manual_seed(1)
    grads = [[torch.randn(p.shape, generator=generator) for p in straight.parameters()] for _ in range(6)]

    def steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], some: list[list[Tensor]]) -> None:
        for step in some:
            for p, g in zip(model.parameters(), step, strict=True):
                p.grad = g.clone()
            for optimizer in optimizers:
                optimizer.step()

    steps(straight, made, grads)
    first = make_optimizers(name, broken)
    steps(broken, first, grads[:3])
    tensors, scalars = optimizer_state(broken, first)
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "state")
    second = make_optimizers(name, broken)
    load_optimizer_state(broken, second, load_file(tmp_path / "state"), json.loads(json.dumps(scalars)))
    steps(broken, second, grads[3:])
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), broken.parameters(), strict=True))


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


class Slower(Net):
    """As muP would have it."""

    def rates(self) -> dict[str, float]:
        return {name: 0.25 if role == "hidden" else 1.0 for name, role in self.roles().items()}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"sgd", "muon"}))
def test_a_group_for_each_rate_with_equal_pull_of_decay(name: str) -> None:
    model = Slower()
    (optimizer,) = make_optimizers(f"{name}(lr=0.5, weight_decay=0.1)", model)
    slow = {id(model.a.weight), id(model.b.weight), id(model.wide.weight), id(model.tall.weight)}
    for group in optimizer.param_groups:
        ids = {id(p) for p in group["params"]}
        assert group["lr"] == group["base_lr"] == (0.125 if ids <= slow else 0.5)
        assert ids <= slow or not ids & slow
        flat = all(p.ndim < 2 for p in group["params"])
        assert group["lr"] * group["weight_decay"] == pytest.approx(0 if flat else 0.05)
    assert optimizer.param_groups[0]["lr"] == 0.5  # the rate that metrics name is the optimizer's own


def test_rates_act_on_the_step() -> None:
    plain, slow = Net(), Slower()
    slow.load_state_dict(plain.state_dict())
    start = {n: p.detach().clone() for n, p in plain.named_parameters()}
    for model in (plain, slow):
        trained(model, make_optimizers("adam(lr=0.01)", model), steps=1)
    for (name, a), b in zip(plain.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(b - start[name], (a - start[name]) * slow.rates()[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("text", ["sgd", "muon"])
def test_rules_whose_step_has_another_size_refuse_rates(text: str) -> None:
    with pytest.raises(UserError, match=r"model\.init=mup has learning rates for Adam's kind of step"):
        make_optimizers(text, Slower())


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
        ("adagrad(lr_decay=-1)", "lr_decay=-1.0 must be at least 0"),
        ("adadelta(decay=1)", "decay=1.0"),
        ("lion(beta2=1.5)", "beta2=1.5"),
        ("adamw(beta1=1)", "beta1=1.0"),
        ("sgd(form=nesterov)", "needs momentum"),
        ("adamw(beta_1=0.9)", "did you mean 'beta1'"),
        ("adamm", "did you mean 'adam"),
        ("muon(rest=adamw(lr=-1))", "muon: adamw: lr=-1.0 must be at least 0"),
        ("muon(scale=big)", "scale=big is not one of its words"),
        ("muon(ns_steps=0)", "ns_steps=0"),
        ("muon(ns_steps=2147483647)", "nearest: 100"),
        ("adadelta(decay=1)", "nearest: 0.99"),
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
