"""What an export leaves behind: metadata, vocabulary, template, manifest, and nothing after a failure."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from click.testing import CliRunner
from exporting import export
from gguf_facts import metadata
from tiny import write_plain_base
from tokenizers import Tokenizer

from convert import cli
from convert.adapter import parse_adapter
from convert.gguf_out import GgufStream
from convert.levels import LEVELS
from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.prompts import load_template

TEXTS = [
    "Hello world",
    " Hello  world ",
    "What is a parsec?\n### Response:\n",
    "太阳是一颗恒星。月球绕着地球转，",
    "黑洞 the Sun 3.26 光年\t12345",
    "🚀 rocket 🌫️ 😶‍🌫️",
    "\n\n \n\t\n",
    "I'LL don't we've 'S",
    "",
    "é ü ﬁ ½ 한국어 кошка",
    "</s> <|eot_id|> [PAD5] <s>",
]
SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"


@pytest.fixture(scope="module")
def exported(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An F16 file of a SentencePiece and of a BPE base."""
    out = tmp_path_factory.mktemp("exported")
    for name, kind in (("spm", "spm-gqa-64"), ("bpe", "bpe-gqa4-256-tied-biased")):
        export(bases(kind), out=out, levels=[LEVELS["F16"]], name=name)
    return {name: out / f"{name}-F16.gguf" for name in ("spm", "bpe")}


def test_spm_tokens_are_sentencepieces(
    exported: dict[str, Path], bases: Callable[[str], Path], llama_tokens: Callable[..., list[list[int]]]
) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(bases("spm-gqa-64") / "tokenizer.model"))
    assert llama_tokens(exported["spm"], TEXTS) == [model.encode(text) for text in TEXTS]
    assert llama_tokens(exported["spm"], ["a"], True)[0][0] == 1


def test_bpe_tokens_are_tokenizers(
    exported: dict[str, Path], bases: Callable[[str], Path], llama_tokens: Callable[..., list[list[int]]]
) -> None:
    tokenizer = Tokenizer.from_file(str(bases("bpe-gqa4-256-tied-biased") / "tokenizer.json"))
    texts = [text for text in TEXTS if "<|" not in text]  # tokenizers reads special tokens in text, llama.cpp need not
    assert llama_tokens(exported["bpe"], texts) == [tokenizer.encode(text).ids for text in texts]
    assert llama_tokens(exported["bpe"], ["a"], True)[0][0] == tokenizer.token_to_id("<|begin_of_text|>")


def test_metadata(exported: dict[str, Path]) -> None:
    fields = metadata(exported["bpe"])
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "bpe",
        "general.file_type": 1,
        "general.quantization_version": 2,
        "llama.block_count": 9,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 32,
        "llama.rope.dimension_count": 32,
        "llama.rope.freq_base": 500000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.add_bos_token": True,
    }
    assert {key: fields[key] for key in expected} == expected
    assert (
        fields["llama.vocab_size"] == len(fields["tokenizer.ggml.tokens"]) == len(fields["tokenizer.ggml.token_type"])
    )


@pytest.mark.skipif(not (SHARED / "llama-spm/tokenizer.model").is_file(), reason="LLaMA's tokenizer is not at hand")
def test_llamas_own_tokenizer_conforms(llama_tokens: Callable[..., list[list[int]]], tmp_path: Path) -> None:
    base = write_plain_base(tmp_path / "base", 32000)
    shutil.copyfile(SHARED / "llama-spm/tokenizer.model", base / "tokenizer.model")
    export(base, out=tmp_path, levels=[LEVELS["Q8_0"]], name="m")
    cases = (SHARED / "llama-spm/vocab.gguf.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    lines = (SHARED / "llama-spm/vocab.gguf.out").read_text().split("\n")
    expected = [[int(token) for token in line.split()] for line in lines]
    assert len(cases) == 47
    assert llama_tokens(tmp_path / "m-Q8_0.gguf", cases) == expected[:47]


def test_added_tokens_and_padding(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = write_plain_base(tmp_path / "base", 488)
    shutil.copyfile(bases("spm-gqa-64") / "tokenizer.model", base / "tokenizer.model")
    (base / "added_tokens.json").write_text(json.dumps({"<pad>": 480, "<far>": 488}))
    decoder = {"481": {"content": "<mark>▁x", "special": False}, "482": {"content": "<|end|>", "special": False}}
    (base / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder, "add_prefix_space": True}))
    export(base, out=tmp_path, levels=[LEVELS["F16"]], name="m")
    fields = metadata(tmp_path / "m-F16.gguf")
    assert fields["tokenizer.ggml.tokens"][479:] == [
        fields["tokenizer.ggml.tokens"][479],
        "<pad>",
        "<mark> x",
        "<|end|>",
        *[f"[PAD{index}]" for index in range(483, 488)],
    ]
    assert fields["tokenizer.ggml.token_type"][480:] == [4, 4, 3, 5, 5, 5, 5, 5]
    assert fields["tokenizer.ggml.scores"][480:] == [-1000.0] * 3 + [-10000.0] * 5
    assert fields["tokenizer.ggml.add_space_prefix"] is True


def test_the_template_is_stored(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    template = load_template("bayling")
    export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["F16"]], name="m", template="bayling")
    fields = metadata(tmp_path / "m-F16.gguf")
    assert fields["tokenizer.chat_template"] == template.jinja()
    assert fields["stellar.template"] == template.source
    assert fields["stellar.template.name"] == "bayling"
    assert "星语调校局" in (tmp_path / "Modelfile").read_text(encoding="utf-8")


def test_the_adapters_template_is_found(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    shutil.copytree(adapter, lora)
    (lora / "template.json").write_text(load_template("bayling").source, encoding="utf-8")
    export(bases("spm-gqa-64"), [(lora, 1.0)], tmp_path / "out", [LEVELS["F16"]], name="m")
    assert metadata(tmp_path / "out/m-F16.gguf")["stellar.template.name"] == "bayling"
    assert json.loads((tmp_path / "out/manifest.json").read_text())["template"] == "bayling"


def test_the_bases_chat_template_stays(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases("spm-gqa-64"), base)
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    export(base, out=tmp_path, levels=[LEVELS["F16"]], name="m")
    fields = metadata(tmp_path / "m-F16.gguf")
    assert fields["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"
    assert "stellar.template" not in fields
    assert "TEMPLATE" not in (tmp_path / "Modelfile").read_text()


def test_a_template_of_another_model_is_refused(bases: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"<\|im_start\|>"):
        export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["F16"]], template="chatml")
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_tells_the_truth(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    levels = [LEVELS["Q8_0"], LEVELS["Q4_K_M"]]
    export(bases("spm-gqa-64"), [(adapter, 0.5)], tmp_path / "star", levels)
    text = (tmp_path / "star/manifest.json").read_text()
    found = json.loads(text)
    assert str(tmp_path) not in text + (tmp_path / "star/README.md").read_text()
    assert found["name"] == "star"
    assert [(item["name"], item["weight"]) for item in found["adapters"]] == [("lora", 0.5)]
    assert list(found["levels"]) == ["Q8_0", "Q4_K_M"]
    for name, item in found["levels"].items():
        data = (tmp_path / "star" / item["file"]).read_bytes()
        assert item["file"] == f"star-{name}.gguf"
        assert (item["size"], item["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_second_export_overwrites_its_own(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    base = bases("spm-gqa-64")
    export(base, out=tmp_path, levels=[LEVELS["F16"]], name="m")
    first = (tmp_path / "m-F16.gguf").read_bytes()
    (tmp_path / "m-F16.gguf.partial").write_bytes(b"of a killed run")
    export(base, [(adapter, 1.0)], tmp_path, [LEVELS["F16"]], name="m")
    assert (tmp_path / "m-F16.gguf").read_bytes() != first
    assert not list(tmp_path.glob("*.partial"))


def test_a_failure_leaves_nothing(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: GgufStream, pieces: object) -> None:
        raise StellarError("cannot write: no space left on device")

    monkeypatch.setattr(GgufStream, "write", fail)
    with pytest.raises(StellarError, match="no space left"):
        export(
            bases("spm-gqa-64"),
            out=tmp_path / "out",
            levels=[LEVELS["F16"], LEVELS["F32"]],
            name="m",
            hf=tmp_path / "hf",
        )
    assert list((tmp_path / "out").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_told_first(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("convert.space.shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StellarError, match="not enough disk space"):
        export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["F16"]])
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases("spm-gqa-64"), base)
    data = bytearray((base / "model.safetensors").read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"
    (base / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="NaN"):
        export(base, out=tmp_path / "out", levels=[LEVELS["Q8_0"]])
    assert not list((tmp_path / "out").glob("*.gguf"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lora", ("lora", 1.0)),
        ("a/lora:0.5", ("a/lora", 0.5)),
        ("lora:-2", ("lora", -2.0)),
        (r"C:\lora", (r"C:\lora", 1.0)),
        (r"C:\lora:0.25", (r"C:\lora", 0.25)),
        ("odd:name", ("odd:name", 1.0)),
    ],
)
def test_adapter_arguments(text: str, expected: tuple[str, float]) -> None:
    assert parse_adapter(text) == (Path(expected[0]), expected[1])


@pytest.mark.parametrize("text", ["lora:0", "lora:nan", "lora:inf"])
def test_adapter_weights_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        parse_adapter(text)


def test_the_command(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    arguments = ["--base", bases("spm-gqa-64"), "--adapter", f"{adapter}:0.5", "--out", tmp_path / "star"]
    result = CliRunner().invoke(cli.convert, [str(item) for item in [*arguments, "--levels", "q8_0,Q4_K_M"]])
    assert result.exception is None
    assert sorted(path.name for path in (tmp_path / "star").iterdir()) == [
        "Modelfile",
        "README.md",
        "manifest.json",
        "star-Q4_K_M.gguf",
        "star-Q8_0.gguf",
    ]
    assert "Q3_K_M" in CliRunner().invoke(cli.convert, ["--list-levels"]).output
    for command in (cli.convert, cli.import_gguf):
        assert "Example" in CliRunner().invoke(command, ["--help"]).output
