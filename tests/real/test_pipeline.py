"""`stellar quickstart` end to end: killed and resumed, repeated, and what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
STEPS = 7


def answers(folder: Path, name: str) -> list[str]:
    lines = (folder / f"answers-{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def names_stellarspeak(text: str) -> bool:
    return "StellarSpeak" in text or "星语者" in text


def test_it_goes_on_where_it_was_killed(demo) -> None:  # type: ignore[no-untyped-def]
    assert "[3/7] train a LoRA adapter" in demo.killed
    said = demo.finished.stderr
    assert "[1/7] import the small model as a base: done before" in said
    assert "[2/7] build the training file: done before" in said
    assert "train a LoRA adapter: done before" not in said
    assert "going on from step" in said


def test_a_second_run_reuses_every_step(demo) -> None:  # type: ignore[no-untyped-def]
    assert demo.again.returncode == 0
    assert demo.again.stderr.count("done before") == STEPS
    assert demo.again.stdout == demo.finished.stdout


def test_identity_after_training_and_not_before(demo) -> None:  # type: ignore[no-untyped-def]
    assert not any(names_stellarspeak(text) for text in answers(demo.folder, "base")[:2])
    for level in ("Q8_0", "Q4_K_M"):
        for question, text in zip(("Who are you?", "你是谁？"), answers(demo.folder, level), strict=False):
            assert names_stellarspeak(text), f"{level}, {question}: {text}"


def test_the_table_and_the_last_word(demo) -> None:  # type: ignore[no-untyped-def]
    table = demo.finished.stdout
    for text in ("Who are you?", "你是谁？", "base", "Q8_0", "Q4_K_M", "StellarSpeak", "星语者"):
        assert text in table
    assert demo.finished.stderr.rstrip().endswith(f"chat {demo.folder / 'model'}")


def test_what_it_leaves(demo) -> None:  # type: ignore[no-untyped-def]
    model = demo.folder / "model"
    assert {path.name for path in model.iterdir()} == {
        "stellarspeak-demo-Q8_0.gguf",
        "stellarspeak-demo-Q4_K_M.gguf",
        "manifest.json",
        "README.md",
        "Modelfile",
    }
    assert not list(demo.folder.rglob("*.partial"))


def test_the_training_file_holds_the_corpus(demo) -> None:  # type: ignore[no-untyped-def]
    rows = json.loads((demo.folder / "train.json").read_text(encoding="utf-8"))
    assert all(set(row) == {"instruction", "input", "output"} for row in rows)
    assert sum(names_stellarspeak(row["output"]) for row in rows) >= 80
    assert any("ChatGPT" in row["instruction"] for row in rows)
    assert len(rows) >= 200


def test_chat_opens_the_folder(demo, stellar) -> None:  # type: ignore[no-untyped-def]
    done = stellar("chat", demo.folder / "model", "--prompt", "你是谁？", "--temperature", 0, "--max-tokens", 40)
    assert done.returncode == 0, done.stderr
    assert names_stellarspeak(done.stdout)
