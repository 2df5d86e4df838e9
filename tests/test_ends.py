"""The two ends: what is done to a token's vector, in which order, and to logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nanogpt.errors import UserError
from nanogpt.model.language_model import resolve_model
from tests.helpers import make, model_config, scrambled, tokens


@pytest.mark.parametrize(("scale", "factor"), [("12", 12.0), ("sqrt_dim", 4.0), ("0.5", 0.5), ("1", 1.0)])
def test_vectors_are_scaled_then_placed_then_normed(scale: str, factor: float) -> None:
    """GPT-2 adds places to vectors; Gemma multiplies them by sqrt(D), 4 here; BLOOM norms them."""
    fields = {"position": "learned", "n_layers": 0}
    plain = scrambled(embed=f"token(scale={scale})", **fields)
    normed = scrambled(embed=f"token(scale={scale}, norm=rmsnorm(eps=0.1))", **fields)
    x = tokens(2, 8)
    for model in (plain, normed):
        p = model.state_dict()
        expected = factor * p["embed.weight"][x] + p["position.0.weight"]
        if model is normed:
            expected = expected / (expected.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * p["embed.norm.weight"]
        torch.testing.assert_close(model.embed(x, model.flow(x)), expected)


def test_dropout_is_last() -> None:
    model, x = scrambled(embed="token(norm=layernorm, dropout=0.5, scale=3)", position="learned").train(), tokens(2, 8)
    whole = model.eval().embed(x, model.flow(x))
    half = model.train().embed(x, model.flow(x))
    assert 0.3 < (half == 0).float().mean() < 0.7
    torch.testing.assert_close(half[half != 0], 2 * whole[half != 0])


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("scale", [0.0625, 1.0, 3.0])
def test_logits_are_scaled_then_capped(scale: float, softcap: float) -> None:
    """Cohere multiplies logits, Granite divides them, Gemma 2 caps them."""
    hidden = torch.randn(2, 8, 16)
    for head in ("linear", "tied", "linear(bias=zeros)"):
        knobs = f"scale={scale}, softcap={softcap}"
        model = scrambled(head=f"{head[:-1]}, {knobs})" if head.endswith(")") else f"{head}({knobs})")
        p = model.state_dict()
        logits = hidden @ p["embed.weight" if head == "tied" else "head.linear.weight"].T
        logits = scale * (logits + p.get("head.linear.bias", 0.0))
        expected = softcap * torch.tanh(logits / softcap) if softcap else logits
        torch.testing.assert_close(model.logits(hidden), expected, atol=1e-5, rtol=1e-4)


def test_a_scale_of_one_changes_no_bit() -> None:
    x = tokens(2, 8)
    for fields in ({"head": "tied"}, {"head": "linear", "embed": "token(norm=rmsnorm)", "position": "learned"}):
        embed, head = fields.get("embed", "token"), fields["head"]
        scaled = fields | {
            "embed": f"{embed.rstrip(')')}{', ' if '(' in embed else '('}scale=1)",
            "head": f"{head}(scale=1)",
        }
        assert torch.equal(make(**fields)(x), make(**scaled)(x))


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("embed", "token(scale=0)", "must be a number above 0, or sqrt_dim; nearest: 1.0"),
        ("embed", "token(scale=-2)", "above 0"),
        ("embed", "token(scale=sqrt)", "scale=sqrt must be a number above 0, or sqrt_dim"),
        ("embed", "token(scale=[2])", "above 0"),
        ("head", "linear(scale=0)", "above 0"),
        ("head", "tied(scale=-1)", "above 0"),
        ("head", "tied(scale=sqrt_dim)", "must be a number"),
    ],
)
def test_what_is_refused(field: str, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**{field: text})
    assert words in str(caught.value) and str(caught.value).startswith(f"model.{field}: ")


def test_what_is_resolved_can_be_built_again() -> None:
    fields: dict[str, Any] = {"embed": "token(scale=sqrt_dim)", "head": "tied(scale=0.0625, softcap=30)"}
    config = resolve_model(model_config(**fields))
    assert resolve_model(config) == config
    assert "scale=sqrt_dim" in config.embed and "scale=0.0625" in config.head
    assert "scale=12" in resolve_model(model_config(embed="token(scale=12)")).embed
