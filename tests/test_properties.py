"""Whatever parts are put together: it builds, it is causal, it learns, it remembers, and its cost is what was said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.rehearsal import rehearse
from tests.drawing import CONTEXT, VOCAB, alone, configs, one
from tests.helpers import count, scramble

seeds = st.integers(0, 2**31)


def ids(config: ModelConfig, batch: int, time: int, seed: int) -> Tensor:
    return torch.randint(config.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> None:
    assert a.isfinite().all() and b.isfinite().all()
    torch.testing.assert_close(a, b, atol=1e-6 * (1 + float(b.abs().max())), rtol=1e-6)


def random_model(config: ModelConfig, seed: int) -> LanguageModel:
    """Random everywhere: what starts at zero would hide what it is multiplied with. In fp64, and with small weights:
    without norms a stream may grow as x^16, and a rounding error with it."""
    model = LanguageModel(config)
    model.initialise(seed)
    scramble(model, seed).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    return model


@torch.no_grad()
def check_causal(config: ModelConfig, seed: int) -> None:
    model, x = random_model(config, seed), ids(config, 2, CONTEXT, seed)
    at = 1 + seed % (CONTEXT - 1)
    other = x.clone()
    other[:, at:] = (other[:, at:] + 1 + seed % (config.vocab_size - 1)) % config.vocab_size
    close(model(x)[:, :at], model(other)[:, :at])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, :2], mask[1, -2:] = False, False
    close(model(x, mask)[:, :at], model(other, mask)[:, :at])
    padding = torch.where(mask, x, (x + 1) % config.vocab_size)
    close(model(x, mask)[mask], model(padding, mask)[mask])


@torch.no_grad()
def check_documents(config: ModelConfig, seed: int) -> None:
    model, x = random_model(config, seed), ids(config, 1, CONTEXT, seed)
    cut, end = 1 + seed % 5, 6 + seed % (CONTEXT - 6)
    pieces = [x[:, :cut], x[:, cut:end], x[:, end:]]
    documents = torch.tensor([[0] * cut + [1] * (end - cut) + [2] * (CONTEXT - end)])
    packed = model(x, documents_BT=documents)
    close(packed, torch.cat([model(p) for p in pieces], 1))
    mask = documents < 2  # the last piece is padding
    close(model(x, mask, documents)[mask], packed[mask])
    close(model(x, mask, documents.clamp(max=1))[mask], packed[mask])
    mask = documents > 0  # the first piece is
    close(model(x, mask, documents)[mask], packed[mask])


@torch.no_grad()
def check_cache(config: ModelConfig, seed: int) -> None:
    model, x = random_model(config, seed), ids(config, 2, CONTEXT, seed)
    whole, cut = model(x), 1 + seed % (CONTEXT - 1)
    for widths in ([CONTEXT], [cut, CONTEXT - cut], [1] * CONTEXT, [cut] + [1] * (CONTEXT - cut)):
        cache = model.new_cache(2, CONTEXT)
        close(torch.cat([model(piece, cache=cache) for piece in x.split(widths, 1)], 1), whole)
        assert cache.length == CONTEXT
    cache = model.new_cache(2, CONTEXT)
    model(x[:, :cut], cache=cache)
    close(model.next_logits(x[:, cut : cut + 1], cache=cache), whole[:, cut])
    short = CONTEXT - 1 - seed % 5  # row 0 is shorter, padded on the left
    padded = x.clone()
    padded[0] = torch.cat([x[0, :1].expand(CONTEXT - short), x[0, :short]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, : CONTEXT - short] = False
    for split in (CONTEXT, cut):
        cache, out, at = model.new_cache(2, CONTEXT), [], 0
        for piece in padded.split([split] + [1] * (CONTEXT - split), 1):
            part = mask[:, at : at + piece.shape[1]]
            out.append(model(piece, None if part.all() and at else part, cache=cache))
            at += piece.shape[1]
        logits = torch.cat(out, 1)
        assert logits.isfinite().all()
        close(logits[1], whole[1])
        close(logits[0, CONTEXT - short :], model(x[:1, :short])[0])


def check_step(config: ModelConfig, seed: int) -> None:
    model = random_model(config, seed).train()
    if not list(model.parameters()):  # counts are not learned by steps
        return
    x = ids(config, 3, CONTEXT, seed)
    targets = ids(config, 3, CONTEXT, seed + 1)
    targets[0, 4:] = -1
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    terms = model.losses(x, targets)
    terms["loss"].backward()
    assert terms["loss"].isfinite()
    resolved = resolve_model(config)
    # The norm of one number is constant; few units behind a threshold may all be silent: then nothing gets through.
    silent = "hidden=1," in resolved.head or "threshold" in resolved.head
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), name
        if name.startswith("embed") and "window=1" not in str(resolved.mixer) and not silent:
            assert parameter.grad.any(), name
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert silent or any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def check_books(config: ModelConfig, seed: int) -> None:
    """Resolving is idempotent and keeps the model; the cost is the model's; every parameter has one role."""
    resolved = resolve_model(config)
    assert resolve_model(resolved) == resolved
    assert ModelConfig.model_validate_json(resolved.model_dump_json()) == resolved
    model, again = LanguageModel(config), LanguageModel(resolved)
    assert count(model) == count(again)
    for made in (cost(config), cost(resolved)):
        assert made.total == count(model)
        assert made.flops == pytest.approx(model.flops(1, CONTEXT))
    assert sorted(model.roles()) == sorted(k for k, _ in model.named_parameters())
    model.initialise(seed), again.initialise(seed)
    for (name, a), (other, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b) and a.isfinite().all()


@pytest.mark.parametrize(("axis", "part", "fields"), alone(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_part_alone(axis: str, part: str, fields: dict[str, Any]) -> None:
    """What is drawn at random below may leave a part out; here each has its turn."""
    config = ModelConfig.model_validate(fields)
    for check in CHECKS:
        check(config, 7)


CHECKS = [check_causal, check_documents, check_cache, check_step, check_books]


@pytest.mark.parametrize("check", CHECKS)
def test_any_model(check: Any) -> None:
    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.nested_given])
    @given(configs(), seeds)
    def run(config: ModelConfig, seed: int) -> None:
        check(config, seed)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_any_model_in_depth(check: Any) -> None:
    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.nested_given])
    @given(configs(), seeds)
    def run(config: ModelConfig, seed: int) -> None:
        check(config, seed)

    run()


# -- what cannot be built ------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {"dim": 12, "n_layers": 2, "context": CONTEXT, "vocab_size": VOCAB}
WRONG: list[tuple[str, Any, str]] = [
    ("mixer", "attentoin", "did you mean 'attention'?"),
    ("mixer", ["attention", "attention(heads=5)"], "heads=5 does not divide dim=12; nearest: heads=4"),
    ("mixer", "attention(heads=13)", "nearest: heads=12"),
    ("mixer", "attention(heads=0)", "nearest: 1"),
    ("mixer", "attention(heads=1e3)", "nearest: heads=12"),
    ("mixer", "attention(heads=1e300)", "too large"),
    ("mixer", "attention(heads=1e999)", "too large"),
    ("mixer", "attention(heads=" + "9" * 400 + ")", "too large"),
    ("mixer", "attention(heads=2.5)", "whole number; nearest: 2"),
    ("mixer", "attention(heads=two)", "must be a number"),
    ("mixer", "attention(heads=[2])", "must be a number"),
    ("mixer", "attention(heads=attention(heads=2))", "must be a number"),
    ("mixer", "attention(heads='')", "must be a number"),
    ("mixer", "attention(heds=2)", "no knob 'heds'; did you mean 'heads'?"),
    ("mixer", "attention(dim=2)", "no knob 'dim'"),
    ("mixer", "attention(heads=4, kv_heads=3)", "kv_heads=3 does not divide heads=4; nearest: kv_heads=2"),
    ("mixer", "attention(heads=4, kv_heads=0)", "nearest: 1"),
    ("mixer", "attention(heads=2000000000, head_dim=2000000000)", "fits no machine"),
    ("mixer", "attention(head_dim=0)", "nearest: 1"),
    ("mixer", "attention(window=-1)", "nearest: 0"),
    ("mixer", "attention(dropout=1)", "below 1"),
    ("mixer", "attention(dropout=nan)", "must be a number"),
    ("mixer", "attention(bias=al)", "did you mean 'all'?"),
    ("mixer", "attention(bias=[all])", "not one of its words"),
    ("mixer", "attention(qk_norm=rms)", "did you mean 'rmsnorm'?"),
    ("mixer", "attention(qk_norm=rmsnorm(eps=-1))", "eps=-1.0 must be at least 0"),
    ("mixer", "attention(qk_norm=2)", "must be a word or a part"),
    ("mixer", "attention(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)", "12 values for 11 knobs"),
    ("mixer", "attention(2, heads=2)", "given twice"),
    ("mixer", "3*attention + *none", "names 3 layers; the model has 2"),
    ("ffn", "swigl", "did you mean 'swiglu'?"),
    ("ffn", "mlp(hidden=0)", "nearest: 1"),
    ("ffn", "mlp(hidden=-3)", "nearest: 1"),
    ("ffn", "mlp(hidden=2147483647)", ""),
    ("ffn", "mlp(act=relu22)", "did you mean 'relu2'?"),
    ("ffn", "mlp(act=relu(x=1))", "no knob 'x' (it has no knobs)"),
    ("ffn", "swiglu(multiple_of=0)", "nearest: 1"),
    ("ffn", "none(x=1)", "no knob 'x'"),
    ("norm", "rmsnrom", "did you mean 'rmsnorm'?"),
    ("norm", "rmsnorm(eps=-1)", "eps=-1.0 must be at least 0; nearest: 0"),
    ("norm", "layernorm(eps=-1e-9)", "nearest: 0"),
    ("norm", "layernorm(eps=nan)", "must be a number"),
    ("norm", "layernorm(bias=one)", "none, zeros"),
    ("layout", "pree", "did you mean 'pre'?"),
    ("layout", "pre(dropout=1)", "below 1"),
    ("layout", "pre(mixer=attention)", "no knob 'mixer'"),
    ("position", "rotery", "did you mean 'rotary'?"),
    ("position", "rotary(base=1)", "more than 1"),
    ("position", "rotary(base=-3)", "more than 1"),
    ("position", "rotary(head_dim=3)", "no knob 'head_dim'"),
    ("embed", "tokn", "did you mean 'token'?"),
    ("embed", "token(dropout=2)", "below 1"),
    ("embed", "token(norm=x)", "no part 'x'"),
    ("head", "tyed", "did you mean 'tied'?"),
    ("head", "linear(softcap=-1)", "nearest: 0"),
    ("head", "none", "nearest: model.dim=vocab"),
    ("init", "kaimin", "did you mean 'kaiming'?"),
    ("init", "normal(std=-1)", "nearest: 0"),
    ("init", "normal(std=nan)", "must be a number"),
    ("init", "normal(std=1e999)", "too large"),
    ("init", "kaiming(mode=fan_inn)", "did you mean 'fan_in'?"),
    ("init", "zero_output(rest=norml)", "did you mean 'normal'?"),
    ("objective", "next_tokn", "did you mean 'next_token'?"),
]


def refused(**fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve_model(ModelConfig.model_construct(**ModelConfig.model_validate(BASE).model_dump() | fields))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(("name", "value", "words"), [w for w in WRONG if w[2]])
def test_what_cannot_be_built_is_refused_naming_the_field(name: str, value: Any, words: str) -> None:
    message = refused(**{name: value})
    assert message.startswith(f"model.{name}")
    assert words in message


def test_an_odd_head_under_rotary() -> None:
    message = refused(mixer="attention(heads=4)", position="rotary")
    assert "head_dim=3 is odd" in message and "nearest: head_dim=4" in message and message.startswith("model.")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 7), st.booleans()), min_size=1, max_size=4))
def test_every_rotary_layer_has_an_even_head_whatever_the_others_have(layers: list[tuple[int, int, bool]]) -> None:
    fields = {
        "n_layers": len(layers),
        "mixer": [f"attention(heads={heads}, head_dim={size})" for heads, size, _ in layers],
        "position": ["rotary" if turned else "none" for *_, turned in layers],
    }
    odd = [size for _, size, turned in layers if turned and size % 2]
    if not odd:
        resolve_model(ModelConfig.model_validate(BASE | fields))
        return
    message = refused(**fields)
    assert message.startswith("model.position: rotary: ")
    assert any(f"head_dim={size} is odd" in message for size in odd)


def test_every_built_in_model_can_be_rehearsed() -> None:
    """A user's part stands among the house's own: none of those may fail without numbers."""

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.nested_given])
    @given(configs())
    def run(config: ModelConfig) -> None:
        with torch.device("meta"):
            model = LanguageModel(config)
        seen = []
        handle = model.objective.register_forward_hook(lambda *_: seen.append(1))
        rehearse(model)
        handle.remove()
        assert seen or "ngram" in config.embed  # which looks its counts up: there is nothing to see without numbers

    run()


def test_the_largest_sizes_allocate_nothing() -> None:
    config = ModelConfig.model_validate(
        BASE
        | {
            "dim": 2**20,
            "context": 2**31 - 1,
            "vocab_size": 2**31 - 1,
            "position": "learned",
            "ffn": "mlp",
            "mixer": "attention",
        }
    )
    resolve_model(config)
    assert cost(config).total > 2**52


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(configs(), st.data())
def test_a_random_edit_is_built_or_refused(config: ModelConfig, data: st.DataObject) -> None:
    """One character put in, taken out or changed, anywhere: never anything but a model or a UserError of one line."""
    name = data.draw(one(["embed", "position", "mixer", "ffn", "norm", "layout", "head", "init", "objective"]))
    text = getattr(config, name)
    text = data.draw(one(text)) if isinstance(text, list) else text
    at = data.draw(st.integers(0, len(text)))
    edited = text[:at] + data.draw(one(["", *"09.-+*()[]=,'eax \n"])) + text[at + data.draw(st.integers(0, 2)) :]
    note(edited)
    try:
        resolved = resolve_model(config.model_copy(update={name: edited}))
        assert cost(resolved).total > 0 or "ngram" in resolved.embed
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        assert "model." in str(error)
