"""Activations that are called as functions, and one activation in several places: each a layer of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.observers.look import Probe, look
from nanogpt.observers.store import Observation
from tests.helpers import make, tokens

UNITS = 20


def seen_of(model: nn.Module, *x: Tensor) -> Observation:
    """The second look, which goes by what the first has found out."""
    probe = Probe(lambda: model(*x).square().mean())
    first, second = look(model, probe), look(model, probe)
    assert first.units == second.units
    return second


def dead_in(seen: Observation) -> dict[str, list[int]]:
    return {u.name: np.flatnonzero(seen.active(u.name) == 0).tolist() for u in seen.units}


class Own(nn.Module):
    """Somebody's network: an activation of the hidden layer, then of the second."""

    def __init__(self, first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(8, UNITS), nn.Linear(UNITS, UNITS), nn.Linear(UNITS, 2)
        self.first, self.second = first, second
        nn.init.constant_(self.fc2.bias, 0.7)  # so that no unit of it is dead by chance: its input is never negative

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.fc2(self.first(self.fc1(x)))))


def kill(matrix: nn.Module, units: list[int], bias: float = -99.0) -> None:
    assert isinstance(matrix, nn.Linear)
    with torch.no_grad():
        matrix.bias[units] = bias


def some_units() -> list[int]:
    return sorted(np.random.default_rng().choice(UNITS, 5, replace=False).tolist())


def test_one_module_in_two_places_is_two_layers() -> None:
    act = nn.ReLU()
    model, one, two = Own(act, act), some_units(), some_units()
    kill(model.fc1, one)
    kill(model.fc2, two)
    seen = seen_of(model, torch.randn(200, 8))
    assert dead_in(seen) == {"first": one, "first@fc2": two}
    bias = np.split(seen.arrays["neurons/bias"], 2)
    assert [b.min() for b in bias] == [-99, -99] and np.flatnonzero(bias[1] == -99).tolist() == two
    assert {"first", "first@fc2"} < set(seen.names["activations"]) and "first@fc2" in seen.names["activation_gradients"]


@pytest.mark.parametrize("between", ["sum", "inplace"])
def test_also_where_a_sum_stands_before_it(between: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.relu = nn.ReLU(inplace=between == "inplace")

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv2(self.relu(self.conv1(x)))
            if between == "inplace":
                y += x
                return self.relu(y)
            return self.relu(x + y)

    model = nn.Sequential(Block(), Block())
    for block in model:
        with torch.no_grad():
            block.conv1.bias[2] = -99.0
            block.conv2.bias[[0, 3]] = -99.0
    want = {"0.relu": [2], "0.relu@conv2": [0, 3], "1.relu": [2], "1.relu@conv2": [0, 3]}
    assert dead_in(seen_of(model, torch.randn(5, 4, 6, 6))) == want


def test_two_passes_through_the_same_layers_count_together() -> None:
    """As in a siamese network, and in every step of a recurrent one."""
    model = Own(nn.ReLU(), nn.Tanh())
    x, y = torch.randn(100, 8), torch.randn(100, 8)
    seen = look(model, Probe(lambda: (model(x) - model(y)).square().mean(), tokens=200))
    assert [u.name for u in seen.units] == ["first", "second"]
    count = (model.fc1(torch.cat([x, y])) > 0).sum(0)
    assert np.array_equal(seen.arrays["neurons/active"][:UNITS], count.numpy())


@pytest.mark.parametrize(
    ("function", "name", "kind", "bias"),
    [
        (F.relu, "relu", "rectified", -99.0),
        (torch.relu, "relu", "rectified", -99.0),
        (lambda x: x.relu(), "relu", "rectified", -99.0),
        (lambda x: F.relu(x, inplace=True), "relu", "rectified", -99.0),
        (lambda x: x.relu_(), "relu", "rectified", -99.0),
        (torch.tanh, "tanh", "bounded", 99.0),
        (lambda x: x.tanh_(), "tanh", "bounded", -99.0),
        (F.tanh, "tanh", "bounded", 99.0),
        (torch.sigmoid, "sigmoid", "bounded", -99.0),
        (F.gelu, "gelu", "smooth", -99.0),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu", "smooth", -99.0),
        (F.silu, "silu", "smooth", -99.0),
        (lambda x: F.elu(x, 0.5), "elu", "smooth", -99.0),
        (F.hardswish, "hardswish", "rectified", -99.0),
        (F.mish, "mish", "smooth", -99.0),
    ],
)
def test_functions_are_seen(function: Callable[[Tensor], Tensor], name: str, kind: str, bias: float) -> None:
    model, dead = Own(function, function), some_units()
    kill(model.fc2, dead, bias)
    seen = seen_of(model, torch.randn(200, 8))
    assert [(u.name, u.kind, u.act) for u in seen.units] == [(f"{name}@fc1", kind, name), (f"{name}@fc2", kind, name)]
    assert dead_in(seen) == {f"{name}@fc1": [], f"{name}@fc2": dead}
    assert f"{name}@fc1" in seen.names["activation_gradients"]


def test_a_function_has_the_name_of_its_module() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, UNITS, batch_first=True, activation=F.gelu)
    model, dead = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), some_units()
    kill(model.layers[1].linear1, dead)
    seen = seen_of(model, torch.randn(30, 7, 16))
    assert dead_in(seen) == {"layers.0.gelu@linear1": [], "layers.1.gelu@linear1": dead}


def test_modules_are_not_seen_twice() -> None:
    """nn.ReLU calls F.relu; somebody's own activation has a tanh inside; ours announce theirs as modules."""

    class Gelu(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3)))

    seen = seen_of(Own(nn.ReLU(), Gelu()), torch.randn(50, 8))
    assert [(u.name, u.act) for u in seen.units] == [("first", "relu"), ("second", "gelu")]
    model, ids = make(mixer="lstm", position="none", ffn="swiglu(hidden=24)", n_layers=1), tokens(3, 8)
    seen = look(model, Probe(lambda: model.losses(ids, ids)["loss"]))
    assert all("@" not in units.name for units in seen.units)


def test_nothing_is_left_behind() -> None:
    from torch.nn.modules import module

    model = Own(F.relu, torch.tanh)
    before = [dict(getattr(module, hooks)) for hooks in ("_global_forward_hooks", "_global_forward_pre_hooks")]
    seen_of(model, torch.randn(50, 8))
    with pytest.raises(RuntimeError):
        look(model, Probe(lambda: model(torch.randn(3, 9)).mean()))
    after = [dict(getattr(module, hooks)) for hooks in ("_global_forward_hooks", "_global_forward_pre_hooks")]
    assert before == after and not [m for m in model.modules() if m._forward_hooks]


def test_an_empty_sequence_stays_what_it_is() -> None:
    """It counts as false, as an empty list does."""
    model = nn.Sequential(nn.Linear(8, UNITS), nn.Sequential(), nn.ReLU())
    x = torch.randn(50, 8)
    assert seen_of(model, x).arrays["loss"] == pytest.approx(float(model(x).square().mean().detach()), rel=1e-5)


def test_what_is_out_of_sight_is_named() -> None:
    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(8, UNITS), nn.Linear(UNITS, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.lstm(x)[0].relu())

    seen = seen_of(Speech(), torch.randn(5, 3, 8))
    assert seen.facts["unseen"] == ["lstm (LSTM)"] and [u.name for u in seen.units] == ["relu"]
    assert "unseen" not in seen_of(Own(F.relu, F.relu), torch.randn(5, 8)).facts
