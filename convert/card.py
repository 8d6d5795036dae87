"""The files for people beside the levels: README.md, a model card as on Hugging Face, and Modelfile, for Ollama.

Hold no path and no date; a licence is named only where the sources name one. The table of levels stands between two
marks, so that figures measured later replace it and nothing else. Knows results, not how they came.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence

import stellar_local
from stellar_local.prompts import BOS, EOS, Segment, Special, Template, Turn

from .about import About
from .levels import LEVELS
from .manifest import LevelFile, Result
from .space import readable

FILE = "README.md"
_OLLAMA_ORDER = ("Q4_K_M", "Q5_K_M", "Q8_0")
_OLLAMA = {  # ends of the keys general.sampling.* → Ollama's parameters
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}
_BEGIN, _END = "<!-- levels -->", "<!-- end of levels -->"


def model_card(result: Result, eos: str = "", bos: str = "") -> str:
    """The model card: English, then a short Chinese part. `eos` and `bos` are the texts of the end and begin token."""
    about, chosen = result.about, _preferred(result.levels)
    merged = [
        f"- {item['name']}: weight {item['weight']:g}, rank {item['rank']}, alpha {item['alpha']:g}"
        for item in result.adapters
    ]
    made = f"{result.base} with the LoRA adapters below merged in" if merged else result.base
    lines = [
        *_front_matter(about),
        f"# {result.name}",
        "",
        f"GGUF files of {made}: {result.weights:,} weights, a context of {result.context:,} tokens.",
        "They run with stellar-local, llama.cpp, Ollama and whatever else reads GGUF.",
        "",
        "## Levels",
        "",
        levels_table(result.levels),
        "",
        "## Running",
        "",
        "```sh",
        f"stellar chat {_quoted(chosen.file)}",
        f"printf 'What is a parsec?\\n什么是光年？\\n' | stellar batch {_quoted(chosen.file)}",
        f"llama-cli -m {_quoted(chosen.file)}",
        f"ollama create {_quoted(result.name.lower())} -f Modelfile",
        "```",
        "",
        "## Prompt format",
        "",
        *_prompt(result, eos, bos),
        "",
        *(["## Adapters merged", "", *merged, ""] if merged else []),
        "## Licence",
        "",
        _licence(about),
        "",
        f"Made by stellar-local {stellar_local.__version__}; `manifest.json` holds the checksums.",
        "",
        "## 中文",
        "",
        f"本目录是 {result.base} {'合并上述 LoRA 适配器后' if merged else ''}的 GGUF 文件，"
        "可用 stellar-local、llama.cpp、Ollama 等运行。",
        f"表中列出各量化级别的大小与每权重比特数；一般个人电脑选 {chosen.level} 即可。",
        f"对话：`stellar chat {chosen.file}`；批量：`stellar batch {chosen.file}`，每行一个问题。",
        "提示格式已写入文件，程序会自动套用。"
        + (f"许可协议：{about.license}。" if about.license else "许可协议以基础模型的为准。"),
    ]
    return "\n".join(lines) + "\n"


def levels_table(levels: Sequence[LevelFile]) -> str:
    """The table of levels in Markdown, with KL divergence and top-1 agreement where they were measured."""
    measured = [item.divergence for item in levels if item.divergence is not None]
    heads = ["level", "file", "size", "bits per weight", *(["KL divergence", "same top token"] if measured else []), ""]
    rows = []
    for item in levels:
        figures = []
        if measured:
            found = item.divergence
            figures = [f"{found.overall.kl:.5f}", f"{found.overall.same_top:.1%}"] if found else ["", ""]
        purpose = LEVELS[item.level].purpose if item.level in LEVELS else ""
        rows.append([item.level, f"`{item.file}`", readable(item.size), f"{item.bits_per_weight:.2f}"])
        rows[-1] += [*figures, purpose]
    lines = [f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows]]
    if measured:
        references = ", ".join(dict.fromkeys(found.reference for found in measured))
        parts = ", ".join(f"{found.tokens} tokens {name}" for name, found in measured[0].languages.items())
        lines += ["", f"KL divergence: mean, in nats, against {references}, over a text of our own ({parts})."]
    return "\n".join([_BEGIN, *lines, _END])


def replace_table(card: str, levels: Sequence[LevelFile]) -> str | None:
    """The card with its table of levels made anew, None where the marks around it are gone."""
    head, begin, rest = card.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    return head + levels_table(levels) + tail if begin and end else None


def modelfile(result: Result, eos: str = "", bos: str = "") -> str:
    """An Ollama Modelfile. Where the base's own chat template is kept, Ollama recognises that by itself.

    Source: Ollama's docs/modelfile.md.
    """
    lines = [f"FROM ./{_preferred(result.levels).file}"]
    template = result.template
    if template is not None:
        lines.append(f'TEMPLATE """{_go_template(template, eos, bos)}"""')
        if template.system_default:
            lines.append(f'SYSTEM """{template.system_default}"""')
        for stop in template.stop:
            lines.append(f"PARAMETER stop {json.dumps(_text(stop, eos, bos), ensure_ascii=False)}")
    sampling = result.about.sampling
    lines += [f"PARAMETER {name} {sampling[key]:.7g}" for key, name in _OLLAMA.items() if key in sampling]
    if result.about.license:
        text = _licence(result.about).replace('"""', "'''")  # a licence's own text must not end the quotation
        lines.append(f'LICENSE """{text}"""')
    return "\n".join(lines) + "\n"


def _front_matter(about: About) -> list[str]:
    """The YAML that Hugging Face reads; only what is known. JSON's texts are YAML's too."""
    fields: dict[str, object] = {}
    if about.license:
        names = about.license.split(",")
        fields["license"] = names if len(names) > 1 else about.license
    fields |= {key: getattr(about, key) for key in ("license_name", "license_link")}
    fields["base_model"] = [source.id for source in about.base_models if source.id]
    fields["datasets"] = [source.id for source in about.datasets if source.id]
    fields["language"] = list(about.languages)
    fields |= {"pipeline_tag": "text-generation", "library_name": "gguf"}
    fields["tags"] = list(dict.fromkeys(["gguf", "llama.cpp", *about.tags]))
    lines = []
    for key, value in fields.items():
        if isinstance(value, list) and value:
            lines += [f"{key}:", *(f"- {json.dumps(item, ensure_ascii=False)}" for item in value)]
        elif value:
            lines.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")
    return ["---", *lines, "---", ""]


def _prompt(result: Result, eos: str, bos: str) -> list[str]:
    """A conversation of two questions as the model reads it."""
    template = result.template
    if template is None and not result.chat_template:
        return ["None is stored: the base brings no chat template. Choose one with `stellar chat --template`."]
    if template is None:
        return ["The base's own chat template (Jinja), stored in each file."]
    turns = [Turn("{first question}", "{answer}"), Turn("{second question}")]
    text = "".join(_text(part, eos, bos) for part in template.render(turns))
    fence = "````" if "```" in text else "```"
    return [
        f"The template `{template.name}`, stored in each file. A conversation, up to where the model speaks:",
        "",
        fence + "text",
        *text.split("\n"),
        fence,
    ]


def _quoted(name: str) -> str:
    """A name as a shell takes it; Chinese needs no quotes, whatever shlex says."""
    return shlex.quote(name) if shlex.quote(re.sub(r"[^\x00-\x7f]", "x", name)).startswith("'") else name


def _licence(about: About) -> str:
    if not about.license:
        return "The base's licence applies. The files that this was made from do not name it: see where they come from."
    name = f"{about.license_name} ({about.license})" if about.license_name else about.license
    return f"Licence: {name}" + (f", {about.license_link}" if about.license_link else "")


def _go_template(template: Template, eos: str, bos: str) -> str:
    """A template in Go's template language, each text as a quoted literal so that braces stay braces."""

    def literal(parts: Iterable[Segment]) -> str:
        text = "".join(_text(part, eos, bos) for part in parts)
        return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""

    out = "{{ if .System }}" + literal(template.system.prefix) + "{{ .System }}" + literal(template.system.suffix)
    out += '{{ end }}{{ range .Messages }}{{ if eq .Role "user" }}' + literal(template.user.prefix) + "{{ .Content }}"
    out += literal(template.user.suffix) + literal(template.assistant.prefix)
    # Ollama ends a conversation with a user's message; what opens the answer belongs to it.
    out += '{{ else if eq .Role "assistant" }}{{ .Content }}' + literal(template.assistant.suffix)
    return out + "{{ end }}{{ end }}"


def _text(part: Segment, eos: str, bos: str) -> str:
    if not isinstance(part, Special):
        return part.text
    return {EOS: eos, BOS: bos}.get(part.token, part.token)


def _preferred(levels: Sequence[LevelFile]) -> LevelFile:
    """The level that most people want of those made."""
    by_name = {item.level: item for item in levels}
    return next((by_name[name] for name in _OLLAMA_ORDER if name in by_name), levels[0])
