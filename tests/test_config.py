"""Options: where values come from, in which order, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from conftest import Stellar

from stellar_local.config import RuntimeOptions, SamplingOptions, model_defaults, read_config, resolve
from stellar_local.errors import UsageError
from stellar_local.spec import specs


def test_order_of_sources() -> None:
    order = [({}, {}, {}), ({}, {"top_k": 1}, {}), ({}, {"top_k": 1}, {"STELLAR_TOP_K": "2"})]
    assert [resolve(SamplingOptions, *sources).top_k for sources in order] == [40, 1, 2]
    assert resolve(SamplingOptions, {"top_k": "3"}, {"top_k": 1}, {"STELLAR_TOP_K": "2"}).top_k == 3


def test_the_models_own_defaults_come_second() -> None:
    metadata = {"general.sampling.temp": 0.25, "general.sampling.top_k": 7, "general.sampling.min_p": 2.0}
    model, notes = model_defaults(SamplingOptions, metadata)
    assert model == {"temperature": 0.25, "top_k": 7}
    assert len(notes) == 1 and "general.sampling.min_p must be a number from 0 to 1" in notes[0]
    chosen = resolve(SamplingOptions, {}, {"top_k": 1}, {}, model)
    assert (chosen.temperature, chosen.top_k, chosen.min_p) == (0.25, 1, 0.05)


def test_a_file_states_the_defaults_of_its_answers(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    """Two answers of a model that says "temperature 0" are equal; a flag makes them differ by their seeds."""
    reader = gguf.GGUFReader(spm_model)
    writer = gguf.GGUFWriter(tmp_path / "greedy.gguf", "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    writer.add_sampling_temp(0.0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    def answers(model: Path, *flags: object) -> set[str]:
        seeded = [stellar("batch", model, "--max-tokens", 8, "--seed", seed, *flags, input="Hi\n") for seed in (1, 2)]
        return {json.loads(done.stdout)["text"] for done in seeded}

    assert len(answers(tmp_path / "greedy.gguf")) == 1
    assert len(answers(tmp_path / "greedy.gguf", "--temperature", 1)) == 2
    assert len(answers(spm_model)) == 2


def test_config_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('temperature = 0.2\ngpu-layers = "auto"\nstop = ["END", "完"]\nmax_tokens = 5\n', encoding="utf-8")
    assert read_config(path) == {"temperature": 0.2, "gpu_layers": None, "stop": ("END", "完"), "max_tokens": 5}
    assert read_config(tmp_path / "absent.toml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature = 1", "unknown options: temprature"),
        ("= 1", "is not TOML"),
        ("top_k = 'many'", "top_k must be a whole number from 0 to 1,073,741,824, not 'many'"),
        ("top_k = 1.5", "top_k must be a whole number"),
        ("top_k = true", "top_k must be a whole number"),
        ("kv = 'f8'", "kv must be one of f16, q8_0, q4_0"),
        ("temperature = nan", "temperature must be a number from 0 to 100"),
        ("stop = 3", "stop must be a list"),
    ],
)
def test_config_file_errors_name_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="config.toml") as caught:
        read_config(path)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        ({"ctx": "0"}, {}, "--ctx must be a whole number from 16 to 1,048,576, not '0'"),
        ({"ctx": "9" * 400}, {}, "--ctx must be"),
        ({"gpu_layers": "-1"}, {}, "--gpu-layers must be auto or a whole number of at least 0"),
        ({}, {"STELLAR_KV": "x"}, "STELLAR_KV must be one of"),
        ({"batch_size": "0"}, {}, "--batch-size must be a whole number from 1 to 65,536, not '0'"),
        ({"flash_attn": "yes"}, {}, "--flash-attn must be one of auto, on, off, not 'yes'"),
        ({"mlock": "auto"}, {}, "--mlock must be one of on, off"),
        ({"tensor_split": ",".join("1" * 17)}, {}, "--tensor-split may have 16 entries, not 17"),
    ],
)
def test_wrong_values_are_refused(flags: dict[str, str], environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(RuntimeOptions, flags, {}, environ)
    assert message in caught.value.message


@pytest.mark.parametrize("value", ["3,1.5", " 3 , 1.5 ", [3, 1.5], ["3", "1.5"]])
def test_shares_are_one_text_or_a_list(value: object) -> None:
    _, spec = specs(RuntimeOptions)["tensor_split"]
    assert spec.check(value, "tensor_split") == (3.0, 1.5)
    assert resolve(RuntimeOptions, {"tensor_split": "3,1.5"}, {}, {}).tensor_split == (3.0, 1.5)


def test_a_flag_takes_shares_of_the_file_back() -> None:
    assert resolve(RuntimeOptions, {"tensor_split": "auto"}, {"tensor_split": (3.0, 1.0)}, {}).tensor_split == ()
    assert resolve(RuntimeOptions, {}, {"tensor_split": (3.0, 1.0)}, {}).tensor_split == (3.0, 1.0)


@pytest.mark.parametrize("value", ["3,", "3;1", "", "-1,2", "nan,1", "1,inf", [True, 1], 3, ["auto", 1.0, "x"]])
def test_wrong_shares_are_refused(value: object) -> None:
    with pytest.raises(UsageError, match="tensor_split must be"):
        specs(RuntimeOptions)["tensor_split"][1].check(value, "tensor_split")


def test_hardware_options_come_from_flags_variables_and_the_file(
    stellar: Stellar, spm_model: Path, tmp_path: Path
) -> None:
    """As llama.cpp's own log says, with -v."""
    config = tmp_path / "c.toml"
    config.write_text('batch-size = 32\nmmap = "off"\nflash-attn = "off"\n')
    stellar.env["STELLAR_CONFIG"] = str(config)
    stellar.env["STELLAR_FLASH_ATTN"] = "on"
    done = stellar("batch", spm_model, "-v", "--max-tokens", 1, "--batch-size", 48, input="Hi\n")
    assert done.returncode == 0, done.stderr
    for line in ("n_batch               = 48\n", "flash_attn            = enabled\n", "(load_mode = none)"):
        assert line in done.stderr
    stellar.env["STELLAR_TENSOR_SPLIT"] = "1,1"
    done = stellar("batch", spm_model, input="Hi\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--tensor-split divides a model between GPUs, and llama.cpp has none here" in done.stderr


@pytest.mark.parametrize("value", ["5=-1.5", ["5=-1.5"], ("5=2", "5=-1.5"), {"5": -1.5}, {5: -1.5}])
def test_a_bias_for_each_token(value: object) -> None:
    _, spec = specs(SamplingOptions)["logit_bias"]
    assert spec.check(value, "logit_bias") == ((5, -1.5),)
    assert resolve(SamplingOptions, {"logit_bias": ("5=-1.5",)}, {}, {}).logit_bias == ((5, -1.5),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5", "logit_bias must map token ids to biases"),
        ([5], "must map token ids to biases"),
        (7, "must map token ids to biases"),
        ({"x": 1}, "logit_bias: a token id must be a whole number from 0"),
        ({"-1": 1}, "logit_bias: a token id must be"),
        ({"1": 101}, "logit_bias: 1 must be a number from -100 to 100, not 101"),
        ("1=nan", "logit_bias: 1 must be a number from -100 to 100"),
        ({"1": None}, "logit_bias: 1 must be a number"),
        ({"1": True}, "logit_bias: 1 must be a number"),
    ],
)
def test_wrong_biases_are_refused(value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        specs(SamplingOptions)["logit_bias"][1].check(value, "logit_bias")
    assert message in caught.value.message


def test_every_option_has_help_and_a_valid_default() -> None:
    for kind in (RuntimeOptions, SamplingOptions):
        for name, (item, spec) in specs(kind).items():
            assert spec.help.endswith("."), name
            if item.default not in (None, ()):
                assert spec.check(item.default, name) == item.default


def test_variable_and_file_reach_the_command(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("max_tokens = 2\ntemperature = 0\n")
    stellar.env["STELLAR_CONFIG"] = str(config)
    assert '"completion_tokens": 2' in stellar("batch", spm_model, input="Hi\n").stdout
    stellar.env["STELLAR_MAX_TOKENS"] = "1"
    assert '"completion_tokens": 1' in stellar("batch", spm_model, input="Hi\n").stdout
    assert '"completion_tokens": 3' in stellar("batch", spm_model, "--max-tokens", 3, input="Hi\n").stdout
