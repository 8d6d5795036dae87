"""Which options an answer names, in Chinese or English, however it puts it. Knows options; knows nothing of right ones.

Where an answer names several, what it calls final wins; else what it begins with, as was asked for; else what it
concludes with. Letters of explanations count only where they are said to be the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from .found import NOTHING, Found, bare, first_exercise, plain
from .remarks import ITEM, JUDGED_NEXT, REFUSED_NEXT, SUPPOSED, WRONG, remark, right_and_wrong

_SEVERAL, _UNKNOWN, _NONE = "it names several options", "it names an option that is not there", "it names no option"
_ECHO = "it repeats the options and names none"

_I = re.IGNORECASE
# What announces an answer: 答案是, 正确选项为, 应选, 我选择; the answer is, the correct option is, I choose.
_FINAL = r"(?P<final>最终|最后|综上(?:所述)?,?|更正:?|改为|final(?:ly)?,?|correction:?|corrected)\s*(?:the\s+|我的|的)?"
_CHINESE = (
    r"(?<!不)正确的?(?:答案|选项|说法|描述|陈述|一?项)?一?共?(?:是|为|有|包括|包含)(?:[一二两三四\d]\s?[个项])?(?:以下|如下)?:?"
    r"|(?:正确|参考|标准|最佳|符合题意)?的?(?:答案|(?<![A-H])选项)(?:应该?|就)?\"?\s*(?:[是为:=】]|应?选(?!项))+"
    r"|答案一?共?(?:有|包括|包含)(?:[一二两三四\d]\s?[个项])?(?:以下|如下)?:?"
    r"|(?:应该?|而|所以|因此)是:?(?=\s*[\"(]*(?:选项)?\s*[A-H](?![A-Za-z0-9]))"
    r"|(?:应该?|故|所以|因此|本题|我|只能|可以|正确|最终|答案)?(?:选择|选)(?!项|出|中|取|自|错|手|题|定)了?(?:的?是)?:?"
)
_ENGLISH = (
    r"\s*\b(?:options?|choices?|answers?|statements?)\s+(?:is|are)\s+(?:correct|right|true)\s*:|"
    r"(?:correct|right|best|final|true|possible)?\s*(?:answers?|options?|choices?)\b\"?(?:\s*\(s\))?"
    r"(?:\s+(?:to|for|of)\s+(?:the|this|that|your)\s+[^.:\n]{0,60}?)?\s*"
    r"(?:\b(?:is|are|would be|will be|should be|must be|has to be|being|includes?)\b\s*:?|[:=])"
    r"|\b(?:correct|right|true)\s+(?:ones?|statements?)\s+(?:is|are|includes?)\b\s*:?"
    r"|\bi(?:'d| would)?\s+(?:choose|chose|pick|select|go with)\b"
    r"|\b(?:choose|select|pick)\s+(?=options?|[\"(\[]*[A-H]\b)"
)
_HEDGE = r"(?:(?:indeed|clearly|therefore|likely|probably|most likely|definitely|simply|thus)\s+)?"
_LEAD = re.compile(rf"(?:{_FINAL})?(?:{_CHINESE}|{_ENGLISH})\s*{_HEDGE}", _I)
_MOST, _REACH = 20, 1000  # of announcements at each end of an answer, and characters that one may announce
_FINAL_WORD = re.compile(r"最终|最后|final", _I)
# What makes of such words something else: 不选A; `Options:` above all of them; `the answer is A. Wait, no.`
_REJECTS = re.compile(r"(?:不|不能|不可以?|不应该?|不会|别|不要|无法|\bnot|n't|\bnever)\s*$", _I)
_TITLE = re.compile(r"(?:选项|options?|choices?)\"?\s*:\s*$", _I)
_CERTAIN = re.compile(r"正确|最佳|符合|correct|right|best|true|final", _I)
_ASKED = re.compile(r"(?:下[列面]|以下|哪|following|which)[^。.\n]{0,60}$", _I)
_LISTS = re.compile(r"(?<![A-Za-z0-9])([A-H])\s*(?:[).:\-]|、(?!\s*[A-H](?![A-Za-z]))|选?项|是|is\b)\s*(?=[^\s,;。])")
_TAKEN_BACK = re.compile(
    r"[\s\"').。!?,;…]*(?:不对(?=[,。!…\s])|不,|错了|等等|等一下|wait\b|no\b(?=[,.!])(?!\. ?\d)|hold on\b|sorry\b)", _I
)

_OPEN = re.compile(
    r"[\s\"'(\[{<:;,*\-–—=]*(?:(?:the|either|both|only|选项|options?|choices?|letters?)\s*)*[\s\"'(\[{<:]*"
    r"(?:\d\s?[.)、]?\s?(?=[A-H](?![A-Za-z0-9])))?",
    _I,
)
_NOT_BUT = re.compile(
    r"\s*(?:not|不是|并非|非)\s*[\"(\[]*[A-H]\b[^\n]{0,60}?(?:\bbut\b(?:\s+rather)?|而是|而应该?是)\s*", _I
)
# One letter, or several in a row; no word, no name such as A-type, M31 or C/2020.
_AFTER_LETTER = r"(?![A-Za-z0-9'’]|-[A-Za-z0-9]|/\d|型)"
_RUN = re.compile(r"[A-H]{1,8}" + _AFTER_LETTER)
_SMALL = re.compile(r"[a-h](?=\s*(?:[).,:;、。\]\"'}]|$|\n))")
_ALONE = re.compile(r"(?<![A-Za-z0-9])(A(?!\s+[A-Z])|[B-H])" + _AFTER_LETTER + r"(?!\s+[a-z])")
_SEPARATOR = re.compile(
    r"[)\].\"'}>]*\s*(?:(?:,|、|;|/|&|\+)\s*(?:and\b|or\b|和|与|及|或)?|和|与|及|以及|或者?|\b(?:and|or|as well as)\b)"
    r"\s*[\"'(\[<]*",
    _I,
)
# Where several are asked for, blanks, brackets and lines part letters too: `A C D`, `(A)(C)`, `- A\n- C`, `1. A\n2. C`.
_LOOSE = re.compile(
    r"[)\]]\s?[(\[]+|[^\S\n]+(?:\d\s?[.)、]?\s?)?(?=[A-H](?![A-Za-z0-9]))"
    r"|\s*\n\s*(?:[-•·]\s*|\d\s?[.)、]\s*)?(?=[A-H]\s*(?:\n|$))"
)
_REASONS = re.compile(r"解释|说明|理由|因为|由于|原因|分析|解析|\b(?:explanation|because|reason|since|as)\b", _I)
_LEFT_OUT = re.compile(
    r"(?:不(?:能|可以?|应该?|会|要)?选|不包括|除了|不是|而非|排除|\bnot|\bexcept(?: for)?|\bwithout|\bexcluding"
    r"|\b[A-H]\s+(?:and|or))\s*(?:选项|options?)?\s*[\"(]*$",
    _I,
)
_ALL = re.compile(
    r"(?:以上|上述|这些|四个?|所有)(?:选项|答案|说法)?(?:全部?都?|均|都)(?:是|正确|对|选|符合|包括)|以上(?:都|均|全)|全选|全部正确"
    r"|\ball\s+(?:of\s+)?(?:the\s+)?(?:above|four|options|these|them|choices)\b|\ball are (?:correct|true|right)",
    _I,
)
_DENIED = re.compile(r"(?:不是|并非|不包括|而非|除了|\bnot|n't|\bexcept)\s*(?:the\s+|an?\s+)?[\"']?$", _I)


def single(answer: str, options: Mapping[str, str]) -> Found:
    """The one option that an answer names; `options` are their texts by their letters."""
    return _found(answer, options, several=False)


def multiple(answer: str, options: Mapping[str, str]) -> Found:
    """All options that an answer names, in their order."""
    return _found(answer, options, several=True)


def _found(answer: str, options: Mapping[str, str], several: bool) -> Found:
    whole = plain(answer)
    if not bare(whole):
        return Found(None, why=NOTHING)
    text, echoed = _without_echo(first_exercise(whole) or whole, options)
    problem = ""
    for named, span in _candidates(text, options, several):
        if set(named) - set(options):
            problem = problem or _UNKNOWN
        elif not several and len(set(named)) > 1:
            problem = problem or _SEVERAL
        else:
            return Found("".join(sorted(set(named))), span, written=named)
    return Found(None, why=problem or (_ECHO if echoed else _NONE))


def _candidates(text: str, options: Mapping[str, str], several: bool) -> Iterator[tuple[str, str]]:
    """Letters that the answer may mean with the words they are read from, the likeliest first."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    leads: list[tuple[str, str]] = []
    final: list[tuple[str, str]] = []
    begun: list[tuple[str, str]] = []
    found = list(_LEAD.finditer(text))
    for lead in found if len(found) <= 2 * _MOST else found[:_MOST] + found[-_MOST:]:
        before, rest = text[: lead.start()], text[lead.end() : lead.end() + _REACH]
        if not lead[0].strip() or SUPPOSED.search(before) or _REJECTS.search(before):
            continue
        read = None if _is_title(before, lead[0], rest, options, several) else _read(rest, options, several)
        if not read or _TAKEN_BACK.match(rest.partition(read[1])[2]):
            continue
        leads.append(read)
        if lead["final"] or _FINAL_WORD.match(lead[0]):
            final.append(read)
        if lead.start() < text.find(first) + len(first):
            begun.append(read)
    yield from reversed(final)
    yield from begun
    if read := _start(text, first, options, several):
        yield read
    yield from reversed(leads)
    right, wrong = right_and_wrong(text, options)
    if right and (several or len(right) == 1):
        yield "".join(sorted(right)), ", ".join(sorted(right))
    if several and _ALL.search(first):
        yield "".join(options), first
    alone = {one[1] for one in _ALONE.finditer(text) if not _LEFT_OUT.search(text[: one.start()])} - wrong
    if len(alone) == 1:
        yield min(alone), min(alone)
    if not ITEM.match(first):
        yield from _texts(first, options, several)


def _is_title(before: str, lead: str, rest: str, options: Mapping[str, str], several: bool) -> bool:
    """Whether words that may announce an answer stand above the options instead: `Options:`, `以下正确的是：`."""
    title = _TITLE.search(lead) if not _CERTAIN.search(lead) else None
    if not title and not (_CERTAIN.search(lead) and _ASKED.search(before)):
        return False
    listed = [found[1] for found in _LISTS.finditer(rest)]
    if not listed or listed[0] != next(iter(options), "") or bare(rest[: rest.find(listed[0])]):
        return False
    return set(listed) >= set(options) if several else len(set(listed)) > 1


def _read(rest: str, options: Mapping[str, str], several: bool) -> tuple[str, str] | None:
    """What is announced: the letters, or the options' texts, that `rest` begins with."""
    turned = _NOT_BUT.match(rest)
    start = turned.end() if turned else 0
    opening = _OPEN.match(rest, start)
    begin = opening.end() if opening else start
    if rest.count("\n", start, begin) > 2:
        return None
    if read := (_listed(rest, begin, options) if several else None) or _run(rest, begin, options, several):
        return None if REFUSED_NEXT.match(rest[begin + len(read[1]) :]) else read
    line = _REASONS.split(rest[begin:].split("\n", 1)[0], maxsplit=1)[0]
    if several:
        texts = next(_texts(line, options, several), None)
        return texts or (("".join(options), line) if _ALL.match(line) else None)
    letter = _option_text(line, options)
    return (letter, line) if letter else None


def _start(text: str, first: str, options: Mapping[str, str], several: bool) -> tuple[str, str] | None:
    """The letters that an answer begins with unannounced, or the one option's text that its first clause is."""
    opening = _OPEN.match(text)
    begin = opening.end() if opening else 0
    if opening and _is_title("", opening[0], text[begin:], options, several):
        return None
    items = {item[1]: bare(item[2]) for line in text[begin:].split("\n") if (item := ITEM.match(line))}
    own = all(bare(options.get(letter, "")).startswith(said) for letter, said in items.items())
    if len(items) > 1 and (not several or not own or set(items) == set(options)):
        return None  # the options again, or in its own words
    if read := (_listed(text, begin, options) if several else None) or _run(text, begin, options, several):
        return None if JUDGED_NEXT.match(text[begin + len(read[1]) :]) else read
    clause = bare(re.split(r"[。;,.\n]\s|[。;,.\n]$|[。;,]", first, maxsplit=1)[0])
    named = [letter for letter, option in options.items() if clause and bare(option) in (clause, bare(first))]
    if not named and (letter := _option_text(clause, options)) and options[letter].isdigit():
        named = [letter]  # a number with its unit
    return (named[0], first) if named and not several else None


def _run(rest: str, begin: int, options: Mapping[str, str], several: bool) -> tuple[str, str] | None:
    """Letters one after another, such as `B`, `ABD`, `A, C and D`."""
    named, end, at = "", begin, begin
    while found := _RUN.match(rest, at) or _SMALL.match(rest, at):
        loose = _LOOSE.match(rest, found.end()) if several else None
        if not loose and _is_article(rest, found, options):
            break
        named, end = named + found[0].upper(), found.end()
        between = _SEPARATOR.match(rest, end) or loose
        if not between:
            break
        at = between.end()
    return (named, rest[begin:end]) if named else None


def _is_article(rest: str, found: re.Match[str], options: Mapping[str, str]) -> bool:
    """Whether an A begins a phrase: `A star`. Not where the phrase is option A's own text."""
    after = rest[found.end() :].split("\n", 1)[0]
    if found[0] not in ("A", "a") or not re.match(r"\s+[A-Za-z]", after):
        return False
    if re.match(r"\s+(?:and|or|is|only|alone)\b", after) or _REASONS.match(after.strip()):
        return False
    own = bare(options.get("A", ""))
    return not (own and bare(after).startswith(own))


def _listed(rest: str, begin: int, options: Mapping[str, str]) -> tuple[str, str] | None:
    """Options listed with their texts, one a line or one after another: `A. 水星\\nC. 火星`, `A.水星、C.火星`."""
    named, end = "", begin
    for line in rest[begin:].split("\n"):
        item = ITEM.match(line)
        if line.strip() and not item:
            break
        if item and not WRONG.search(remark(item[2], options.get(item[1], ""))):
            named += item[1]
        end += len(line) + 1
    first = _REASONS.split(rest[begin:].split("\n", 1)[0], maxsplit=1)[0]
    inline = ""
    for found in re.finditer(r"(?<![A-Za-z0-9])([A-H])\s*[).:、]?\s*(?=\S)", first):
        own = bare(options.get(found[1], ""))
        if own and bare(first[found.end() : found.end() + 200]).startswith(own):
            inline += found[1]
    if len(set(inline)) > max(len(set(named)), 1):
        return inline, first
    return (named, rest[begin : end - 1].strip()) if len(set(named)) > 1 else None


def _option_text(line: str, options: Mapping[str, str]) -> str:
    """The letter of the option whose text a line begins with, as a whole; of several, the longest. "" if none."""
    said, best, found = bare(line), "", ""
    for letter, text in options.items():
        own = bare(text)
        if len(own) > len(best) and said.startswith(own) and not _cuts(line, text):
            best, found = own, letter
    return found


def _cuts(line: str, text: str) -> bool:
    """Whether a text ends within a word or a number of the line that begins with it."""
    return bool(re.match(re.escape(text.strip()) + r"(?:(?<=[A-Za-z])[A-Za-z]|(?<=\d)\.?\d)", line.strip(), _I))


def _texts(line: str, options: Mapping[str, str], several: bool) -> Iterator[tuple[str, str]]:
    """Options whose texts stand in a line and are not denied there. A text within another named one does not count."""
    said = bare(line)
    here = {letter: own for letter, text in options.items() if _stands(own := bare(text), said)}
    named = [one for one, own in here.items() if not any(own != other and own in other for other in here.values())]
    named = [one for one in named if not _DENIED.search(line.casefold().partition(options[one].casefold())[0])]
    if named and (several or len(named) == 1):
        yield "".join(named), line


def _stands(own: str, said: str) -> bool:
    """Whether a text stands in another one: not where it is a number or so short that it may be part of a word."""
    return own in said and len(own) > (3 if own.isascii() else 1) and not own.isdigit()


def _without_echo(text: str, options: Mapping[str, str]) -> tuple[str, bool]:
    """The text without lines that repeat all options, as the question lists them; and whether there were such."""
    lines = text.split("\n")
    echo: dict[int, str] = {}
    for number, line in enumerate(lines):
        item = ITEM.match(line)
        if item and bare(item[2]) and bare(item[2]) == bare(options.get(item[1], "")):
            echo[number] = item[1]
    if set(echo.values()) != set(options) or _announces(lines[: min(echo)][-2:]):
        return text, False
    last = ITEM.match(lines[-1])
    if last and bare(options.get(last[1], "")).startswith(bare(last[2])):
        echo[len(lines) - 1] = last[1]  # cut at the most tokens
    return "\n".join(line for number, line in enumerate(lines) if number not in echo), True


def _announces(lines: Sequence[str]) -> bool:
    """Whether lines announce an answer: a title of the options does not."""
    leads = [found for line in lines for found in _LEAD.finditer(line) if found[0].strip()]
    return any(_CERTAIN.search(found[0]) or not _TITLE.search(found[0]) for found in leads)
