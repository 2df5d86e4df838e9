"""Mixers whose memory does not grow: RNN, GRU, LSTM; and what these, convolution and average must all do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.mixers import MIXERS
from nanogpt.model.part import Cache
from nanogpt.parts import build
from tests.helpers import count, model_config, scramble

DIM, TIME = 6, 12
MEMORIES = [
    "rnn",
    "rnn(act=relu, hidden=4, start=zeros)",
    "gru(out=none)",
    "gru(reset=after, hidden=5)",
    "lstm",
    "lstm(start=zeros, out=none)",
    "average",
    "conv",
    "conv(kernel=3, dilation=2, bias=zeros)",
    "conv(kernel=2, dilation=4, groups=6)",
    "conv(kernel=1, groups=3)",
]
anything = pytest.mark.parametrize("spec", MEMORIES)


def model_with(spec: str, seed: int = 1) -> LanguageModel:
    """A model of one layer with random numbers everywhere, in fp64."""
    model = LanguageModel(model_config(dim=DIM, n_layers=1, context=TIME, mixer=spec))
    return scramble(model, seed).double().eval()


def mix(model: LanguageModel, x: Tensor, mask: Any = None, documents: Any = None, cache: Cache | None = None) -> Tensor:
    """The first layer's mixer alone, on x_BTD."""
    flow = model.flow(torch.zeros(x.shape[:2], dtype=torch.long), mask, documents, cache)
    mixer: Any = model.blocks[0]
    out: Tensor = mixer.mixer(x, flow)
    if cache is not None:
        cache.length += x.shape[1]
    return out


def data(batch: int = 2, time: int = TIME, seed: int = 1) -> Tensor:
    return torch.randn(batch, time, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- equal to PyTorch's ---------------------------------------------------------------------------------------------


def joined(theirs: nn.RNNBase) -> tuple[Tensor, Tensor]:
    """torch's two matrices side by side, and the sum of its two biases."""
    w = torch.cat([theirs.weight_ih_l0, theirs.weight_hh_l0], 1)
    return w.detach(), (theirs.bias_ih_l0 + theirs.bias_hh_l0).detach()


@torch.no_grad()
def give(mixer: Any, names: list[str], weight: Tensor, bias: Tensor) -> None:
    for name, w, b in zip(names, weight.chunk(len(names)), bias.chunk(len(names)), strict=True):
        gate = getattr(mixer, name)
        gate.weight.copy_(w), gate.bias.copy_(b)


def same(mixer_spec: str, theirs: nn.RNNBase, copy: Any) -> None:
    """Outputs, and the gradients of input and weights, are those of torch's module."""
    model = model_with(mixer_spec)
    mixer: Any = model.blocks[0].mixer
    copy(mixer)
    ours_in, theirs_in = data().requires_grad_(), data().requires_grad_()
    weight = data(seed=2)[..., : theirs.hidden_size]
    ours, expected = mix(model, ours_in), theirs(theirs_in)[0]
    torch.testing.assert_close(ours, expected)
    (ours * weight).sum().backward(), (expected * weight).sum().backward()
    torch.testing.assert_close(ours_in.grad, theirs_in.grad)
    gates = [getattr(mixer, name) for name in copy.names]
    got = torch.cat([g.weight.grad for g in gates])
    want = torch.cat([theirs.weight_ih_l0.grad, theirs.weight_hh_l0.grad], 1)
    torch.testing.assert_close(got, want[copy.order(want.shape[0])] * copy.sign(want.shape[0])[:, None])


class Copy:
    """Gates of torch in torch's order; `flip`: the gate that torch counts the other way round."""

    def __init__(self, theirs: nn.RNNBase, names: list[str], places: list[int], flip: str = "") -> None:
        self.theirs, self.names, self.places, self.flip = theirs, names, places, flip

    def order(self, rows: int) -> Tensor:
        return torch.cat([torch.arange(rows).chunk(len(self.places))[p] for p in self.places])

    def sign(self, rows: int) -> Tensor:
        signs = [-1.0 if name == self.flip else 1.0 for name in self.names]
        return torch.tensor(signs, dtype=torch.float64).repeat_interleave(rows // len(signs))

    def __call__(self, mixer: Any) -> None:
        weight, bias = joined(self.theirs)
        rows, sign = self.order(len(weight)), self.sign(len(weight))
        give(mixer, self.names, weight[rows] * sign[:, None], bias[rows] * sign)


@pytest.mark.parametrize("act", ["tanh", "relu"])
def test_rnn_is_torchs(act: str) -> None:
    theirs = nn.RNN(DIM, DIM, nonlinearity=act, batch_first=True, dtype=torch.float64)
    same(f"rnn(act={act}, start=zeros, out=none)", theirs, Copy(theirs, ["cell"], [0]))


def test_lstm_is_torchs() -> None:
    theirs = nn.LSTM(DIM, DIM, batch_first=True, dtype=torch.float64)
    same("lstm(start=zeros, out=none)", theirs, Copy(theirs, ["input", "forget", "candidate", "output"], [0, 1, 2, 3]))


def test_gru_with_reset_after_the_matrix_is_torchs() -> None:
    theirs = nn.GRU(DIM, DIM, batch_first=True, dtype=torch.float64)
    copy = Copy(theirs, ["r", "z", "candidate"], [0, 1, 2], flip="z")

    def with_both_biases(mixer: Any) -> None:
        copy(mixer)
        with torch.no_grad():  # the candidate's two stand at different places
            mixer.candidate.bias.copy_(theirs.bias_ih_l0[2 * DIM :])
            mixer.reset_bias.copy_(theirs.bias_hh_l0[2 * DIM :])

    with_both_biases.names, with_both_biases.order, with_both_biases.sign = copy.names, copy.order, copy.sign  # type: ignore[attr-defined]
    same("gru(reset=after, start=zeros, out=none)", theirs, with_both_biases)


def test_a_wider_state_and_its_way_back() -> None:
    theirs = nn.LSTM(DIM, 9, proj_size=0, batch_first=True, dtype=torch.float64)
    model = model_with("lstm(hidden=9, start=zeros)")
    mixer: Any = model.blocks[0].mixer
    Copy(theirs, ["input", "forget", "candidate", "output"], [0, 1, 2, 3])(mixer)
    torch.testing.assert_close(mix(model, data()), theirs(data())[0] @ mixer.out.weight.T)


# -- equal to the formula -------------------------------------------------------------------------------------------


def test_gru_by_its_formula_step_by_step() -> None:
    """Cho et al. 2014 with [x, h] joined as makemore has it, one token at a time, from a learned start."""
    model = model_with("gru(out=none)")
    m: Any = model.blocks[0].mixer
    x, expected = data(), []
    h = m.start.expand(2, DIM)
    for t in range(TIME):
        z = torch.sigmoid(m.z(torch.cat([x[:, t], h], 1)))
        r = torch.sigmoid(m.r(torch.cat([x[:, t], h], 1)))
        c = torch.tanh(m.candidate(torch.cat([x[:, t], r * h], 1)))
        h = (1 - z) * h + z * c
        expected.append(h)
    torch.testing.assert_close(mix(model, x), torch.stack(expected, 1))


def test_lstm_starts_from_what_it_learned() -> None:
    theirs = nn.LSTM(DIM, DIM, batch_first=True, dtype=torch.float64)
    model = model_with("lstm(out=none)")
    mixer: Any = model.blocks[0].mixer
    Copy(theirs, ["input", "forget", "candidate", "output"], [0, 1, 2, 3])(mixer)
    h, c = (part.expand(1, 2, DIM).contiguous() for part in mixer.start.chunk(2))
    torch.testing.assert_close(mix(model, data()), theirs(data(), (h, c))[0])


# -- parameters and their start --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        ("rnn(out=none)", 64 + 64 * 128 + 64),
        ("rnn(start=zeros)", 64 * 128 + 64 + 64 * 64),
        ("rnn(hidden=32)", 32 + 96 * 32 + 32 + 32 * 64),
        ("gru(out=none)", 64 + 3 * (64 * 128 + 64)),
        ("gru(reset=after, out=none)", 64 + 3 * (64 * 128 + 64) + 64),
        ("lstm(out=none)", 128 + 4 * (64 * 128 + 64)),
        ("average", 0),
        ("conv(kernel=3)", 3 * 64 * 64),
        ("conv(kernel=3, bias=zeros, groups=64)", 3 * 64 + 64),
    ],
)
def test_parameters(spec: str, parameters: int) -> None:
    assert count(build(MIXERS, spec, dim=64, context=16)) == parameters


@pytest.mark.parametrize(("mixer", "parameters"), [("rnn(out=none)", 11_803), ("gru(out=none)", 28_315)])
def test_makemores_models_have_its_parameters(mixer: str, parameters: int) -> None:
    """27 characters of 64 numbers, one cell, a head with a bias, nothing else: makemore.py's RNN and GRU."""
    parts = {"mixer": mixer, "layout": "none(residual=none)", "norm": "none", "ffn": "none", "position": "none"}
    config = model_config(dim=64, n_layers=1, context=16, vocab_size=27, head="linear(bias=zeros)", **parts)
    assert count(LanguageModel(config)) == parameters


def test_they_start_at_zero_and_remember_at_first() -> None:
    model = LanguageModel(model_config(n_layers=1, mixer="lstm"))
    model.initialise(1)
    mixer: Any = model.blocks[0].mixer
    assert not mixer.start.any() and not mixer.input.bias.any()
    assert (mixer.forget.bias == 1).all() and mixer.forget.weight.std() > 0
    model = LanguageModel(model_config(n_layers=1, mixer="lstm(forget_bias=-2)"))
    model.initialise(1)
    assert (model.blocks[0].mixer.forget.bias == -2).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rnn(hidden=5, out=none)", "nearest: hidden=6, or out=linear"),
        ("gru(hidden=0)", "nearest: 1"),
        ("gru(reset=behind)", "after, before"),
        ("lstm(start=random)", "learned, zeros"),
        ("conv(kernel=0)", "nearest: 1"),
        ("conv(dilation=0)", "nearest: 1"),
        ("conv(groups=4)", "nearest: groups=3"),
        ("conv(kernel=3, dilation=7)", "reaches 14 tokens back, where a context of 12 has none; nearest: dilation=6"),
        ("conv(kernel=2000000000)", "nearest: kernel=13"),
        ("average(x=1)", "no knob 'x'"),
    ],
)
def test_refused(spec: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        build(MIXERS, spec, dim=DIM, context=TIME)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


# -- any mixer with a memory -----------------------------------------------------------------------------------------


@anything
@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 4), st.integers(0, 1000))
def test_pieces_of_any_size_are_one_pass_also_behind_padding(
    spec: str, sizes: list[int], padding: int, seed: int
) -> None:
    """Row 0 has padding before its text, row 1 is full; the text comes in pieces of these sizes, then the rest."""
    model, x = model_with(spec, seed), data(seed=seed)
    mask = torch.ones(2, TIME, dtype=torch.bool)
    mask[0, :padding] = False
    cuts = [c for c in torch.tensor(sizes).cumsum(0).tolist() if c < TIME]
    cache, out = model.new_cache(2, TIME), []
    for start, end in zip([0, *cuts], [*cuts, TIME], strict=True):
        piece = mask[:, start:end] if padding and (start == 0 or not mask[:, start:end].all()) else None
        out.append(mix(model, x[:, start:end], piece, cache=cache))
    got = torch.cat(out, 1)
    torch.testing.assert_close(got[1], mix(model, x)[1])
    torch.testing.assert_close(got[0, padding:], mix(model, x[:1, padding:])[0])


@anything
@settings(deadline=None, max_examples=8)
@given(st.lists(st.booleans(), min_size=TIME, max_size=TIME), st.integers(1, TIME), st.integers(0, 1000))
def test_padding_anywhere_is_as_if_it_were_not_there(spec: str, real: list[bool], cut: int, seed: int) -> None:
    model, x = model_with(spec, seed), data(1, seed=seed)
    mask = torch.tensor([real])
    out = mix(model, x, mask)
    assert out.isfinite().all()
    tokens = x[mask][None]
    if tokens.shape[1]:
        torch.testing.assert_close(out[mask][None], mix(model, tokens))
    cache = model.new_cache(1, TIME)
    pieces = [mix(model, *piece, cache=cache) for piece in zip(x.split(cut, 1), mask.split(cut, 1), strict=True)]
    torch.testing.assert_close(torch.cat(pieces, 1)[mask], out[mask])


@anything
@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(0, 3), min_size=TIME, max_size=TIME), st.integers(0, 1000))
def test_packed_documents_are_as_if_each_were_alone(spec: str, kinds: list[int], seed: int) -> None:
    """A 3 is padding; each other change of number starts a document. Two rows with different documents."""
    model, x = model_with(spec, seed), data(seed=seed)
    places = torch.tensor([sorted(kinds), [0] * TIME])
    mask = torch.tensor([[k != 3 for k in kinds], [True] * TIME])
    out = mix(model, x, mask, places)
    for document in range(4):
        own = (places[0] == document) & mask[0]
        if own.any():
            torch.testing.assert_close(out[0, own], mix(model, x[:1, own])[0])
    torch.testing.assert_close(out[1], mix(model, x)[1])
    torch.testing.assert_close(mix(model, x, None, places)[1], out[1])


@anything
def test_the_future_has_no_say(spec: str) -> None:
    model, x = model_with(spec), data(1).requires_grad_()
    mix(model, x)[0, 5].sum().backward()
    assert x.grad is not None
    assert x.grad[0, 5].any() and not x.grad[0, 6:].any()
    mask = torch.tensor([[False] * 3 + [True] * (TIME - 3)])
    before = torch.autograd.grad(mix(model, x, mask)[0, :3].sum(), x)[0]
    assert not before.any()  # nor has it at padding, before the first token


@anything
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_flow_through_time(spec: str, packed: bool) -> None:
    """Against differences, by input and by parameter; also where padding and documents cut."""
    model = model_with(spec)
    mask = torch.tensor([[True, True, False, True, True, True]]) if packed else None
    documents = torch.tensor([[0, 0, 0, 0, 1, 1]]) if packed else None
    names = [n for n, _ in model.blocks[0].mixer.named_parameters()]  # type: ignore[union-attr]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        mixer: Any = model.blocks[0].mixer
        flow = model.flow(torch.zeros(1, 6, dtype=torch.long), mask, documents)
        out: Tensor = torch.func.functional_call(mixer, dict(zip(names, values, strict=True)), (x, flow))
        return out if mask is None else out[mask]

    values = [p.detach().clone().requires_grad_() for p in model.blocks[0].mixer.parameters()]  # type: ignore[union-attr]
    assert torch.autograd.gradcheck(run, (data(1, 6).requires_grad_(), *values), fast_mode=True)


@anything
def test_half_precision_keeps_its_memory_precise(spec: str) -> None:
    """Under autocast a long text of small steps is not lost to rounding: bf16 has eight bits."""
    model = model_with(spec).float()
    x = (0.05 * data(1, 200) + 1).float()
    whole = mix(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        half = mix(model, x.bfloat16())
    assert half.isfinite().all()
    torch.testing.assert_close(half.float(), whole, atol=0.03, rtol=0.03)


def test_a_compiler_is_not_asked_to_unroll_the_loop() -> None:
    assert cost(model_config(mixer=["average", "rnn"])).loops and not cost(model_config(mixer="average")).loops
