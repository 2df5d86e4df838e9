"""The ReLU and what was made of it: a hinge, whatever lies left of it."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from nanogpt.activations.base import Activation, below, density, keeping, mean
from nanogpt.errors import UserError
from nanogpt.parts import at_least


class ReLU(Activation):
    """f(x) = max(x, 0). Fukushima 1969; Nair & Hinton 2010. E[f^2] = 1/2 (He et al. 2015)."""

    gain = 2**0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class ReLU6(Activation):
    """f(x) = min(max(x, 0), 6). Krizhevsky 2010 (convolutional deep belief networks on CIFAR-10)."""

    gain = 1.4142136

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x)


class ReLU2(Activation):
    """f(x) = max(x, 0)^2. So et al. 2021 (Primer). E[f^2] = 3/2."""

    gain = 1.5**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class LeakyReLU(Activation):
    """f(x) = x where x > 0, else slope x. Maas et al. 2013. E[f^2] = (1 + slope^2) / 2.

    slope: of the left side.
    """

    def __init__(self, *, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = slope
        self.gain = keeping((1 + slope * slope) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)


class RReLU(Activation):
    """f(x) = x where x > 0, else a x, with a ~ U(lower, upper) for each number while training. Xu et al. 2015.

    Evaluation has the mean slope. The gain is that of training, E[f^2] = (1 + E[a^2]) / 2.
    lower, upper: between which the slope is drawn.
    """

    def __init__(self, *, lower: float = 1 / 8, upper: float = 1 / 3) -> None:
        super().__init__()
        if not lower <= upper:
            raise UserError(f"lower={lower} must not be above upper={upper}; nearest: lower={upper}")
        self.lower, self.upper = lower, upper
        self.gain = keeping((1 + (lower * lower + lower * upper + upper * upper) / 3) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.rrelu(x, self.lower, self.upper, self.training)


class ShiftedReLU(Activation):
    """f(x) = max(x, -shift). Clevert et al. 2015, section 4.

    shift: how far below 0 the hinge lies.
    """

    def __init__(self, *, shift: float = 1.0) -> None:
        super().__init__()
        self.shift = shift
        self.gain = keeping((shift * shift - 1) * below(-shift) + 1 - shift * density(shift))

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=-self.shift)


class ThresholdReLU(Activation):
    """f(x) = x where x > threshold, else 0. Konda et al. 2014.

    threshold: where it starts, with a jump.
    """

    def __init__(self, *, threshold: float = 1.0) -> None:
        super().__init__()
        self.threshold = threshold
        self.gain = keeping(threshold * density(threshold) + below(-threshold))

    def forward(self, x: Tensor) -> Tensor:
        return F.threshold(x, self.threshold, 0.0)


class HardShrink(Activation):
    """f(x) = x where |x| > threshold, else 0. Donoho & Johnstone 1994.

    threshold: half the width of the dead zone.
    """

    def __init__(self, *, threshold: float = 0.5) -> None:
        super().__init__()
        at_least(0, threshold=threshold)
        self.threshold = threshold
        self.gain = keeping(2 * (threshold * density(threshold) + below(-threshold)))

    def forward(self, x: Tensor) -> Tensor:
        return F.hardshrink(x, self.threshold)


class SoftShrink(Activation):
    """f(x) = sign(x) max(|x| - threshold, 0). Donoho & Johnstone 1994; Gregor & LeCun 2010.

    threshold: half the width of the dead zone.
    """

    def __init__(self, *, threshold: float = 0.5) -> None:
        super().__init__()
        at_least(0, threshold=threshold)
        self.threshold = threshold
        self.gain = keeping(2 * ((1 + threshold * threshold) * below(-threshold) - threshold * density(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        return F.softshrink(x, self.threshold)


class ELU(Activation):
    """f(x) = x where x > 0, else alpha (exp(x) - 1). Clevert et al. 2015.

    alpha: f levels off at -alpha on the left.
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha
        left = math.exp(2) * below(-2) - 2 * math.exp(0.5) * below(-1) + 0.5
        self.gain = keeping(0.5 + alpha * alpha * left)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x, self.alpha)


class CELU(Activation):
    """f(x) = x where x > 0, else alpha (exp(x / alpha) - 1): its slope is 1 at 0 for every alpha. Barron 2017.

    alpha: f levels off at -alpha on the left.
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__()
        if not alpha > 0:
            raise UserError(f"alpha={alpha} must be above 0; nearest: 1e-3")
        self.alpha = alpha
        self.gain = keeping(0.5 + alpha * alpha * mean(lambda z: math.expm1(z / alpha) ** 2 if z < 0 else 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return F.celu(x, self.alpha)


class SELU(Activation):
    """f(x) = 1.0507 x where x > 0, else 1.7581 (exp(x) - 1). Klambauer et al. 2017.

    A unit Gaussian leaves it with mean 0 and variance 1: by the rule of this file its gain is 1, and 3/4 is PyTorch's
    custom, to be steadier.
    """

    gain = 0.75

    def forward(self, x: Tensor) -> Tensor:
        return F.selu(x)
