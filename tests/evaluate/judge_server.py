"""A small endpoint that stands in for a judging model's: what it answers is decided by each test."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One answer of the server: a status, a body (bytes as they are, else JSON), headers, and seconds to wait first."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


def completion(text: str | None, finish: str = "stop", prompt: int = 100, generated: int = 20) -> Reply:
    """A chat completion as OpenAI writes it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": prompt, "completion_tokens": generated}
    return Reply(body={"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


def answers_of(prompt: str) -> tuple[str, str]:
    """The answers of assistants A and B in a judging prompt of one turn, as a judge reads them."""
    mark = re.findall(r"^\[(\w{16}) ", prompt, re.MULTILINE)[0]
    found = re.findall(rf"\[{mark} \w+: [^\n]*(?:assistant|助手) ([AB])[^\n]*\]\n(.*?)\n\[{mark} ", prompt, re.DOTALL)
    by_name = dict(found)
    return by_name["A"], by_name["B"]


class JudgeServer:
    """`requests` are the bodies that came, with the headers under "headers"; `reply` says what each is answered."""

    def __init__(self, reply: Callable[[dict[str, Any]], Reply]) -> None:
        self.requests: list[dict[str, Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = {**body, "headers": dict(self.headers), "path": self.path}
                owner.requests.append(request)
                answer = reply(request)
                time.sleep(answer.delay)
                data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                try:
                    self.send_response(answer.status)
                    for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # whoever asked has gone

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def judge_server(reply: Callable[[dict[str, Any]], Reply]) -> Iterator[JudgeServer]:
    server = JudgeServer(reply)
    try:
        yield server
    finally:
        server.close()


def in_turn(*replies: Reply) -> Callable[[dict[str, Any]], Reply]:
    """Each of these once, and the last for ever."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]
