"""One chat completion from any OpenAI-compatible endpoint: tries again where that may help, and says why where not.

The key comes from an environment variable, goes to the named host alone (redirects are not followed) and into no
message. Knows HTTP and OpenAI's form; knows nothing of what is asked.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ...errors import RequestError, StellarError, UsageError

_LARGEST = 8 << 20  # bytes of a reply; a judgement has thousands
_LONGEST_WAIT = 120.0  # seconds before another try, whatever Retry-After says
_FIRST_WAIT = 1.0
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_WRONG_FOR_ALL = {
    401: "the key is not accepted: check the variable named with --api-key-env",
    402: "the account has nothing left",
    403: "the key may not use this: check the account and --judge-model",
    404: "nothing is there: check --endpoint and --judge-model",
}
_MOST_TOKENS = 10**12  # of one judgement: more is no count
_LOCAL = ("localhost", "127.0.0.1", "::1")


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


class Unusable(StellarError):
    """The endpoint refuses everything, or is not there: asking it for the next question is of no use."""


@dataclass(frozen=True)
class Judgement:
    """What a judge said. `cut` means that it ended at its limit; the counts are tokens, 0 where they are unknown."""

    text: str
    cut: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def empty(self) -> bool:
        """Whether it is no answer at all: nothing, though there was room."""
        return not self.cut and not self.text.strip()


def tokens_of(usage: Any) -> tuple[int, int]:
    """The tokens of a prompt and of a judgement, as OpenAI's usage has them; 0 for what can be no count."""
    given = usage if isinstance(usage, dict) else {}
    prompt, completion = (count_of(given.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return prompt, completion


def count_of(value: Any) -> int:
    """A whole number that can be a count of tokens or judgements, else 0."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= _MOST_TOKENS else 0


@dataclass
class Endpoint:
    """An endpoint and a model there. Any number of threads may `ask` at once.

    `url` is the base (https://host/v1) or the whole address of chat completions; `key` may be empty; `timeout` in
    seconds is for one try. `wait` waits so many seconds and says whether to go on. Raises UsageError for what cannot be
    a URL or a key.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    tries: int = 6
    temperature: float = 0.0
    max_tokens: int = 2048
    wait: Callable[[float], bool] = _sleep

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, usable = parts.hostname or "", parts.port is None or parts.port > 0
        except ValueError:
            parts, host, usable = urlsplit(""), "", False
        if parts.scheme not in ("http", "https") or not host or not usable or not self.url.isascii():
            raise UsageError(f"--endpoint is no URL: {self.url}", "such as https://api.openai.com/v1")
        if parts.username or parts.password or parts.query:
            raise UsageError("--endpoint must hold no password and no query", "keys come from --api-key-env")
        if not all("!" <= char <= "~" for char in self.key):
            raise UsageError("the API key has characters that no key has", "check the variable for blanks and newlines")
        self.local = host in _LOCAL or host.startswith("127.")
        self.open = bool(self.key) and parts.scheme == "http" and not self.local
        path = self.url.rstrip("/")
        self._address = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        # A proxy is for the world outside.
        handlers: list[Any] = [_NoRedirect(), *([urllib.request.ProxyHandler({})] if self.local else [])]
        self._opener = urllib.request.build_opener(*handlers)
        self._limit_name, self._with_temperature = "max_tokens", True

    def ask(self, prompt: str) -> Judgement:
        """The answer to one message of a user. Raises RequestError for this question's failure, Unusable."""
        number = 1
        while True:
            outcome, after, lasting = self._try(prompt)
            if isinstance(outcome, Judgement):
                return outcome
            seconds = _FIRST_WAIT * 2.0 ** (number - 1) * random.uniform(0.75, 1.25)  # so that threads part
            if lasting or number >= self.tries or not self.wait(min(max(seconds, after), _LONGEST_WAIT)):
                raise outcome
            number += 1

    def _try(self, prompt: str) -> tuple[Judgement | StellarError, float, bool]:
        """What came of one try; for a failure the least seconds to wait, and whether another try is of no use."""
        try:
            return self._read(json.loads(self._send(prompt))), 0.0, True
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except (TimeoutError, urllib.error.URLError, http.client.HTTPException, OSError) as error:
            return self._failed(error)
        except UnicodeError:  # of the host, before anything is sent
            return Unusable(f"{self.url} has no host that can be looked up", "check --endpoint"), 0.0, True
        except (ValueError, RecursionError):
            return RequestError("bad_reply", "the endpoint's reply is not JSON"), 0.0, False
        except (KeyError, IndexError, TypeError, AttributeError):
            return RequestError("bad_reply", "the endpoint's reply is no chat completion"), 0.0, False

    def _send(self, prompt: str) -> str:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            self._limit_name: self.max_tokens,
        }
        if self._with_temperature:
            body["temperature"] = self.temperature
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "stellar-local"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = json.dumps(body).encode("ascii")
        request = urllib.request.Request(self._address, data, headers, method="POST")
        deadline = time.monotonic() + self.timeout
        with self._opener.open(request, timeout=self.timeout) as reply:
            return _body(reply, deadline).decode("utf-8", "replace")

    def _read(self, data: Mapping[str, Any]) -> Judgement:
        choice = data["choices"][0]
        text = choice["message"]["content"]
        if text is not None and not isinstance(text, str):
            raise TypeError
        return Judgement(text or "", choice.get("finish_reason") == "length", *tokens_of(data.get("usage")))

    def _failed(self, error: Exception) -> tuple[StellarError, float, bool]:
        """A try that ended without an answer of HTTP's."""
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return RequestError("timeout", f"the endpoint gave no answer within {self.timeout:g} s"), 0.0, False
        said = self._plain(str(reason) or type(reason).__name__)
        if isinstance(reason, (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)):
            words, hint = f"{self.url} cannot be reached: {said}", "check --endpoint and the network"
            return Unusable(words, hint), 0.0, isinstance(reason, ssl.SSLCertVerificationError)
        return RequestError("connection", f"the connection to the endpoint broke: {said}"), 0.0, False

    def _refused(self, error: urllib.error.HTTPError) -> tuple[StellarError, float, bool]:
        said = self._plain(_message(error))
        words = f"the endpoint answers {error.code}" + (f": {said}" if said else "")
        if error.code in _WRONG_FOR_ALL:
            return Unusable(words, _WRONG_FOR_ALL[error.code]), 0.0, True
        if 300 <= error.code < 400:
            return Unusable(words, "it sends us elsewhere, where the key must not go: give the final URL"), 0.0, True
        if error.code == 400 and self._adapted(said):
            return RequestError("http_400", words), 0.0, False
        return (
            RequestError(f"http_{error.code}", words),
            _after(error.headers.get("Retry-After") or ""),
            error.code not in _AGAIN,
        )

    def _adapted(self, said: str) -> bool:
        """Whether a refusal names a parameter that some models want otherwise; from now on they get it so."""
        if self._limit_name == "max_tokens" and "max_completion_tokens" in said:
            self._limit_name = "max_completion_tokens"
            return True
        if self._with_temperature and "temperature" in said:
            self._with_temperature = False
            return True
        return "max_completion_tokens" in said or "temperature" in said  # another thread was first

    def _plain(self, text: str) -> str:
        """A text of the endpoint's, short and without the key, which it may quote."""
        text = " ".join(text.split())
        if self.key:
            text = text.replace(self.key, "***")
        return text if len(text) <= 300 else text[:300] + " …"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect what it is: an answer that is none. Followed, the key would go to whoever it names."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _body(reply: Any, deadline: float) -> bytes:
    """All of a reply, if it ends in time: a timeout of the socket's is for each read alone. Raises OSError."""
    parts, size = [], 0
    while block := reply.read1(1 << 16):
        parts.append(block)
        size += len(block)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > _LARGEST:
            raise OSError("the reply has no end")
    return b"".join(parts)


def _message(error: urllib.error.HTTPError) -> str:
    """What a refusal says: OpenAI's error.message where it is one, else the beginning of its text."""
    try:
        text = error.read(1 << 16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)
    try:
        data = json.loads(text)
        said = data["error"] if isinstance(data, dict) and "error" in data else data
        found = said["message"] if isinstance(said, dict) else said
        return found if isinstance(found, str) else text
    except (ValueError, KeyError, RecursionError):
        return text if text.strip() and "<html" not in text.lower() else str(error.reason)


def _after(said: str) -> float:
    """The seconds that Retry-After asks for, given as a number or a date; 0 where it says nothing."""
    try:
        return max(0.0, min(float(said), 1e6))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
