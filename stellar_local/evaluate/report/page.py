"""A report as one HTML page: self-contained, without scripts, readable on any screen, in the dark and on paper.

Texts of models and files are escaped; a Content-Security-Policy allows the page its own style sheet and nothing else.
Knows blocks and charts only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path

from ...texts import Texts
from .blocks import (
    NO_SERIES,
    Answer,
    Bars,
    Block,
    Cell,
    Charts,
    Code,
    Example,
    Heading,
    Items,
    Page,
    Points,
    Row,
    Section,
    Table,
)
from .charts import SERIES, bars, points

_MARKS = {"best": "★", "worse": "▼"}
_VERDICTS = {"right": "✓", "wrong": "✗", "error": "⚠", "": ""}
_FEW_GROUPS, _SHORT = 3, 14  # groups that one column holds; characters of a cell that stay in one line
_TAGS = {"zh": "zh-Hans", "en": "en"}


@cache
def _style() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8").replace("\r\n", "\n")


def page(report: Page, texts: Texts) -> str:
    """The whole page."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    contents = "".join(f'<li><a href="#{one.id}">{escape(one.title)}</a></li>' for one in report.sections)
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in report.facts)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="{_TAGS[report.language]}">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{escape(report.title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            f'<header class="top"><h1>{escape(report.title)}</h1><ul class="facts">{facts}</ul></header>',
            f'<nav aria-label="{escape(texts("report.contents"))}"><h2>{escape(texts("report.contents"))}</h2>'
            f"<ol>{contents}</ol></nav>",
            "<main>",
            *(_section(section, texts) for section in report.sections),
            "</main>",
            f"<footer>{escape(report.end)}</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(section: Section, texts: Texts) -> str:
    body = "\n".join(_block(block, texts) for block in section.blocks)
    head = f'<h2 id="{section.id}-title">{escape(section.title)}</h2>'
    return f'<section id="{section.id}" aria-labelledby="{section.id}-title">\n{head}\n{body}\n</section>'


def _block(block: Block, texts: Texts) -> str:
    if isinstance(block, Table):
        return _table(block, texts)
    if isinstance(block, Charts):
        return f'<div class="charts">{"".join(map(_chart, block.charts))}</div>'
    if isinstance(block, Example):
        return _example(block, texts)
    if isinstance(block, Items):
        kind = ' class="warning"' if block.warning else ""
        return f"<ul{kind}>{''.join(f'<li>{escape(text)}</li>' for text in block.texts)}</ul>"
    if isinstance(block, Code):
        return f'<pre tabindex="0"><code>{escape(block.text)}</code></pre>'
    return f"<h3>{escape(block.text)}</h3>" if isinstance(block, Heading) else f"<p>{escape(block.text)}</p>"


def _chart(chart: Bars | Points) -> str:
    drawings = bars(chart) if isinstance(chart, Bars) else [points(chart)]
    drawn = f'<div class="groups">{"".join(drawings)}</div>' if len(drawings) > 1 else drawings[0]
    kind = ' class="wide"' if len(drawings) > _FEW_GROUPS else ""
    return f"<figure{kind}><figcaption>{escape(chart.caption)}</figcaption>{drawn}</figure>"


def _table(table: Table, texts: Texts) -> str:
    head = "".join(f'<th scope="col">{_inside(cell, texts)}</th>' for cell in table.head)
    parts = []
    for part in table.parts:
        rows = "".join(_row(row, texts) for row in part.rows)
        if part.title:
            span = f'scope="rowgroup" colspan="{len(table.head)}"'
            rows = f'<tr class="part"><th {span}><span>{escape(part.title)}</span></th></tr>{rows}'
        parts.append(f"<tbody>{rows}</tbody>")
    caption = "" if table.folded else f"<caption>{escape(table.caption)}</caption>"
    drawn = (
        f'<div class="scroll" role="region" aria-label="{escape(table.caption)}" tabindex="0">'
        f"<table>{caption}<thead><tr>{head}</tr></thead>{''.join(parts)}</table></div>"
    )
    return f"<details><summary>{escape(table.caption)}</summary>{drawn}</details>" if table.folded else drawn


def _row(row: Row, texts: Texts) -> str:
    cells = "".join(f"<td{_kind(cell)}>{_inside(cell, texts)}</td>" for cell in row.cells)
    return f'<tr><th scope="row">{_inside(row.head, texts)}</th>{cells}</tr>'


def _kind(cell: Cell) -> str:
    return f' class="{cell.mark}"' if cell.mark else ""


def _inside(cell: Cell, texts: Texts) -> str:
    told = {"best": texts("report.best"), "worse": texts("report.worse")}.get(cell.mark, "")
    mark = (
        f'<span class="mark" role="img" aria-label="{escape(told)}" title="{escape(told)}">{_MARKS[cell.mark]}</span>'
        if told
        else ""
    )
    kinds = " ".join(
        filter(None, ["named" if cell.series != NO_SERIES else "", "short" if len(cell.text) <= _SHORT else ""])
    )
    kind = f' class="{kinds}"' if kinds else ""
    dot = _dot(cell.series) if cell.series != NO_SERIES else ""
    title = f' title="{escape(cell.title)}"' if cell.title else ""
    tag = "code" if cell.code else "span"
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    return f"{mark}<{tag}{kind}{title}>{dot}{escape(cell.text)}</{tag}>{note}"


def _dot(series: int) -> str:
    """The colour of a model."""
    return f'<i class="dot c{series % SERIES}"></i>'


def _example(example: Example, texts: Texts) -> str:
    language = f' lang="{_TAGS[example.language]}"' if example.language else ""
    expected = (
        f'<dt>{escape(texts("report.expected"))}</dt><dd{language} dir="auto">{escape(example.expected)}</dd>'
        if example.expected
        else ""
    )
    asked = (
        f'<dt>{escape(texts("report.question"))}</dt><dd{language} dir="auto">{escape(example.question)}</dd>'
        if example.question
        else ""
    )
    return (
        f'<article class="example"><h4>{escape(example.title)}</h4><dl>{asked}{expected}</dl>'
        f'<div class="answers">{_answers(example.answers, language, texts)}</div></article>'
    )


def _answers(answers: Sequence[Answer], language: str, texts: Texts) -> str:
    drawn = []
    for one in answers:
        kind = f" {one.verdict}" if one.verdict else ""
        names = "".join(_inside(Cell(model, series=series), texts) for model, series in one.models)
        told = " ".join(filter(None, [_VERDICTS[one.verdict], one.told]))
        drawn.append(
            f'<section class="answer{kind}"><h5>{names}</h5>'
            + (f'<p class="verdict">{escape(told)}</p>' if told else "")
            + (f'<p class="text"{language} dir="auto">{escape(one.text)}</p>' if one.text else "")
            + (f'<p class="note">{escape(one.note)}</p>' if one.note else "")
            + "</section>"
        )
    return "".join(drawn)
