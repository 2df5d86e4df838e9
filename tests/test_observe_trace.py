"""By hand: every activation by name, and running on with one of them replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nanogpt as ng
from nanogpt.errors import UserError
from nanogpt.observers.look import Probe, look
from nanogpt.observers.patch import ablate, patch
from nanogpt.observers.trace import trace
from tests.helpers import VOCAB, scrambled, tokens


def model(**fields: Any) -> Any:
    return scrambled(ffn="mlp(act=relu, hidden=24)", position="rotary", mixer="attention(heads=2)", **fields)


def test_every_activation_has_its_name() -> None:
    """Recomputed from one another by the parts themselves."""
    built, ids = model(n_layers=2), tokens(2, 7)
    seen = trace(built, ids)
    block = built.blocks[1]
    assert torch.equal(seen["blocks.1.ffn.act"], seen["blocks.1.ffn.up"].relu())
    assert torch.equal(seen["blocks.1.ffn.out"], block.ffn.out(seen["blocks.1.ffn.act"]).detach())
    assert torch.allclose(seen["blocks.1"], seen["blocks.1.mixer_residual"] + seen["blocks.1.ffn"], atol=1e-6)
    assert torch.equal(seen.logits, built(ids).detach()) and seen.tokens is not None and torch.equal(seen.tokens, ids)
    assert list(seen)[-1] == "head" and len(seen) == len(set(seen)) and "blocks.0" in seen and "blocks.9" not in seen
    assert "blocks.1.ffn.act" in repr(seen) and "2 x 7 x 24" in repr(seen)
    assert not [m for m in built.modules() if m._forward_hooks]


def test_attention_weights() -> None:
    """With them the mixer's output can be computed by hand."""
    built, ids = model(n_layers=1), tokens(2, 7)
    seen = trace(built, ids)
    weights = seen["blocks.0.mixer.attend.weights"]
    assert weights.shape == (2, 2, 7, 7) and torch.equal(weights, weights.tril())
    v = seen["blocks.0.mixer.v"].view(2, 7, 2, 8).transpose(1, 2)
    assert torch.allclose(weights @ v, seen["blocks.0.mixer.attend"], atol=1e-5)


def test_one_row_of_ids_in_any_form() -> None:
    built = model()
    logits = trace(built, [1, 2, 3]).logits
    assert logits.shape == (1, 3, VOCAB)
    for ids in (torch.tensor([1, 2, 3]), torch.tensor([[1, 2, 3]]), (torch.tensor([[1, 2, 3]]),)):
        assert torch.equal(trace(built, ids).logits, logits)


def test_a_patched_pass_is_the_other_pass() -> None:
    """With a layer's output taken from another text, what follows is that text's."""
    built = model()
    one, two = trace(built, tokens(1, 7, seed=2)), trace(built, tokens(1, 7, seed=3))
    with patch(built, {"blocks.0": two["blocks.0"]}):
        mixed = trace(built, tokens(1, 7, seed=2))
    assert torch.equal(mixed["blocks.0.ffn"], one["blocks.0.ffn"]) and not torch.equal(one.logits, two.logits)
    assert torch.equal(mixed["blocks.1"], two["blocks.1"]) and torch.equal(mixed.logits, two.logits)
    assert torch.equal(trace(built, tokens(1, 7, seed=2)).logits, one.logits), "afterwards it is as before"
    with patch(built, {"blocks.0.ffn": torch.zeros(16)}):  # broadcast over batch and time
        zeroed = trace(built, tokens(1, 7, seed=2))
    with ablate(built, "blocks.0.ffn"):
        ablated = trace(built, tokens(1, 7, seed=2))
    assert torch.equal(zeroed.logits, ablated.logits)


def test_an_ablated_branch_leaves_the_stream_alone() -> None:
    built, ids = model(), tokens(2, 7)
    with ablate(built, "blocks.1.mixer", "blocks.1.ffn"):
        seen = trace(built, ids)
    assert torch.equal(seen["blocks.1"], seen["blocks.0"])
    with ablate(built, "blocks.1.ffn.act", by="mean"):
        seen = trace(built, ids)
    mean = seen["blocks.1.ffn.up"].relu().mean((0, 1))
    assert torch.allclose(seen["blocks.1.ffn.act"], mean.expand(2, 7, 24))


def test_gradients_go_through_a_patched_pass() -> None:
    """Also in training: the patch is a part of the pass."""
    built, ids = model(), tokens(2, 7)
    new = torch.randn(2, 7, 16, requires_grad=True)
    with patch(built, {"blocks.0": new}):
        built(ids).sum().backward()
    assert new.grad is not None and built.blocks[0].ffn.up.weight.grad is None
    assert built.blocks[1].ffn.up.weight.grad is not None


class Pair(nn.Module):
    """Returns several things, and takes several."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        out, _ = self.cell(x)
        return {"logits": self.head(out) * scale}


def test_any_module() -> None:
    pair, x = Pair(), torch.randn(2, 5, 3)
    seen = trace(pair, (x, torch.tensor(2.0)))
    assert seen["cell"].shape == (2, 5, 4) and torch.equal(seen.logits, 2 * seen["head"])
    with patch(pair, {"cell": torch.zeros(4)}):
        assert torch.equal(trace(pair, (x, torch.tensor(1.0))).logits, pair.head.bias.detach().expand(2, 5, 2))
    compiled = torch.compile(pair, backend="eager")
    assert torch.equal(trace(compiled, (x, torch.tensor(2.0))).logits, seen.logits)


class Foreign(nn.Module):
    """Somebody's network, which calls its activations as functions, but for a module that stands in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.fc4, self.fc5 = (nn.Linear(6, 6) for _ in range(5))
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc2(F.gelu(self.fc1(x))))
        x = self.act(self.fc4(self.act(self.fc3(x))))
        x = self.fc5(x)
        x.sigmoid_()
        return x.sum(-1)


def test_activations_that_are_functions() -> None:
    """By the names that the observers have for them; the module in its second place too."""
    model, x = Foreign(), torch.randn(9, 6)
    seen = trace(model, x)
    assert torch.equal(seen["gelu@fc1"], F.gelu(seen["fc1"])) and torch.equal(seen["relu@fc2"], seen["fc2"].relu())
    assert torch.equal(seen["act"], seen["fc3"].tanh()) and torch.equal(seen["act@fc4"], seen["fc4"].tanh())
    assert torch.equal(seen["sigmoid@fc5"], seen["fc5"].sigmoid()), "fc5 as it was before that worked in place"
    assert torch.equal(seen.logits, model(x).detach()) and torch.equal(seen.logits, seen["sigmoid@fc5"].sum(-1))
    known = look(model, Probe(lambda: model(x).sum())).names["activations"]
    assert sorted(seen) == sorted(set(known) - {"model"}) and list(seen)[:4] == ["fc1", "gelu@fc1", "fc2", "relu@fc2"]


def test_functions_of_transformer_layers() -> None:
    """PyTorch's own have a fused path for evaluation, in which nothing would be seen."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation=F.gelu)
    seen = trace(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(2, 3, 8))
    for at in ("layers.0", "layers.1"):
        assert torch.equal(seen[f"{at}.gelu@linear1"], F.gelu(seen[f"{at}.linear1"]))


def test_functions_are_replaced() -> None:
    model, x = Foreign(), torch.randn(9, 6)
    before = trace(model, x)
    with ablate(model, "relu@fc2"):
        assert torch.allclose(trace(model, x)["fc3"], model.fc3.bias.detach().expand(9, 6))
    with ablate(model, "act@fc4"):
        seen = trace(model, x)
    assert torch.equal(seen["act"], before["act"]) and torch.equal(seen["act@fc4"], torch.zeros(9, 6))
    with patch(model, {"gelu@fc1": torch.ones(6), "sigmoid@fc5": torch.full((6,), 2.0)}):
        seen = trace(model, x)
        assert torch.equal(seen.logits, torch.full((9,), 12.0)) and torch.equal(model(x), seen.logits)
    assert torch.allclose(seen["fc2"], model.fc2(torch.ones(6)).detach().expand(9, 6), atol=1e-6)
    new = torch.randn(9, 6, requires_grad=True)
    with patch(model, {"gelu@fc1": new}):
        model(x).sum().backward()
    assert new.grad is not None and model.fc1.weight.grad is None and model.fc2.weight.grad is not None
    assert torch.equal(trace(model, x).logits, before.logits), "afterwards it is as before"
    words = r"no activation that ran is called 'gelu@fc4'; did you mean 'gelu@fc1'"
    with pytest.raises(UserError, match=words), ablate(model, "gelu@fc4"):
        model(x)
    with pytest.raises(UserError, match="no module 'gellu'"), ablate(model, "gellu"):
        pass


class Nested(nn.Module):
    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], str]:
        return (x + 1, x + 2), "word"


def test_what_lies_deeper_in_an_output_is_replaced() -> None:
    model = nn.Sequential(Nested())
    with patch(model, {"0": torch.zeros(3)}):
        (first, second), word = model(torch.ones(3))
    assert first.tolist() == [0, 0, 0] and second.tolist() == [3, 3, 3] and word == "word"


def test_a_run_takes_a_text(tmp_path: Path) -> None:
    text = tmp_path / "count.txt"
    text.write_text("".join(f"line {n} and {n * 7 % 13}\n" for n in range(300)))
    made = ng.train(
        "gpt-head", f"data.corpus={text}", "train.steps=2", "train.batch=2", "train.threads=1", out=tmp_path, quiet=True
    )
    loaded = ng.load(made.path)
    seen = trace(loaded, "line")
    assert seen.tokens is not None and loaded.tokenizer.decode(seen.tokens[0].tolist()) == "line"
    assert seen.logits.shape == (1, 4, loaded.model.vocab_size)
    with ablate(loaded, "embed"):
        assert not torch.equal(trace(loaded, "line").logits, seen.logits)
    with pytest.raises(UserError, match="no tokens"):
        trace(loaded, "")


def test_mistakes_are_said_in_one_line() -> None:
    built = model()
    seen = trace(built, [1, 2])
    with pytest.raises(UserError, match=r"no activation 'blocks.1.fn'; did you mean 'blocks.1.ffn'"):
        seen["blocks.1.fn"]
    assert seen.get("blocks.1.fn") is None
    with pytest.raises(UserError, match=r"no module 'block\.0'; did you mean 'blocks\.0'"), ablate(built, "block.0"):
        pass
    with pytest.raises(UserError, match="did you mean 'zero'"), ablate(built, "blocks.0", by="zeros"):
        pass
    words = r"blocks\.0 is 1 x 2 x 16 here, and what it should become is 3 x 16"
    with pytest.raises(UserError, match=words), patch(built, {"blocks.0": torch.zeros(3, 16)}):
        built(torch.tensor([[1, 2]]))
    with pytest.raises(UserError, match="must become a tensor"), patch(built, {"blocks.0": 0}):
        pass
    with pytest.raises(UserError, match="needs a tokenizer"):
        trace(built, "text")
    with pytest.raises(UserError, match="neither"):
        trace("model", [1])
    with pytest.raises(UserError, match=f"token ids are from 0 to {VOCAB - 1}"):
        trace(built, [1, VOCAB])
    for strange in (["a", "b"], [1, None], [[1, 2], [3]]):
        with pytest.raises(UserError, match="no list of token ids"):
            trace(built, strange)
    for nothing in ([], None, torch.zeros(0, dtype=torch.long)):
        with pytest.raises(UserError, match="no tokens"):
            trace(built, nothing)
    with pytest.raises(UserError, match="is a string, not a int"), ablate(built, 3):  # type: ignore[arg-type]
        pass
    with pytest.raises(UserError, match="not a str"), patch(built, "blocks.0"):  # type: ignore[arg-type]
        pass
    with pytest.raises(UserError, match="is a string"), patch(built, {0: torch.zeros(1)}):  # type: ignore[dict-item]
        pass
    assert not [m for m in built.modules() if m._forward_hooks], "and nothing of it stays"
