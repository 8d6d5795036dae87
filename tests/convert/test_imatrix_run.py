"""`stellar imatrix`: texts to chunks, stopped and taken up again, low levels made of its file, and bad input."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Stellar
from exporting import export
from test_imatrix_collect import CPU, DATA, TEXT, order, stored
from tiny import write_base

from convert import imatrix_run
from convert.imatrix import read_imatrix
from convert.imatrix_collect import Sums
from convert.imatrix_run import make
from convert.imatrix_text import check_enough, cut, read_tokens
from convert.imatrix_write import State, load_state, save_state, state_path, write_imatrix
from convert.levels import LEVELS
from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.native.model import Model

ROWS = [
    {"instruction": "什么是光年？", "input": "", "output": "光在一年里走过的距离。"},
    {"instruction": "What is a parsec?", "output": "About 3.26 light years."},
]


def no_rows(_row: object) -> list[int]:
    raise AssertionError("plain text has no rows")


def test_text_is_cut_as_llama_imatrix_cuts_it() -> None:
    text = np.arange(10, 33, dtype=np.int32)
    assert cut([text], 8, None).tolist() == [list(range(10, 18)), list(range(18, 26))]
    with_bos = cut([text], 8, 1).tolist()  # one before the text; then in the place of each chunk's first token
    assert with_bos == [[1, *range(10, 17)], [1, *range(18, 25)], [1, *range(26, 33)]]


def test_several_texts_take_turns_and_their_ends_are_put_together() -> None:
    long, short = np.arange(100, 100 + 4 * 8 + 3, dtype=np.int32), np.arange(500, 500 + 2 * 8 + 6, dtype=np.int32)
    chunks = cut([long, short], 8, None)
    assert chunks[:, 0].tolist() == [100, 500, 108, 116, 508, 124, 132]
    assert chunks[-1].tolist() == [132, 133, 134, *range(516, 521)]
    both = cut([long[:5], short[:5]], 8, None)  # neither alone is a chunk
    assert both.tolist() == [[*range(100, 105), 500, 501, 502]]


def test_training_data_is_shown_as_in_training(spm_model: Path, tmp_path: Path) -> None:
    """Question and answer in the model's own template, and its end token; a list and lines alike."""
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(ROWS), encoding="utf-8")
    with Model(spm_model, vocab_only=True) as model:
        for name in ("a.jsonl", "b.json"):
            job = replace(order(spm_model, tmp_path), data=(tmp_path / name,), size=250)
            ids = imatrix_run._chunks(job, CPU, model)
            text = model.text(ids[0].tolist())
            assert ids[:, 0].tolist() == [model.bos]
            assert "### Instruction:\n什么是光年" in text
            assert "走过的距离。" in text
            assert "### Instruction:\nWhat is a parsec?" in text
            assert model.eos in ids
            assert ids[0, 1:].tolist().count(model.bos) == 0


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "", "no text in"),
        ("a.txt", "\n \n", "no text in"),
        ("a.jsonl", "", "no rows in"),
        ("a.json", "[]", "no rows in"),
        ("a.jsonl", '{"instruction": "?", "output": "!"}\n{"instruction": "?"}', "line 2 is no row of training data"),
        ("a.jsonl", '{"instruction": 1, "output": "!"}', "line 1 is no row of training data"),
        ("a.jsonl", "[" * 5000, "not JSON"),
        ("a.jsonl", '{"instruction": "?", "output": "!"}\n{', "not JSON: .*line 2"),
        ("a.json", '[{"instruction": "?", "output": "!"}, 3]', "row 2 is no row of training data"),
    ],
)
def test_data_that_is_none(name: str, content: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(StellarError, match=expected) as caught:
        read_tokens(tmp_path / name, lambda text: [1], lambda row: [1])
    assert caught.value.hint


def test_too_little_text_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="too little text: 40 tokens, and one chunk takes 64") as caught:
        check_enough(np.empty((0, 64), np.int32), [np.arange(40, dtype=np.int32)], 64)
    assert "a smaller --ctx (32 to 40)" in caught.value.hint


def test_a_killed_run_goes_on_to_the_same_file(
    spm_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Power cut after the third of five chunks: the file is byte for byte that of a run which was left alone."""
    job = order(spm_model, tmp_path)
    expected, whole = make(job, CPU).path.read_bytes(), make(job, CPU)
    monkeypatch.setattr(imatrix_run, "_SAVE_EVERY", -1.0)
    measure, calls = imatrix_run._measure, 0

    def cut_off(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise MemoryError
        return measure(*arguments)  # type: ignore[arg-type]

    job.out.unlink()
    monkeypatch.setattr(imatrix_run, "_measure", cut_off)
    with pytest.raises(MemoryError):
        make(job, CPU)
    assert not job.out.exists()
    state = load_state(state_path(job.out))
    assert state and state.chunks == 3
    monkeypatch.setattr(imatrix_run, "_measure", measure)
    capsys.readouterr()
    again = make(job, CPU)
    assert "3 of 5 chunks were done before" in capsys.readouterr().err
    assert job.out.read_bytes() == expected
    assert again == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.imatrix", "校准.txt"]


def test_a_state_of_something_else_is_not_gone_on_with(
    spm_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = order(spm_model, tmp_path)
    expected = make(job, CPU).path.read_bytes()
    path = state_path(job.out)
    wrong = {"blk.0.attn_q.weight": Sums(np.ones((1, 64)), np.ones(1, np.int64))}
    for made_of, chunks, reason in (
        ({"model": [1, 2, "x"]}, 1, "another model"),
        ({"text": "x"}, 1, "another text"),
        ({"ctx": 32}, 1, "another --ctx"),
        ({}, 9, "more chunks"),
    ):
        state = State({**_made_of(job), **made_of}, chunks, sums=wrong)
        save_state(path, state)
        assert make(job, CPU).path.read_bytes() == expected
        assert f"made with {reason}, so all is measured anew" in capsys.readouterr().err
    save_state(path, State({}, 1, sums=wrong))
    path.write_bytes(path.read_bytes()[:-100])
    assert make(job, CPU).path.read_bytes() == expected
    assert "cannot be read, so all is measured anew" in capsys.readouterr().err


def _made_of(job: imatrix_run.Order) -> dict[str, object]:
    with Model(job.model, vocab_only=True) as model:
        chunks = imatrix_run._chunks(job, CPU, model)
    return dict(imatrix_run._taken_up(job, job.out, chunks, job.model).made_of)


def test_a_state_keeps_every_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sums = {"blk.0.x.weight": Sums(random.random((4, 32)), np.array([1, 0, 1 << 40, 3]))}
    save_state(tmp_path / "s", State({"ctx": 512}, 7, (1 / 3, 2 / 7, 9), sums))
    found = load_state(tmp_path / "s")
    assert found and (found.made_of, found.chunks, found.loss) == ({"ctx": 512}, 7, (1 / 3, 2 / 7, 9))
    np.testing.assert_array_equal(found.sums["blk.0.x.weight"].squares, sums["blk.0.x.weight"].squares)
    np.testing.assert_array_equal(found.sums["blk.0.x.weight"].counts, sums["blk.0.x.weight"].counts)
    assert load_state(tmp_path / "none") is None


def test_experts_are_read_back(tmp_path: Path) -> None:
    """Means of each expert's own rows, and 1 where there are none, by the reader that is there."""
    squares = np.random.default_rng(0).random((3, 32)) * 100
    sums = {"blk.1.up.weight": Sums(squares, np.array([5, 0, 2])), "blk.0.q.weight": Sums(squares[:1], np.array([9]))}
    write_imatrix(tmp_path / "m", sums, ["a.txt", "校准.txt"], 3, 512)
    found = read_imatrix(tmp_path / "m")
    assert (list(found.entries), found.chunks) == (["blk.0.q.weight", "blk.1.up.weight"], 3)
    assert found.datasets == ("a.txt", "校准.txt")
    means = np.concatenate([squares[0] / 5, np.ones(32), squares[2] / 2])
    np.testing.assert_allclose(found.entries["blk.1.up.weight"], means, rtol=1e-6)
    with pytest.raises(ModelError, match=r"the sums of a are beyond"):
        write_imatrix(tmp_path / "n", {"a": Sums(squares * 1e38, np.array([1, 1, 1]))}, [], 1, 512)
    assert not (tmp_path / "n").exists()


def test_low_levels_are_made_of_it_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_base(tmp_path / "base", hidden_size=256, intermediate_size=256)
    export(base, out=tmp_path / "full", levels=[LEVELS["F16"], LEVELS["Q2_K"]], name="m")
    made = make(replace(order(tmp_path / "full/m-F16.gguf", tmp_path), most=2), CPU)
    assert made.entries == 14
    levels = [LEVELS[name] for name in ("IQ2_M", "IQ3_XXS", "Q2_K")]
    export(base, out=tmp_path / "low", levels=levels, name="m", imatrix=made.path)
    capsys.readouterr()
    for level in levels:
        low = make(replace(order(tmp_path / "low", tmp_path), most=1), replace(CPU, level=level.name))
        assert low.perplexity and np.isfinite(low.perplexity[0])
        assert f"measured at {level.name}; F16 or Q8_0 measures" in capsys.readouterr().err
    assert (tmp_path / "full/m-Q2_K.gguf").read_bytes() != (tmp_path / "low/m-Q2_K.gguf").read_bytes()


def test_matrices_and_experts_that_were_never_reached_are_told(
    spm_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = {"blk.0.attn_q.weight": Sums(np.ones((4, 8)), np.array([3, 0, 0, 1]))}
    with Model(spm_model, vocab_only=True) as model:
        imatrix_run._tell_gaps(model, sums)
    said = capsys.readouterr().err
    assert "13 of 14 matrices were never used, blk." in said
    assert "blk.0.attn_q.weight: 2 of 4 experts were never chosen" in said


COMMAND = """
import sys
from convert import imatrix_run
from stellar_local import cli
imatrix_run._SAVE_EVERY = 0.0
cli._MOUNTED["imatrix"] = ("convert.imatrix_command", "imatrix", "")
raise SystemExit(cli.main(["imatrix", *sys.argv[1:]]))
"""


@pytest.fixture
def imatrix(stellar: Stellar) -> Stellar:
    stellar.argv = [stellar.argv[0], "-c", COMMAND]
    return stellar


def test_ctrl_c_finishes_the_chunk_and_the_same_command_goes_on(
    imatrix: Stellar, spm_model: Path, tmp_path: Path
) -> None:
    text = tmp_path / "long.txt"
    text.write_text(TEXT * 12, encoding="utf-8")
    command = [
        spm_model,
        "--data",
        text,
        "--out",
        tmp_path / "m.imatrix",
        "--ctx",
        256,
        "--gpu-layers",
        0,
        "--threads",
        1,
    ]
    process = imatrix.start(*command)
    assert process.stderr
    said = ""
    while "10%" not in said:
        line = process.stderr.readline().decode()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    said += process.communicate()[1].decode()
    assert process.returncode == 130, said
    stopped = re.search(r"stopped after (\d+) of (\d+) chunks; the same command goes on", said)
    assert stopped, said
    done = imatrix(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{stopped[1]} of {stopped[2]} chunks were done before", done.stderr)
    summary = json.loads(done.stdout)
    assert (summary["entries"], summary["chunks"], summary["ctx"]) == (14, int(stopped[2]), 256)
    assert summary["perplexity"] > 1
    assert {int(values[0]) for name, values in stored(tmp_path / "m.imatrix").items() if "counts" in name} == {
        256 * int(stopped[2])
    }


def test_bad_input_is_a_sentence(imatrix: Stellar, spm_model: Path, tmp_path: Path) -> None:
    text, out = DATA / "imatrix.txt", tmp_path / "m.imatrix"
    for arguments, code, expected in (
        ([tmp_path / "none.gguf", "--data", text, "--out", out], 1, "model not found"),
        ([spm_model, "--data", tmp_path / "none.txt", "--out", out], 1, "text not found"),
        ([spm_model, "--data", text, "--out", tmp_path], 1, "cannot write"),
        ([spm_model, "--data", text, "--out", out, "--batch-size", 31], 2, "--batch-size must be at least 32"),
        ([spm_model, "--data", text, "--out", out, "--ctx", 100000], 2, "too little text"),
    ):
        done = imatrix(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("m.imatrix*"))


def test_what_is_read_is_not_written_over(tmp_path: Path, spm_model: Path) -> None:
    """Neither the model nor a text, by its own name or by a link; and no file of others is taken for a state."""
    model, text = tmp_path / "m.gguf", tmp_path / "t.txt"
    model.write_bytes(spm_model.read_bytes())
    text.write_text("A star. " * 200)
    (tmp_path / "link.gguf").symlink_to(model)
    for out in (model, text, tmp_path / "link.gguf"):
        with pytest.raises(UsageError, match="would be written over"):
            make(imatrix_run.Order(model, (text,), out, size=64), CPU)
    state = tmp_path / "x.imatrix.state"
    state.write_text("my notes")
    for data in (text, state):
        with pytest.raises(UsageError, match="would be written over|is in the way"):
            make(imatrix_run.Order(model, (data,), tmp_path / "x.imatrix", size=64), CPU)
    assert model.read_bytes() == spm_model.read_bytes()
    assert state.read_text() == "my notes"
