"""What to type against an ailment: settings of ours by their keys, words for a module that is not ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanogpt.errors import UserError
from nanogpt.spec import Spec, parse

GOOD_SCHEMES = ("kaiming", "orthogonal", "mup", "deepnorm")
"""Initialisations that keep the signal's size whatever the activation."""
LIVELY = {"relu": "leaky_relu", "relu2": "leaky_relu", "relu6": "leaky_relu", "sigmoid": "silu", "tanh": "silu",
          "hard_sigmoid": "silu", "hardtanh": "silu"}  # fmt: skip
"""An activation that has a slope where this one has none."""

BOUNDED = {**dict.fromkeys(("tanh", "hardtanh", "softsign"), "tanh"),
           **dict.fromkeys(("sigmoid", "hardsigmoid"), "sigmoid")}  # fmt: skip
"""Activations with two bounds, and whose gain PyTorch knows them by."""


class Cures:
    """Cures for one run, whose settings say what it has already. act: the activation of most of its units."""

    def __init__(self, settings: Mapping[str, Any], act: str = "") -> None:
        self.settings, self.act = settings, act
        self.ours = "model.dim" in settings

    def initialisation(self) -> str:
        """A start that keeps the signal's size; a norm or a residual where it has such a start."""
        if not self.ours:
            return f"start with {_drawn(self.act)} and zero biases, or put a norm between the layers"
        scheme = self._spec("model.init")
        rest = scheme.knobs.get("rest", scheme)
        name = rest.name if isinstance(rest, Spec) else str(rest)
        if name not in GOOD_SCHEMES:
            return "model.init=kaiming"
        return self.norm()

    def norm(self) -> str:
        """What holds the signal's size whatever the weights become."""
        if not self.ours:
            return "put a norm between the layers, or a residual connection around them"
        layout = self._spec("model.layout")
        if layout.name == "none":
            return "model.layout=pre model.norm=rmsnorm"
        return "model.norm=rmsnorm" if self._spec("model.norm").name == "none" else self.slower(3)

    def slower(self, times: float) -> str:
        return self.rate(1 / times)

    def rate(self, factor: float) -> str:
        """The learning rate times a factor: `optim.optimizer.lr=0.003`."""
        lr = self._spec("optim.optimizer").knobs.get("lr") if self.ours else None
        if isinstance(lr, int | float) and lr > 0:
            return f"optim.optimizer.lr={lr * factor:.1g}"
        lr = self.settings.get("observed.learning_rate")
        known = f" of {lr * factor:.1g}" if isinstance(lr, int | float) and lr > 0 else ""
        return f"a learning rate{known} {_times(factor)}"

    def activation(self, unit: str) -> str:
        """Another activation where this unit has one: `model.ffn.act=leaky_relu`."""
        if not self.ours:
            return "an activation with a slope everywhere (torch.nn.LeakyReLU, torch.nn.SiLU)"
        axis = "ffn" if ".ffn" in unit else "head" if unit.startswith("head") else "mixer"
        knobs = self._spec(f"model.{axis}").knobs
        act = knobs.get("act")
        name = act.name if isinstance(act, Spec) else str(act)
        if act is not None:
            return f"model.{axis}.act={LIVELY.get(name, 'silu')}"
        return "model.ffn=swiglu" if axis == "ffn" else "another activation"

    def attention(self) -> str:
        if not self.ours:
            return "normalise queries and keys (QK-norm)"
        if str(self._spec("model.mixer").knobs.get("qk_norm", "none")) == "none":
            return "model.mixer.qk_norm=rmsnorm"
        return self.slower(3)

    def _spec(self, key: str) -> Spec:
        """The part under a key, the first layer's where layers differ; one without knobs where it cannot be read."""
        value = self.settings.get(key)
        text = value[0] if isinstance(value, list) and value else value
        try:
            return parse(str(text).partition(" + ")[0].lstrip("0123456789*"))
        except UserError:
            return Spec("none")


def _drawn(act: str) -> str:
    """PyTorch's own call for weights before this activation: Kaiming's law before a rectifier or what is like one, both
    directions at once (Xavier's) before a bounded one."""
    if bounded := BOUNDED.get(act):
        return f"torch.nn.init.xavier_normal_(layer.weight, gain=torch.nn.init.calculate_gain('{bounded}'))"
    gain = act if act == "selu" else "leaky_relu" if act in ("leakyrelu", "leaky_relu") else "relu"
    return f"torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='{gain}')"


def _times(factor: float) -> str:
    return f"({1 / factor:.2g} times smaller)" if factor < 1 else f"({factor:.2g} times larger)"
