"""Every activation of a pass as it happens, module or function, by the name of its layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from nanogpt.observers.feeds import Feeds
from nanogpt.observers.functions import Functions
from nanogpt.observers.sites import Site, first_tensor


@contextmanager
def layers_of(module: nn.Module, observed: list[Site], tell: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Within, `tell(name, output)` is called for each activation, module or function, by the name of its layer; a
    tensor that it returns takes the output's place."""
    feeds = Feeds({id(site.module): site.name for site in observed})
    known = {id(site.module) for site in observed if site.activation}

    def hook(site: Site) -> Any:
        def ran(one: nn.Module, args: Any, output: Any) -> Any:
            x, y, new = first_tensor(args), first_tensor(output), None
            if y is None:
                return None
            if site.activation:
                new = tell(feeds.name(site.name, feeds.producer(x)), y)
            output = None if new is None else replaced(output, y, new)
            feeds.ran(one, x, y if new is None else new)
            return output

        return ran

    def function(name: str, one: nn.Module, y: Tensor, x: Tensor) -> Tensor | None:
        return tell(feeds.name(name, feeds.producer(x), function=True), y)

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(lambda *_: feeds.begin()).remove)
        for site in observed:
            stack.callback(site.module.register_forward_hook(hook(site)).remove)
        stack.enter_context(Functions(module, known, function))
        yield


def replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """The same output with this tensor in it exchanged."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        return type(output)({key: replaced(value, old, new) for key, value in output.items()})  # type: ignore[call-arg]
    if isinstance(output, (tuple, list)):
        values = [replaced(value, old, new) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)  # a named tuple, or not
    return output
