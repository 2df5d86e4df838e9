"""Causal convolution and the average: equal to PyTorch's own, and seeing exactly what they should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanogpt.model.language_model import LanguageModel
from nanogpt.model.mixers import MIXERS
from nanogpt.model.part import Flow, flops
from nanogpt.parts import build
from tests.helpers import model_config, scramble

DIM = 6
one = st.sampled_from


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_flow(batch: int, time: int, **fields: Any) -> Flow:
    return Flow(torch.zeros(batch, time, dtype=torch.long), torch.arange(time)[None], **fields)


def convolution(**knobs: Any) -> Any:
    text = ", ".join(f"{k}={v}" for k, v in knobs.items())
    made = build(MIXERS, f"conv({text})", dim=DIM, context=64).double()
    with torch.no_grad():
        for n, parameter in enumerate(made.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=n))
    return made


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 5), one([1, 2, 6]), one(["none", "zeros"]), st.integers(1, 9))
def test_it_is_conv1d_padded_on_the_left(kernel: int, dilation: int, groups: int, bias: str, time: int) -> None:
    part, x = convolution(kernel=kernel, dilation=dilation, groups=groups, bias=bias), numbers(2, time, DIM)
    left = F.pad(x.transpose(1, 2), ((kernel - 1) * dilation, 0))
    expected = F.conv1d(left, part.weight, part.bias, dilation=dilation, groups=groups).transpose(1, 2)
    torch.testing.assert_close(part(x, plain_flow(2, time)), expected)
    # and where masks and documents have nothing to say, the other way of working it out says the same
    everything = torch.ones(2, time, dtype=torch.bool)
    torch.testing.assert_close(part(x, plain_flow(2, time, mask_BT=everything)), expected)
    torch.testing.assert_close(part(x, plain_flow(2, time, documents_BT=everything.long())), expected)


def test_a_kernel_of_two_by_hand() -> None:
    """y_t = W_old x_{t-3} + W_new x_t + b."""
    part, x = convolution(kernel=2, dilation=3, bias="zeros"), numbers(1, 8, DIM)
    old, new = part.weight.unbind(2)
    earlier = torch.cat([torch.zeros(1, 3, DIM, dtype=x.dtype), x[:, :5]], 1)
    torch.testing.assert_close(part(x, plain_flow(1, 8)), earlier @ old.T + x @ new.T + part.bias)


def test_dilations_that_double_see_twice_as_far_each() -> None:
    """WaveNet's figure 3: three layers of kernel 2, dilations 1, 2, 4, and the last token sees eight, no more."""
    config = model_config(n_layers=3, context=12, mixer="conv(dilation=1) + conv(dilation=2) + conv(dilation=4)")
    model = scramble(LanguageModel(config)).eval()
    embedding: Any = model.embed
    tokens = torch.arange(12)[None]
    model(tokens)[0, -1].square().sum().backward()
    seen = embedding.weight.grad.ne(0).any(1)
    assert seen[:12].tolist() == [False] * 4 + [True] * 8


def test_flops_are_two_for_each_weight() -> None:
    assert flops(convolution(kernel=3), 10, 64) == 2 * 3 * DIM * DIM * 10
    assert flops(convolution(kernel=3, groups=DIM), 10, 64) == 2 * 3 * DIM * 10
    state = build(MIXERS, "gru(hidden=4)", dim=DIM, context=64)
    assert flops(state, 10, 64) == 2 * (3 * (DIM + 4) * 4 + 4 * DIM) * 10


# -- the average ----------------------------------------------------------------------------------------------------


def test_the_average_is_attention_with_equal_weights() -> None:
    """Version 3 of "Let's build GPT", softmax of a triangle of zeros, times x; and version 1, the mean in a loop."""
    x = numbers(2, 7, DIM)
    weights = torch.zeros(7, 7, dtype=x.dtype).masked_fill(torch.ones(7, 7).tril() == 0, float("-inf")).softmax(1)
    got = build(MIXERS, "average", dim=DIM)(x, plain_flow(2, 7))
    torch.testing.assert_close(got, weights @ x)
    torch.testing.assert_close(got, torch.stack([x[:, : t + 1].mean(1) for t in range(7)], 1))


def test_the_average_of_a_long_text_in_half_precision() -> None:
    """The sum of 4096 ones in bf16 would stop at 256."""
    x = torch.ones(1, 4096, 2, dtype=torch.bfloat16)
    got = build(MIXERS, "average", dim=2)(x, plain_flow(1, 4096))
    assert got.dtype == torch.bfloat16 and (got == 1).all()


def test_a_document_has_no_rounding_errors_of_those_before() -> None:
    """Large numbers in the first document leave no trace in the second, in fp32."""
    x = torch.cat([torch.full((1, 5, 2), 1e8), torch.full((1, 5, 2), 0.1)], 1)
    documents = torch.tensor([[0] * 5 + [1] * 5])
    flow = Flow(torch.zeros(1, 10, dtype=torch.long), torch.arange(5).repeat(2)[None], documents_BT=documents)
    got = build(MIXERS, "average", dim=2)(x, flow)
    torch.testing.assert_close(got, x)


@pytest.mark.parametrize("spec", ["average", "conv(kernel=3)", "gru", "lstm", "rnn"])
def test_memory_does_not_grow(spec: str) -> None:
    assert build(MIXERS, spec, dim=DIM, context=64).cache_numbers() == 0
