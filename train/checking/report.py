"""What a check found, for people (a table of 80 columns and the places to mend) and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stellar_local.console import cells, cut, fitted, folded, one_line
from stellar_local.tables.language import LANGUAGES

from .findings import BROKEN, KINDS, NOTE, WARNING, Finding
from .lengths import Lengths, summary
from .preview import parts
from .survey import Survey

WIDTH = 80
_SHOWN = 10  # places of each kind that people are shown; JSON has all
_NAME = 17  # columns of a file's name
_HEADINGS = {
    BROKEN: "broken: training refuses the file until these are mended",
    WARNING: "warnings",
    NOTE: "notes: these may be meant",
}


def as_json(found: Survey, base: Path | None, against: Sequence[Path]) -> str:
    """One document with everything: counts, lengths, every finding, the samples that were asked for."""
    ruler = found.ruler
    tokens = ruler.tokenizer is not None
    sources = [
        {
            "file": str(source.path),
            "rows": source.rows,
            "broken": source.broken,
            "languages": {name: _facts(lengths, tokens) for name, lengths in _sorted(source.languages)},
        }
        for source in found.sources
    ]
    findings = {
        kind: {"gravity": gravity, "hint": hint, "count": len(places), "places": [_place(place) for place in places]}
        for kind, (gravity, hint) in KINDS.items()
        if (places := found.findings.by_kind.get(kind))
    }
    data: dict[str, Any] = {
        "unit": ruler.unit,
        "base": str(base) if base is not None else None,
        "template": ruler.template.name,
        "cutoff_len": ruler.cutoff if tokens else None,
        "rows": sum(source.rows for source in found.sources),
        **{gravity: found.findings.count(gravity) for gravity in (BROKEN, WARNING, NOTE)},
        "sources": sources,
        "against": {
            "files": [str(path) for path in against],
            "texts": found.evaluation.texts if found.evaluation else 0,
        },
        "findings": findings,
    }
    if found.samples:
        data["samples"] = [
            {"place": sample.place, **dict(zip(("prompt", "learned"), parts(sample.row, ruler), strict=True))}
            for sample in found.samples
        ]
    return json.dumps(data, ensure_ascii=False, indent=1)


def _facts(lengths: Lengths, tokens: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "rows": len(lengths.prompts),
        "prompt": summary(lengths.prompts),
        "answer": summary(lengths.answers),
        "total": summary(lengths.totals()),
    }
    if tokens:
        facts |= {
            "over_cutoff": lengths.over,
            "over_cutoff_share": round(lengths.over / len(lengths.prompts), 6),
            "answer_cut_share": round(_share_cut(lengths), 6),
            "no_answer_token": lengths.bare,
            "end_learned": lengths.ended,
        }
    return facts


def _share_cut(lengths: Lengths) -> float:
    """The share of all answer tokens that lies beyond the cutoff."""
    return lengths.cut / max(1, sum(lengths.answers))


def _place(found: Finding) -> dict[str, Any]:
    return {"file": found.source, "line": found.line or None, "detail": found.detail, "excerpt": found.excerpt}


def as_text(found: Survey, base: Path | None) -> str:
    """Tables and findings for people, in lines of at most 80 columns unless a place's own name is longer."""
    ruler = found.ruler
    rows = sum(source.rows for source in found.sources)
    files = len(found.sources)
    head = f"{rows:,} row{'' if rows == 1 else 's'} in {files} file{'s' if files > 1 else ''}; lengths in {ruler.unit}"
    if ruler.tokenizer is None:
        head += " without the template's: give --base for tokens and for what exceeds the cutoff"
    else:
        head += f" of {one_line(str(base))} under the template {ruler.template.name}; cutoff {ruler.cutoff:,}"
    lines = [*folded(head, WIDTH), ""]
    names = [source.path.name for source in found.sources]
    groups = [
        (_short(source.path, names.count(source.path.name) == 1), name, lengths)
        for source in found.sources
        for name, lengths in _sorted(source.languages)
    ]
    if groups:
        lines += [*_counts(groups, ruler.tokenizer is not None), "", *_lengths(groups), ""]
    if found.evaluation is not None:
        lines += [f"compared with {found.evaluation.texts:,} texts of the evaluation sets", ""]
    for gravity in (BROKEN, WARNING, NOTE):
        kinds = found.findings.of(gravity)
        if kinds:
            lines.append(_HEADINGS[gravity])
            for kind, places in kinds.items():
                lines += _kind(kind, places)
            lines.append("")
    counts = [(found.findings.count(gravity), gravity) for gravity in (BROKEN, WARNING, NOTE)]
    said = [
        f"{count:,} {gravity}{'s' if count != 1 and gravity != BROKEN else ''}" for count, gravity in counts if count
    ]
    lines.append(", ".join(said) if said else "nothing to mend")
    return "\n".join(lines)


def _sorted(languages: dict[str, Lengths]) -> list[tuple[str, Lengths]]:
    return sorted(languages.items(), key=lambda item: LANGUAGES.index(item[0]))


def _counts(groups: Sequence[tuple[str, str, Lengths]], tokens: bool) -> Iterator[str]:
    """How many rows, and with tokens: over the cutoff, lost of the answers, without an answer, with a learned end."""
    titles = ["rows"] + (["over cutoff", "answers cut", "no answer", "end learned"] if tokens else [])
    widths = [8] + [13, 11, 9, 11][: len(titles) - 1]
    yield _line("file", "lang", zip(titles, widths, strict=True))
    for path, language, lengths in groups:
        rows = len(lengths.prompts)
        values = [f"{rows:,}"]
        if tokens:
            kept = rows - lengths.over
            values += [
                f"{lengths.over:,} {lengths.over / rows:6.1%}",
                f"{_share_cut(lengths):.1%}",
                f"{lengths.bare:,}",
                f"{lengths.ended / kept:.1%}" if kept else "-",
            ]
        yield _line(path, language, zip(values, widths, strict=True))


def _lengths(groups: Sequence[tuple[str, str, Lengths]]) -> Iterator[str]:
    titles = ["", "min", "median", "mean", "p90", "p99", "max"]
    widths = [6, 6, 7, 8, 6, 7, 8]
    yield _line("file", "lang", zip(titles, widths, strict=True))
    for path, language, lengths in groups:
        for part, values in (("prompt", lengths.prompts), ("answer", lengths.answers)):
            facts = [f"{value:,.1f}" if name == "mean" else f"{value:,.0f}" for name, value in summary(values).items()]
            first = part == "prompt"
            yield _line(path if first else "", language if first else "", zip([part, *facts], widths, strict=True))


def _line(name: str, language: str, columns: Iterator[tuple[str, int]] | Any) -> str:
    return f"{name}{' ' * (_NAME - cells(name))} {language:5}" + "".join(f" {text:>{size}}" for text, size in columns)


def _short(path: Path, unique: bool) -> str:
    """What a file is called in a table: its path, its own name where that is enough, or the end of it that fits."""
    text = one_line(str(path))
    if cells(text) > _NAME and unique:
        text = one_line(path.name)
    return text if cells(text) <= _NAME else "…" + cut(text[::-1], _NAME - 1)[::-1]


def _kind(kind: str, places: Sequence[Finding]) -> Iterator[str]:
    first, *more = folded(f"{kind}: {len(places):,} ({KINDS[kind][1]})", WIDTH - 4)
    yield f"  {first}"
    yield from (f"    {line.strip()}" for line in more)
    for place in places[:_SHOWN]:
        where, detail = f"    {one_line(place.place)}", one_line(place.detail)
        if cells(f"{where}  {detail}") <= WIDTH:
            yield f"{where}  {detail}".rstrip()
        else:
            yield from (where, f"      {fitted(detail, WIDTH - 6)}")
        if place.excerpt:
            yield f"      {fitted(one_line(place.excerpt), WIDTH - 6)}"
    if len(places) > _SHOWN:
        yield f"    … and {len(places) - _SHOWN:,} more; --json names all"
