"""The account of cells, against counting them one by one, and against what llama.cpp really has room for."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stellar_local.engine.memory import Memory, shared_length
from stellar_local.native.context import Chunk, Context, Decoded
from stellar_local.native.model import Model


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_shared_length(first: list[int], second: list[int]) -> None:
    expected = 0
    while expected < min(len(first), len(second)) and first[expected] == second[expected]:
        expected += 1
    assert shared_length(first, second) == expected


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "share", "truncate", "shift"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 40),
    ),
    max_size=30,
)


@given(STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_account_is_right(model: Model, steps: list[tuple[str, int, int, int]]) -> None:
    """Cells are identities: each append makes new ones, sharing names the same ones again."""
    with Context(model, 256, sequences=4, n_batch=64) as context:
        memory = Memory(context)
        held: list[list[object]] = [[], [], [], []]
        for action, one, other, size in steps:
            if action == "append" and 0 < size <= memory.free:
                assert context.decode([Chunk(one, len(held[one]), [5] * size)]) is Decoded.DONE
                memory.append(one, [5] * size)
                held[one] += [object() for _ in range(size)]
            elif action == "share" and one != other:
                length = min(size, len(held[one]))
                memory.share(one, other, length)
                held[other] = held[one][:length]
            elif action == "truncate":
                memory.truncate(one, size)
                del held[one][size:]
            elif action == "shift":
                start = min(size, len(held[one]))
                count = min(7 * other, len(held[one]) - start)
                moved = {id(cell) for cell in held[one][start:]}
                for at in range(4):  # a cell has one place for all
                    if at != one and not moved.isdisjoint(map(id, held[at])):
                        del held[at][start:]
                memory.shift(one, start, count)
                del held[one][start : start + count]
            distinct = {id(cell) for cells in held for cell in cells}
            assert memory.free == context.n_ctx - len(distinct)
            for sequence in range(4):
                others = {id(cell) for at, cells in enumerate(held) if at != sequence for cell in cells}
                assert memory.releases(sequence) == len({id(cell) for cell in held[sequence]} - others)
                assert context.length(sequence) == len(memory.tokens[sequence]) == len(held[sequence])


def test_llama_cpp_has_room_for_exactly_the_free_cells(model: Model) -> None:
    with Context(model, 256, sequences=3, n_batch=256) as context:
        memory = Memory(context)
        assert context.decode([Chunk(0, 0, [5] * 100)]) is Decoded.DONE
        memory.append(0, [5] * 100)
        memory.share(0, 1, 60)
        memory.truncate(0, 30)  # 60 cells are in use: those that the second sequence holds
        assert memory.free == context.n_ctx - 60
        assert context.decode([Chunk(2, 0, [5] * memory.free)]) is Decoded.DONE
        memory.append(2, [5] * memory.free)
        assert memory.free == 0
        assert context.decode([Chunk(0, 30, [5])]) is Decoded.FULL
