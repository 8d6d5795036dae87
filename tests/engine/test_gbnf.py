"""Grammars mean what llama.cpp means by them: each accepts what the other writes; mistakes are errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from stellar_local.engine.structure import Structures
from stellar_local.errors import RequestError
from stellar_local.native.model import Model

# The last lines of llama.cpp's grammars/json.gbnf, arithmetic.gbnf, list.gbnf and chess.gbnf, and what they leave out.
GRAMMARS = {
    "json": r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
""",
    "arithmetic": r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
""",
    "list": 'root ::= item+\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]{1,9} "\\n"',
    "chess": r"""
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
""",
    "japanese": r"""
root  ::= jp-char+ ([ \t\n] jp-char+)*
jp-char ::= hiragana | katakana | punctuation | cjk
hiragana ::= [ぁ-ゟ]
katakana ::= [ァ-ヿ]
punctuation ::= [、-〾]
cjk ::= [一-鿿]
""",
    "chinese": 'root ::= "你" [^？\\n]{1,8} "？" ("是" | "星系" | "是星系") "。"+',
    "common prefixes": 'root ::= ("a" | "ab" | "abc") ("c" | "bc") | "if" | [a-z]+ "!"',
    "adjacent classes": 'root ::= [a-z]+ [a-z] [a-z]{2} " " [a-y]* "z"',
    "adjacent, recursive": 'root ::= [a-z]+ [a-z] ("(" root ")")? ("=" | "==") "=" [0-9]*',
    "repetition": 'root ::= ("ab" | "c"){2,4} [0-9]{3} "x"{0,2} ("-" [a-f]+){1,}',
    "negated": 'root ::= [^a-z"]{1,4} "\\"" [^\\]]{0,3} "]" [\\-a]',
    "escapes": 'root ::= "\\x41\\u4e2d\\U0001F600\\t\\\\" [\\x30-\\x39]+ "/" [/^&~-]+ "\\""',
    "any character": 'root ::= "<" .{2,5} ">" .',
    "empty choice": 'root ::= "a" opt "b"\nopt ::= | "x" opt | "y"',
    "nothing": "root ::= [a-z]*",
    "palindromes": 'root ::= "a" root "a" | "b" root "b" | [ab]?',
    "comments and lines": 'root ::= ( # one\n  "a" |\n  "b" # two\n) rest # three\n\n# four\nrest ::=\n  "c"\n',
    "a name twice": 'root ::= x\nx ::= "a"\nx ::= "b"',
}


@pytest.fixture(scope="module")
def model(spm_model: Path) -> Iterator[Model]:
    with Model(spm_model, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def structures(model: Model) -> Structures:
    return Structures(model)


def drawn(structures: Structures, model: Model, grammar: str, count: int) -> list[list[int]]:
    """Whole texts from random logits under our constraint, ended where they may be in three cases of ten."""
    random, texts = np.random.default_rng(4), list[list[int]]()
    lengths = np.array([len(model.piece(token)) for token in range(model.n_vocab)])
    for _ in range(count):
        constraint, tokens = structures.gbnf(grammar).start(80), list[int]()
        while len(tokens) < 80 and not (constraint.complete and random.random() < 0.3):
            row = (random.gumbel(size=model.n_vocab) + np.log(lengths + 0.5)).astype(np.float32)
            token = int(constraint.masked(row).argmax())
            if model.is_eog(token):  # nothing else was allowed
                break
            constraint.accept(token)
            tokens.append(token)
        if constraint.complete:
            texts.append(tokens)
    return texts


def reference(model: Model, grammar: str, texts: list[list[int]], draws: int = 40) -> dict[str, Any]:
    task = {"model": str(model.path), "grammar": grammar, "texts": texts, "draws": draws}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/llama_grammar.py")],
        input=json.dumps(task).encode(),
        capture_output=True,
        env={"PYTHONPATH": str(ROOT)},
        timeout=100,
    )
    assert done.returncode == 0, done.stderr.decode()
    result: dict[str, Any] = json.loads(done.stdout)
    # llama.cpp takes bytes that are no UTF-8 for characters: no text.
    result["drawn"] = [tokens for tokens in result["drawn"] if "\ufffd" not in model.text(tokens)]
    return result


def accepts(structures: Structures, grammar: str, tokens: list[int]) -> bool:
    constraint = structures.gbnf(grammar).start(1000)
    try:
        for token in tokens:
            constraint.accept(token)
    except RequestError:
        return False
    return constraint.complete


@pytest.mark.parametrize("name", list(GRAMMARS))
def test_a_grammar_means_what_llama_cpp_means(name: str, structures: Structures, model: Model) -> None:
    grammar = GRAMMARS[name]
    ours = drawn(structures, model, grammar, 40)
    if "[^" in grammar:  # there llama.cpp refuses the first bytes of any character that begins as an excluded one does
        ours = [tokens for tokens in ours if all("\ufffd" not in model.text([token]) for token in tokens)]
    theirs = reference(model, grammar, ours)
    assert len(ours) > 3 and len(theirs["drawn"]) > 3
    assert [model.text(tokens) for tokens, right in zip(ours, theirs["accepted"], strict=True) if not right] == []
    assert [model.text(tokens) for tokens in theirs["drawn"] if not accepts(structures, grammar, tokens)] == []


def test_the_comparison_can_fail(structures: Structures, model: Model) -> None:
    texts = [model.tokenize(text) for text in ("ab", "abc")]
    assert reference(model, 'root ::= " "? "ab"', texts, 3)["accepted"] == [True, False]
    assert [accepts(structures, 'root ::= " "? "ab"', tokens) for tokens in texts] == [True, False]


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("", "no rule named root"),
        ('rot ::= "a"', "no rule named root"),
        ("root ::= a", "a rule that it does not have: a"),
        ('root ::= "a', "line 1"),
        ('root ::= "a"\nx = "b"', "line 2, at '= \"b\"': ::= is missing"),
        ('root ::= ("a"', ") is missing"),
        ('root ::= "a")', "a new line must begin here"),
        ("root ::= *", "nothing to repeat"),
        ('root ::= "\\q"', "unknown escape"),
        ('root ::= "\\u12"', "4 hexadecimal digits"),
        ("root ::= [b-a]", "upside down"),
        ("root ::= []", "class of characters is empty"),
        ("root ::= [\\x00]", "nothing can match"),
        ('root ::= "a"{3000}', "0 ≤ m ≤ n ≤ 2000"),
        ('root ::= "a"{3,2}', "0 ≤ m ≤ n"),
        ('root ::= root "a" | "b"', "left recursive: the rule root"),
        ('root ::= x\nx ::= y? x "a" | "b"\ny ::= "c"', "left recursive: the rule x"),
        ('root ::= <think> "a"', "tokens in a grammar are not supported"),
        ("root ::= " + "(" * 200 + '"a"' + ")" * 200, "nested more than 100 deep"),
        ('root ::= "a" ' * 100_000, "more than 262,144"),
    ],
)
def test_mistakes_are_errors(grammar: str, message: str, structures: Structures) -> None:
    with pytest.raises(RequestError) as caught:
        structures.gbnf(grammar)
    assert caught.value.kind == "invalid_grammar"
    assert message in caught.value.message
