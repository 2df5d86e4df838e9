"""The networks before attention: windows, heads that are networks, and the presets of the lectures, exact to the last
parameter."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt.classic.networks import Perceptron, Tree
from nanogpt.config import compose
from nanogpt.cost import cost
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, resolve_model
from tests.helpers import VOCAB, count, make, model_config, scramble, scrambled, tokens

SEED = random.randrange(10**6)


def window_model(seed: int = SEED, n: int = 3, blank: str = "first", **fields: Any) -> LanguageModel:
    parts = {"embed": f"window(tokens={n}, blank={blank})", "head": "perceptron(hidden=5)"}
    return scrambled(seed, **{"n_layers": 0, "context": 12, "dim": 2 * n} | parts | fields)


# ---- the window


def windows_by_hand(texts: list[list[int]], n: int, blank: int) -> list[list[int]]:
    """For each token of each text, the last n of its text."""
    return [([blank] * n + text[: at + 1])[-n:] for text in texts for at in range(len(text))]


@pytest.mark.parametrize("blank", ["first", "own"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_window_is_the_last_tokens_of_its_own_text_whatever_the_padding(n: int, blank: str) -> None:
    draw, model = random.Random(SEED + n), window_model(n=n, blank=blank)
    of_blank = VOCAB if blank == "own" else 0
    assert model.embed.weight.shape == (VOCAB + (blank == "own"), 2)
    for _ in range(20):
        texts = [[draw.randrange(VOCAB) for _ in range(draw.randint(1, 5))] for _ in range(3)]
        ids, mask, documents = [], [], []
        for number, text in enumerate(texts):  # padding before, after and inside a text
            for token in text:
                for _ in range(draw.choice([0, 0, 1, 3])):
                    ids.append(draw.randrange(VOCAB)), mask.append(False), documents.append(number)
                ids.append(token), mask.append(True), documents.append(number)
        x_BT, mask_BT, documents_BT = torch.tensor([ids]), torch.tensor([mask]), torch.tensor([documents])
        flow = model.flow(x_BT, mask_BT, documents_BT)
        expected = model.embed.weight[torch.tensor(windows_by_hand(texts, n, of_blank))].flatten(1)
        assert torch.equal(model.embed(x_BT, flow)[mask_BT], expected)
        whole = [token for text in texts for token in text]  # one text, without padding
        flow = model.flow(torch.tensor([whole]))
        expected = model.embed.weight[torch.tensor(windows_by_hand([whole], n, of_blank))].flatten(1)
        assert torch.equal(model.embed(flow.tokens_BT, flow)[0], expected)


@torch.no_grad()
def test_a_window_remembers_across_pieces_and_padding() -> None:
    draw, model = random.Random(SEED), window_model(n=4)
    x = tokens(3, 12, SEED)
    mask = torch.rand(3, 12, generator=torch.Generator().manual_seed(SEED)) < 0.6
    mask[0], mask[1, :4], mask[:, -1] = True, False, True
    for given in (None, mask):
        whole = model(x, given)
        for _ in range(5):
            cache, out, at = model.new_cache(3, 12), [], 0
            while at < 12:
                end = min(12, at + draw.randint(1, 6))
                out.append(model(x[:, at:end], None if given is None else given[:, at:end], cache=cache))
                at = end
            real = torch.ones_like(mask) if given is None else given
            torch.testing.assert_close(torch.cat(out, 1)[real], whole[real])


@torch.no_grad()
def test_what_lies_outside_the_window_changes_nothing_and_what_lies_inside_does() -> None:
    model, x = window_model(n=3), tokens(1, 12, SEED)
    before = model(x)[0]
    other = x.clone()
    other[0, 4] = (x[0, 4] + 1) % VOCAB
    changed = (model(other)[0] != before).any(-1)
    assert changed.tolist() == [4 <= t <= 6 for t in range(12)]


# ---- the heads, against torch's own modules


def copy(module: nn.Linear | None, weight: Tensor, bias: Tensor | None) -> None:
    assert module is not None
    weight.data.copy_(module.weight)
    assert (bias is None) == (module.bias is None)
    if bias is not None:
        bias.data.copy_(module.bias)


@pytest.mark.parametrize("direct", ["none", "linear"])
@torch.no_grad()
def test_the_perceptron_is_bengios_formula(direct: str) -> None:
    head: Perceptron = window_model(head=f"perceptron(hidden=7, direct={direct})").head
    x = torch.randn(2, 4, 6)
    assert head.up is not None and head.out is not None
    H, d, U, b = head.up.weight, head.up.bias, head.out.weight, head.out.bias
    y = torch.tanh(x @ H.T + d) @ U.T + b
    if direct == "linear":
        assert head.linear is not None and head.linear.bias is None
        y = y + x @ head.linear.weight.T
    torch.testing.assert_close(head(x, torch.empty(0)), y)


@torch.no_grad()
def test_no_hidden_units_leave_the_direct_connections() -> None:
    model = window_model(head="perceptron(hidden=0, direct=linear)")
    linear = nn.Linear(6, VOCAB)
    copy(model.head.linear, linear.weight, linear.bias)
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(model.head(x, torch.empty(0)), linear(x))
    assert count(model) == VOCAB * 2 + 7 * VOCAB
    with pytest.raises(UserError, match="nearest: direct=linear"):
        window_model(head="perceptron(hidden=0)")


def test_the_perceptron_with_a_norm_is_makemores_in_training_and_after() -> None:
    """Lecture 3's network, of torch's parts: embeddings, Linear without bias, BatchNorm1d, tanh, Linear."""
    model = window_model(head="perceptron(hidden=7, norm=batchnorm(momentum=0.2))").train()
    theirs = nn.Sequential(nn.Linear(6, 7, bias=False), nn.BatchNorm1d(7, momentum=0.2), nn.Tanh(), nn.Linear(7, VOCAB))
    copy(model.head.up, theirs[0].weight, None)
    copy(model.head.out, theirs[3].weight, theirs[3].bias)
    theirs[1].load_state_dict(model.head.norm.state_dict(), strict=False)
    x = torch.randn(5, 4, 6)
    for _ in range(2):
        out = model.head(x, torch.empty(0))
        torch.testing.assert_close(out.flatten(0, 1), theirs(x.flatten(0, 1)))
    model.eval(), theirs.eval()
    torch.testing.assert_close(model.head(x, torch.empty(0)).flatten(0, 1), theirs(x.flatten(0, 1)))


@pytest.mark.parametrize(("fuse", "levels"), [(2, 3), (3, 2), (4, 1)])
def test_the_tree_fuses_neighbours_level_by_level(fuse: int, levels: int) -> None:
    """Lecture 5's network, of torch's parts: a convolution whose stride is its width fuses neighbours, and BatchNorm1d
    over (examples, channels, places) counts all examples and places."""
    n, width, hidden = fuse**levels, 3, 5
    head = f"tree(hidden={hidden}, tokens={n}, fuse={fuse})"
    model = window_model(n=n, dim=n * width, head=head).train()
    tree: Tree = model.head
    layers: list[nn.Module] = []
    for level, (up, norm) in enumerate(zip(tree.ups, tree.norms, strict=True)):
        fused = width if level == 0 else hidden
        layers += [nn.Conv1d(fused, hidden, fuse, stride=fuse, bias=False), nn.BatchNorm1d(hidden), nn.Tanh()]
        layers[-3].weight.data.copy_(up.weight.view(hidden, fuse, fused).transpose(1, 2))
        layers[-2].load_state_dict(norm.state_dict(), strict=False)
    theirs = nn.Sequential(*layers, nn.Flatten(), nn.Linear(hidden, VOCAB))
    copy(tree.out, theirs[-1].weight, theirs[-1].bias)
    x = torch.randn(2, 9, n * width)
    for training in (True, False):
        model.train(training), theirs.train(training)
        expected = theirs(x.view(18, n, width).transpose(1, 2)).view(2, 9, VOCAB)
        torch.testing.assert_close(tree(x, torch.empty(0)), expected, rtol=1e-4, atol=1e-5)
    matrices = sum(up.weight.numel() * (n // fuse ** (i + 1)) for i, up in enumerate(tree.ups))
    assert tree.flops(10, 12) == 10 * 2 * (matrices + hidden * VOCAB)


@pytest.mark.parametrize("head", ["perceptron(hidden=4, act=relu)", "perceptron(hidden=4, norm=layernorm, bias=all)"])
def test_knobs_change_the_network(head: str) -> None:
    assert not torch.equal(
        window_model(head=head)(tokens(1, 5)), window_model(head="perceptron(hidden=4)")(tokens(1, 5))
    )


def test_biases_go_where_they_are_said_to_go() -> None:
    sizes = {}
    for bias in ("auto", "all", "out", "none"):
        for norm in ("none", "layernorm(bias=none)"):
            sizes[bias, norm != "none"] = count(window_model(head=f"perceptron(hidden=7, norm={norm}, bias={bias})"))
    bare = sizes["none", False]
    assert sizes["out", False] == bare + VOCAB and sizes["all", False] == bare + VOCAB + 7 == sizes["auto", False]
    assert sizes["auto", True] == sizes["out", True] == bare + 7 + VOCAB


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"embed": "window"}, "'tokens' needs a value"),
        ({"embed": "window(tokens=4)"}, "tokens=4 does not divide dim=6; nearest: tokens=3"),
        ({"embed": "window(tokens=3, blank=third)"}, "first, own"),
        ({"head": "tree(hidden=4, tokens=6)"}, "tokens=6 is no power of fuse=2; nearest: tokens=8"),
        ({"head": "tree(hidden=4, tokens=1)"}, "nearest: tokens=2"),
        ({"head": "tree(hidden=4, tokens=4)"}, "tokens=4 does not divide dim=6"),
        ({"head": "perceptron"}, "'hidden' needs a value"),
        ({"head": "tied"}, "model.head=tied"),
    ],
)
def test_what_cannot_be_built(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        window_model(**fields)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


# ---- the presets

COUNTS = {  # (vocabulary, parameters): REFERENCES' sections 2, 3 and 5, or by hand where the source counts none
    "bigram": (65, 4_225),
    "nplm": (16_383, 5_762_483),
    "makemore-mlp": (27, 11_897),
    "makemore-mlp-repaired": (27, 11_897),
    "makemore-batchnorm": (27, 12_097),
    "makemore-wavenet": (27, 76_579),
    "makemore": (27, 204_544),
    "makemore-py-mlp": (27, 69_147),
    "bow": (27, 12_827),
    "rnn": (27, 11_803),
    "gru": (27, 28_315),
    "gpt-head": (65, 7_553),
    "gpt-heads": (65, 7_553),
    "gpt-ffn": (65, 8_609),
    "gpt-residual": (65, 41_921),
    "gpt-norm": (65, 42_369),
    "gpt-64": (65, 209_729),
    "gpt": (65, 10_788_929),
}


@pytest.mark.parametrize(("preset", "vocab_size", "total"), [(k, *v) for k, v in COUNTS.items()])
def test_a_preset_has_exactly_the_parameters_of_its_source(preset: str, vocab_size: int, total: int) -> None:
    config = compose(preset, [f"model.vocab_size={vocab_size}"])
    resolved = resolve_model(config.model)
    assert cost(resolved).total == total
    assert resolve_model(resolved) == resolved


def test_the_variants_of_bengios_network_and_of_makemores_have_the_papers_sizes() -> None:
    for heads, dim, total in (
        ("perceptron(hidden=50, direct=linear)", 120, 3_299_033),  # MLP5
        ("perceptron(hidden=100)", 120, 2_158_273),  # MLP9
    ):
        config = compose("nplm", ["model.vocab_size=16383", f"model.dim={dim}", f"model.head={heads}"])
        assert cost(config.model).total == total
    knobs = ["model.vocab_size=27", "model.head=perceptron(hidden=200, norm=batchnorm, bias=all)"]
    assert cost(compose("makemore-batchnorm", knobs).model).total == 12_297  # "manual backprop"


def test_an_lstm_has_four_gates_of_the_kind_that_a_gru_has_three_of() -> None:
    knobs = ["model.vocab_size=27"]
    gru, lstm = (cost(compose(name, knobs).model).total for name in ("gru", "lstm"))
    assert lstm - gru == (128 * 64 + 64) + 64  # a gate more, and a second vector in the learned start


def first_loss(preset: str) -> float:
    model = LanguageModel(compose(preset, ["model.vocab_size=27"]).model)
    model.initialise(SEED)
    x = tokens(64, 17, SEED, vocab=27)
    return float(model.losses(x[:, :-1], x[:, 1:])["loss"].detach())


def test_the_repaired_start_takes_the_first_loss_from_27_to_3_3() -> None:
    """The lecture prints 27.88 and 3.32; ln 27 = 3.2958."""
    assert 15 < first_loss("makemore-mlp") < 45
    assert 3.25 < first_loss("makemore-mlp-repaired") < 3.45


def test_the_repaired_start_is_not_flat_where_tanh_is() -> None:
    """|tanh| > 0.99 is the lecture's measure of a saturated unit."""
    shares = []
    for preset in ("makemore-mlp", "makemore-mlp-repaired"):
        model = LanguageModel(compose(preset, ["model.vocab_size=27"]).model)
        model.initialise(SEED)
        seen: list[Tensor] = []
        model.head.act.register_forward_hook(lambda *io, kept=seen: kept.append(io[2]))
        model(tokens(8, 16, SEED, vocab=27))
        shares.append(float((seen[0].abs() > 0.99).float().mean()))
    assert shares[0] > 0.4 and shares[1] < 0.2


@pytest.mark.parametrize("preset", ["makemore-batchnorm", "makemore-wavenet", "makemore-py-mlp", "nplm"])
def test_a_preset_learns(preset: str) -> None:
    """A text of one repeated sequence: the loss falls well below that of the best guess without a past."""
    config = compose(preset, ["model.vocab_size=27", "model.init=by_role(rest=pytorch)"])
    model = scramble(LanguageModel(config.model), SEED).train()
    x = torch.tensor([[(3 * t) % 7 for t in range(17)]] * 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        loss = model.losses(x[:, :-1], x[:, 1:])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5


def test_a_window_of_one_token_is_a_plain_embedding() -> None:
    assert count(make(embed="window(tokens=1)")) == count(make())
    a, b = scrambled(SEED, embed="window(tokens=1)"), scrambled(SEED)
    torch.testing.assert_close(a(tokens(2, 6)), b(tokens(2, 6)))
    assert resolve_model(model_config(embed="window(tokens=1)")).embed == "window(tokens=1, blank=first, dropout=0.0)"
