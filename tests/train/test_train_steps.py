"""The order of a run's samples: every one once a pass, the same on every call, even lengths when asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.steps import Steps


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 3), st.booleans(), st.integers(0, 5))
def test_every_sample_once_a_pass(count: int, batch: int, epochs: int, by_length: bool, seed: int) -> None:
    lengths = [(7 * i) % 13 + 2 for i in range(count)]
    steps = Steps(lengths, batch, epochs, 0, seed, by_length)
    assert len(steps) == epochs * steps.per_epoch
    for epoch in range(epochs):
        seen = [i for step in range(steps.per_epoch) for i in steps[epoch * steps.per_epoch + step]]
        assert sorted(seen) == list(range(count))
    assert all(0 < len(step) <= batch for step in steps)


def test_any_step_can_be_asked_for_first() -> None:
    """A run that goes on asks for a step in the middle first, and sees what the whole run saw there."""
    whole = list(Steps(range(100, 141), 4, 3.0, 0, 42, False))
    fresh = Steps(range(100, 141), 4, 3.0, 0, 42, False)
    assert [fresh[i] for i in (25, 3, 32)] == [whole[i] for i in (25, 3, 32)]
    assert whole[:11] != whole[11:22] != whole[22:]
    assert whole != list(Steps(range(100, 141), 4, 3.0, 0, 43, False))


def test_parts_of_passes_and_most_steps() -> None:
    assert len(Steps(range(10), 4, 0.5, 0, 1, False)) == 2
    assert len(Steps(range(10), 4, 1.0, 7, 1, False)) == 7
    assert Steps(range(10), 4, 3.0, 7, 1, False).epochs == 2.33  # passes that are made, not those asked for
    assert Steps(range(10), 4, 1e-9, 0, 1, False).epochs == 0.33
    steps = Steps(range(10), 4, 2.5, 0, 1, False)
    assert steps.epochs == 2.67
    assert [done for done in range(1, len(steps) + 1) if steps.ends_epoch(done)] == [3, 6, 8]
    with pytest.raises(IndexError):
        steps[len(steps)]


def test_grouped_by_length_wastes_less() -> None:
    """What padding to the longest of a batch would add, grouped and not."""
    lengths = [10 + (i * 7919) % 500 for i in range(400)]

    def padding(by_length: bool) -> int:
        steps = Steps(lengths, 8, 1.0, 0, 42, by_length)
        return sum(max(lengths[i] for i in step) * len(step) - sum(lengths[i] for i in step) for step in steps)

    assert padding(True) < padding(False) / 10
    first = Steps(lengths, 8, 1.0, 0, 42, True)[0]
    assert max(lengths) in [lengths[i] for i in first]  # what does not fit shows itself at once
