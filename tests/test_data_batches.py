"""Batches: pure functions of (seed, step); evaluation scores every token once; documents do not see one another."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.data import Batch, Sampler, Tokens, windows
from nanogpt.errors import UserError

BATCHINGS = ["stream", "pad", "pack"]
EOT = 0
LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def split_of(lengths: list[int]) -> Tokens:
    """Documents of these lengths; each token but the ends is its own number, so that its way can be followed."""
    ids, starts, number = [EOT], [0], 1
    for length in lengths:
        ids += [*range(number, number + length), EOT]
        number += length
        starts.append(len(ids) - 1)
    return Tokens(np.array(ids, np.uint32), np.array(starts), sum(lengths), "val", "mine.txt")


def follower(tokens: Tokens) -> dict[int, int]:
    """What comes after each token."""
    return {int(a): int(b) for a, b in zip(tokens.ids, tokens.ids[1:], strict=False) if a != EOT}


def document_of(tokens: Tokens) -> dict[int, int]:
    assert tokens.starts is not None
    spans = pairwise(tokens.starts.tolist())
    return {int(t): d for d, (start, end) in enumerate(spans) for t in tokens.ids[start + 1 : end]}


def check_rows(batch: Batch, tokens: Tokens, shape: tuple[int, int]) -> None:
    """What holds for every batch, whatever the batching."""
    follows = follower(tokens)
    assert batch.tokens_BT.shape == batch.targets_BT.shape == shape
    assert batch.tokens_BT.dtype == batch.targets_BT.dtype == np.int64
    mask_BT = np.ones(shape, bool) if batch.mask_BT is None else batch.mask_BT
    assert (batch.targets_BT[~mask_BT] == -1).all()
    assert (batch.targets_BT[mask_BT] >= 0).all()
    assert (np.diff(mask_BT.astype(int), axis=1) <= 0).all()  # padding is on the right
    for token, target in zip(batch.tokens_BT[mask_BT], batch.targets_BT[mask_BT], strict=True):
        assert token == EOT or follows[token] == target


@pytest.mark.parametrize("batching", BATCHINGS)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 5))
def test_evaluation_scores_every_token_once(batching: str, lengths: list[int], context: int, batch: int) -> None:
    tokens = split_of(lengths)
    scored: Counter[int] = Counter()
    for found in windows(tokens, batch, context, batching):
        check_rows(found, tokens, (batch, context))
        scored.update(found.targets_BT[found.targets_BT >= 0].tolist())
    assert scored.pop(EOT) == len(lengths)
    assert scored == Counter(range(1, sum(lengths) + 1))


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 5))
def test_a_stream_without_documents_is_scored_but_for_its_first_token(size: int, context: int, batch: int) -> None:
    tokens = Tokens(np.arange(100, 100 + size, dtype=np.uint16), None, size, "val", "mine.txt")
    found = [t for w in windows(tokens, batch, context, "stream") for t in w.targets_BT[w.targets_BT >= 0].tolist()]
    assert found == list(range(101, 100 + size))


@pytest.mark.parametrize("batching", ["pad", "pack"])
@given(LENGTHS, st.integers(1, 12))
def test_no_document_sees_another(batching: str, lengths: list[int], context: int) -> None:
    tokens = split_of(lengths)
    document = document_of(tokens)
    sampler = Sampler(tokens, 3, context, batching, 7)
    for batch in [*windows(tokens, 3, context, batching), *(sampler.batch(step) for step in range(4))]:
        mask_BT = np.ones(batch.tokens_BT.shape, bool) if batch.mask_BT is None else batch.mask_BT
        numbers_BT = np.zeros(batch.tokens_BT.shape, int) if batch.documents_BT is None else batch.documents_BT
        assert (batch.documents_BT is not None) == (batching == "pack")
        for b in range(3):
            seen: dict[int, set[int]] = {}
            for t in np.flatnonzero(mask_BT[b]):
                token, target, number = int(batch.tokens_BT[b, t]), int(batch.targets_BT[b, t]), int(numbers_BT[b, t])
                seen.setdefault(number, set()).update(document[x] for x in (token, target) if x != EOT)
            assert all(len(documents) <= 1 for documents in seen.values())


@given(LENGTHS, st.integers(1, 12))
def test_pack_scores_the_same_targets_from_the_same_past_as_pad(lengths: list[int], context: int) -> None:
    tokens = split_of(lengths)

    def pasts(batching: str) -> list[tuple[tuple[int, ...], int]]:
        found = []
        for batch in windows(tokens, 2, context, batching):
            numbers_BT = np.zeros((2, context), int) if batch.documents_BT is None else batch.documents_BT
            for b in range(2):
                for t in np.flatnonzero(batch.targets_BT[b] >= 0):
                    own = numbers_BT[b, : t + 1] == numbers_BT[b, t]
                    found.append((tuple(batch.tokens_BT[b, : t + 1][own].tolist()), int(batch.targets_BT[b, t])))
        return sorted(found)

    assert pasts("pad") == pasts("pack")


def test_pad_rows_are_documents_between_ends() -> None:
    tokens = split_of([3, 2])
    batch = Sampler(tokens, 20, 5, "pad", 0).batch(0)
    rows = {(tuple(i), tuple(o)) for i, o in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True)}
    assert rows == {((0, 1, 2, 3, 0), (1, 2, 3, 0, -1)), ((0, 4, 5, 0, 0), (4, 5, 0, -1, -1))}
    assert batch.mask_BT is not None
    assert {tuple(m) for m in batch.mask_BT.tolist()} == {(True,) * 4 + (False,), (True,) * 3 + (False,) * 2}


def test_pack_rows_are_full_and_go_round() -> None:
    tokens = split_of([3, 2])
    rows = Sampler(tokens, 20, 9, "pack", 0).batch(0)
    assert rows.mask_BT is None
    found = {tuple(r): tuple(d) for r, d in zip(rows.tokens_BT.tolist(), rows.documents_BT.tolist(), strict=True)}  # type: ignore[union-attr]
    assert found == {
        (0, 1, 2, 3, 0, 4, 5, 0, 1): (0, 0, 0, 0, 1, 1, 1, 2, 2),
        (0, 4, 5, 0, 1, 2, 3, 0, 4): (0, 0, 0, 1, 1, 1, 1, 2, 2),
    }


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_batch_depends_on_seed_and_step_alone(batching: str) -> None:
    tokens = split_of([5, 9, 3, 7] * 50)
    one, two = (Sampler(tokens, 8, 6, batching, 1) for _ in range(2))
    late = [two.batch(step).tokens_BT for step in reversed(range(10))][::-1]
    for step, other in enumerate(late):
        batch = one.batch(step)
        check_rows(batch, tokens, (8, 6))
        np.testing.assert_array_equal(batch.tokens_BT, other)
    assert len({one.batch(step).tokens_BT.tobytes() for step in range(10)}) == 10
    assert (Sampler(tokens, 8, 6, batching, 2).batch(0).tokens_BT != one.batch(0).tokens_BT).any()


def test_every_window_of_a_stream_is_drawn_alike() -> None:
    tokens = Tokens(np.arange(14, dtype=np.uint16), None, 14, "train", "mine.txt")
    drawn = Counter(Sampler(tokens, 2000, 4, "stream", 0).batch(0).tokens_BT[:, 0].tolist())
    assert sorted(drawn) == list(range(10))  # the last one's last target is the last token
    assert sum((n - 200) ** 2 / 200 for n in drawn.values()) < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_every_document_is_drawn_alike() -> None:
    tokens = split_of([3] * 10)
    for batching in ("pad", "pack"):
        drawn = Counter(Sampler(tokens, 2000, 4, batching, 0).batch(0).tokens_BT[:, 1].tolist())
        assert len(drawn) == 10
        assert sum((n - 200) ** 2 / 200 for n in drawn.values()) < 27.9


def test_a_text_shorter_than_the_context_is_refused() -> None:
    tokens = Tokens(np.arange(9, dtype=np.uint16), None, 9, "train", "mine.txt")
    Sampler(tokens, 1, 8, "stream", 0).batch(0)
    with pytest.raises(
        UserError, match=r"mine\.txt: the train split has 9 tokens; .*at least 10; nearest: .*context=8"
    ) as caught:
        Sampler(tokens, 1, 9, "stream", 0)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="at least 2 are needed"):
        list(windows(Tokens(np.zeros(1, np.uint16), None, 1, "val", "mine.txt"), 1, 4, "stream"))
    with pytest.raises(UserError, match=r"mine\.txt has no documents; nearest: stream"):
        Sampler(tokens, 1, 4, "pad", 0)
