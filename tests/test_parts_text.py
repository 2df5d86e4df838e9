"""Parts from text: knobs by signature, defaults written out, a user's own part from a file."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from nanogpt.config import compose
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.parts import LARGEST, between, build, divides, parts_from, user_class
from nanogpt.rehearsal import rehearse
from nanogpt.spec import Spec
from nanogpt.training.loop import train
from tests.helpers import VOCAB, count, make, model_config, tokens


class Toy:
    def __init__(
        self,
        *,
        dim: int,
        size: int | None = None,
        rate: float = 0.5,
        mode: Literal["a", "b"] = "a",
        inner: str = "none",
    ) -> None:
        self.dim, self.rate = dim, rate
        self.size = 4 * dim if size is None else size


class Needy:
    def __init__(self, *, need: int, rest: int = 2) -> None:
        self.need = need


TABLE: dict[str, Any] = {"toy": Toy, "needy": Needy}


def refused(text: str, **supplied: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(TABLE, text, **supplied)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_defaults_are_written_out_and_what_the_parent_gives_is_not() -> None:
    built = build(TABLE, "toy(rate=1)", dim=3, unused=5)
    assert built.spec == Spec("toy", (), {"size": 12, "rate": 1.0, "mode": "a", "inner": "none"})
    assert build(TABLE, built.spec, dim=3).spec == built.spec
    assert build(TABLE, str(built.spec), dim=3).spec == built.spec
    assert build(TABLE, "toy(7, 0.25, b)", dim=3).spec.knobs == {"size": 7, "rate": 0.25, "mode": "b", "inner": "none"}


def test_whole_numbers_may_be_written_as_powers() -> None:
    size = build(TABLE, "toy(size=1e3)", dim=3).size
    assert size == 1000
    assert type(size) is int


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tio", "did you mean 'toy'?"),
        ("toy(siz=3)", "toy: no knob 'siz'; did you mean 'size'?"),
        ("toy(dim=3)", "no knob 'dim'"),
        ("toy(size=a)", "size=a must be a number"),
        ("toy(size=1.5)", "nearest: 2"),
        ("toy(size=1e300)", f"nearest: {LARGEST}"),
        ("toy(size=-1e300)", "too large"),
        ("toy(size=999999999999)", f"nearest: {LARGEST}"),
        ("toy(rate=x)", "must be a number"),
        ("toy(rate=1e300)", "toy: rate=1e+300 is too large; nearest: 1e+38"),
        ("toy(rate=-1e300)", "nearest: -1e+38"),
        ("toy(mode=c)", "(there is: a, b)"),
        ("toy(mode=1)", "not one of its words"),
        ("toy(inner=1)", "a word or a part"),
        ("needy", "'need' needs a value"),
        ("needy(rest=1)", "'need' needs a value"),
        ("needy(1, 2, 3)", "3 values for 2 knobs (need, rest)"),
    ],
)
def test_knobs_that_do_not_fit(text: str, words: str) -> None:
    assert words in refused(text, dim=3)


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (-1, 0, 11, "nearest: 0"),
        (11, 0, 11, "order=11 must be at least 0 and below 11; nearest: 10"),
        (1.0, 0, 1, "nearest: 0.99"),
        (-0.5, 0, 1, "nearest: 0"),
        (math.nan, 0, 1, "nearest: 0"),
        (3.0, 0.5, 1, "nearest: 0.995"),
    ],
)
def test_the_nearest_within_bounds(value: float, low: float, high: float, words: str) -> None:
    with pytest.raises(UserError) as caught:
        between(low, high, order=value)
    assert str(caught.value).endswith(words)


@pytest.mark.parametrize("total", [1, 2, 12, 97, 100, 2**31 - 1, 2**30])
@pytest.mark.parametrize("value", [1, 2, 5, 11, 90, 10**9])
def test_the_nearest_divisor(total: int, value: int) -> None:
    if total % value == 0:
        divides("heads", value, "dim", total)
        return
    with pytest.raises(UserError) as caught:
        divides("heads", value, "dim", total)
    found = int(str(caught.value).rpartition("=")[2])
    assert total % found == 0
    if total <= 100:
        assert abs(found - value) == min(abs(d - value) for d in range(1, total + 1) if total % d == 0)


# -- a part of your own --------------------------------------------------------------------------------------------

PARTS = '''
import torch
from torch import nn

class Plain(nn.Module):
    """An ffn of PyTorch's own parts."""
    def __init__(self, *, dim, hidden=8, rate: float = 0.5):
        super().__init__()
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.rate = rate
    def forward(self, x, flow):
        return self.down(torch.relu(self.up(x))) * self.rate

class Own(nn.Module):
    def __init__(self, *, dim, hidden: int):
        super().__init__()
        self.table = nn.Parameter(torch.empty(hidden, dim))
        self.curve = nn.Parameter(torch.empty(dim))
        self.shift = nn.Parameter(torch.empty(dim))
    def rules(self):
        return {"table": "residual", "curve": lambda values: values.uniform_(2, 3), "shift": "bias"}
    def forward(self, x, flow):
        return x @ self.table.T @ self.table * self.curve + self.shift

class NoRule(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
        self.mystery = nn.Parameter(torch.empty(dim))
    def forward(self, x, flow):
        return x * self.mystery

class BadRole(NoRule):
    def rules(self):
        return {"mystery": "hiden"}

class Lazy(NoRule):
    def rules(self):
        return {"mystery": lambda values: None}

class Shared(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
        self.a, self.b = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.b.weight = self.a.weight
    def forward(self, x, flow):
        return self.b(self.a(x))

class SharedModule(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
        self.a = nn.Linear(dim, dim)
        self.b = self.a
    def forward(self, x, flow):
        return self.b(self.a(x))

class SharedName(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
        self.a = nn.Parameter(torch.empty(dim))
        self.b = self.a
    def rules(self):
        return {"a": "bias", "b": "bias"}
    def forward(self, x, flow):
        return x * self.a + self.b

class Broken(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
        self.layer = nn.Linear(dim, 1 // 0)

def nothing(*, dim):
    return None

number = 3
'''


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    path = tmp_path / "my_parts.py"
    path.write_text(PARTS)
    return path


def test_a_plain_module_is_a_part(parts: Path) -> None:
    config = model_config(ffn=f"{parts}:Plain(hidden=5)", mixer="attention(heads=2)", norm="rmsnorm")
    resolved = resolve_model(config)
    assert resolved.ffn == [f"{parts}:Plain(hidden=5, rate=0.5)"] * 2
    model = make(**resolved.model_dump())
    assert type(model.blocks[0].ffn) is type(model.blocks[1].ffn)
    assert count(model.blocks[0].ffn) == 16 * 5 + 5 + 5 * 16 + 16
    assert {model.roles()[f"blocks.0.ffn.{n}"] for n in ("up.weight", "down.weight")} == {"hidden"}
    assert model.roles()["blocks.1.ffn.up.bias"] == "bias"
    terms = model.losses(tokens(2, 8), tokens(2, 8, 3))
    terms["loss"].backward()
    assert cost(config).total == count(model)
    assert cost(config).flops == model.flops(1, 8) > 2 * 2 * 2 * 16 * 5


def test_a_part_with_parameters_of_its_own_kind(parts: Path) -> None:
    model = make(ffn=f"{parts}:Own(3)", norm="rmsnorm", init="normal(std=0.5)")
    own = model.blocks[0].ffn
    assert 2 <= float(own.curve.detach().min()) <= float(own.curve.detach().max()) <= 3
    assert not own.shift.any()
    assert model.roles()["blocks.0.ffn.curve"] == "own"
    again = make(ffn=f"{parts}:Own(3)", init="normal(std=0.5)")
    assert torch.equal(own.curve, again.blocks[0].ffn.curve)


def test_filling_a_part_leaves_the_global_dice_alone(parts: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    make(ffn=f"{parts}:Own(3)")
    assert torch.equal(torch.rand(3), expected)


def test_names_are_looked_up_beside_the_run_and_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "my_parts.py").write_text(PARTS)
    with parts_from(folder):
        assert user_class("my_parts.py:Plain").__name__ == "Plain"
        resolved = resolve_model(model_config(ffn="my_parts.py:Plain"))
        assert resolved.ffn == ["my_parts.py:Plain(hidden=8, rate=0.5)"] * 2
    spaced = resolve_model(model_config(ffn=f"'{folder}/my_parts.py:Plain'(hidden=2)"))
    assert resolve_model(spaced) == spaced


def test_a_file_is_run_once_for_all_layers_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "counted.py"
    text = PARTS + f"\nwith open({str(tmp_path / 'log')!r}, 'a') as f: f.write('x')\n"
    path.write_text(text)
    resolve_model(model_config(ffn=f"{path}:Plain", n_layers=5))
    assert (tmp_path / "log").read_text() == "x"
    path.write_text(text.replace("hidden=8", "hidden=9"))
    assert "hidden=9" in str(resolve_model(model_config(ffn=f"{path}:Plain")).ffn)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Plian", "has no class 'Plian'; did you mean 'Plain'?"),
        ("number", "has no class 'number'"),
        ("", "model.ffn"),
        ("Plain(hiden=3)", "no knob 'hiden'; did you mean 'hidden'?"),
        ("Own", "'hidden' needs a value"),
        ("Own(x)", "must be a number"),
        ("Broken", "ZeroDivisionError"),
        ("nothing", "model.ffn"),
        ("NoRule", "blocks.0.ffn.mystery has no rule"),
        ("BadRole", "no role 'hiden'; did you mean 'hidden'?"),
        ("Lazy", "blocks.0.ffn.mystery (own) was not filled"),
        ("Shared", "blocks.0.ffn.b.weight is blocks.0.ffn.a.weight too"),
        ("SharedModule", "blocks.0.ffn.b.weight is blocks.0.ffn.a.weight too"),
        ("SharedName", "blocks.0.ffn.b is blocks.0.ffn.a too"),
    ],
)
def test_what_is_wrong_with_a_part_of_your_own_is_said_in_one_line(parts: Path, name: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(ffn=f"{parts}:{name}")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("\ud800", "bad.py"),
        ("a\x00b", "bad.py"),
    ],
)
def test_a_file_that_cannot_be_run(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    before = set(sys.modules)
    for _ in range(2):  # the second time too
        with pytest.raises(UserError) as caught:
            resolve_model(model_config(ffn=f"{path}:Mine"))
        message = str(caught.value)
        assert message.startswith("model.ffn: ")
        assert words in message and "bad.py" in message
        assert len(message.splitlines()) == 1
    assert not {m for m in set(sys.modules) - before if m.startswith("nanogpt_user")}


@pytest.mark.parametrize("name", ["nowhere.py:Mine", "~/nowhere_at_all.py:Mine", ".py:", ".py:M", "/.py:M"])
def test_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.mixer: .*no file"):
        resolve_model(model_config(mixer=name))


def test_a_user_mixer_norm_and_position_are_welcome(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom nanogpt.model.part import Part\nfrom nanogpt.model.positions import Position\n"
        "class Mean(Part):\n    def __init__(self, *, dim): super().__init__(); self.x = torch.nn.Linear(dim, dim)\n"
        "    def forward(self, x, flow):\n        seen = torch.arange(1, x.shape[1] + 1)[:, None]\n"
        "        return self.x(x.cumsum(1) / seen)\n"
        "class Norm(torch.nn.LayerNorm):\n    def __init__(self, *, dim): super().__init__(dim)\n"
        "class Alibi(Position):\n    def __init__(self, *, heads): super().__init__(); self.heads = heads\n"
        "    def bias(self, flow):\n        T = flow.tokens_BT.shape[1]\n        i = torch.arange(T)\n"
        "        return -(i[:, None] - i).float().expand(1, self.heads, T, T)\n"
    )
    model: LanguageModel = make(
        mixer=[f"{path}:Mean", "attention(heads=2)"], norm=f"{path}:Norm", position=f"{path}:Alibi", ffn="mlp"
    )
    x = tokens(2, 8)
    assert model(x).shape == (2, 8, VOCAB)
    other = x.clone()
    other[:, 5:] = 0
    torch.testing.assert_close(model(x)[:, :5], model(other)[:, :5])
    assert isinstance(model.norm, nn.LayerNorm)
    assert isinstance(model.losses(x, x)["loss"], Tensor)


# -- what a part of your own gets wrong, before any data is read ---------------------------------------------------

MISTAKES = """
import numpy
import torch
from torch import nn
from nanogpt.model.blocks import Block
from nanogpt.model.positions import Position

class Sine(nn.Module):
    def forward(self, x):
        return x.sin()

class Curved(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
        self.gain = nn.Parameter(torch.empty(dim))
    def rules(self):
        return {"gain": "scale"}
    def forward(self, x):
        return x * self.gain

class Linear(nn.Module):
    def __init__(self, *, dim, width: int):
        super().__init__()
        self.norm, self.width = nn.Linear(dim, width + 1), width  # its own affair, whatever its name
    def forward(self, x, flow=None):
        return self.norm(x)[..., :self.width]

class Raises(nn.Module):
    def forward(self, x, flow=None):
        return {}["a\\nb"]

class Pair(nn.Module):
    def forward(self, x, flow=None):
        return x, x

class Silent(nn.Module):
    pass

class Numbers(nn.Module):
    def __init__(self, *, way: str):
        super().__init__()
        self.way = way
    def forward(self, x, flow=None):
        if self.way == "item":
            return x * x.sum().item()
        if self.way == "copy":
            return x * x.detach().cpu().numpy()[0, 0, 0]
        if self.way == "elsewhere":
            return x + torch.zeros(1, device="cpu")[:, None] + torch.from_numpy(numpy.ones(16, dtype="float32"))
        return x * x[x > 0].mean()

class Heads(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(dim, dim // 2) for _ in range(2)])
    def forward(self, x, flow):
        return torch.cat([h(x) for h in self.heads], -1)

class PlainLayout(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
    def forward(self, x, flow):
        return x

class Parallel(Block):
    def forward(self, x, flow):
        return x + self.mixer(self.mixer_norm(x), flow) + self.ffn(self.ffn_norm(x), flow)

class Misspelt(Block):
    def forward(self, x, flow):
        return x + self.mixr(x, flow)

class Alibi(Position):
    def __init__(self, *, heads):
        super().__init__()
        self.slopes = 8 / heads
    def bias(self, flow):
        T = flow.tokens_BT.shape[1]
        return flow.tokens_BT.new_zeros(1, 3, T, T).float()

class Turn(Position):
    def rotate(self, q, k, flow):
        return q, undefined

class Embedding(nn.Module):
    def __init__(self, *, dim, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, dim)
    def forward(self, tokens, flow):
        return self.table(tokens)

class Head(nn.Module):
    def __init__(self, *, dim, vocab_size, short: int = 0):
        super().__init__()
        self.matrix = nn.Linear(dim, vocab_size - short)
    def forward(self, x, embedding):
        return self.matrix(x)

class Loss(nn.Module):
    def forward(self, model, hidden, targets, flow):
        return model.logits(hidden).mean()

class Fill:
    def paint(self):
        pass
"""


@pytest.fixture
def mistakes(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MISTAKES)
    return path


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("ffn", "@:Linear(width=5)", ["model.ffn: ", "mine.py:Linear", "(1, 8, 16)", "(1, 8, 5)"]),
        ("ffn", "@:Linear(width=1)", ["model.ffn: ", "(1, 8, 1)"]),  # would be broadcast
        ("mixer", ["attention(heads=2)", "@:Linear(width=5)"], ["model.mixer: ", "mine.py:Linear", "(1, 8, 5)"]),
        ("norm", "@:Linear(width=5)", ["model.norm: ", "mine.py:Linear", "(1, 8, 5)"]),
        ("ffn", "mlp(act=@:Linear(width=5))", ["model.ffn: ", "mine.py:Linear", "(1, 8, 5)"]),
        ("mixer", "@:Pair", ["model.mixer: ", "mine.py:Pair", "it gives tuple"]),
        ("ffn", "@:Raises", ["model.ffn: ", "mine.py:Raises, line ", "KeyError"]),
        ("norm", "@:Raises", ["model.norm: ", "mine.py:Raises, line ", "KeyError"]),
        ("ffn", "@:Silent", ["model.ffn: ", "mine.py:Silent", 'missing the required "forward"']),
        ("layout", "@:PlainLayout", ["model.layout: ", "open, close", "subclass of nanogpt.model.blocks.Block"]),
        ("layout", "@:Misspelt", ["model.layout: ", "mine.py:Misspelt, line ", "no attribute 'mixr'"]),
        ("position", "@:Silent", ["model.position: ", "embed, rotate, bias, scale", "nanogpt.model.positions."]),
        ("position", "@:Alibi", ["model.position: ", "mine.py:Alibi: the rest of the model cannot work with"]),
        ("position", "@:Turn", ["model.position: ", "mine.py:Turn, line ", "NameError"]),
        ("head", "@:Head(short=1)", ["model.head: ", "(1, 8, 13)", "(1, 8, 12)"]),
        ("objective", "@:Loss", ["model.objective: ", "mine.py:Loss"]),
        ("init", "@:Fill", ["model.init: ", "mine.py:Fill", "fill", "nanogpt.init.base.Scheme"]),
    ],
)  # fmt: skip
def test_what_a_part_of_your_own_gets_wrong_is_said_in_one_line_before_it_sees_data(
    mistakes: Path, field: str, text: Any, words: list[str]
) -> None:
    base = {"mixer": "attention(heads=2)", "ffn": "mlp"}
    text = [t.replace("@", str(mistakes)) for t in text] if isinstance(text, list) else text.replace("@", str(mistakes))
    with pytest.raises(UserError) as caught:
        resolve_model(model_config(**base | {field: text}))
    message = str(caught.value)
    assert message.startswith(words[0]) and message.count("model.") == 1 + message.count("nanogpt.model."), message
    assert all(w in message for w in words), message
    assert len(message.splitlines()) == 1


def test_a_wrong_part_is_told_before_the_text_is_looked_for(mistakes: Path, tmp_path: Path) -> None:
    config = compose("gpt", [f"model.ffn={mistakes}:Raises", f"data.corpus={tmp_path}/nowhere.txt"])
    with pytest.raises(UserError, match=r"model\.ffn: .*KeyError"):
        train(config, out=tmp_path / "runs", quiet=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"ffn": "mlp(act=@:Sine)"},
        {"ffn": "swiglu(act=@:Sine)"},
        {"ffn": "mlp(act=@:Curved)"},
        {"ffn": "@:Linear(width=16)", "mixer": "@:Heads", "position": "rotary"},
        {"layout": "@:Parallel(dropout=0.1)"},
        {"embed": "@:Embedding"},
        {"embed": "@:Embedding", "head": "@:Head", "n_layers": 0},
        *({"ffn": f"@:Numbers(way={way})"} for way in ("item", "copy", "elsewhere", "select")),
    ],
)
def test_parts_of_your_own_that_are_right_are_not_refused(mistakes: Path, fields: dict[str, Any]) -> None:
    """Those that need numbers, or a device of their own, cannot be told without data; they are given the chance."""
    fields = {k: v.replace("@", str(mistakes)) if isinstance(v, str) else v for k, v in fields.items()}
    model = make(**{"mixer": "attention(heads=2)", "ffn": "mlp"} | resolve_model(model_config(**fields)).model_dump())
    with torch.no_grad():
        assert model.losses(tokens(2, 8), tokens(2, 8, 3))["loss"].isfinite()


def test_an_activation_without_a_gain_has_one(mistakes: Path) -> None:
    for ffn in ("mlp", "swiglu"):
        mine, plain = (make(ffn=f"{ffn}(act={a})").blocks[0].ffn for a in (f"{mistakes}:Sine", "identity"))
        assert torch.equal(mine.out.weight, plain.out.weight)
        assert mine.out.gain == 1


def test_the_rehearsal_throws_no_dice_and_leaves_no_hooks(mistakes: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    resolve_model(model_config(ffn=f"{mistakes}:Linear(width=16)", mixer="attention(dropout=0.3)", layout="pre(0.2)"))
    assert torch.equal(torch.rand(3), expected)
    with torch.device("meta"):
        model = LanguageModel(model_config())
    rehearse(model)
    assert not any(m._forward_hooks for m in model.modules())
