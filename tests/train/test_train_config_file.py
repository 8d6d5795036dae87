"""--config: a TOML file or an earlier run's record gives what the command line gives, and errors name the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stellar_local.errors import StellarError, UsageError
from train.command import configured
from train.config import TrainConfig
from train.config_file import read_config_file

WHOLE = """
base-model = "models/bayling"        # alpaca-lora's name, with a dash
data_path = "数据/train.json"
out = "/elsewhere/adapter"
num-epochs = 2
learning_rate = 1e-4
lora_target_modules = ["q_proj", "v_proj"]
"train_on_inputs" = true
packing = "auto"
val_data = "val.json"
template = "own.json"
wandb_project = ""
"""


def write(folder: Path, text: str, name: str = "run.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_does_what_the_command_line_does(tmp_path: Path) -> None:
    template = Path(__file__).parents[2] / "templates" / "bayling.json"
    (tmp_path / "own.json").write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
    made = configured({}, write(tmp_path, WHOLE))
    (tmp_path / "bare.toml").write_text(WHOLE.replace("own.json", "./own"), encoding="utf-8")
    assert configured({}, tmp_path / "bare.toml").template == str(tmp_path / "own")
    line = {
        "base": str(tmp_path / "models" / "bayling"),
        "data": str(tmp_path / "数据" / "train.json"),
        "out": "/elsewhere/adapter",
        "epochs": "2",
        "learning_rate": "0.0001",
        "train_on_inputs": "True",
        "lora_target_modules": "[q_proj,v_proj]",
        "val_data": str(tmp_path / "val.json"),
        "template": str(tmp_path / "own.json"),
    }
    assert made == configured(line)
    assert made == TrainConfig(
        base=tmp_path / "models" / "bayling",
        data=tmp_path / "数据" / "train.json",
        out=Path("/elsewhere/adapter"),
        epochs=2.0,
        learning_rate=1e-4,
        lora_target_modules=("q_proj", "v_proj"),
        train_on_inputs=True,
        val_data=tmp_path / "val.json",
        template=str(tmp_path / "own.json"),
    )


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'base = "b"\ndata = "d"\nout = "o"\nseed = 1\ntrain_on_inputs = true\n')
    made = configured({"seed": "2", "train_on_inputs": "False", "base": "here", "lora_r": None}, file)  # type: ignore[dict-item]
    assert (made.seed, made.train_on_inputs, made.base, made.data) == (2, False, Path("here"), tmp_path / "d")


def test_paths_that_are_none_stay_as_they_are(tmp_path: Path) -> None:
    text = 'template = "alpaca"\nval_data = ""\nresume_from_checkpoint = ""\n'
    assert read_config_file(write(tmp_path, text)) == {
        "template": "alpaca",
        "val_data": None,
        "resume_from_checkpoint": "",
    }
    text = 'resume_from_checkpoint = "old"\n'
    assert read_config_file(write(tmp_path, text)) == {"resume_from_checkpoint": str(tmp_path / "old")}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("seed = 1\nlora_rank = 8\n", "run.toml, line 2: unknown option: lora_rank", "did you mean lora_r?"),
        ("xyzzy = 1\n", "run.toml, line 1: unknown option: xyzzy", "lists all options"),
        ("overwrite = true\n", "line 1: unknown option: overwrite", ""),
        ('\n\nbatch_size = "32"\n', "line 3: batch_size is '32', but must be a whole number", ""),
        ("batch-size = 2.5\n", "line 1: batch-size is 2.5, but must be a whole number", ""),
        ("train_on_inputs = 0\n", "line 1: train_on_inputs is 0, but must be true or false", ""),
        ('train_on_inputs = "False"\n', "line 1: train_on_inputs is 'False'", ""),
        ("base = 3\n", "line 1: base is 3, but must be a path", ""),
        ('base = ""\n', "line 1: base is empty", ""),
        ("lora_target_modules = [1]\n", "line 1: lora_target_modules is [1]", ""),
        ("lora_dropout = 2\n", "line 1: lora_dropout is 2, but must be a number of at least 0 and less than 1", ""),
        ("seed = 1979-05-27\n", "line 1: seed is 1979-05-27", ""),
        ("epochs = 1\nnum_epochs = 2\n", "line 2: epochs and num_epochs are the same option", "leave one"),
        ("seed = 1\n[data]\npath = 1\n", "line 2: data is a section", "name = value"),
        ("a.b = 1\n", "line 1: a is a section", ""),
        ("train_on_inputs = False\n", "run.toml is not TOML", "true or false"),
        ("seed = 1\nseed = 2\n", "run.toml is not TOML", ""),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_config_file(write(tmp_path, text))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_key_cannot_drive_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_config_file(write(tmp_path, '"\\u001b[2J\\nstellar: error" = 1\n'))
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message


def test_the_record_of_an_earlier_run(tmp_path: Path) -> None:
    config = TrainConfig(base=Path("b"), data=Path("d"), out=Path("o"), seed=7, lora_target_modules=("v_proj",))
    file = write(tmp_path, json.dumps({"config": config.as_json(), "steps": 3}, indent=1), "training.json")
    assert configured({}, file) == config
    assert configured({"out": "new"}, file).out == Path("new")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"config": {\n"lora_r": "8"}}', "training.json, line 2: lora_r is '8', but must be a whole number"),
        ("[]", "is not a JSON object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_damaged_record(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_config_file(write(tmp_path, text, "training.json"))
    assert message in caught.value.message


def test_no_such_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="not found"):
        read_config_file(tmp_path / "absent.toml")
    (tmp_path / "run.toml").write_bytes(b'base = "\xff"\n')
    with pytest.raises(StellarError, match="not UTF-8"):
        read_config_file(tmp_path / "run.toml")


def test_wandb_in_a_file_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured({}, write(tmp_path, 'base = "b"\ndata = "d"\nout = "o"\nwandb_watch = false\nwandb_project = "stars"\n'))
    assert capsys.readouterr().err.count("wandb") == 1
