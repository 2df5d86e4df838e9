"""Automatic differentiation from nothing: two engines to read, no torch. docs/autograd.md is the tour.

scalar      single numbers, with micrograd's interface: Value, Neuron, Layer, MLP
tensor      storage, dispatch, tape, tensor, ops: what PyTorch does, on numpy
ninja       gradients derived by hand, beside torch's
trace       the graph of a real model under PyTorch (`nanogpt autograd trace`)
"""

from nanogpt.autograd import functional, ops
from nanogpt.autograd.check import gradcheck, gradgradcheck
from nanogpt.autograd.dispatch import logged, mode
from nanogpt.autograd.drawing import draw_dot, draw_svg
from nanogpt.autograd.scalar import MLP, Layer, Module, Neuron, Value
from nanogpt.autograd.tape import no_grad, saved_tensors_hooks
from nanogpt.autograd.tensor import Tensor, empty_meta, grad, tensor, zeros

define = ops.define

__all__ = [
    "MLP",
    "Layer",
    "Module",
    "Neuron",
    "Tensor",
    "Value",
    "define",
    "draw_dot",
    "draw_svg",
    "empty_meta",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "logged",
    "mode",
    "no_grad",
    "saved_tensors_hooks",
    "tensor",
    "zeros",
]
