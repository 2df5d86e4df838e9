"""Mixers move information between positions: (x_BTD, flow) -> x_BTD, never from a later token to an earlier one."""

from __future__ import annotations

from nanogpt.classic.average import Average
from nanogpt.classic.convolution import Convolution
from nanogpt.classic.recurrent import GRU, LSTM, RNN
from nanogpt.model.attention import Attention
from nanogpt.model.part import Nothing

MIXERS = {
    "none": Nothing,
    "attention": Attention,
    "average": Average,
    "conv": Convolution,
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
}
