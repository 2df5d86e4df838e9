"""Whether a gradient is right: beside differences of the function itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nanogpt.autograd.tensor import Tensor, grad, tensor, wrap, zeros
from nanogpt.errors import UserError


def gradcheck(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], *, eps: float = 1e-6, atol: float = 1e-5,
    rtol: float = 1e-3,
) -> float:  # fmt: skip
    """The largest difference between the gradient of every number of `function(*inputs)` with respect to every number
    of every input that requires one, and (f(x + eps) - f(x - eps)) / 2 eps.

    Raises UserError where one differs by more than atol + rtol times its size, and says which. Inputs are float64: in
    float32 the difference itself has only three digits.
    """
    wanted = [x for x in inputs if x.requires_grad]
    out = function(*inputs)
    if not wanted or not out.numel():
        raise UserError("gradcheck: there is nothing to check: no input requires a gradient, or there is no result")
    if any(x.dtype != np.float64 for x in wanted):
        raise UserError("gradcheck takes float64; nearest: x.to('float64')")
    largest = 0.0
    for place in range(out.numel()):
        chosen = wrap(np.eye(1, out.numel(), place).reshape(out.shape))
        if out.requires_grad:
            slopes = grad(out, wanted, chosen, retain_graph=True, allow_unused=True)
        else:  # a constant, as the gradient of a sum is
            slopes = [zeros(x.shape) for x in wanted]
        for n, (x, slope) in enumerate(zip(wanted, slopes, strict=True)):
            measured = _differences(function, inputs, x, place, eps)
            apart = np.abs(slope.numpy() - measured)
            if not (apart <= atol + rtol * np.abs(measured)).all():
                worst = np.unravel_index(int(np.argmax(apart)), apart.shape)
                raise UserError(
                    f"gradcheck: d(number {place})/d(input {n}{list(map(int, worst))}) is {slope.numpy()[worst]:.6g} "
                    f"by the formula and {measured[worst]:.6g} by differences"
                )
            largest = max(largest, float(apart.max(initial=0.0)))
    return largest


def gradgradcheck(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> float:
    """The same for the gradient itself: d(sum of out * v)/d(inputs), as a function of the inputs and of v, goes through
    gradcheck; v is random, and so are the factors with which the parts of that gradient are summed."""
    wanted = [n for n, x in enumerate(inputs) if x.requires_grad]
    random = np.random.default_rng(0)
    v = tensor(random.standard_normal(function(*inputs).shape), requires_grad=True)
    factors = [tensor(random.standard_normal(inputs[n].shape)) for n in wanted]

    def slope(*inputs_and_v: Tensor) -> Tensor:
        *xs, v = inputs_and_v
        parts = grad((function(*xs) * v).sum(), [xs[n] for n in wanted], create_graph=True, allow_unused=True)
        return sum(((part * factor).sum() for part, factor in zip(parts, factors, strict=True)), tensor(0.0))

    return gradcheck(slope, [*inputs, v])


def _differences(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], x: Tensor, place: int, eps: float
) -> np.ndarray:
    """d(number `place` of the result)/d(each number of x), by central differences."""
    found, numbers = np.zeros(x.shape), x.numpy()
    for index in np.ndindex(x.shape):
        before, sides = numbers[index], []
        try:
            for step in (eps, -eps):
                numbers[index] = before + step
                sides.append(function(*inputs).numpy().reshape(-1)[place])
        finally:
            numbers[index] = before
        found[index] = (sides[0] - sides[1]) / (2 * eps)
    return found
