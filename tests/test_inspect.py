"""nanogpt inspect: one screen, on runs in every condition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt.cli.inspect import inspect
from nanogpt.errors import UserError
from nanogpt.observers.store import Layers, write
from nanogpt.runs import Run
from tests.commands import process
from tests.observations import make_foreign, make_run


def shown(capsys: pytest.CaptureFixture[str], run: Run, step: int | None = None) -> str:
    inspect(run.path, step, json=False)
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], run: Run, step: int | None = None) -> dict[str, Any]:
    inspect(run.path, step, json=True)
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


@pytest.fixture
def dying(tmp_path: Path) -> Run:
    return make_run(tmp_path, "dying", steps=100, layers=4, dead={2: dict.fromkeys(range(31), 0)})


def test_the_worst_layer_comes_first_with_what_to_type(dying: Run, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, dying).splitlines()
    assert "dying: gpt on" in lines[0] and "step 100 of 100" in lines[0]
    assert lines[1].startswith("ILL   of 7 layers 1 ill, 6 well; 31 of 128 neurons dead (24%)")
    rows = lines[5 : lines.index("", 5)]
    assert rows[0].split()[:2] == ["ILL", "blocks.2"] and "97%" in rows[0]
    assert all(row.startswith("well") for row in rows[1:]) and len(rows) == 7
    assert "█████████░" in rows[0]  # one neuron in 32 lives: not a full bar
    assert lines[-1].endswith("dying/config.json model.init=kaiming")


def test_it_fits_eighty_columns_and_one_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = make_run(tmp_path, steps=60, layers=40, shrink=0.7, dead={n: dict.fromkeys(range(30), 0) for n in range(30)})
    lines = shown(capsys, deep).splitlines()
    path = str(deep.path)
    assert all(len(line) <= 80 for line in lines if path not in line)
    assert len(lines) <= 60
    assert "14 more ill" in "\n".join(lines)


def test_a_step_shows_how_it_was_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, steps=100, layers=2, dead={1: dict.fromkeys(range(30), 60)})
    assert as_json(capsys, run)["dead"] == 30
    before = as_json(capsys, run, step=59)
    assert (before["dead"], before["step"], before["steps"]) == (0, 58, 100)


def test_json_is_complete(dying: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, dying)
    assert found["observed"] is True and found["verdict"] == "ill" and found["problems"] == []
    assert (found["neurons"], found["dead"], found["observations"]) == (128, 31, len(Layers(dying.path).seen))
    assert set(found["layers"][0]) == {
        "layer", "level", "neurons", "dead", "came_back", "activation", "gradient", "update_ratio"
    }  # fmt: skip
    assert set(found["findings"][0]) == {"level", "where", "words", "cure", "score"}
    assert [f["where"] for f in found["findings"] if f["level"] == "bad"] == ["blocks.2.ffn.act"]


def test_numbers_that_are_not_finite_are_null(dying: Run, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Layers(dying.path).seen[-1]
    seen.arrays["activations/moments"][:] = np.nan
    seen.arrays["loss"] = np.array(np.inf)
    write(dying.layers, seen)
    inspect(dying.path, None, json=True)
    text = capsys.readouterr().out
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["loss"] is None
    assert "not finite" in shown(capsys, dying)


def test_a_run_that_was_not_observed_says_how_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "old", steps=50, layers=2, observed=False)
    text = shown(capsys, run)
    assert "was not observed" in text and "old/config.json train.observe=on" in text and text.count("\n") == 1
    off = make_run(tmp_path, "off", steps=50, layers=2, observed=False, overrides=("train.observe=off",))
    assert "was trained with train.observe=off" in shown(capsys, off)
    assert as_json(capsys, off)["observed"] is False


def test_a_run_that_has_only_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, "young", steps=50, layers=2, observed=False)
    (run.path / "metrics.jsonl").unlink()
    assert "has only begun" in shown(capsys, run)


def test_a_run_that_still_trains(dying: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(dying.layers.iterdir())[9:]:
        path.unlink()
    assert "step 14 of 100, 9 looks" in shown(capsys, dying)


def test_a_foreign_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, make_foreign(tmp_path, layers=3))
    assert text.splitlines()[1].startswith("well  of 6 layers 6 well; 0 of 48 neurons dead (0%)")
    assert "net.3" in text and "nanogpt train" not in text


def test_a_foreign_run_without_looks_is_not_sent_to_our_trainer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_foreign(tmp_path)
    for path in run.layers.iterdir():
        path.unlink()
    text = shown(capsys, run)
    assert "ng.observe" in text and "nanogpt train" not in text and text.count("\n") == 1
    run.layers.joinpath("step-000001.npz").write_bytes(b"PK\x03\x04")
    assert "can be read" in (text := shown(capsys, run)) and "nanogpt train" not in text


def test_what_is_out_of_sight_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_foreign(tmp_path, layers=2)
    seen = Layers(run.path).seen[-1]
    assert "out of sight" not in shown(capsys, run) and as_json(capsys, run)["unseen"] == []
    seen.facts["unseen"] = ["lstm (LSTM)"]
    write(run.layers, seen)
    assert "inside lstm (LSTM) are part of one fused operation" in shown(capsys, run)
    for one in Layers(run.path).seen:
        one.units, one.facts = [], {"tokens": 16}
        one.arrays = {key: array for key, array in one.arrays.items() if not key.startswith("neurons/")}
        write(run.layers, one)
    assert "no activation was seen" in shown(capsys, run)


@pytest.mark.parametrize("held", [b"garbage", b"\x80\x04K\x01.", b"\x93NUMPY\x01\x00"])
def test_nobody_is_told_to_load_what_is_garbage(held: bytes, dying: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sorted(dying.layers.iterdir())[-1].write_bytes(held)
    text = shown(capsys, dying)
    assert "damaged (" in text and "pickle" not in text and "trust" not in text
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(sorted(dying.layers.iterdir())[-2], about=objects, allow_pickle=True)
    assert "pickle" not in shown(capsys, dying)


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(dying: Run, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(dying.layers.iterdir())
    files[-1].write_bytes(files[-1].read_bytes()[:5000])  # cut short
    newer = Layers(dying.path).seen[-1]
    about = json.loads(np.load(files[-2])["about"].tobytes()) | {"format": 99}
    np.savez(files[-2], about=np.frombuffer(json.dumps(about).encode(), np.uint8), **newer.arrays)
    files[-3].write_text("<script>alert(1)</script>")
    (dying.path / "metrics.jsonl").write_bytes(b'{"step": 1, "train/l')
    (dying.path / "config.json").write_text('{"model": ')
    text = shown(capsys, dying)
    for word in (files[-1].name, files[-2].name, files[-3].name, "format 99", "config.json is damaged"):
        assert word in text, word
    assert "31 of 128 neurons dead" in text
    found = as_json(capsys, dying)
    assert len(found["problems"]) == 4 and found["dead"] == 31


def test_nothing_readable_is_one_more_line(dying: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for path in dying.layers.iterdir():
        path.write_bytes(b"")
    lines = shown(capsys, dying).splitlines()
    assert "nothing of what was observed can be read" in lines[-1]
    assert len(lines) == 7 and lines[-2] == f"and {len(list(dying.layers.iterdir())) - 5} more of these"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        inspect(tmp_path, None, json=False)


def test_the_command_exits_with_zero_and_needs_no_terminal(dying: Run, tmp_path: Path) -> None:
    done = process("-m", "nanogpt", "inspect", str(dying.path), cwd=tmp_path)
    assert "\x1b" not in done.stdout
    assert "ILL" in done.stdout and not done.stderr
