"""Where a published model comes from, read into one form: its config.json, its tensors by name, its tokenizer.

a folder with config.json and model.safetensors (or shards with an index), as on the Hugging Face hub
a file: GGUF, llama2.c's .bin, minGPT's .json
org/name: such a folder on the hub, downloaded
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanogpt.errors import UserError
from nanogpt.files import one_line

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass
class Source:
    """A model as published."""

    name: str
    """What to call it in errors."""
    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: str | None = None
    """Its tokenizer.json."""
    beside: dict[str, Any] = field(default_factory=dict)
    """Its other small files, by name, as JSON."""


class Lazy(Mapping[str, Tensor]):
    """Tensors that are read when asked for: name -> how."""

    def __init__(self, readers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def open_folder(folder: Path) -> Source:
    """A folder as on the hub. UserError, one line, for whatever is missing or damaged."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json in it")
    config = read_json(folder / "config.json")
    tokenizer = folder / "tokenizer.json"
    text = read_text(tokenizer) if tokenizer.is_file() else None
    small = ("generation_config.json", "tokenizer_config.json")
    beside = {name: read_json(folder / name) for name in small if (folder / name).is_file()}
    return Source(str(folder), config, _tensors(folder), text, beside)


def read_text(path: Path) -> str:
    with one_line(f"read {path}"):
        content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    content = read_text(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: should hold one JSON object")
    return value


def _tensors(folder: Path) -> Lazy:
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
            raise UserError(f"{folder / INDEX}: no weight_map in it")
        readers: dict[str, Callable[[], Tensor]] = {}
        for file in sorted(set(index.values())):
            if Path(file).name != file:
                raise UserError(f"{folder / INDEX} names '{file}', which is not a file beside it")
            if not (folder / file).is_file():
                raise UserError(f"{folder / INDEX} names '{file}', which is not there")
            there = _readers(folder / file)
            readers |= {name: read for name, read in there.items() if index.get(name, file) == file}
        if missing := set(index) - set(readers):
            raise UserError(f"{folder / INDEX} names tensor '{min(missing)}', which is not in {index[min(missing)]}")
        return Lazy(readers)
    if (folder / WEIGHTS).is_file():
        return Lazy(_readers(folder / WEIGHTS))
    if pickled := sorted(p for p in folder.iterdir() if p.suffix in PICKLED):
        raise refuse_pickle(pickled[0])
    raise UserError(f"{folder}: no {WEIGHTS} in it")


def _readers(path: Path) -> dict[str, Callable[[], Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or cut short: {error}") from None

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor

        return read

    return {name: reader(name) for name in names}


def refuse_pickle(path: Path) -> UserError:
    return UserError(
        f"{path}: pickled weights can run any code when they are read, so they are not; convert them where you trust "
        "them: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
    )


def open_source(where: str) -> Source:
    """A folder, a file, or org/name on the hub."""
    from nanogpt.hub import download, gguf, llama2c, mingpt

    path = Path(where).expanduser()
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():
        return download.fetch(where)
    with one_line(f"read {path}"), path.open("rb") as file:
        start = file.read(16)
    if start[:4] == gguf.MAGIC:
        return gguf.read(path)
    if path.name == "config.json":
        raise UserError(f"{path}: the weights are beside it; give the folder, {path.parent}")
    if path.suffix == ".json":
        return mingpt.read(path)
    if path.suffix == ".bin" and not start.startswith((b"PK", b"\x80")):
        return llama2c.read(path)
    if path.suffix in PICKLED:
        raise refuse_pickle(path)
    if path.suffix == ".safetensors":
        raise UserError(f"{path}: weights alone are not a model; give the folder that has config.json beside them")
    raise UserError(f"{path}: not a model that can be read (a folder, .gguf, llama2.c's .bin, minGPT's .json)")
