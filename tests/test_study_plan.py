"""Plans: how they are written, what is refused before any training, and that the number in a refusal would do."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from nanogpt.cli.base import app
from nanogpt.config import compose
from nanogpt.errors import UserError
from nanogpt.model.language_model import LanguageModel, resolve_model
from nanogpt.study import fixing
from nanogpt.study.conduct import Outcome, planned
from nanogpt.study.fixed import Fixed
from nanogpt.study.fixing import fix
from nanogpt.study.folder import Study
from nanogpt.study.measurement import function
from nanogpt.study.plan import Plan
from nanogpt.study.reading import builtin, read
from nanogpt.study.report import not_controlled, plan_lines
from nanogpt.training.setup import step_seed

TINY = ["model.dim=16", "model.n_layers=1", "model.context=8", "train.batch=2", "train.steps=4", "tokenizer=char"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"line {n} of a text that is small, {n * n} letters and more\n" for n in range(300)))
    return str(path)


def tiny(text: str, **fields: Any) -> Plan:
    table: dict[str, Any] = {
        "name": "tiny",
        "question": "Is a gate better?",
        "preset": "gpt-64",
        "set": [f"data.corpus={text}", *TINY],
        "control": "relu",
        "arms": {
            "relu": ["model.ffn=mlp(act=relu, hidden=40)"],
            "geglu": {"set": ["model.ffn=geglu"], "solve": "model.ffn.hidden"},
        },
        "match": "params",
        "tolerance": 0.02,
        "seeds": 3,
        "noise": 0.01,
        "noise_from": "a guess",
        "margin": 0.05,
    }
    return read({**table, **fields})


def total(fixed: Fixed, arm: str, vocab_size: int) -> int:
    """Parameters of an arm, counted on the model itself."""
    one = fixed.arms[arm]
    config = compose(one.preset, one.overrides)
    with torch.device("meta"):
        model = LanguageModel(resolve_model(config.model.model_copy(update={"vocab_size": vocab_size})))
    return sum(p.numel() for p in model.parameters())


def test_widths_are_solved_for_so_that_arms_match(text: str) -> None:
    fixed = fix(tiny(text), 1, 1)
    vocab_size = len(set(Path(text).read_text()))
    sizes = {arm: total(fixed, arm, vocab_size) for arm in fixed.arms}
    assert fixed.arms["geglu"].solved == "model.ffn.hidden=27"  # 2/3 of 40: three matrices for two
    assert fixed.arms["geglu"].mismatch == pytest.approx(sizes["geglu"] / sizes["relu"] - 1)
    assert abs(fixed.arms["geglu"].mismatch) < 0.02
    nearest = [total(fixed, "geglu", vocab_size) - sizes["relu"]]
    assert abs(nearest[0]) <= 3 * 16  # one unit of hidden is three columns of 16


@pytest.mark.parametrize(("budget", "solve"), [("flops", "model.ffn.hidden"), ("tokens", "train.steps")])
def test_other_budgets_are_matched(text: str, budget: str, solve: str) -> None:
    arms = {
        "relu": ["model.ffn=mlp(act=relu, hidden=40)"],
        "geglu": {"set": ["model.ffn=geglu", "train.batch=4"], "solve": solve},
    }
    if budget == "flops":
        arms["geglu"]["set"] = ["model.ffn=geglu"]  # type: ignore[index]
    arm = fix(tiny(text, match=budget, arms=arms, tolerance=0.03), 1, 1).arms["geglu"]
    assert arm.solved == {"flops": "model.ffn.hidden=27", "tokens": "train.steps=2"}[budget]


def test_seconds_are_matched_by_steps(text: str) -> None:
    arms = {"relu": [], "wide": {"set": ["model.dim=128", "model.n_layers=4"], "solve": "train.steps"}}
    fixed = fix(tiny(text, match="seconds", arms=arms, tolerance=0.9, set=[f"data.corpus={text}", *TINY,
                                                                          "train.steps=400"]), 1, 1)  # fmt: skip
    assert fixed.arms["wide"].steps < 400
    with pytest.raises(UserError, match=r"solve = \"train\.steps\""):
        fix(tiny(text, match="seconds"), 1, 1)


def test_each_arm_is_timed_once_and_the_control_meets_its_own_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second timing would differ from the first by noise, and the control miss its own budget; among many, the one
    whose noise fits best would win."""
    times = iter((0.003, 0.002, 0.9, 0.4, 0.7))
    monkeypatch.setattr(fixing, "pace", lambda config, vocab_size, threads: next(times))
    monkeypatch.setattr(fixing, "_paces", {})
    settings = [f"data.corpus={text}", *TINY, "train.steps=400"]
    arms = {"relu": [], "geglu": {"set": ["model.ffn=geglu"], "solve": "train.steps"}}
    fixed = fix(tiny(text, match="seconds", arms=arms, set=settings, tolerance=0.01), 1, 1)
    assert fixed.arms["relu"].mismatch == 0
    assert (fixed.arms["geglu"].pace, fixed.arms["geglu"].steps) == (0.002, 600)
    assert next(times) == 0.9
    fast = {"relu": ["train.steps=2"], "geglu": ["train.steps=2", "model.ffn=geglu"]}
    with pytest.raises(UserError, match=r"0\.004 seconds of training, -33\.3% against 0\.006 of the control"):
        fix(tiny(text, match="seconds", arms=fast), 1, 1)


def test_numbers_that_can_be_built_may_lie_far_apart(text: str) -> None:
    """Of 96 heads the narrowest width is 96, beyond the numbers that are tried first."""
    arms = {"relu": [], "heads": {"set": ["model.mixer=attention(heads=96)", "model.ffn=none"], "solve": "model.dim"}}
    one = fix(tiny(text, arms=arms, set=[f"data.corpus={text}", *TINY, "model.dim=96"], tolerance=0.9), 1, 1)
    assert one.arms["heads"].solved in ("model.dim=96", "model.dim=192")


def test_the_tolerance_that_a_refusal_names_would_do(text: str) -> None:
    arms = {"relu": [], "deep": {"set": [], "solve": "model.n_layers"}}
    plan = tiny(text, arms={**arms, "relu": ["model.ffn.hidden=55"]}, tolerance=0.001)
    with pytest.raises(UserError, match="cannot be matched") as refused:
        fix(plan, 1, 1)
    wanted = re.search(r"tolerance = ([\d.]+)", str(refused.value))
    assert wanted
    assert fix(plan.model_copy(update={"tolerance": float(wanted[1])}), 1, 1).arms["deep"].solved == "model.n_layers=1"


def test_the_number_of_seeds_that_a_refusal_names_would_do(text: str) -> None:
    plan = tiny(text, noise=0.05, margin=0.05)
    with pytest.raises(UserError, match="cannot tell") as refused:
        fix(plan, 1, 1)
    seeds, margin = re.search(r"seeds = (\d+)", str(refused.value)), re.search(r"margin = ([\d.]+)", str(refused.value))
    assert seeds and margin
    enough = list(range(1, int(seeds[1]) + 1))
    assert fix(plan.model_copy(update={"seeds": enough}), 1, 1).reach()
    assert fix(plan.model_copy(update={"margin": float(margin[1])}), 1, 1).reach()
    with pytest.raises(UserError, match="cannot tell"):
        fix(plan.model_copy(update={"seeds": enough[:-1]}), 1, 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"control": "rel"}, "did you mean 'relu'"),
        ({"seeds": 1}, "at least: seeds=2"),
        ({"seeds": 0}, "seeds=0: from 1 to 1000"),
        ({"seeds": 10**12}, "from 1 to 1000"),
        ({"seeds": True}, "seeds: Input should be a valid list"),
        ({"seeds": [True, 2]}, "seeds.0"),
        ({"seeds": 2.5}, "seeds: Input should be a valid list"),
        ({"noise": None}, "noise=0.01 .assumed. or pilot=5"),
        ({"noise_from": ""}, "noise=0.01: where is it from"),
        ({"pilot": 5}, "only one of them"),
        ({"pilot": 1, "noise": None}, "at least pilot=2"),
        ({"pilot": 5, "noise": None, "arms": {"relu": []}}, "needs two arms"),
        ({"sweeep": {}}, "did you mean 'sweep'"),
        ({"match": "parms"}, "params"),
        ({"arms": {"a b": [], "relu": []}}, "arm 'a b'"),
        ({"sweep": {"lr": [1e-3, 1e-2]}}, "at least three rates"),
        ({"sweep": {"lr": [1e-3, 1.0001e-3, 1e-2]}}, "0.001 and 0.0010001 are the same rate in three digits"),
        ({"sweep": {"lr": [1e-320, 1e-3, 1e-2]}}, "rates from 1e-20 to 1e.20"),
        ({"arms": {"relu": [], "x": {"lr": [1e-3, 1e-2, 1e-2]}}}, "arms.x.lr: at least three rates"),
        ({"sweep": 3}, "sweep"),
        ({"claims": [{"says": "x", "left": ["geglu"], "right": ["rlu"]}]}, "no arm 'rlu'"),
        ({"claims": [{"says": "x", "left": [], "right": ["relu"]}]}, "left: needs at least one arm"),
        ({"claims": [{"says": "x", "left": ["geglu"], "right": ["relu"]}] * 2}, "claim 'x': there are two"),
        ({"claims": [{"says": "x", "left": "geglu", "right": ["relu"]}]}, "claims.0.left"),
        ({"claims": "geglu"}, "claims"),
        ({"claims": [{"says": "x", "left": ["*"], "right": ["relu"]}]}, "both sides"),
        ({"checks": [{"number": "val/relu"}]}, "needs reference and tolerance"),
        ({"checks": [{"number": "val/rlu", "at_most": 2}]}, "no arm 'rlu'"),
        ({"checks": [{"number": "tset/relu", "at_most": 2}], "measure": ["x.py:f"]}, "did you mean 'test'"),
        ({"checks": [{"number": "loss", "at_most": 2}]}, "nothing measures that"),
        ({"checks": [{"number": "val/relu", "tolerance": 1, "at_most": 2}]}, "tolerance=1 of what"),
        ({"checks": [{"number": "val/relu", "at_least": 3, "at_most": 2}]}, "no number is at least 3 and at most 2"),
        ({"checks": [{"number": "val/relu", "reference": 1, "tolerance": 0.1, "at_least": 2}]}, "at least 2"),
        ({"measure": ["counts"]}, "as in mine.py:count"),
        ({"measure": ["a.py:count", "b.py:count"]}, "measure 'count': there are two"),
        ({"arms": 3}, "arms=3: should be a table"),
        ({"arms": [1, 2]}, "should be a table"),
        ({"arms": {"relu": 3}}, "arms.relu=3: should be a list of overrides"),
        ({"arms": {"relu": [1]}}, "arms.relu.set.0"),
        ({"arms": {"relu": {"set": "abc"}}}, "arms.relu"),
        ({"arms": {"relu": {"sett": []}}}, "no key 'arms.relu.sett'; did you mean 'set'"),
        ({"grid": 3}, "grid=3: should be a table"),
        ({"grid": {"x": 3}}, "grid.x=3: should be a table"),
        ({"grid": {"x": {"w": 3}}}, "grid.w=3: should be a list"),
        ({"grid": {"x": {"relu": []}}}, "makes an arm of this name too"),
        ({"grid": {str(n): {str(m): [] for m in range(40)} for n in range(9)}}, "at most 1000"),
        ({"arms": {f"a{n}": [] for n in range(1001)}}, "1001 of them; at most 1000"),
        ({"set": 3}, "set: Input should be a valid list"),
        ({"quick": 3}, "quick=3: should be a table"),
        ({"name": "x" * 61}, "name: String should have at most 60"),
        ({"quick": {"sweeep": 3}}, "no key 'quick.sweeep'"),
        ({"quick": {"arms": 3}}, "quick.arms: should be a list of words"),
        ({"quick": {"set": "abc"}}, "quick.set: should be a list of words"),
        ({"preset": "gpt-65"}, "no preset 'gpt-65'"),
        ({"seeds": [1, 1]}, "same seed twice"),
        ({"seeds": [1, 1001]}, "from 0 to 1000"),
        ({"control": None}, "needs a control"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_in_one_line(text: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        tiny(text, **fields)
    assert "\n" not in str(refused.value)


WRITTEN = {
    "name": "any", "question": "?", "control": "a", "match": "params", "seeds": 3, "noise": 0.01, "noise_from": "known",
    "set": ["model.dim=8"], "arms": {"a": [], "b": {"set": ["model.ffn=geglu"], "solve": "model.ffn.hidden"}},
    "grid": {"x": {"p": [], "q": {"lr": [1e-3, 1e-2, 1e-1]}}}, "sweep": {"lr": [1e-3, 1e-2, 1e-1], "widen": 2},
    "claims": [{"says": "so", "left": ["a"], "right": ["b"]}], "checks": [{"number": "val/a", "at_most": 3}],
    "measure": ["mine.py:count"], "quick": {"seeds": 2, "arms": ["a", "b"], "set": []},
}  # fmt: skip
WORDS = st.sampled_from(["a", "*", "set", "left", "model.dim=8", "../x", "nul\0", "e\u0301\u202e", "", "x" * 3000])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in _places(one, (*at, key)))]


@given(st.sampled_from(_places(WRITTEN)[1:]), st.none() | WORDS, VALUES, st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_a_plan_or_one_line_comes_of_it(
    place: tuple[Any, ...], key: str | None, value: Any, quick: bool
) -> None:
    """Any value in any place, in the stead of what is there or beside it."""
    table = deepcopy(WRITTEN)
    *above, last = place
    inside: Any = reduce(getitem, above, table)
    inside[last if key is None or isinstance(last, int) else key] = value
    try:
        assert isinstance(read(table, quick=quick), Plan)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"set": 3, "quick": {"set": []}}, "set: Input should be a valid list"),
        ({"margn": 3, "quick": {"arms": ["relu"]}}, "no key 'margn'"),
        ({"quick": {"arms": ["gelu*"]}}, "quick.arms: no arm 'gelu.'; did you mean 'geglu'"),
        ({"quick": {"arms": ["geglu"]}}, "control: no arm 'relu'"),
    ],
)
def test_a_quick_form_that_cannot_work_is_refused_in_one_line(fields: dict[str, Any], words: str) -> None:
    table = tiny("nowhere").model_dump(exclude={"is_quick"}) | fields
    with pytest.raises(UserError, match=words):
        read(table, quick=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arms": {"relu": [], "x": ["model.fnn=mlp"]}}, "arm x: no key 'model.fnn'"),
        ({"arms": {"relu": [], "x": {"set": ["model.ffn=geglu"]}}}, "name what may change"),
        ({"arms": {"relu": [], "x": {"solve": "model.ffn.hiden"}}}, "hiden"),
        ({"match": "none", "sweep": {"lr": [1, 2, 3], "key": "optim.optimizer.rate"}}, "rate"),
        ({"match": "none", "set": ["data.corpus=names-makemore", *TINY]}, "no test split"),
        ({"match": "none", "arms": {"relu": [], "x": ["tokenizer=byte"]}}, 'metric = "bpb"'),
        ({"match": "none", "arms": {"relu": [], "x": ["data.corpus=shakespeare"]}}, "tested on another text"),
        ({"match": "none", "arms": {"relu": [], "x": []}}, "arms relu and x have the same settings"),
        ({"match": "none", "arms": {"relu": [], "x": ["model.norm=layernorm(eps=1e-5)"]}}, "the same settings"),
        ({"measure": ["nowhere.py:count"]}, "no file nowhere.py"),
        ({"match": "none", "arms": {"relu": [], "x": ["optim.schedule=cosin"]}}, "arm x: optim.schedule.*'cosine'"),
        ({"match": "none", "arms": {"relu": [], "x": ["model.ffn=ngram(2)"]}}, "arm x: model.ffn"),
    ],
)
def test_what_only_a_model_or_a_text_can_tell_is_refused_too(
    text: str, fields: dict[str, Any], words: str, data_dir: Path
) -> None:
    with pytest.raises(UserError, match=words):
        fix(tiny(text, **fields), 1, 1)


def test_a_grid_is_a_product_and_quick_keeps_some_of_it(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text("""
question = "Does initialisation matter?"
seeds = 4
margin = 0.1
noise = 0.01
noise_from = "a guess"
set = ["train.steps=100"]
[grid.init]
xavier = ["model.init=xavier"]
kaiming = ["model.init=kaiming"]
[grid.rescue]
none = []
norm = { set = ["model.norm=rmsnorm"], lr = [1e-3, 1e-2, 1e-1] }
[[claims]]
says = "less with a norm"
left = ["*-norm"]
right = ["*-none"]
of = "spread"
[[claims]]
says = "xavier"
left = ["xavier-none"]
right = ["kaiming-none"]
[quick]
seeds = 2
set = ["train.steps=5"]
arms = ["*-none"]
""")
    whole, quick = read(path), read(path, quick=True)
    assert list(whole.arms) == ["xavier-none", "xavier-norm", "kaiming-none", "kaiming-norm"]
    assert whole.arms["xavier-norm"].set == ["model.init=xavier", "model.norm=rmsnorm"]
    assert whole.arms["xavier-norm"].lr == [1e-3, 1e-2, 1e-1]
    assert (whole.name, quick.name) == ("grid", "grid-quick")
    assert list(quick.arms) == ["xavier-none", "kaiming-none"]
    assert quick.seeds == [1, 2]
    assert quick.set == ["train.steps=100", "train.steps=5"]
    assert [claim.says for claim in quick.claims] == ["xavier"]


def test_one_seed_gives_every_arm_the_same_batches_and_weights(text: str) -> None:
    """Runs of a seed differ in nothing but the arm's own settings: the seed decides batches, dropout, and weights by
    name."""
    fixed = fix(tiny(text), 1, 1)
    by_seed = {(job.arm, job.seed): compose(job.preset, job.overrides) for job in planned(fixed)}
    for seed in fixed.plan.seeds:
        relu, geglu = by_seed["relu", seed], by_seed["geglu", seed]
        assert relu.seed == geglu.seed == seed
        assert (relu.data, relu.train, relu.optim) == (geglu.data, geglu.train, geglu.optim)
        assert step_seed(relu.seed, 0) == step_seed(geglu.seed, 0)
        models = []
        for config in (relu, geglu):
            model = LanguageModel(resolve_model(config.model.model_copy(update={"vocab_size": 30})))
            model.initialise(config.seed)
            models.append(dict(model.named_parameters()))
        one, other = models
        same = [n for n in one if n in other and one[n].shape == other[n].shape]
        assert len(same) > 5
        assert all(torch.equal(one[n], other[n]) for n in same)
        share = sum(other[n].numel() for n in same) / sum(p.numel() for p in other.values())
        assert fixed.arms["geglu"].shared == pytest.approx(share, abs=0.05)  # counted at the text's own vocabulary


def test_arms_that_read_other_batches_are_said_to(text: str) -> None:
    arms = {"relu": [], "tall": ["train.batch=4"], "long": ["model.context=16"]}
    one, other = (Study(Path("none"), fix(tiny(text, match="none", **more), 1, 1)) for more in ({}, {"arms": arms}))
    for study in (one, other):
        vars(study)["outcome"] = Outcome()  # nothing has run
    assert "seeds 1, 2, 3, the same batches in every arm" in plan_lines(one)
    assert "seeds 1, 2, 3" in plan_lines(other)
    said = ["2 rows of 8 tokens of char (stream) in relu", "4 rows of 8 tokens of char (stream) in tall",
            "2 rows of 16 tokens of char (stream) in long"]  # fmt: skip
    assert f"the arms do not read the same batches: {'; '.join(said)}" in not_controlled(other)
    assert not any("batches" in line for line in not_controlled(one))
    other_tokens = tiny(text, match="none", metric="bpb", arms={"relu": [], "x": ["tokenizer=byte"]})
    assert len(fix(other_tokens, 1, 1).batches) == 2


def test_a_function_that_measures_may_have_classes_of_its_own(tmp_path: Path) -> None:
    """Its module is known to Python: dataclasses look there for their annotations, pickle for the class."""
    (tmp_path / "mine.py").write_text("""
from __future__ import annotations
import pickle
from dataclasses import dataclass
from typing import ClassVar
@dataclass
class Pair:
    one: int
    two: ClassVar[int] = 2
def count(study):
    return pickle.loads(pickle.dumps(Pair(1)))
""")
    assert function(str(tmp_path), "mine.py:count")(None).one == 1  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="no function 'cuont'; did you mean 'count'"):
        function(str(tmp_path), "mine.py:cuont")
    (tmp_path / "broken.py").write_text("def count(:")
    with pytest.raises(UserError, match="SyntaxError"):
        function(str(tmp_path), "broken.py:count")


def test_the_precision_is_the_controls_for_every_arm(text: str) -> None:
    arms = {"relu": [], "wide": ["model.dim=512"]}
    fixed = fix(tiny(text, match="none", arms=arms), 1, 1)
    precisions = {compose(arm.preset, arm.overrides).train.precision for arm in fixed.arms.values()}
    assert len(precisions) == 1
    assert precisions != {"auto"}


def test_a_plan_survives_being_written_down(text: str) -> None:
    fixed = fix(tiny(text, sweep={"lr": [1e-3, 3e-3, 1e-2]}), 1, 1)
    assert Fixed.of(fixed.as_dict(), "") == fixed
    assert read(fixed.plan.model_dump()) == fixed.plan


def test_every_study_that_comes_with_nanogpt_can_be_read() -> None:
    for name in builtin():
        assert read(name).name == name
        assert read(name, quick=True).is_quick


def test_the_command_refuses_with_status_2(tmp_path: Path) -> None:
    from nanogpt.errors import UserError as Refused

    result = CliRunner().invoke(app, ["study", "plan", "glue"])
    assert isinstance(result.exception, Refused)
    assert result.exception.status == 2
    assert not list(tmp_path.iterdir())
