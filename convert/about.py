"""Where a model comes from, as its sources tell it: licence, base models, data sets, languages, sampling settings.

Read from the front matter of the base's and the adapters' README.md with the reader that llama.cpp's converter uses
(gguf-py's Metadata), from generation_config.json, and from names; nothing depends on where the program runs. Left out
with a warning: a front matter that cannot be read, and a setting that is no usable number. Left out silently: a date,
what looks like a path of some machine, and an entry of a card that is no text, number or list of them. Knows model
cards; knows no GGUF and no weights.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import gguf

from stellar_local.console import warn
from stellar_local.errors import StellarError, UsageError
from stellar_local.files import is_writable

from .checkpoint import read_json
from .fields import shown

# generation_config.json's names → the GGUF specification's `general.sampling.*`, in the converter's order.
SAMPLING: dict[str, tuple[type, tuple[str, ...]]] = {
    "top_k": (int, ("top_k",)),
    "top_p": (float, ("top_p",)),
    "min_p": (float, ("min_p",)),
    "xtc_probability": (float, ("xtc_probability",)),
    "xtc_threshold": (float, ("xtc_threshold",)),
    "temp": (float, ("temperature",)),
    "penalty_last_n": (int, ("penalty_last_n",)),
    "penalty_repeat": (float, ("penalty_repeat", "repetition_penalty")),
    "mirostat": (int, ("mirostat",)),
    "mirostat_tau": (float, ("mirostat_tau",)),
    "mirostat_eta": (float, ("mirostat_eta",)),
}
_WORDS = ("author", "version", "organization", "finetune", "basename", "license", "license_name", "license_link")
_LISTS = ("base_model", "dataset", "tag", "pipeline_tag", "language")  # how the keys of lists begin
_HUB = "https://huggingface.co/"
_LOCAL = re.compile(r"^[/\\~.]|^[A-Za-z]:[\\/]|\\|^file:|:/(?!/)|\.(?:jsonl?|csv|txt|parquet|zip|gz)$")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # a folder of Hugging Face's download cache


@dataclass(frozen=True)
class Source:
    """A model or data set that this one was made from; "" where something is not known."""

    name: str
    organization: str = ""
    version: str = ""
    repo_url: str = ""

    @property
    def id(self) -> str:
        """Its name on the Hugging Face Hub (`organization/name`), "" where it has none."""
        return self.repo_url.removeprefix(_HUB) if self.repo_url.startswith(_HUB) else ""


@dataclass(frozen=True)
class About:
    """What people should know of a model. All of it is taken from its sources or given by the user, none is made up.

    `license` is an identifier as Hugging Face's ("apache-2.0", "llama2", "other"), `sampling` maps the ends of the
    keys `general.sampling.*` ("temp", "top_k" …) to the values that the base recommends.
    """

    author: str = ""
    version: str = ""
    organization: str = ""
    finetune: str = ""
    basename: str = ""
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    base_models: tuple[Source, ...] = ()
    datasets: tuple[Source, ...] = ()
    tags: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    sampling: Mapping[str, int | float] = field(default_factory=dict)


def read_about(base: Path, adapters: Sequence[Path] = (), overrides: Mapping[str, Any] | None = None) -> About:
    """Read what the base's and the adapters' README.md, generation_config.json and names say.

    With adapters, the base is what the result was made from, and the data sets are the adapters'; the licence is the
    base's, and the adapters' where that says nothing. `overrides` (About's fields by name; sources as Hub names or
    addresses) win over everything. A front matter or a setting that cannot be read is left out with a warning; an
    adapter_config.json that cannot be read says nothing here: whoever merges the adapter refuses it. Raises
    UsageError for an unknown field in `overrides`, or one that UTF-8 cannot hold.
    """
    about = replace(_from_card(base), sampling=_read_sampling(base))
    if adapters:
        cards = [_from_card(folder) for folder in adapters]
        named = [source for card in cards for source in card.base_models]
        named += [source for folder in adapters for source in _trained_on(folder)]
        licensed = next((card for card in (about, *cards) if card.license), about)
        about = About(  # author, version and kind are the base's own, not those of what is made from it
            license=licensed.license,
            license_name=licensed.license_name,
            license_link=licensed.license_link,
            base_models=tuple(_unique(named)) or _folder_source(base),
            datasets=tuple(_unique(source for card in cards for source in card.datasets)),
            tags=about.tags,
            languages=tuple(_unique(language for card in (about, *cards) for language in card.languages)),
            sampling=about.sampling,
        )
    return _override(about, overrides or {})


def is_local(text: str) -> bool:
    """Whether a text looks like a path of some machine, rather than a name on the Hub or an address.

    `organization/name` is a name on the Hub, whatever folders there are here: the same inputs give the same bytes.
    """
    if "://" in text and not text.startswith("file:"):
        return False
    return bool(_LOCAL.search(text)) or text.count("/") > 1


def _from_card(folder: Path) -> About:
    """What the front matter of a folder's README.md says, read as llama.cpp's converter does."""
    path = folder / "README.md"
    try:
        with _quiet():
            card = gguf.Metadata.load_model_card(folder)
        broken = "it holds no fields" if not card and path.is_file() and path.read_bytes()[:3] == b"---" else ""
        card = _clean(card)
    except (OSError, ValueError, RecursionError, _yaml_error()) as error:
        card, broken = {}, " ".join(str(error).split())[:120]
    if broken:
        warn(f"the front matter of {folder.name}/README.md is left out: {broken}")
    with _quiet():
        found = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card)
    words: dict[str, Any] = {name: getattr(found, name) or "" for name in _WORDS}
    return About(
        **words,
        base_models=_read_sources(found.base_models),
        datasets=_read_sources(found.datasets),
        tags=tuple(_unique(found.tags or ())),
        languages=tuple(_unique(found.languages or ())),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep gguf's own remarks on a card from the terminal; what matters of them is said here."""
    logger = logging.getLogger("metadata")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _yaml_error() -> type[Exception]:
    """What gguf's reader raises for a text that is no YAML; the package is one of gguf's own."""
    import yaml

    error: type[Exception] = yaml.YAMLError
    return error


def _clean(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card's texts and lists of texts; anything else, and anything that looks like a local path, is dropped.

    Raises ValueError for a text that UTF-8 cannot hold, and for a number too long to be written out.
    """
    out: dict[str, Any] = {}
    for key, value in card.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, (list, tuple)):
            texts = [text for item in value if (text := _text(item))]
            if texts:
                out[key] = texts if key.startswith(_LISTS) else ",".join(texts)
        elif text := _text(value):
            out[key] = text
    return out


def _text(value: object) -> str:
    """A scalar as one line of text, "" for what is none or looks like a local path."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    text = " ".join(str(value).split())
    if not is_writable(text):
        raise ValueError(f"it holds half a character (a lone surrogate) in {shown(text)}")
    return "" if is_local(text) else text


def _read_sources(found: Iterable[Mapping[str, str]] | None) -> tuple[Source, ...]:
    sources = [
        Source(**{key: item.get(key) or "" for key in ("name", "organization", "version", "repo_url")})
        for item in found or ()
    ]
    return tuple(_unique(source for source in sources if source != Source("")))


def _parse_sources(kind: str, names: object) -> tuple[Source, ...]:
    """Hub names or addresses as sources, named as the converter names them."""
    found = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), _clean({kind: names}))
    return _read_sources(found.base_models if kind == "base_model" else found.datasets)


def _trained_on(adapter: Path) -> tuple[Source, ...]:
    """The base that adapter_config.json names, where it is a name on the Hub."""
    path = adapter / "adapter_config.json"
    try:
        name = read_json(path, path.name).get("base_model_name_or_path") if path.is_file() else None
    except StellarError:
        return ()  # the adapter is about to be refused by those who read it
    return _parse_sources("base_model", name) if isinstance(name, str) and "/" in name else ()


def _folder_source(base: Path) -> tuple[Source, ...]:
    """The base by its folder's name, which Hugging Face's download cache makes of its name on the Hub."""
    folder = base.resolve()
    if cached := next((found for part in folder.parts[-3:] if (found := _CACHED.fullmatch(part))), None):
        return _parse_sources("base_model", f"{cached[1]}/{cached[2]}")
    return _parse_sources("base_model", folder.name) if is_writable(folder.name) else ()


def _read_sampling(base: Path) -> dict[str, int | float]:
    """The sampling settings that generation_config.json recommends; unusable ones are left out with a warning."""
    path = base / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        settings = read_json(path, path.name)
    except StellarError as error:
        warn(f"the sampling settings of the base are left out: {error.message}")
        return {}
    out: dict[str, int | float] = {}
    for key, (kind, names) in SAMPLING.items():
        value = next((settings[name] for name in names if settings.get(name) is not None), None)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not abs(value) < 1 << 31 or (kind is int and value != int(value)):  # a NaN is not below
            warn(f"generation_config.json has no usable {names[-1]}: {shown(value)}; it is left out")
            continue
        out[key] = kind(value)
    return out


def _override(about: About, overrides: Mapping[str, Any]) -> About:
    changes: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in {item.name for item in fields(About)}:
            raise UsageError(f"unknown field of a model's description: {name}")
        if not is_writable(json.dumps(value, ensure_ascii=False)):
            raise UsageError(f"the {name} of a model's description is no text: {shown(value)}", "write it in UTF-8")
        if name in ("base_models", "datasets"):
            value = _parse_sources("base_model" if name == "base_models" else name, list(value))
        elif name in ("tags", "languages"):
            value = tuple(value)
        elif name == "sampling":
            value = {key: SAMPLING[key][0](number) for key, number in value.items()}
        changes[name] = value
    return replace(about, **changes)


def _unique(items: Iterable[Any]) -> list[Any]:
    """Each item once, in order."""
    return list(dict.fromkeys(items))
