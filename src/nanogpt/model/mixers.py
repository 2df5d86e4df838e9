"""Mixers move information between positions: (x_BTD, flow) -> x_BTD, never from a later token to an earlier one."""

from __future__ import annotations

from nanogpt.model.attention import Attention
from nanogpt.model.average import Average
from nanogpt.model.convolution import Convolution
from nanogpt.model.part import Nothing
from nanogpt.model.recurrent import GRU, LSTM, RNN

MIXERS = {
    "none": Nothing,
    "attention": Attention,
    "average": Average,
    "conv": Convolution,
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
}
