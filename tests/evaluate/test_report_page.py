"""The report as a reader gets it: page and Markdown in both languages, with hostile answers and odd folders."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_cases as cases
from click.testing import CliRunner

from stellar_local.errors import StellarError, UsageError
from stellar_local.evaluate.report.command import report
from stellar_local.evaluate.results import Metric

VOID = {"meta", "br", "hr", "img", "link", "input"}
SVG_VOID = {"line", "circle", "rect"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Strict(HTMLParser):
    """Reads HTML and refuses what a browser would have to guess: tags that are not closed in their order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in SVG_VOID, tag
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def parsed(text: str) -> Strict:
    reader = Strict()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def made(folder: Path, *options: str) -> tuple[str, str]:
    """The page and the Markdown of a folder, written beside it."""
    stem = folder.parent / f"{folder.name}-report"
    done = CliRunner().invoke(report, [str(folder), "--out", str(stem), *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.split() == [f"{stem}.html", f"{stem}.md"]
    return (Path(f"{stem}.html").read_text(encoding="utf-8"), Path(f"{stem}.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.everything(tmp_path_factory.mktemp("report") / "evaluation")


@pytest.fixture(scope="module")
def english(folder: Path) -> tuple[str, str]:
    return made(folder, "--language", "en")


@pytest.fixture(scope="module")
def chinese(folder: Path) -> tuple[str, str]:
    return made(folder, "--language", "zh")


def test_the_page_is_sound_html_and_needs_nothing_else(english: tuple[str, str]) -> None:
    page, _ = english
    reader = parsed(page)
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "base", "foreignobject"}
    attributes = [(name, value or "") for _, own in reader.tags for name, value in own.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name in ("style", "src", "action")]
    ids = [value for name, value in attributes if name == "id"]
    links = [value for name, value in attributes if name == "href"]
    assert len(ids) == len(set(ids)) and links
    assert all(link[1:] in ids and link[0] == "#" for link in links)
    assert not re.search(r"url\(|@import", page)


def test_the_policy_allows_its_own_style_sheet_only(english: tuple[str, str]) -> None:
    page, _ = english
    (policy,) = (
        own["content"] or "" for tag, own in parsed(page).tags if own.get("http-equiv") == "Content-Security-Policy"
    )
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_another_parser_reads_the_same_tables(english: tuple[str, str]) -> None:
    lxml = pytest.importorskip("lxml.html", exc_type=ImportError)
    document = lxml.document_fromstring(english[0])
    tables = document.xpath("//table")
    assert len(tables) > 10
    for table in tables:
        assert table.xpath("caption") or table.xpath("ancestor::details/summary")
        width = len(table.xpath("thead/tr/th[@scope='col']"))
        for row in table.xpath("tbody/tr[not(@class)]"):
            assert len(row.xpath("th[@scope='row']")) == 1
            assert len(row.xpath("*")) == width
        assert all(int(one.get("colspan")) == width for one in table.xpath(".//th[@scope='rowgroup']"))
    scores = document.xpath("//section[@id='task-astro-qa']//table")[0]
    (row,) = (one for one in scores.xpath(".//tr") if one.xpath("string(th)").startswith("single choice, 5 options"))
    assert len(row.xpath("td")) == 1 + len(cases.MODELS)


def test_figures_in_page_and_markdown_are_those_of_the_summaries(folder: Path, english: tuple[str, str]) -> None:
    text = " ".join(parsed(english[0]).texts)
    for model in cases.MODELS:
        content = json.loads(cases.log_path(folder, "astro-qa", model.label).with_suffix(".json").read_text())
        for metric in content["metrics"]:
            if metric["name"] == "accuracy":
                shown = f"{100 * metric['value']:.1f}%", f"{100 * metric['low']:.1f}–{100 * metric['high']:.1f}"
                assert all(one in text and one in english[1] for one in shown)
        assert cases.digest(model.label) in text and cases.digest(model.label) in english[1]
        assert content["header"]["command"] in text and content["header"]["command"] in english[1]


def test_drawings_are_sound_and_have_a_bar_for_each_value(english: tuple[str, str]) -> None:
    drawings = [ET.fromstring(one) for one in re.findall(r"<svg xmlns.*?</svg>(?=<|\n)(?!</svg>)", _flat(english[0]))]
    assert drawings
    kl = [one for one in drawings if one.get("aria-label", "").startswith("KL divergence, nats a token (lower")]
    assert len(kl) == 1
    bars = kl[0].findall(".//{*}rect")
    widths = [float(bar.get("width", "0%")[:-1]) for bar in bars]
    values = [model.divergence for model in cases.MODELS[1:]]
    assert [round(width / widths[-1], 2) for width in widths] == [round(one / values[-1], 2) for one in values]


def _flat(page: str) -> str:
    """The page with drawings within drawings left out."""
    return re.sub(r'<svg class="p".*?</svg>', "", page)


def test_chinese_page(chinese: tuple[str, str]) -> None:
    page, text = chinese
    reader = parsed(page)
    assert dict(reader.tags[0][1]) == {"lang": "zh-Hans"}
    heads = re.findall(r"<h2 id[^>]*>(.*?)</h2>", page)
    assert len(heads) > 8 and all(map(CHINESE.search, heads))
    assert all(map(CHINESE.search, re.findall(r"<caption>(.*?)</caption>", page)))
    assert "Noto Sans CJK" in page and "PingFang SC" in page and "Microsoft YaHei" in page
    assert "事件视界" in page and "事件视界" in text
    assert not re.search(r"\\u|&#x?[4-9a-f][0-9a-f]{3}", page)  # Chinese as itself, so that it can be searched for


def test_hostile_answers_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    nasty = cases.HOSTILE
    for model in cases.MODELS[:2]:
        head = cases.header("text", model, command=nasty, machine=nasty)
        head["model"] |= {"name": nasty, "file": nasty, "sha256": nasty}
        record = {"key": nasty, "kind": nasty, "language": nasty, "question": nasty, "expected": nasty}
        records = [{**record, "answer": nasty + model.label, "score": 1.0, "why": nasty}]
        records.append({"key": "bad", "error": {"type": nasty, "message": nasty}})
        metric = Metric(nasty, 0.5, nasty, 0.4, 0.6, 1, language=nasty)
        cases.write(folder, head, [metric], records, (nasty,), speed=1.0)
    page, markdown = made(folder, "--title", nasty.replace("\x00", "").replace("\ud800", ""))
    reader = parsed(page)
    assert "script" not in {tag for tag, _ in reader.tags} and "b" not in {tag for tag, _ in reader.tags}
    assert not [own for _, own in reader.tags if "javascript:x" in own.get("href", "")]
    assert "<script>alert('x')</script>" in "".join(reader.texts)  # as text
    for text in (page, markdown):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]", text)
    assert len(page) < 150_000 and "characters" in page
    _only_our_markdown(markdown)


def _only_our_markdown(text: str) -> None:
    """Nothing of an answer has become HTML, a link, a picture or a heading, by another parser's word."""
    from markdown_it import MarkdownIt

    allowed = re.compile(r"<br>|</?details>|<summary>[^<]*</summary>|<a id=\"[a-z0-9-]+\">|</a>")
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        if token.type == "html_block":
            assert not allowed.sub("", token.content).strip(), token.content
        for child in token.children or []:
            assert child.type != "image"
            if child.type == "html_inline":
                assert allowed.fullmatch(child.content), child.content
            if child.type == "link_open":
                assert str(child.attrs["href"]).startswith("#")


def test_markdown_tables_have_even_rows(english: tuple[str, str], chinese: tuple[str, str]) -> None:
    for _, text in (english, chinese):
        _only_our_markdown(text)
        blocks = [block for block in text.split("\n\n") if block.startswith("|")]
        assert len(blocks) > 10
        for block in blocks:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.split("\n")}) == 1, block


def test_an_empty_folder_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="holds no results of stellar eval") as caught:
        CliRunner().invoke(report, [str(tmp_path)], catch_exceptions=False)
    assert "stellar eval" in caught.value.hint
    with pytest.raises(UsageError, match="no such folder"):
        CliRunner().invoke(report, [str(tmp_path / "none")], catch_exceptions=False)
    (tmp_path / "text--x.json").write_text("{")
    with pytest.raises(StellarError, match="every summary in .* is damaged"):
        CliRunner().invoke(report, [str(tmp_path)], catch_exceptions=False)
    assert not list(tmp_path.glob("report.*"))


def test_what_is_missing_or_odd_is_named_and_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    one, other = cases.MODELS[:2]
    cases.write(folder, cases.header("text", one), [Metric("chrF", 20.0, kind="score")], None)
    (folder / "identity--broken.json").write_text('{"stellar_eval": 1, "header": []', encoding="utf-8")
    (folder / "identity--running.jsonl").write_text(json.dumps(cases.header("identity", one)), encoding="utf-8")
    head = cases.header("text", other, data="none", versions=3, settings=[1], started=None)
    head["model"] |= {"bytes": "many", "parameters": True, "bits_per_weight": float("inf"), "lora": "x", "level": 7}
    path = cases.write(folder, head | {"speed": 1}, [], [])
    content = json.loads(path.read_text())
    content["metrics"] = [
        {"name": "chrF", "value": "high"},
        {"name": "chrF", "value": 10**400, "kind": "score"},
        {"name": "BLEU", "value": 3.0, "low": 4.0, "high": 1.0, "kind": "score"},
    ]
    path.write_text(json.dumps(content))
    cases.log_path(folder, "text", other.label).write_text("no log\n")
    page, text = made(folder, "--language", "en")
    notes = page.partition('id="warnings"')[2].partition("</section>")[0]
    for expected in (
        "identity--broken.json is damaged",
        "identity--running.jsonl has no summary",
        f"text--{one.label}.jsonl is missing",
        f"text--{other.label}.jsonl is damaged",
        "1 figures are malformed",
        "not known which data was used",
        f"size of these models is not known, so they are missing in the plots: {other.label}",
        "No speeds are known",
        "in tables of their own: Free answers",
    ):
        assert expected in notes, expected
        assert expected.split(":")[0].replace("_", "\\_") in text
    assert "3.00" in page


def test_one_model_alone(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    cases.likelihood(folder, cases.MODELS[3])
    page, _ = made(folder, "--language", "en")
    assert "There is one model only" in page
    assert 'id="cost"' not in page
    parsed(page)


def test_judges_alone_make_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "judges"
    folder.mkdir()
    path = cases.compare(folder, "小明", 0.6)
    page, text = made(folder, "--language", "en")
    rate = json.loads(path.read_text())["metrics"][0]["value"]
    assert f"{100 * rate:.1f}%" in page and f"{100 * rate:.1f}%" in text
    assert "小明: the better one" in page and 'id="models"' not in page
    assert "best" not in re.findall(r'<td class="(\w+)"', page)


def test_the_majority_is_named_in_the_pages_language(tmp_path: Path) -> None:
    folder = tmp_path / "judges"
    folder.mkdir()
    cases.compare(folder, "majority of the people", 0.6)
    page, _ = made(folder, "--language", "zh")
    assert "多数人：更好" in page
    assert page.count("majority of the people") == page.count("majority_of_the_people") == 0


def test_no_judge_is_marked_as_the_better_one(tmp_path: Path) -> None:
    """Who finds for A far more often is no better judge."""
    folder = tmp_path / "judges"
    folder.mkdir()
    ends = [
        json.loads(cases.compare(folder, judge, bias).read_text())["metrics"][0]
        for judge, bias in (("a", 0.1), ("b", 0.85))
    ]
    assert ends[0]["high"] < ends[1]["low"]
    page, text = made(folder, "--language", "en")
    assert not {"best", "worse"} & set(re.findall(r'<td class="(\w+)"', page))
    assert "| ★" not in text and "| ▼" not in text


def test_report_goes_into_the_folder_whole(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    cases.likelihood(folder, cases.MODELS[0])
    done = CliRunner().invoke(report, [str(folder), "--title", "我的评测"], catch_exceptions=False)
    assert sorted(path.name for path in folder.glob("report*")) == ["report.html", "report.md"]
    assert done.stdout.split() == [str(folder / "report.html"), str(folder / "report.md")]
    assert "<title>我的评测</title>" in (folder / "report.html").read_text(encoding="utf-8")
    command = f"stellar eval report {folder} --title 我的评测 --language en"
    assert command.replace("我的评测", "'我的评测'") in (folder / "report.md").read_text(encoding="utf-8")
    again = CliRunner().invoke(report, [str(folder), "--out", str(tmp_path / "x.html")], catch_exceptions=False)
    assert again.stdout.split() == [str(tmp_path / "x.html"), str(tmp_path / "x.md")]
