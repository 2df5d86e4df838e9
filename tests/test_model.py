"""Whole models against independent implementations with the same weights, and against published sizes."""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from nanogpt.config import compose
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.generate import Sampling, generate
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.part import Flow, Part
from tests.helpers import TINY, VOCAB, count, make, model_config, scrambled, tokens

P = dict[str, Tensor]


def weights(model: nn.Module) -> P:
    return {k: v.detach().clone() for k, v in model.named_parameters()}


def layernorm(x: Tensor, p: P, name: str, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return p[f"{name}.weight"] * centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() + p[f"{name}.bias"]


def rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def matrix(x: Tensor, p: P, name: str) -> Tensor:
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", torch.zeros(()))


def softmax(x: Tensor) -> Tensor:
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, window: int = 0) -> Tensor:
    """One row, one head, one query at a time: (T, E) each."""
    out = []
    for t in range(len(q)):
        first = max(0, t - window + 1) if window else 0
        share = softmax(q[t] @ k[first : t + 1].T / math.sqrt(q.shape[1]))
        out.append(share @ v[first : t + 1])
    return torch.stack(out)


def rotated(x: Tensor, base: float = 10000.0) -> Tensor:
    """(T, E): the pair (i, i + E/2) as one complex number, turned."""
    T, E = x.shape
    speed = torch.tensor([base ** (-2 * i / E) for i in range(E // 2)], dtype=torch.float64)
    turn = torch.polar(torch.ones(T, E // 2, dtype=torch.float64), torch.arange(T)[:, None] * speed)
    z = torch.complex(x[:, : E // 2].double(), x[:, E // 2 :].double()) * turn
    return torch.cat((z.real, z.imag), -1).to(x.dtype)


def heads_of(x: Tensor, n: int) -> Tensor:
    """(T, H E) -> (H, T, E)"""
    return torch.stack(x.chunk(n, dim=-1))


def attention(
    x: Tensor, p: P, name: str, heads: int, kv_heads: int, *, window: int = 0, rotary: bool = False, qk: float = 0
) -> Tensor:
    q, k, v = (heads_of(matrix(x, p, f"{name}.{s}"), n) for s, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)))
    k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (k, v))
    if qk:
        q, k = rmsnorm(q, p[f"{name}.q_norm.weight"], qk), rmsnorm(k, p[f"{name}.k_norm.weight"], qk)
    if rotary:
        q, k = (torch.stack([rotated(h) for h in t]) for t in (q, k))
    out = torch.cat([plain_attention(q[h], k[h], v[h], window) for h in range(heads)], -1)
    return matrix(out, p, f"{name}.out")


def test_gpt2_against_its_formulas() -> None:
    model, ids = scrambled(**TINY["gpt2"]), tokens(3, 8)
    p = weights(model)

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    for row, logits in zip(ids, model(ids), strict=True):
        x = p["embed.weight"][row] + p["position.0.weight"][: len(row)]
        for n in range(2):
            x = x + attention(layernorm(x, p, f"blocks.{n}.mixer_norm"), p, f"blocks.{n}.mixer", 2, 2)
            hidden = matrix(layernorm(x, p, f"blocks.{n}.ffn_norm"), p, f"blocks.{n}.ffn.up")
            x = x + matrix(gelu(hidden), p, f"blocks.{n}.ffn.out")
        x = layernorm(x, p, "norm")
        torch.testing.assert_close(logits, x @ p["embed.weight"].T, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_llama_against_its_formulas(kv_heads: int) -> None:
    model = scrambled(dim=24, **TINY["llama"] | {"mixer": f"attention(heads=4, kv_heads={kv_heads}, head_dim=10)"})
    ids, p = tokens(2, 8), weights(model)
    for row, logits in zip(ids, model(ids), strict=True):
        x = p["embed.weight"][row]
        for n in range(2):
            b = f"blocks.{n}"
            x = x + attention(rmsnorm(x, p[f"{b}.mixer_norm.weight"], 1e-5), p, f"{b}.mixer", 4, kv_heads, rotary=True)
            y = rmsnorm(x, p[f"{b}.ffn_norm.weight"], 1e-5)
            gate = matrix(y, p, f"{b}.ffn.gate")
            x = x + matrix(gate / (1 + (-gate).exp()) * matrix(y, p, f"{b}.ffn.up"), p, f"{b}.ffn.out")
        expected = matrix(rmsnorm(x, p["norm.weight"], 1e-5), p, "head.linear")
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 50])
def test_windows_qk_norm_and_softcap_against_their_formulas(window: int) -> None:
    mixer = f"attention(heads=2, window={window}, qk_norm=rmsnorm(eps=1e-3), bias=qkv)"
    model = scrambled(position="rotary", mixer=mixer, layout="none", head="linear(softcap=2)", ffn="mlp(relu2)")
    ids, p = tokens(2, 8), weights(model)
    for row, logits in zip(ids, model(ids), strict=True):
        x = p["embed.weight"][row]
        for n in range(2):
            x = x + attention(x, p, f"blocks.{n}.mixer", 2, 2, window=window, rotary=True, qk=1e-3)
            x = x + matrix(matrix(x, p, f"blocks.{n}.ffn.up").clamp(min=0) ** 2, p, f"blocks.{n}.ffn.out")
        expected = 2 * torch.tanh(matrix(x, p, "head.linear") / 2)
        torch.testing.assert_close(logits, expected, atol=5e-5, rtol=1e-4)
        assert logits.abs().max() < 2


@pytest.mark.parametrize(("layout", "norm_first"), [("pre", True), ("post", False)])
def test_a_block_is_pytorchs_encoder_layer(layout: str, norm_first: bool) -> None:
    model = scrambled(
        n_layers=1,
        mixer="attention(heads=4, bias=all)",
        ffn="mlp(gelu, hidden=24, bias=zeros)",
        norm="layernorm",
        layout=layout,
    )
    block, p = model.blocks[0], weights(model.blocks[0])
    theirs = nn.TransformerEncoderLayer(16, 4, 24, 0.0, F.gelu, batch_first=True, norm_first=norm_first).train()
    state = {
        "self_attn.in_proj_weight": torch.cat([p[f"mixer.{s}.weight"] for s in "qkv"]),
        "self_attn.in_proj_bias": torch.cat([p[f"mixer.{s}.bias"] for s in "qkv"]),
    }
    for ours, other in (
        ("mixer.out", "self_attn.out_proj"),
        ("ffn.up", "linear1"),
        ("ffn.out", "linear2"),
        ("mixer_norm", "norm1"),
        ("ffn_norm", "norm2"),
    ):
        state |= {f"{other}.{s}": p[f"{ours}.{s}"] for s in ("weight", "bias")}
    theirs.load_state_dict(state)
    x = torch.randn(2, 8, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(8)
    ids = tokens(2, 8)
    torch.testing.assert_close(block(x, model.flow(ids)), theirs(x, src_mask=mask), atol=1e-5, rtol=1e-4)


def test_dropout_works_where_it_says_and_only_in_training() -> None:
    ids = tokens(2, 8)
    for fields in (
        {"mixer": "attention(heads=2, dropout=0.5)"},
        {"ffn": "mlp", "layout": "pre(dropout=0.5)"},
        {"embed": "token(dropout=0.5)"},
    ):
        model = scrambled(**fields)
        assert torch.equal(model(ids), model(ids))
        model.train()
        assert not torch.equal(model(ids), model(ids))


# -- published sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "overrides", "vocab", "size"),
    [
        ("bigram", [], 65, 4_225),
        ("bigram", [], 27, 729),
        ("gpt", [], 65, 10_788_929),
        ("gpt", ["model.dim=64", "model.n_layers=4", "model.mixer.heads=4", "model.context=32"], 65, 209_729),
        ("gpt2", [], 50257, 124_439_808),
        ("gpt2", ["model.n_layers=24", "model.dim=1024", "model.mixer.heads=16"], 50257, 354_823_168),
        ("gpt2", ["model.n_layers=36", "model.dim=1280", "model.mixer.heads=20"], 50257, 774_030_080),
        ("gpt2", ["model.n_layers=48", "model.dim=1600", "model.mixer.heads=25"], 50257, 1_557_611_200),
        # makemore's transformer: GPT-2's block, an untied head without bias, 16 places (names.txt: 27 symbols)
        (
            "gpt2",
            ["model.dim=64", "model.n_layers=4", "model.mixer.heads=4", "model.context=16", "model.head=linear"],
            27,
            204_544,
        ),
        # llama2.c's stories260K, Llama-2-7B, Llama-3-8B and Mistral-7B
        (
            "llama",
            [
                "model.dim=64",
                "model.n_layers=5",
                "model.mixer=attention(heads=8, kv_heads=4)",
                "model.ffn=swiglu(multiple_of=4)",
                "model.head=tied",
            ],
            512,
            260_032,
        ),
        (
            "llama",
            [
                "model.dim=4096",
                "model.n_layers=32",
                "model.mixer=attention(heads=32)",
                "model.ffn=swiglu(multiple_of=256)",
            ],
            32000,
            6_738_415_616,
        ),
        (
            "llama",
            [
                "model.dim=4096",
                "model.n_layers=32",
                "model.mixer=attention(heads=32, kv_heads=8)",
                "model.ffn=swiglu(hidden=14336)",
            ],
            128256,
            8_030_261_248,
        ),
        (
            "llama",
            [
                "model.dim=4096",
                "model.n_layers=32",
                "model.mixer=attention(heads=32, kv_heads=8)",
                "model.ffn=swiglu(hidden=14336)",
            ],
            32000,
            7_241_732_096,
        ),
        # Qwen3-0.6B: QK norm per head, head_dim of its own, tied
        (
            "llama",
            [
                "model.dim=1024",
                "model.n_layers=28",
                "model.mixer=attention(heads=16, kv_heads=8, head_dim=128, qk_norm=rmsnorm)",
                "model.ffn=swiglu(hidden=3072)",
                "model.head=tied",
            ],
            151936,
            596_049_920,
        ),
        # Qwen2.5-0.5B: biases on queries, keys and values
        (
            "llama",
            [
                "model.dim=896",
                "model.n_layers=24",
                "model.mixer=attention(heads=14, kv_heads=2, bias=qkv)",
                "model.ffn=swiglu(hidden=4864)",
                "model.head=tied",
            ],
            151936,
            494_032_768,
        ),
    ],
)
def test_published_parameter_counts(preset: str, overrides: list[str], vocab: int, size: int) -> None:
    config = compose(preset, [*overrides, f"model.vocab_size={vocab}"]).model
    assert cost(config).total == size
    with torch.device("meta"):
        assert count(LanguageModel(config)) == size


@pytest.mark.parametrize(("dim", "layers", "context", "printed"), [(384, 6, 256, "10.65M"), (128, 4, 64, "0.80M")])
def test_the_sizes_that_nanogpt_prints(dim: int, layers: int, context: int, printed: str) -> None:
    """Without biases and without the position table, as its get_num_params does."""
    config = compose(
        "gpt2",
        [
            f"model.dim={dim}",
            f"model.n_layers={layers}",
            f"model.context={context}",
            "model.vocab_size=65",
            "model.norm=layernorm(bias=none)",
            "model.mixer=attention(heads=4)",
            "model.ffn=mlp(gelu_tanh)",
        ],
    ).model
    counted = cost(config)
    assert f"{(counted.total - counted.parameters['position']) / 1e6:.2f}M" == printed


# -- real weights --------------------------------------------------------------------------------------------------


def _stories(path: Path) -> LanguageModel:
    """llama2.c's .bin: seven integers, then weights in its order; query and key rows are interleaved pairs there."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("7i", raw[:28])
    flat, at = np.frombuffer(raw, np.float32, offset=28), 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        at += math.prod(shape)
        return torch.from_numpy(flat[at - math.prod(shape) : at].reshape(shape).copy())

    def halves(w: Tensor, n: int) -> Tensor:
        return torch.cat([torch.cat((h[0::2], h[1::2])) for h in w.chunk(n)])

    kv = dim // heads * kv_heads
    names = [
        ("mixer_norm.weight", (dim,)),
        ("mixer.q.weight", (dim, dim)),
        ("mixer.k.weight", (kv, dim)),
        ("mixer.v.weight", (kv, dim)),
        ("mixer.out.weight", (dim, dim)),
        ("ffn_norm.weight", (dim,)),
        ("ffn.gate.weight", (hidden, dim)),
        ("ffn.out.weight", (dim, hidden)),
        ("ffn.up.weight", (hidden, dim)),
    ]
    state = {"embed.weight": take(abs(vocab), dim)}
    for name, shape in names:
        for layer, w in enumerate(take(layers, *shape)):
            turned = halves(w, heads if ".q." in name else kv_heads) if ".q." in name or ".k." in name else w
            state[f"blocks.{layer}.{name}"] = turned
    state["norm.weight"] = take(dim)
    model = LanguageModel(
        model_config(
            dim=dim,
            n_layers=layers,
            context=context,
            vocab_size=abs(vocab),
            position="rotary",
            norm="rmsnorm(eps=1e-5)",
            head="tied",
            mixer=f"attention(heads={heads}, kv_heads={kv_heads})",
            ffn=f"swiglu(hidden={hidden})",
        )
    )
    model.load_state_dict(state)
    return model.eval()


def _pieces(path: Path) -> list[bytes]:
    raw, at, pieces = path.read_bytes(), 4, []
    while at < len(raw):
        _, length = struct.unpack_from("fi", raw, at)
        pieces.append(raw[at + 8 : at + 8 + length])
        at += 8 + length
    return pieces


def test_stories260k_tells_its_story(data_dir: Path) -> None:
    folder = data_dir / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    model, pieces = _stories(folder / "stories260K.bin"), _pieces(folder / "tok512.bin")
    new = generate(model, [[1]], 200, Sampling(temperature=0))[0]
    text = b"".join(pieces[t] for t in new).replace(b"<0x0A>", b"\n").lstrip()
    expected = (folder / "expected_greedy_200.txt").read_bytes().strip()
    assert len(expected) > 300
    assert text == expected


def _nano(path: Path, act: str) -> tuple[LanguageModel, dict[str, Any]]:
    def tensor(entry: dict[str, Any]) -> Tensor:
        return torch.from_numpy(
            np.frombuffer(base64.b64decode(entry["data"]), np.float32).reshape(entry["shape"]).copy()
        )

    raw = json.loads((path / "gpt-nano-sort-model.json").read_text())
    theirs = {k.removeprefix("transformer."): tensor(v) for k, v in raw.items() if k != "config"}
    state = {
        "embed.weight": theirs["wte.weight"],
        "position.0.weight": theirs["wpe.weight"],
        "head.linear.weight": theirs["lm_head.weight"],
        "norm.weight": theirs["ln_f.weight"],
        "norm.bias": theirs["ln_f.bias"],
    }
    for n in range(3):
        for s in ("weight", "bias"):
            for x, part in zip("qkv", theirs[f"h.{n}.attn.c_attn.{s}"].chunk(3), strict=True):
                state[f"blocks.{n}.mixer.{x}.{s}"] = part
            pairs = (
                ("mixer.out", "attn.c_proj"),
                ("mixer_norm", "ln_1"),
                ("ffn_norm", "ln_2"),
                ("ffn.up", "mlp.c_fc"),
                ("ffn.out", "mlp.c_proj"),
            )
            state |= {f"blocks.{n}.{a}.{s}": theirs[f"h.{n}.{b}.{s}"] for a, b in pairs}
    model = LanguageModel(
        model_config(
            dim=48,
            n_layers=3,
            context=11,
            vocab_size=3,
            position="learned",
            mixer="attention(heads=3, bias=all)",
            ffn=f"mlp({act}, bias=zeros)",
            norm="layernorm",
        )
    )
    model.load_state_dict(state)
    partials = json.loads((path / "gpt-nano-sort-t0-partials.json").read_text())
    return model.eval(), {k: tensor(v) for k, v in partials.items() if isinstance(v, dict) and "data" in v}


def test_gpt_nano_sorts(data_dir: Path) -> None:
    path = data_dir / "models" / "gpt-nano-sort"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    model, seen = _nano(path, "gelu_tanh")
    ids = seen["idx"].long()
    torch.testing.assert_close(model(ids), seen["lm_head"], atol=1e-4, rtol=1e-4)
    flow = model.flow(ids)
    x = model.embed(ids, flow)
    for n, block in enumerate(model.blocks):
        x = block(x, flow)
        torch.testing.assert_close(x, seen[f"block{n}"], atol=2e-5, rtol=1e-4)
    other, _ = _nano(path, "gelu")
    assert (other(ids) - seen["lm_head"]).abs().max() > 1e-3, "tanh-GELU must be told from erf-GELU"
    dice = torch.Generator().manual_seed(torch.seed() % 2**31)
    rows = torch.randint(3, (20, 6), generator=dice).tolist()
    right = sum(
        new == sorted(row) for row, new in zip(rows, generate(model, rows, 6, Sampling(temperature=0)), strict=True)
    )
    assert right >= 18


# -- losses --------------------------------------------------------------------------------------------------------


def test_more_tokens_than_positions_are_refused_in_one_line() -> None:
    model, x = make(position="learned"), tokens(2, 9)
    assert model(x[:, :8]).shape == (2, 8, VOCAB)
    assert model(x, documents_BT=torch.arange(9).expand(2, 9) // 5).shape == (2, 9, VOCAB)  # each starts anew
    cache = model.new_cache(2, 9)
    model(x[:, :8], cache=cache)
    for call in (
        lambda: model(x),
        lambda: model(x, torch.ones_like(x, dtype=torch.bool)),
        lambda: model.losses(x, x),
        lambda: model.next_logits(x[:, 8:], cache=cache),
    ):
        with pytest.raises(UserError, match=r"9 tokens are more than the 8 positions .*; nearest: the last 8"):
            call()
    assert make(position="rotary", mixer="attention(heads=2)")(x).shape == (2, 9, VOCAB)


def test_losses_are_means_over_scored_tokens() -> None:
    model, ids = scrambled(**TINY["llama"]), tokens(3, 8)
    targets = tokens(3, 8, seed=5)
    targets[0, 3:] = -1
    logp = model(ids).log_softmax(-1)
    scored = [-logp[b, t, targets[b, t]] for b in range(3) for t in range(8) if targets[b, t] >= 0]
    terms = model.losses(ids, targets)
    torch.testing.assert_close(terms["nll"], torch.stack(scored).mean())
    assert set(terms) == {"loss", "nll"} and torch.equal(terms["loss"], terms["nll"])


def test_micro_batches_add_up_to_the_batch() -> None:
    model, ids, targets = scrambled(**TINY["llama"]), tokens(4, 8), tokens(4, 8, seed=5)
    targets[1, 2:] = -1
    whole = model.losses(ids, targets)["loss"]
    n = float((targets >= 0).sum())
    parts = [model.losses(ids[i : i + 1], targets[i : i + 1], count=n)["loss"] for i in range(4)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


class Charged(Part):
    """A test's own ffn: charges 0.25 for being used, times its layer's number."""

    def __init__(self, *, dim: int, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.losses["charge", self.layer] = self.out(x).square().mean() * 0 + 0.25 * (self.layer + 1)
        return self.out(x)


class Recomputed(Part):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.inner, x, flow, use_reentrant=False)


@pytest.fixture
def charged(monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    from nanogpt.model import ffn

    monkeypatch.setitem(ffn.FFNS, "charged", Charged)
    return scrambled(ffn="charged", mixer="attention(heads=2)").train()


def test_auxiliary_losses_are_summed_over_layers_and_weighted_by_the_share_of_tokens(charged: LanguageModel) -> None:
    ids, targets = tokens(2, 8), tokens(2, 8, seed=5)
    targets[0, :] = -1
    targets[0, 0] = 1
    terms = charged.losses(ids, targets)
    torch.testing.assert_close(terms["charge"], torch.tensor(0.75))
    torch.testing.assert_close(terms["loss"], terms["nll"] + terms["charge"])
    parts = [charged.losses(ids[i : i + 1], targets[i : i + 1], count=9.0)["charge"] for i in range(2)]
    torch.testing.assert_close(torch.stack(parts), torch.tensor([0.75 / 9, 0.75 * 8 / 9]))


def test_auxiliary_losses_count_once_under_recomputation(charged: LanguageModel) -> None:
    ids, targets = tokens(2, 8), tokens(2, 8, seed=5)
    terms = charged.losses(ids, targets)
    terms["loss"].backward()
    plain = {k: p.grad.clone() for k, p in charged.named_parameters() if p.grad is not None}
    charged.zero_grad()
    names = [k for k, _ in charged.named_parameters()]
    for n, block in enumerate(charged.blocks):
        charged.blocks[n] = Recomputed(block)
    charged.blocks[0].open, charged.blocks[-1].close = (lambda x, flow: x), (lambda x, flow: x)
    again = charged.losses(ids, targets)
    again["loss"].backward()
    assert torch.equal(again["charge"].detach(), torch.tensor(0.75))
    torch.testing.assert_close(again["loss"], terms["loss"])
    grads = {k.replace(".inner.", "."): p.grad for k, p in charged.named_parameters()}
    assert sorted(names) == sorted(grads)
    for k, g in plain.items():
        torch.testing.assert_close(grads[k], g)


# -- precision and compilation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TINY, "bigram"])
def test_bf16_is_close_and_silent(name: str) -> None:
    fields: dict[str, Any] = TINY[name] if name != "bigram" else {"dim": VOCAB, "n_layers": 0, "head": "none"}
    model, ids = scrambled(**fields), tokens(2, 8)
    exact = model.losses(ids, ids)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(ids)
        low = model.losses(ids, ids)["loss"]
        low.backward()
        with torch.no_grad():
            cache = model.new_cache(2, 8)
            pieces = torch.cat(
                [model(ids[:, :3], cache=cache), *(model(ids[:, t : t + 1], cache=cache) for t in range(3, 8))], 1
            )
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, atol=0.1, rtol=0.05)
    torch.testing.assert_close(rough.float(), model(ids), atol=0.15, rtol=0.1)
    torch.testing.assert_close(pieces.float(), rough.float(), atol=0.15, rtol=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # PyTorch's own import
@pytest.mark.parametrize("name", ["gpt2", "llama", "modern"])
def test_compiled_losses_are_the_same_without_a_graph_break(name: str) -> None:
    import shutil

    if not any(shutil.which(c) for c in ("g++", "c++", "clang++")):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    model, ids, targets = scrambled(**TINY[name]).train(), tokens(2, 8), tokens(2, 8, seed=5)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 5:] = False
    documents = torch.arange(8).div(3, rounding_mode="floor").expand(2, 8).contiguous()
    torch._dynamo.reset()
    compiled = torch.compile(model.losses, fullgraph=True)
    extras: dict[str, dict[str, Any]] = {
        "gpt2": {"mask_BT": mask},
        "llama": {"documents_BT": documents},
        "modern": {"count": torch.tensor(40)},
    }
    for extra in ({}, extras[name]):
        expected = model.losses(ids, targets, **extra)["loss"]
        expected.backward()
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        found = compiled(ids, targets, **extra)["loss"]
        found.backward()
        torch.testing.assert_close(found, expected)
        for p, g in zip(model.parameters(), grads, strict=True):
            torch.testing.assert_close(p.grad, g, atol=1e-5, rtol=1e-4)
        model.zero_grad()
