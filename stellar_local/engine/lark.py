"""Grammars in llguidance's notation, from llama.cpp's.

GBNF speaks of characters, llguidance of lexemes, each of which takes as much text as it can. So what is written here
leaves no choice: a grammar without recursion becomes one regular expression, and in others each lexeme is one
character. Rule names and comments are dropped. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from .gbnf import Alt, Chars, Node, Ref, Repeat, Seq, fail, parse

_LARGEST_REGEX = 500_000  # characters; beyond, the rules stay apart


def to_lark(text: str) -> str:
    """A GBNF grammar in llguidance's notation. Raises RequestError("invalid_grammar") with the reason."""
    rules = parse(text)
    _check(rules)
    return _Writer(rules).text()


def _parts(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Seq):
        return node.parts
    return node.choices if isinstance(node, Alt) else (node.part,) if isinstance(node, Repeat) else ()


def _names(node: Node) -> list[str]:
    """The rules that a node names, with repetitions."""
    pending, found = [node], []
    while pending:
        part = pending.pop()
        found += [part.name] if isinstance(part, Ref) else []
        pending += _parts(part)
    return found


def _closure(rules: dict[str, Node], holds: Callable[[Node, set[str]], bool]) -> set[str]:
    """The rules for which `holds` is true, given those for which it is: the least such set."""
    found: set[str] = set()
    before = -1
    while len(found) > before:
        before = len(found)
        for name in reversed(rules):  # rules mostly name later ones
            if name not in found and holds(rules[name], found):
                found.add(name)
    return found


def _check(rules: dict[str, Node]) -> None:
    if "root" not in rules:
        fail("has no rule named root", "its first rule is written root ::= …")
    for name, node in rules.items():
        if missing := sorted(set(_names(node)) - set(rules)):
            fail(f"names a rule that it does not have: {missing[0]} (in {name})")
    if endless := sorted(set(rules) - _closure(rules, _ends)):
        fail(f"never comes to an end: the rule {endless[0]} always needs itself", "give it another choice")
    empty = _closure(rules, _nullable)
    left = {name: sorted(set(_firsts(node, empty))) for name, node in rules.items()}
    sound = _closure(rules, lambda node, found: found.issuperset(_firsts(node, empty)))
    if unsound := sorted(set(rules) - sound):
        name, seen = unsound[0], set[str]()
        while name not in seen:  # from rule to rule until one comes again
            seen.add(name)
            name = next(other for other in left[name] if other not in sound)
        fail(f"is left recursive: the rule {name} begins with itself", "put the repeated part at the end, or use *")


def _ends(node: Node, ending: set[str]) -> bool:
    """Whether a text of this node can be finite, given the rules that can."""
    if isinstance(node, Ref):
        return node.name in ending
    if isinstance(node, Repeat):
        return node.least == 0 or _ends(node.part, ending)
    if isinstance(node, Alt):
        return any(_ends(choice, ending) for choice in node.choices)
    return not isinstance(node, Seq) or all(_ends(part, ending) for part in node.parts)


def _nullable(node: Node, empty: set[str]) -> bool:
    if isinstance(node, Ref):
        return node.name in empty
    if isinstance(node, Repeat):
        return node.least == 0 or _nullable(node.part, empty)
    if isinstance(node, Alt):
        return any(_nullable(choice, empty) for choice in node.choices)
    return isinstance(node, Seq) and all(_nullable(part, empty) for part in node.parts)


def _firsts(node: Node, empty: set[str]) -> list[str]:
    """The rules that a text of this node may begin with."""
    if isinstance(node, Ref):
        return [node.name]
    found: list[str] = []
    for part in _parts(node):
        found += _firsts(part, empty)
        if isinstance(node, Seq) and not _nullable(part, empty):
            break
    return found


class _Writer:
    """Rules without recursion as regular expressions, the others as llguidance's rules."""

    def __init__(self, rules: dict[str, Node]) -> None:
        self._rules = rules
        plain = _closure(rules, lambda node, found: found.issuperset(_names(node)))
        self._recursive = set(rules) - plain  # or naming one that is
        self._regexes: dict[str, str] = {}
        self._numbers = {name: f"r{number}" for number, name in enumerate(rules)}

    def text(self) -> str:
        if "root" not in self._recursive:
            try:
                return f"%llguidance {{}}\nstart: /{self._regex(self._rules['root'])}/\n"
            except (OverflowError, RecursionError):
                pass
        lines = [f"{self._numbers[name]}: {self._rule(node)}" for name, node in self._rules.items()]
        return "\n".join(["%llguidance {}", f"start: {self._numbers['root']}", *lines, ""])

    def _rule(self, node: Node) -> str:
        if isinstance(node, Chars):
            return f"/{_class(node)}/"
        if isinstance(node, Ref):
            return self._numbers[node.name]
        if isinstance(node, Repeat):
            return f"({self._rule(node.part)}){_times(node)}"
        if isinstance(node, Alt):
            return "(" + " | ".join(map(self._rule, node.choices)) + ")"
        return " ".join(map(self._rule, node.parts)) or '""'

    def _regex(self, node: Node) -> str:
        """Raises OverflowError where it becomes too long."""
        if isinstance(node, Chars):
            return _class(node)
        if isinstance(node, Ref):
            if node.name not in self._regexes:
                self._regexes[node.name] = f"({self._regex(self._rules[node.name])})"
            return self._regexes[node.name]
        parts = [self._regex(part) for part in _parts(node)]
        text = f"({parts[0]}){_times(node)}" if isinstance(node, Repeat) else ""
        text = text or (f"({'|'.join(parts)})" if isinstance(node, Alt) else "".join(parts))
        if len(text) > _LARGEST_REGEX:
            raise OverflowError
        return text


def _times(node: Repeat) -> str:
    return f"{{{node.least},{'' if node.most is None else node.most}}}"


def _class(node: Chars) -> str:
    def one(code: int) -> str:
        return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\x{{{code:x}}}"

    if node.ranges[0][0] == node.ranges[0][1] and len(node.ranges) == 1:
        return one(node.ranges[0][0])
    return "[" + "".join(one(low) if low == high else f"{one(low)}-{one(high)}" for low, high in node.ranges) + "]"
