"""The client of OpenAI-compatible endpoints, against a server that fails in every way."""

from __future__ import annotations

import email.utils
import time

import pytest
from judge_server import Reply, completion, in_turn, judge_server

from stellar_local.errors import RequestError, StellarError, UsageError
from stellar_local.evaluate.pairwise import endpoint as endpoint_module
from stellar_local.evaluate.pairwise.endpoint import Endpoint, Judgement, Unusable

KEY = "sk-very-secret-0123456789"
SLOW_DOWN = {"error": {"message": "Rate limit reached", "type": "requests"}}


def endpoint(url: str, waits: list[float], **changed: object) -> Endpoint:
    """An endpoint that notes how long it would wait, and does not."""

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return True

    return Endpoint(url, "judge", **{"key": KEY, "timeout": 5.0, "wait": wait, **changed})  # type: ignore[arg-type]


def test_it_asks_as_openai_wants_it() -> None:
    with judge_server(in_turn(completion("Both are fine.\n[[C]]", prompt=321, generated=12))) as server:
        said = endpoint(server.url, [], max_tokens=77).ask("谁更好？")
    assert said == Judgement("Both are fine.\n[[C]]", False, 321, 12)
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["messages"] == [{"role": "user", "content": "谁更好？"}]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("judge", 77, 0.0)
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_there_is_no_authorization() -> None:
    with judge_server(in_turn(completion("[[A]]"))) as server:
        endpoint(server.url + "/chat/completions/", [], key="").ask("?")
    assert "Authorization" not in server.requests[0]["headers"]
    assert server.requests[0]["path"] == "/v1/chat/completions"


@pytest.mark.parametrize(
    "failure",
    [
        Reply(500, b"Internal Server Error"),
        Reply(503, {"error": {"message": "overloaded"}}),
        Reply(429, SLOW_DOWN),
        Reply(200, b"<html>not JSON"),
        Reply(200, b"\xff\xfe\x00"),
        Reply(200, {"choices": []}),
        Reply(200, [1, 2]),
        Reply(200, {"choices": [{"message": {"content": 7}}]}),
        Reply(200, b"", {"Content-Length": "100"}),
    ],
    ids=["500", "503", "429", "html", "bytes", "no choice", "list", "number", "cut off"],
)
def test_what_may_pass_is_tried_again_ever_later(failure: Reply) -> None:
    waits: list[float] = []
    with judge_server(in_turn(failure, failure, completion("[[B]]"))) as server:
        assert endpoint(server.url, waits).ask("?").text == "[[B]]"
        assert len(server.requests) == 3
    first, second = waits
    assert 0.75 <= first <= 1.25
    assert 1.5 <= second <= 2.5


def test_retry_after_is_heeded_in_both_forms_and_bounded() -> None:
    date = email.utils.formatdate(time.time() + 40, usegmt=True)
    replies = [Reply(429, SLOW_DOWN, {"Retry-After": said}) for said in ("7", date, "86400", "soon", "-5")]
    waits: list[float] = []
    with judge_server(in_turn(*replies, completion("[[A]]"))) as server:
        endpoint(server.url, waits).ask("?")
    assert waits[0] == 7
    assert 35 <= waits[1] <= 40
    assert waits[2] == 120
    assert 6 <= waits[3] <= 10
    assert 12 <= waits[4] <= 20


def test_it_gives_up_with_the_last_reason() -> None:
    waits: list[float] = []
    with judge_server(in_turn(Reply(429, SLOW_DOWN))) as server, pytest.raises(RequestError) as failed:
        endpoint(server.url, waits, tries=3).ask("?")
    assert failed.value.kind == "http_429"
    assert "Rate limit reached" in failed.value.message
    assert len(waits) == 2


def test_a_wait_that_is_ended_ends_the_tries() -> None:
    with judge_server(in_turn(Reply(500))) as server, pytest.raises(RequestError):
        endpoint(server.url, [], wait=lambda _: False).ask("?")
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "hint"), [(401, "--api-key-env"), (403, "account"), (404, "--judge-model")])
def test_what_is_wrong_for_all_ends_all_at_once(status: int, hint: str) -> None:
    refusal = Reply(status, {"error": {"message": f"Incorrect API key provided: {KEY}."}})
    with judge_server(in_turn(refusal)) as server, pytest.raises(Unusable) as failed:
        endpoint(server.url, []).ask("?")
    assert len(server.requests) == 1
    assert hint in failed.value.hint
    assert KEY not in failed.value.message
    assert f"{status}" in failed.value.message


def test_a_bad_request_is_the_items_own_error_and_not_tried_again() -> None:
    refusal = Reply(400, {"error": {"message": "maximum context length is 8192 tokens"}})
    with judge_server(in_turn(refusal)) as server, pytest.raises(RequestError, match="context length") as failed:
        endpoint(server.url, []).ask("?")
    assert not isinstance(failed.value, Unusable)
    assert len(server.requests) == 1


def test_models_that_want_other_parameters_get_them() -> None:
    limit = Reply(400, {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead."}})
    heat = Reply(400, {"error": {"message": "'temperature' does not support 0 with this model."}})
    with judge_server(in_turn(limit, heat, completion("[[A]]"))) as server:
        one = endpoint(server.url, [])
        one.ask("?")
        one.ask("again")
    assert "max_tokens" in server.requests[0]
    last = server.requests[-1]
    assert last["max_completion_tokens"] == one.max_tokens
    assert "max_tokens" not in last
    assert "temperature" not in last
    assert len(server.requests) == 4


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with judge_server(in_turn(completion("[[A]]"))) as elsewhere:
        redirect = Reply(302, b"", {"Location": elsewhere.url + "/chat/completions"})
        with judge_server(in_turn(redirect)) as server, pytest.raises(Unusable, match="302"):
            endpoint(server.url, []).ask("?")
        assert elsewhere.requests == []


def test_a_slow_endpoint_is_a_timeout_of_the_item() -> None:
    with judge_server(in_turn(Reply(delay=1.0), completion("[[A]]"))) as server:
        assert endpoint(server.url, [], timeout=0.2).ask("?").text == "[[A]]"
    with judge_server(in_turn(Reply(delay=0.6))) as server, pytest.raises(RequestError, match="within 0.1 s") as failed:
        endpoint(server.url, [], timeout=0.1, tries=2).ask("?")
    assert failed.value.kind == "timeout"


def test_nobody_there_is_tried_again_and_then_ends_all() -> None:
    with judge_server(in_turn(Reply())) as server:
        pass
    waits: list[float] = []
    with pytest.raises(Unusable, match="cannot be reached"):
        endpoint(server.url, waits, tries=3).ask("?")
    assert len(waits) == 2


def test_an_answer_of_nothing_and_one_that_was_cut() -> None:
    with judge_server(in_turn(completion(None), completion("half an", "length"))) as server:
        one = endpoint(server.url, [])
        assert one.ask("?") == Judgement("", False, 100, 20)
        assert one.ask("?").cut
    with judge_server(in_turn(Reply(body={"choices": [{"message": {"content": "[[A]]"}}]}))) as server:
        assert endpoint(server.url, []).ask("?") == Judgement("[[A]]")


@pytest.mark.parametrize("count", [-5, 10**400, 1.5, True, "7", None, 10**12 + 1])
def test_counts_that_are_none_are_nothing(count: object) -> None:
    said = completion("[[A]]", prompt=10**12)
    usages = [{"prompt_tokens": 10**12, "completion_tokens": count}, count]
    replies = [Reply(body={**said.body, "usage": usage}) for usage in usages]
    with judge_server(in_turn(*replies)) as server:
        one = endpoint(server.url, [])
        assert one.ask("?") == Judgement("[[A]]", False, 10**12, 0)
        assert one.ask("?") == Judgement("[[A]]", False, 0, 0)


@pytest.mark.parametrize(
    "url", ["", "api.openai.com/v1", "ftp://x/v1", "http://", "http://u:p@x/v1", "http://x:y/v1", "https://x/v1?key=1"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError):
        Endpoint(url, "judge")


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".com"])
def test_a_host_that_is_none_is_told_at_once(host: str) -> None:
    waits: list[float] = []
    with pytest.raises(Unusable, match="no host that can be looked up") as failed:
        endpoint(f"https://{host}/v1", waits).ask("?")
    assert "--endpoint" in failed.value.hint
    assert waits == []


def test_a_reply_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_LARGEST", 1000)
    with judge_server(in_turn(completion("x" * 200_000))) as server, pytest.raises(RequestError, match="no end"):
        endpoint(server.url, [], tries=1).ask("?")
    with judge_server(in_turn(completion("x" * 500))) as server:
        assert endpoint(server.url, []).ask("?").text == "x" * 500


def test_a_key_that_is_none_is_not_shown() -> None:
    with pytest.raises(UsageError) as failed:
        Endpoint("https://x/v1", "judge", key="sk-secret\nX-Other: 1")
    assert "secret" not in failed.value.message + failed.value.hint
    assert "secret" not in repr(Endpoint("https://x/v1", "judge", key="sk-secret"))


def test_an_open_line_is_told_from_a_safe_one() -> None:
    assert Endpoint("http://example.org/v1", "judge", key="k").open
    assert not Endpoint("https://example.org/v1", "judge", key="k").open
    assert not Endpoint("http://localhost:8080/v1", "judge", key="k").open


def test_refusals_are_short_and_plain() -> None:
    with judge_server(in_turn(Reply(418, b"x" * 9999))) as server, pytest.raises(StellarError) as failed:
        endpoint(server.url, []).ask("?")
    assert len(failed.value.message) < 400
    with judge_server(in_turn(Reply(502, b"<html><body>nginx</body></html>"))) as server:
        with pytest.raises(StellarError) as failed:
            endpoint(server.url, [], tries=1).ask("?")
        assert "<" not in failed.value.message
