"""TrainConfig and the command around it: every option, every wrong value, help, nothing heavy loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT

from stellar_local.errors import StellarError, UsageError
from train import cli
from train.command import configured
from train.config import TrainConfig, nearest, option, options
from train.option import SECTIONS

PATHS: dict[str, Any] = {"base": Path("base"), "data": Path("data.json"), "out": Path("out")}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0.0}, "--epochs is 0, but must be a number greater than 0"),
        ({"learning_rate": -1e-4}, "--learning-rate is -0.0001"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"learning_rate": float("inf")}, "--learning-rate is inf"),
        ({"learning_rate": 10**400}, "--learning-rate is 1000"),
        ({"epochs": float("inf")}, "--epochs is inf"),
        ({"batch_size": 0}, "--batch-size is 0, but must be a whole number of at least 1"),
        ({"batch_size": True}, "--batch-size is True, but must be a whole number"),
        ({"batch_size": "32"}, "--batch-size is '32', but must be a whole number"),
        ({"batch_size": 2.5}, "--batch-size is 2.5, but must be a whole number"),
        ({"micro_batch_size": -1}, "--micro-batch-size"),
        ({"packing": "big"}, "--packing is 'big', but must be auto or a whole number of at least 0"),
        ({"cutoff_len": 1}, "--cutoff-len is 1"),
        ({"lora_r": 0}, "--lora-r"),
        ({"lora_r": 9000}, "--lora-r is 9000, but must be a whole number of at least 1 and at most 8,192"),
        ({"lora_dropout": 1.0}, "--lora-dropout is 1, but must be a number of at least 0 and less than 1"),
        ({"max_steps": -1}, "--max-steps"),
        ({"val_set_size": 1.5}, "whole number of rows"),
        ({"val_set_size": 10, "val_data": "v.json"}, "--val-data and --val-set-size are both given"),
        ({"early_stopping": 2}, "--early-stopping needs rows"),
        ({"eval_steps": 2}, "--eval-steps needs rows"),
        ({"template": "nonsense"}, "unknown template: nonsense"),
        ({"scheduler": "steps"}, "must be one of linear, cosine"),
        ({"dtype": "int8"}, "must be one of auto, float32, bfloat16, nf4"),
        ({"over_long": "cut"}, "--over-long is 'cut', but must be one of drop, truncate, split"),
        ({"seed": 2**32}, "--seed"),
        ({"save_steps": 0}, "--save-steps"),
        ({"train_on_inputs": "False"}, "--train-on-inputs is 'False', but must be true or false"),
        ({"add_eos_token": 0}, "--add-eos-token is 0, but must be true or false"),
        ({"lora_target_modules": ["q_proj", 1]}, "--lora-target-modules"),
        ({"lora_target_modules": "[]"}, "--lora-target-modules names nothing"),
        ({"base": ""}, "--base is empty"),
        ({"base": 3}, "--base is 3, but must be a path"),
        ({"memory": 8}, "--memory is 8, but must be a text"),
    ],
)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{**PATHS, **values})
    assert message in caught.value.message


def test_values_get_their_types() -> None:
    config = TrainConfig(**{**PATHS, "base": "b", "epochs": 2, "lora_target_modules": ["v_proj", "v_proj"]})
    assert config.base == Path("b")
    assert isinstance(config.epochs, float)
    assert config.lora_target_modules == ("v_proj",)
    assert TrainConfig(**PATHS, packing="auto", val_data="", template="", seed=None) == TrainConfig(**PATHS)  # type: ignore[arg-type]
    assert replace(config, val_set_size=3, early_stopping=1).val_set_size == 3


def test_what_decides_the_adapter() -> None:
    """A step is computed to the same result however it is cut; the paths are hashed by the run's folder."""
    assert {item.name for item in options() if not item.decides} == {
        *("out", "memory", "packing", "micro_batch_size", "checkpointing", "offload", "save_steps", "threads")
    }
    config = TrainConfig(**PATHS)
    assert replace(config, packing=2048, micro_batch_size=2, offload="on").deciding() == config.deciding()
    assert replace(config, seed=1).deciding() != config.deciding()
    inside = replace(config, resume_from_checkpoint="out/checkpoints/checkpoint-4")
    assert inside.deciding() == config.deciding()
    assert replace(config, resume_from_checkpoint="other").deciding() != config.deciding()


def test_settings_survive_json() -> None:
    config = TrainConfig(**PATHS, val_data=Path("v.json"), early_stopping=3, lora_target_modules=("v_proj",))
    assert TrainConfig(**json.loads(json.dumps(config.as_json()))) == config


def test_every_option_is_well_described() -> None:
    for item in options():
        assert item.section in SECTIONS
        assert item.help.endswith(".")
        if not item.required:  # a default is a value that the option takes
            assert item.check(item.default, item.flag) == item.default
        if item.shown_default:
            assert item.read(item.shown_default, item.flag) == item.default
    names = [item.name for item in options()] + [item.alias for item in options() if item.alias]
    assert len(names) == len(set(names))


def test_a_near_spelling() -> None:
    assert nearest("lora-rank") == "lora_r"
    assert nearest("num_train_epochs") == "num_epochs"
    assert nearest("Learning_Rate") == "learning_rate"
    assert nearest("xyzzy") == ""


def test_the_end_token_left_out_is_warned_of() -> None:
    assert TrainConfig(**PATHS).notes() == []
    assert "may go on without end" in TrainConfig(**PATHS, add_eos_token=False).notes()[0]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "--base, --data and --out are not given"),
        ({"base": "b", "data": "d"}, "--out is not given"),
        ({"base": "b", "data": "d", "out": "None"}, "--out is empty"),
    ],
)
def test_what_must_be_given(texts: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        configured(texts)
    assert message in caught.value.message


def test_help_says_everything_and_loads_nothing_heavy() -> None:
    probe = (
        "import sys; from click.testing import CliRunner; from train import cli\n"
        "text = ''.join(CliRunner().invoke(c, ['--help']).output for c in (cli.train, cli.data, cli.build))\n"
        "print(text); print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    text, _, loaded = done.stdout.rpartition("LOADED")
    assert not {"torch", "transformers", "peft", "numpy"} & set(loaded.split())
    assert text.count("Example:") == 3
    assert all(parameter.help for command in (cli.train, cli.build) for parameter in command.params)  # type: ignore[attr-defined]


def test_help_has_sections_and_names_other_tools_once() -> None:
    text = CliRunner().invoke(cli.train, ["-h"]).output
    parts = text.split("\n\n")
    for section in SECTIONS:
        (part,) = [part for part in parts if part.startswith(f"{section}:\n")]
        for item in options():
            assert (f"\n  {item.flag} " in part) is (item.section == section)
    for name in ("--base_model", "--data_path", "--output_dir", "--num_epochs", "--prompt_template_name"):
        assert text.count(name) == 1
    assert "wandb" not in text
    assert option("memory").metavar in text


def run_data(*arguments: object) -> None:
    CliRunner().invoke(cli.data, ["build", *map(str, arguments)], standalone_mode=False, catch_exceptions=False)


def test_data_build(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"instruction": "a", "output": "b"}\n', encoding="utf-8")
    out = tmp_path / "deep" / "train.json"
    run_data("--out", out, "--source", mine, "--category", "identity", "--repeat", "mine=3", "--limit", "identity=10")
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert len(rows) == 13
    assert rows.count({"instruction": "a", "input": "", "output": "b"}) == 3
    run_data("--out", out)
    assert len(json.loads(out.read_text(encoding="utf-8"))) >= 120 + 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeat", "identity"], "not NAME=NUMBER"),
        (["--repeat", "identity=0"], "at least 1"),
        (["--limit", "poetry=3"], "--limit names poetry"),
        (["--source", "absent.json"], "not found"),
    ],
)
def test_data_build_errors(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(StellarError, match=message):
        run_data("--out", tmp_path / "train.json", *arguments)
    assert not list(tmp_path.iterdir())
