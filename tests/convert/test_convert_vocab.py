"""Reading tokenizer files: what each form of them means, and what the package needs for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from convert import pretokenizers, spm
from convert.vocab import Vocabulary, read_vocabulary
from stellar_local.errors import ModelError


@pytest.fixture
def bpe(bases: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a byte-level base's tokenizer."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bases("bpe-tied-576") / name, tmp_path / name)
    return tmp_path


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def read(folder: Path, **config: object) -> Vocabulary:
    return read_vocabulary(folder, config, 500)


def test_merges_of_both_forms_are_one(bpe: Path) -> None:
    before = read(bpe)
    model = json.loads((bpe / "tokenizer.json").read_text())["model"]
    pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    for merges in (pairs, [" ".join(pair) for pair in pairs]):
        rewrite(bpe / "tokenizer.json", model={**model, "merges": merges})
        assert read(bpe) == before


def test_the_list_is_padded_to_the_rows(bpe: Path) -> None:
    vocabulary = read(bpe)
    assert len(vocabulary.tokens) == 500
    assert vocabulary.tokens[-1] == "[PAD499]"
    assert vocabulary.types[-1] == 5


def test_tokenizer_jsons_template_has_the_last_word(bpe: Path) -> None:
    single = [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}
    rewrite(bpe / "tokenizer_config.json", add_bos_token=False)
    assert read(bpe).adds_bos is False
    bytes_first = {"type": "ByteLevel", "add_prefix_space": True}
    rewrite(bpe / "tokenizer.json", post_processor={"type": "Sequence", "processors": [bytes_first, template]})
    assert read(bpe).adds_bos is True
    rewrite(bpe / "tokenizer_config.json", add_bos_token=True)
    rewrite(bpe / "tokenizer.json", post_processor=bytes_first)
    assert read(bpe).adds_bos is False


def test_ids_come_from_the_tokenizer_before_the_config(bpe: Path) -> None:
    named = read(bpe, eos_token_id=3, pad_token_id=4, unk_token_id=-1, sep_token_id=10**6, cls_token_id=[1])
    assert named.tokens[named.special["eos"]] == "<|eot_id|>"
    assert named.special["pad"] == 4
    assert not {"unk", "sep", "cls"} & set(named.special)


def test_special_tokens_by_their_text(bpe: Path) -> None:
    vocabulary = read(bpe)
    assert vocabulary.id_of("eos_token") == vocabulary.id_of("<|eot_id|>") == vocabulary.special["eos"]
    assert vocabulary.id_of("the") is None  # a word, not a special token
    assert vocabulary.id_of("<|im_start|>") is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ x }}", "{{ x }}"),
        ([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ([], "from the file"),
        (None, "from the file"),
    ],
)
def test_chat_templates(bpe: Path, template: object, expected: str) -> None:
    rewrite(bpe / "tokenizer_config.json", chat_template=template)
    (bpe / "chat_template.jinja").write_text("from the file")
    assert read(bpe).chat_template == expected


def test_a_template_in_its_oldest_place(bpe: Path) -> None:
    (bpe / "chat_template.json").write_text('{"chat_template": "an old one"}')
    assert read(bpe).chat_template == "an old one"


# --- tokens and rows that do not match ---


@pytest.fixture
def spm_folder(bases: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a SentencePiece base's tokenizer: 480 pieces."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(bases("spm-gqa-64") / name, folder / name)
    return folder


def decoder(**tokens: int) -> dict[str, object]:
    """tokenizer_config.json's form of added special tokens."""
    return {str(index): {"content": f"<{text}>", "special": True} for text, index in tokens.items()}


def test_padding_without_a_row_is_left_out(spm_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """alpaca's habit: a tokenizer of 32,001 beside weights of 32,000. llama.cpp needs no padding token."""
    (spm_folder / "added_tokens.json").write_text('{"[PAD]": 480}')
    rewrite(spm_folder / "tokenizer_config.json", pad_token="[PAD]", added_tokens_decoder={"480": {"content": "[PAD]"}})
    vocabulary = read_vocabulary(spm_folder, {"pad_token_id": 480}, 480)
    assert len(vocabulary.tokens) == 480
    assert "pad" not in vocabulary.special
    assert capsys.readouterr().err.count("'[PAD]' (480) is left out") == 1


def test_a_byte_level_one_too(bpe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where llama.cpp's converter stops with an assertion."""
    data = json.loads((bpe / "tokenizer.json").read_text())
    count = len(data["model"]["vocab"]) + len(data["added_tokens"])
    rewrite(bpe / "tokenizer_config.json", pad_token="<pad>", added_tokens_decoder=decoder(pad=count))
    vocabulary = read_vocabulary(bpe, {}, count)
    assert "<pad>" not in vocabulary.tokens
    assert "is left out" in capsys.readouterr().err
    assert read_vocabulary(bpe, {}, count + 1).id_of("pad_token") is None  # named by no added token of tokenizer.json
    assert read_vocabulary(bpe, {}, count + 1).id_of("<pad>") == count


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token": "<end>"},
        {"bos_token": {"content": "<end>"}},
        {"chat_template": "{{ messages[0]['content'] }}<end>"},
    ],
)
def test_a_needed_token_without_a_row(settings: dict[str, object], spm_folder: Path) -> None:
    rewrite(spm_folder / "tokenizer_config.json", added_tokens_decoder=decoder(end=480), **settings)
    with pytest.raises(ModelError, match=r"needs the token '<end>' \(480\), but the model has only 480 rows"):
        read_vocabulary(spm_folder, {}, 480)
    assert read_vocabulary(spm_folder, {}, 481).id_of("<end>") == 480


@pytest.mark.parametrize("index", ["-1", "1.5", "x"])
def test_ids_that_are_none(index: str, spm_folder: Path) -> None:
    rewrite(spm_folder / "tokenizer_config.json", added_tokens_decoder={index: {"content": "<end>"}})
    with pytest.raises(ModelError, match="are damaged"):
        read_vocabulary(spm_folder, {}, 490)
    rewrite(spm_folder / "tokenizer_config.json", added_tokens_decoder={})
    (spm_folder / "added_tokens.json").write_text('{"<end>": -2}')
    with pytest.raises(ModelError, match="are damaged"):
        read_vocabulary(spm_folder, {}, 490)


def test_the_ids_of_the_first_exports(spm_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their config.json says 0 and 1 for the begin and the end, and their tokenizer_config.json names no text."""
    rewrite(spm_folder / "tokenizer_config.json", bos_token="", eos_token="", unk_token="")
    vocabulary = read_vocabulary(spm_folder, {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}, 480)
    assert vocabulary.special == {"bos": 1, "eos": 2}
    assert [vocabulary.tokens[index] for index in vocabulary.special.values()] == ["<s>", "</s>"]
    assert "wrong begin and end" in capsys.readouterr().err


def test_a_tokenizer_that_rewrites_text(spm_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = spm_folder / "tokenizer.model"
    model = spm.parse(path.read_bytes(), "here")
    read_vocabulary(spm_folder, {}, 480)
    assert "rewrites text" not in capsys.readouterr().err
    for change in ({"normalizer": "nmt_nfkc"}, {"remove_extra_spaces": True}):
        path.write_bytes(spm.build(replace(model, **change), {"unk": 0, "bos": 1, "eos": 2}))
        read_vocabulary(spm_folder, {}, 480)
        assert "rewrites text" in capsys.readouterr().err


# --- adapters that added tokens ---


@pytest.fixture
def added(tmp_path: Path) -> Path:
    """An adapter's folder with three ways of naming tokens, the last of which is of the base's own and changed."""
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "added_tokens.json").write_text('{"<mark>": 480, "超新星": 481}', encoding="utf-8")
    entries = [{"id": 482, "content": "▁so", "special": False}, {"id": 1, "content": "<changed>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": entries}), encoding="utf-8")
    settings = {"added_tokens_decoder": decoder(mark=480, end=483), "pad_token": "<end>", "eos_token": "<mark>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_an_adapter_names_the_rows_that_it_added(spm_folder: Path, added: Path) -> None:
    plain = read_vocabulary(spm_folder, {}, 486)
    vocabulary = read_vocabulary(spm_folder, {}, 486, [added])
    assert vocabulary.tokens[480:] == ["<mark>", "超新星", " so", "<end>", "[PAD484]", "[PAD485]"]
    assert vocabulary.types[480:] == [3, 4, 4, 3, 5, 5]
    assert vocabulary.scores and vocabulary.scores[480:] == [-1000.0] * 4 + [-10000.0] * 2
    assert (vocabulary.tokens[:480], vocabulary.types[:480]) == (plain.tokens[:480], plain.types[:480])
    assert vocabulary.special == {"pad": 483}  # an end it has: SentencePiece's own
    assert read_vocabulary(spm_folder, {"pad_token_id": 0}, 486, [added]).special == {"pad": 0}
    assert read_vocabulary(spm_folder, {}, 486, [added, added]) == vocabulary


def test_a_byte_level_base_takes_them_too(bpe: Path, added: Path) -> None:
    rewrite(bpe / "tokenizer_config.json", eos_token=None)
    rows = len(read(bpe).tokens) - read(bpe).types.count(5)
    assert rows == 485
    (added / "added_tokens.json").unlink()
    (added / "tokenizer.json").unlink()
    rewrite(added / "tokenizer_config.json", added_tokens_decoder=decoder(mark=485, end=486))
    vocabulary = read_vocabulary(bpe, {}, 488, [added])
    assert vocabulary.tokens[485:] == ["<mark>", "<end>", "[PAD487]"]
    assert (vocabulary.special["eos"], vocabulary.special["pad"]) == (485, 486)


def test_adapters_that_contradict(spm_folder: Path, added: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for tokens, expected in (
        ('{"<other>": 480}', "adds the token '<other>' \\(480\\), which this model also names '<mark>'"),
        ('{"<mark>": 484}', "adds the token '<mark>' \\(484\\), which this model has elsewhere"),
        ('{"</s>": 484}', "adds the token '</s>' \\(484\\), which this model has elsewhere"),
        ('{"<x>": -1}', "tokenizer files of .*other are damaged"),
    ):
        (other / "added_tokens.json").write_text(tokens)
        with pytest.raises(ModelError, match=expected):
            read_vocabulary(spm_folder, {}, 486, [added, other])


def test_an_adapters_padding_without_a_row(spm_folder: Path, added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = read_vocabulary(spm_folder, {}, 483, [added])
    assert vocabulary.tokens[480:] == ["<mark>", "超新星", " so"]
    assert "'<end>' (483) is left out" in capsys.readouterr().err
    assert "pad" not in vocabulary.special


@pytest.mark.parametrize("name", ["llama-bpe", "smaug-bpe", "qwen2", "smollm", "gpt-2", "default"])
def test_each_pre_tokenizer_is_recognised(name: str) -> None:
    cut, ignore_merges = pretokenizers.pre_tokenizer(name, "here")
    assert pretokenizers.recognise(cut, ignore_merges, "here") == name


def test_a_near_match_is_no_match() -> None:
    cut, _ = pretokenizers.pre_tokenizer("smollm", "here")
    cut = json.loads(json.dumps(cut))
    cut["pretokenizers"][0]["individual_digits"] = False
    with pytest.raises(ModelError, match="does not know"):
        pretokenizers.recognise(cut, False, "here")
    with pytest.raises(ModelError, match="tekken"):
        pretokenizers.pre_tokenizer("tekken", "here")


def test_the_core_needs_no_training_packages() -> None:
    heavy = "torch transformers peft safetensors tokenizers llama_cpp train"
    code = "import sys, convert.cli, convert.export, convert.gguf_import\n"
    code += f"print(*[name for name in '{heavy}'.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
