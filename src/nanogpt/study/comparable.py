"""Whether the arms of a study can be compared: the same text, the same tokens, other settings; and what they read."""

from __future__ import annotations

from collections.abc import Mapping

from nanogpt.config import RunConfig
from nanogpt.errors import UserError


def check_text(arm: str, config: RunConfig, other: str, its: RunConfig, metric: str) -> None:
    """Refuse an arm whose loss is of other tokens, or of another text, than that of the arm it is compared with."""
    mine, theirs = config.data.model_dump(), its.data.model_dump()
    for key in ("corpus", "val", "test", "carve"):
        if mine[key] != theirs[key]:
            raise UserError(
                f"arm {arm}: data.{key}={mine[key]}, where {other} has {theirs[key]}: it would be tested on another "
                "text; what would do: one text for all arms, or a study of each"
            )
    if metric == "loss" and config.tokenizer != its.tokenizer:
        raise UserError(
            f"arm {arm}: tokenizer={config.tokenizer}, where {other} has {its.tokenizer}: losses per token of "
            'different tokens do not compare; what would do: metric = "bpb"'
        )


def check_different(settings: Mapping[str, str]) -> None:
    """Refuse two arms with the same settings: seed by seed they would be one and the same run."""
    seen: dict[str, str] = {}
    for arm, written in settings.items():
        if written in seen:
            raise UserError(f"arms {seen[written]} and {arm} have the same settings: there is nothing to compare")
        seen[written] = arm


def batches(config: RunConfig, batching: str) -> str:
    """What an arm reads in one step; with one seed, arms of which this is the same read the same."""
    return f"{config.train.batch} rows of {config.model.context} tokens of {config.tokenizer} ({batching})"
