"""The model card and the Modelfile: what people and Ollama read of a converted folder."""

from __future__ import annotations

from dataclasses import replace

import jinja2
import pytest
import yaml
from test_convert_manifest import FIGURES, RESULT

from convert.about import About, Source
from convert.card import levels_table, model_card, modelfile, replace_table
from stellar_local.prompts import BOS, EOS, Affix, Special, Text, load_template, template_names


def front_matter(card: str) -> dict[str, object]:
    _, block, _ = card.split("---\n", 2)
    return yaml.safe_load(block)


def test_the_front_matter_is_hugging_faces() -> None:
    hub = Source("Bayling", repo_url="https://huggingface.co/ictnlp/bayling-7b")
    about = About(
        license="other", license_name="l: x", license_link="https://e.org", base_models=(hub, Source("Local"))
    )
    card = model_card(
        replace(RESULT, about=replace(about, languages=("zh", "no"), datasets=(Source("D"),), tags=("llama",)))
    )
    assert front_matter(card) == {
        "license": "other",
        "license_name": "l: x",
        "license_link": "https://e.org",
        "base_model": ["ictnlp/bayling-7b"],
        "language": ["zh", "no"],
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["gguf", "llama.cpp", "llama"],
    }
    two = model_card(replace(RESULT, about=About(license="llama2,mit")))
    assert front_matter(two)["license"] == ["llama2", "mit"]


def test_no_licence_is_made_up() -> None:
    result = replace(RESULT, about=About())
    card = model_card(result)
    assert set(front_matter(card)) == {"pipeline_tag", "library_name", "tags"}
    assert "The base's licence applies" in card
    assert "LICENSE" not in modelfile(result)
    known = replace(result, about=About(license="llama2", license_link="https://e.org/l"))
    assert "Licence: llama2, https://e.org/l" in model_card(known)
    assert 'LICENSE """Licence: llama2, https://e.org/l"""' in modelfile(known)


@pytest.mark.parametrize("name", template_names())
def test_the_prompt_is_shown_literally(name: str) -> None:
    """As the Jinja form of the same template gives it to other programs."""
    template = load_template(name)
    card = model_card(replace(RESULT, template=template), "<END>", "<BEGIN>")
    turns = [("user", "{first question}"), ("assistant", "{answer}"), ("user", "{second question}")]
    expected = (
        jinja2.Environment()
        .from_string(template.jinja())
        .render(
            messages=[{"role": role, "content": text} for role, text in turns],
            add_generation_prompt=True,
            eos_token="<END>",
            bos_token="<BEGIN>",
        )
    )
    assert f"```text\n{expected}\n```\n" in card


def test_the_card_tells_what_was_made_and_how_to_run_it() -> None:
    card = model_card(RESULT)
    assert "- lora: weight 0.5, rank 8, alpha 16" in card
    for line in ("stellar chat 星语者-Q4_K_M.gguf", "llama-cli -m 星语者-Q4_K_M.gguf", "ollama create"):
        assert line in card
    assert card.index("## Licence") < card.index("## 中文")
    assert "合并上述 LoRA 适配器后" in card
    assert "| Q8_0 | `星语者-Q8_0.gguf` | 6.52 GiB | 8.50 |" in card
    plain_card = model_card(replace(RESULT, adapters=[], template=None))
    assert "Adapters" not in plain_card and "适配器" not in plain_card
    assert "own chat template" in plain_card


def test_measured_figures_replace_the_table_alone() -> None:
    card = model_card(RESULT)
    assert "KL divergence" not in card
    measured = [RESULT.levels[0], replace(RESULT.levels[1], divergence=FIGURES)]
    changed = replace_table(card + "\nMy own words.\n", measured)
    assert changed is not None
    assert changed.endswith("\nMy own words.\n")
    assert "| 4.84 | 0.01235 | 96.0% |" in changed
    assert "against F16, over a text of our own (200 tokens en, 200 tokens zh)" in changed
    assert replace_table(changed, RESULT.levels) == card + "\nMy own words.\n"
    assert replace_table("# Mine\n", measured) is None
    rows = [line for line in levels_table(measured).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_the_modelfile() -> None:
    about = About(sampling={"top_k": 30, "temp": 0.6, "penalty_repeat": 1.1, "mirostat": 2})
    template = replace(load_template("bayling"), stop=(Text("###"), Special(EOS)), system_default="星语")
    text = modelfile(replace(RESULT, about=about, template=template), "</s>")
    assert text.startswith("FROM ./星语者-Q4_K_M.gguf\nTEMPLATE ")
    assert text.splitlines()[-6:] == [
        'SYSTEM """星语"""',
        'PARAMETER stop "###"',
        'PARAMETER stop "</s>"',
        "PARAMETER temperature 0.6",
        "PARAMETER top_k 30",
        "PARAMETER repeat_penalty 1.1",
    ]
    assert modelfile(replace(RESULT, template=None, about=About())) == "FROM ./星语者-Q4_K_M.gguf\n"


def test_the_begin_token_is_the_models() -> None:
    """A template names it as `bos_token`, which is no text of any model."""
    template = replace(load_template("bayling"), system=Affix(prefix=(Special(BOS), Text("# "))))
    assert '{{ "<s># " }}{{ .System }}' in modelfile(replace(RESULT, template=template), "</s>", "<s>")


def test_a_base_without_a_chat_template() -> None:
    card = model_card(replace(RESULT, template=None, chat_template=False))
    assert "None is stored" in card
    assert "own chat template" in model_card(replace(RESULT, template=None))


def test_a_licence_cannot_leave_its_quotation() -> None:
    about = replace(RESULT.about, license='mit"""\nPARAMETER stop x')
    assert modelfile(replace(RESULT, about=about)).count('"""') % 2 == 0
    assert 'mit"""' not in modelfile(replace(RESULT, about=about))
