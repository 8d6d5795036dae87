"""Reading tokenizer files: what each form of them means, and what the package needs for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convert import pretokenizers
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
