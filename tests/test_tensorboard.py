"""TensorBoard event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt.cli.hub import export
from nanogpt.errors import UserError
from nanogpt.observers.store import EDGES, STATISTICS, Layers
from nanogpt.observers.tensorboard import export_tensorboard
from nanogpt.runs import Run
from tests.observations import make_run


def read(folder: Path) -> Any:
    """Everything in the event files, nothing thinned."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    everything = {"scalars": 0, "histograms": 0, "tensors": 0}
    events = accumulator.EventAccumulator(str(folder), size_guidance=everything)
    return events.Reload()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path, steps=8, layers=2, dead={1: {3: 4, 7: 0}}, sample="<b>To be</b>\n\n# or not")


def test_scalars_are_those_of_the_run(run: Run, tmp_path: Path) -> None:
    counts = export_tensorboard(run, tmp_path / "events")
    events, metrics, layers = read(tmp_path / "events"), run.metrics(), Layers(run.path)
    found = {e.step: e.value for e in events.Scalars("train/loss")}
    assert found == pytest.approx({row["step"]: row["train/loss"] for row in metrics}, rel=1e-6)
    assert [e.step for e in events.Scalars("val/loss")] == [row["step"] for row in metrics if "val/loss" in row]
    std = [e.value for e in events.Scalars("activations/std/blocks.1.ffn.act")]
    expected = layers.series("activations", "std")[:, layers.names("activations").index("blocks.1.ffn.act")]
    assert std == pytest.approx(expected.tolist())
    assert events.Scalars("dead/blocks.1.ffn.act")[-1].value == pytest.approx(2 / 32)
    assert [e.value for e in events.Scalars("stream/rms/blocks.0")] == pytest.approx(layers.values("stream/rms")[:, 0])
    assert not [tag for tag in events.Tags()["scalars"] if math.isnan(events.Scalars(tag)[0].value)]
    assert counts["scalars"] == sum(len(events.Scalars(tag)) for tag in events.Tags()["scalars"])


def test_histograms_have_our_bins(run: Run, tmp_path: Path) -> None:
    """Read back, each bucket's number is that of the observed bin that ends at its right edge."""
    export_tensorboard(run, tmp_path / "events")
    events, seen = read(tmp_path / "events"), Layers(run.path).seen[-1]
    for kind, name in (("weights", "embed.weight"), ("activation_gradients", "blocks.0.ffn")):
        event = events.Histograms(f"{kind}/{name}")[-1]
        row = seen.names[kind].index(name)
        counts, moments = seen.arrays[f"{kind}/histogram"][row], seen.arrays[f"{kind}/moments"][row]
        value = event.histogram_value
        assert event.step == 8 and value.num == counts.sum() == sum(value.bucket)
        assert (value.min, value.max) == pytest.approx((moments[4], moments[5]))
        assert value.sum == pytest.approx(float(moments[0]) * counts.sum(), rel=1e-5)
        assert value.sum_squares == pytest.approx(float(moments[STATISTICS.index("norm")]) ** 2, rel=1e-5)
        for edge, number in zip(value.bucket_limit, value.bucket, strict=True):
            if number:
                assert number == counts[np.searchsorted(EDGES, edge) - 1]
        assert all(map(math.isfinite, value.bucket_limit))


def test_samples_are_shown_as_they_are(run: Run, tmp_path: Path) -> None:
    export_tensorboard(run, tmp_path / "events")
    tensors = read(tmp_path / "events").Tensors("sample/text_summary")
    texts = [t.tensor_proto.string_val[0].decode() for t in tensors]
    assert [t.step for t in tensors] == [2, 4, 6, 8]
    assert texts[0] == "    <b>To be</b>\n    \n    # or not"  # four spaces: text to Markdown, not a heading


def test_a_run_without_observations_is_its_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=20, layers=1, observed=False)
    assert export_tensorboard(run, tmp_path / "events")["histograms"] == 0
    assert "train/loss" in read(tmp_path / "events").Tags()["scalars"]


def test_what_is_damaged_is_said_and_left_out(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted(run.layers.iterdir())[-1]
    path.write_bytes(path.read_bytes()[:999])
    export(run.path, tmp_path / "events", format="tensorboard", json=True)
    said = json.loads(capsys.readouterr().out)
    assert path.name in said["problems"][0] and len(said["problems"]) == 1
    assert read(tmp_path / "events").Scalars("activations/std/embed")[-1].step == 7


def test_refusals_leave_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"--format tensorbord: .* did you mean 'tensorboard'"):
        export(run.path, tmp_path / "events", format="tensorbord")
    with pytest.raises(UserError, match="exists already"):
        export_tensorboard(run, tmp_path)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'nanogpt\[tensorboard\]'"):
        export_tensorboard(run, tmp_path / "events")
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_midway_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.iterdir())

    def full(self: Run) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "samples", full)
    with pytest.raises(UserError, match="No space left"):
        export_tensorboard(run, tmp_path / "events")
    assert sorted(tmp_path.iterdir()) == before
