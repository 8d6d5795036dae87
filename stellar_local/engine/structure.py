"""Answers of a given form: JSON schemas and grammars, as masks over the next token. llguidance does the matching.

Knows tokens' bytes and grammars' limits; knows nothing of sampling or scheduling. A schema or grammar that llguidance
cannot follow to the letter is refused, never followed in part.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, StellarError
from ..native.model import Model
from .closing import LONGEST_PATH, Allowed, Closer, Place, allowed_next
from .lark import to_lark
from .schema import check_schema, judge_of

Judge = Callable[[str], str]
Logits = npt.NDArray[np.float32]

# At most one space after a comma or a colon, none elsewhere. Models are trained on JSON with such spaces; one that
# may break lines or indent can do so without end, and a small one does.
_OPTIONS = {
    "item_separator": ", ?",
    "key_separator": ": ?",
    "whitespace_flexible": False,
    "whitespace_pattern": None,
    "coerce_one_of": False,
    "lenient": False,
    # No \uXXXX: under another spelling, the name of a property would pass for an additional one.
    "json_allowed_escapes": 'bfnrt"\\',
    "json_allow_general_unicode_escapes": False,
}
# Work for one token; llguidance's own limit is 50,000, which lexemes of one character exceed in a large vocabulary.
_MOST_ITEMS = 500_000
_KEPT = 64  # compiled grammars
_LARGEST = 256 * 1024  # characters of a schema or grammar
_PUSH = np.float32(10)  # added to logits that bring the end, near the limit
_ROOM = 16  # tokens before the last moment at which pushing begins, at least
_FORCED = 6  # tokens before the last moment from which the way is set: an escape or a split character takes up to 5


class _Bytes:
    """A vocabulary as llguidance wants it: the tokens' bytes, and how the middle of a text is split into them.

    Where only one text can follow, llguidance allows only the first token of its usual split.
    """

    is_tokenizer_wrapper = True

    def __init__(self, model: Model, tokens: list[bytes], eos: int) -> None:
        self.tokens, self.eos_token_id, self.bos_token_id = tokens, eos, model.bos
        self.special_token_ids: list[int] = []  # they are marked in `tokens`
        self._model = model
        self._by_bytes = {piece: token for token, piece in enumerate(tokens) if piece}
        self._longest = max(map(len, self._by_bytes))

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode("utf-8", "replace") if isinstance(text, str) else bytes(text)
        # SentencePiece puts a space before a text, but not in the middle of one: after a newline, say.
        for before in ("", "\n"):
            split = self._model.tokenize(before + data.decode("utf-8", "replace"))
            extra = sum(len(self.tokens[token]) for token in split) - len(data)
            while split and extra > 0:
                extra -= len(self.tokens[split.pop(0)])
            if b"".join(self.tokens[token] for token in split) == data:
                return split
        return self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        split, at = list[int](), 0
        while at < len(data):
            for end in range(min(len(data), at + self._longest), at, -1):
                if (token := self._by_bytes.get(data[at:end])) is not None:
                    split.append(token)
                    break
            else:
                end = at + 1  # a byte that the vocabulary cannot write
            at = end
        return split


class Structures:
    """The grammars of a model, compiled when first asked for and kept. Safe to use from several threads."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._closer: Closer | None = None
        self._grammars: OrderedDict[tuple[str, str], Grammar] = OrderedDict()

    def schema(self, schema: dict[str, Any] | bool) -> Grammar:
        """A grammar of the JSON documents that are valid under a JSON schema.

        Raises RequestError("invalid_schema") for one that is wrong, unsatisfiable, too large, or uses what is not
        supported; nothing is ever fetched.
        """
        kind = "invalid_schema"
        check_schema(schema)
        try:
            source = json.dumps({} if schema is True else schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(kind, f"the schema is not JSON: {error}", "write it as a JSON object") from None

        def build(matcher: Any) -> str:
            return str(matcher.grammar_from_json_schema(source, overrides=_OPTIONS))

        return self._grammar(kind, "the schema", source, build, lambda: judge_of(schema))

    def gbnf(self, text: str) -> Grammar:
        """A grammar in llama.cpp's notation. Raises RequestError("invalid_grammar")."""
        return self._grammar("invalid_grammar", "the grammar", text, lambda matcher: str(to_lark(text)))

    def _grammar(
        self, kind: str, name: str, source: str, build: Callable[[Any], str], judge: Callable[[], Judge] | None = None
    ) -> Grammar:
        if len(source) > _LARGEST:
            raise RequestError(
                kind, f"{name} has {len(source):,} characters, more than {_LARGEST:,}", "make it smaller"
            )
        with self._lock:
            found = self._grammars.get((kind, source))
            if found is not None and not found.failed:
                self._grammars.move_to_end((kind, source))
                return found
            try:
                from llguidance import LLMatcher, LLParserLimits
            except ImportError as error:
                raise StellarError(f"llguidance cannot be loaded: {error}", "pip install llguidance") from error
            self._prepare()
            try:
                built = build(LLMatcher)
            except ValueError as error:
                raise RequestError(kind, f"{name} cannot be used: {_brief(error)}") from None
            items = None if kind == "invalid_schema" else _MOST_ITEMS
            limits = LLParserLimits(verbose_errors=False, step_max_items=items)
            matcher = LLMatcher(self._tokenizer, built, log_level=0, limits=limits)
            assert self._closer is not None
            made = Grammar(matcher, self._closer, self._ends, judge() if judge else None)
            if reason := made.impossible():
                raise RequestError(kind, f"{name} cannot be used: {reason}")
            self._grammars[kind, source] = made
            if len(self._grammars) > _KEPT:
                self._grammars.popitem(last=False)
            return made

    def _prepare(self) -> None:
        """Read the vocabulary: about a second for 128,000 tokens, once."""
        if self._tokenizer is not None:
            return
        from llguidance import LLTokenizer

        model = self._model
        self._ends = np.array([token for token in range(model.n_vocab) if model.is_eog(token)], np.intp)
        if not len(self._ends):
            raise RequestError("invalid_schema", "the model has no token that ends an answer", "use another model")
        pieces = [b"" if model.is_special(token) else model.piece(token) for token in range(model.n_vocab)]
        self._closer = Closer(pieces)
        tokens = [
            b"\xff" + model.token_text(token).encode() if model.is_special(token) else pieces[token]
            for token in range(model.n_vocab)
        ]
        ends = [int(token) for token in self._ends]
        wrapped = _Bytes(model, tokens, model.eos if model.eos in ends else ends[0])
        self._tokenizer = LLTokenizer(wrapped, n_vocab=model.n_vocab, eos_token=ends, slices=LLTokenizer.json_slices())


def _brief(error: object) -> str:
    """An error of llguidance on one line, without its quotation of the whole grammar."""
    text = " ".join(str(error).split())[:300]
    return "nothing can be written under it" if text.startswith("NoExtensionBias") else text


class Grammar:
    """A compiled grammar. `document` says that a text which is not complete is worth nothing, as JSON's; `judge` then
    says what is wrong with one, "" if nothing is.
    """

    def __init__(self, matcher: Any, closer: Closer, ends: npt.NDArray[np.intp], judge: Judge | None = None) -> None:
        self.matcher, self.closer, self.ends, self.judge = matcher, closer, ends, judge
        self.document = judge is not None
        self.failed = False  # its lexer, which all answers share, is at its limit
        self._way: list[int] | None = None  # to the end of a document, from its beginning

    def impossible(self) -> str:
        """Why nothing can be written under the grammar, "" if it can; much is found only when it is tried."""
        trial = self.matcher.deep_copy()
        if not trial.is_error():
            allowed = allowed_next(trial, len(self.closer.pieces))
            allowed[self.ends] = False
            if not trial.is_error() and not allowed.any() and not trial.is_accepting():
                return "nothing can be written under it"
        if self.document and not trial.is_error():
            self._way = self.closer.path(trial, Place(), LONGEST_PATH)
        return _brief(trial.get_error()) if trial.is_error() else ""

    def start(self, limit: int) -> Constraint:
        """The state of one answer of at most `limit` tokens, the one that ends it not counted."""
        return Constraint(self, limit, self._way)


class Constraint:
    """What may follow in one answer. For a document, it is led to its end before the limit.

    While much is left, a look now and then at how many tokens would complete the document is enough. As many before
    the last moment as that takes (at least 16), the tokens that bring the end get a bonus, and what may be left out is:
    optional properties, further items. At the last moment the way found is taken, which ends in time.
    """

    def __init__(self, grammar: Grammar, limit: int, way: list[int] | None) -> None:
        self._grammar, self._left = grammar, limit
        self._matcher = grammar.matcher.deep_copy()
        self._place = Place()
        self._path = way  # to the end from here, where one is known
        self._next_look = limit

    @property
    def complete(self) -> bool:
        """Whether the text so far is a whole document of the grammar."""
        return bool(self._matcher.is_accepting())

    @property
    def stopped(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def masked(self, logits: Logits) -> Logits:
        """A copy of a row of logits, float32 of shape (n_vocab,), with -inf for what may not follow.

        Raises RequestError("grammar_failed") if the grammar grew beyond llguidance's limits.
        """
        allowed = allowed_next(self._matcher, len(logits))
        self._check()
        if not allowed.any():
            raise RequestError(
                "grammar_failed", "no token may follow under the grammar", "see that it can come to an end"
            )
        result = np.where(allowed, logits, np.float32(-np.inf))
        if self._grammar.document:
            self._steer(result, allowed)
        elif self._left <= _ROOM and self.complete:
            result[self._grammar.ends] += _PUSH
        return result

    def accept(self, token: int) -> None:
        """Go on by a token. Raises RequestError("grammar_failed") if it may not follow."""
        if not self._matcher.consume_token(token):
            self._check()
            raise RequestError("grammar_failed", f"token {token} may not follow under the grammar")
        self._left -= 1
        if self._grammar.document:
            self._place.feed(self._grammar.closer.pieces[token])
            self._path = self._path[1:] if self._path and self._path[0] == token else None

    def resume(self, tokens: Sequence[int]) -> bool:
        """Go on by the beginning of an answer; false if it does not follow the grammar."""
        if self._matcher.validate_tokens(list(tokens)) < len(tokens):
            return False
        for token in tokens:
            self.accept(token)
        return True

    def _check(self) -> None:
        if self._matcher.is_error():
            self._grammar.failed = True
            raise RequestError(
                "grammar_failed",
                f"the grammar could not be followed: {_brief(self._matcher.get_error())}",
                "use a simpler schema or grammar",
            )

    def _steer(self, result: Logits, allowed: Allowed) -> None:
        if self._left > self._next_look:
            return
        if self._path is None:
            most = min(self._left, LONGEST_PATH)
            self._path = self._grammar.closer.path(self._matcher.deep_copy(), self._place, most)
        if self._path is None:  # no way is known: look again later, and push when little is left
            self._next_look = self._left - self._left // 8
            if self._left <= 2 * _ROOM and self._place.in_string:
                result[self._grammar.closer.quotes] += _PUSH
            return
        slack, room = self._left - len(self._path), max(_ROOM, len(self._path))
        if slack > room:
            self._next_look = self._left - max(1, (slack - room) // 8)
            return
        self._next_look = self._left
        way = self._path[:1] or self._grammar.ends
        kept = np.where(np.isfinite(result[way]), result[way], np.float32(0))
        if slack > _FORCED and self._path:
            self._push(result, allowed, self._path)
        else:
            result[:] = -np.inf
        result[way] = np.maximum(result[way], kept)

    def _push(self, result: Logits, allowed: Allowed, path: list[int]) -> None:
        """Favour what ends strings and numbers; where a bracket may close, let only brackets close.

        What the way to the end does without is not begun.
        """
        closer = self._grammar.closer
        way = b"".join(closer.pieces[token] for token in path[:2])
        if self._place.in_string:
            result[closer.quotes] += _PUSH
            if way[1:2] != b",":
                result[closer.commas] = -np.inf
            return
        brackets = closer.brackets[allowed[closer.brackets]]
        if len(brackets):
            kept = result[brackets] + _PUSH
            if not self._place.in_number:
                result[:] = -np.inf
            result[closer.openers] = -np.inf
            result[closer.comma_first] = -np.inf
            result[brackets] = kept
        elif self._place.in_number:
            result[closer.comma_first] += _PUSH
        elif way[:1] not in (b"{", b"["):
            result[closer.openers] = -np.inf
