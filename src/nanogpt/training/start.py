"""The first moment of a run: its folder, made before torch is imported. From then on it can be resumed."""

from __future__ import annotations

from pathlib import Path

from nanogpt.config import RunConfig
from nanogpt.data.corpora import placed
from nanogpt.errors import UserError
from nanogpt.files import one_line
from nanogpt.runs import Run, as_json
from nanogpt.tokenizers import resolve_tokenizer


def start(
    config: RunConfig, *, out: Path | str = "runs", name: str | None = None, source: Path | str | None = None
) -> Run:
    """Make the folder of a new run. `source`: a run whose weights it starts from, and whose tokenizer it keeps."""
    files: dict[str, bytes] = {}
    if source is not None:
        found = Run.open(source)
        best = found.best()
        if best is None:
            raise UserError(f"--from {source}: this run has no checkpoint yet")
        theirs, ours = found.config().tokenizer, config.tokenizer
        if ours != theirs and resolve_tokenizer(ours) != theirs:
            raise UserError(
                f"tokenizer={ours}: the weights of {source} know the tokens of tokenizer={theirs}, and no others"
            )
        files["origin.json"] = as_json({"run": str(found.path.resolve()), "checkpoint": best.name})
        with one_line(f"read {found.tokenizer_path}"):
            files["tokenizer.json"] = found.tokenizer_path.read_bytes()
    config = config.model_copy(update={"data": placed(config.data)})
    return Run.create(out, name, config, files=files)
