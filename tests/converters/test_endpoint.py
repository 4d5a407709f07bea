"""Models behind a URL: a server's faults are waited out or told."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from model_server import Answer, completion, endpoint, said, server

from converters.common.errors import UsageError
from converters.novel.endpoint import Endpoint, EndpointError, side_by_side

FAULTS: list[Answer] = [
    (429, {"Retry-After": "0"}, b"slow down"),
    (500, {}, b"oops"),
    (200, {"Content-Type": "application/json"}, b'{"choices": ['),
    (200, {"Content-Type": "application/json"}, b'{"choices": []}'),
    (200, {"Content-Type": "application/json"}, b'{"choices": [{"message": {"content": null}}]}'),
    (200, {"Content-Type": "application/json"}, b'{"choices": [{"message": {"content": "ha"}}]}'),
    (200, {"Content-Type": "application/json"}, b"\xff\xfe"),
    (200, {"Content-Type": "text/event-stream"}, b'data: {"choices": [{"delta": {"content": "ha"}}]}\n\n'),
    (200, {"Content-Type": "text/event-stream"}, b'data: {"error": "out of memory"}'),
    (200, {"Content-Length": "1000"}, b"torn"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]} {fault[2][:20]!r}")
def test_a_passing_fault_is_waited_out(fault: Answer) -> None:
    def answer(_body: dict[str, Any], number: int) -> Answer:
        return fault if number < 3 else completion("好。")

    with server(answer) as (url, asked):
        one = endpoint(url, timeout=1)
        assert one.ask("?").text == "好。"
        assert len(asked) == 3
        assert (one.usage.requests, one.usage.retries) == (3, 2)
        assert (one.usage.prompt_tokens, one.usage.completion_tokens, one.usage.untold) == (10, 3, 0)


def test_a_lasting_fault_is_told_after_all_tries() -> None:
    with server(lambda *_: (503, {}, b"busy")) as (url, asked):
        with pytest.raises(EndpointError, match="HTTP 503 Service Unavailable: busy, 4 times over"):
            endpoint(url).ask("?")
        assert len(asked) == 4


@pytest.mark.parametrize(
    ("state", "message"), [(401, "HTTP 401.*set OPENAI_API_KEY"), (404, "HTTP 404"), (302, "HTTP 302")]
)
def test_a_refusal_is_told_at_once(state: int, message: str) -> None:
    headers = {"Location": "http://example.invalid/"} if state == 302 else {}
    with server(lambda *_: (state, headers, b"no")) as (url, asked):
        with pytest.raises(EndpointError, match=message):
            endpoint(url).ask("?")
        assert len(asked) == 1


def test_a_refused_connection_is_tried_again_and_told() -> None:
    with server(said("x")) as (url, _):
        pass
    one = endpoint(url, tries=2)
    with pytest.raises(EndpointError, match="Connection refused, 2 times over"):
        one.ask("?")
    assert one.usage.requests == 2


def test_waits_grow_and_the_server_s_wish_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    with server(lambda _body, number: (429, {"Retry-After": "7"} if number == 4 else {}, b"")) as (url, _):
        one = endpoint(url, tries=5, backoff=1.0)
        monkeypatch.setattr(one.stop, "wait", lambda seconds: waits.append(seconds))
        with pytest.raises(EndpointError):
            one.ask("?")
    assert len(waits) == 4
    for i, wait in enumerate(waits[:3]):
        assert 0.5 * 2**i <= wait <= 1.5 * 2**i
    assert waits[3] >= 7


def test_a_stream_is_read_whole() -> None:
    events = [
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"content": "山\u2028"}}]},
        {"choices": [{"delta": {"content": "路"}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}},
    ]
    data = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events) + "data: [DONE]\n\n"
    with server(lambda *_: (200, {"Content-Type": "text/event-stream; charset=utf-8"}, data.encode())) as (url, _):
        one = endpoint(url)
        reply = one.ask("?")
        assert (reply.text, reply.cut) == ("山\u2028路", True)
        assert one.usage.completion_tokens == 2


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "general")
    with server(said("x")) as (url, asked):
        endpoint(url, key_names=("JUDGE_API_KEY", "OPENAI_API_KEY")).ask("?")
        monkeypatch.setenv("JUDGE_API_KEY", "own")
        endpoint(url + "/chat/completions", key_names=("JUDGE_API_KEY", "OPENAI_API_KEY")).ask("?")
        assert [(one["path"], one["key"]) for one in asked] == [
            ("/v1/chat/completions", "Bearer general"),
            ("/v1/chat/completions", "Bearer own"),
        ]
        assert asked[0]["messages"] == [{"role": "user", "content": "?"}]


def test_nothing_else_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://example.invalid/v1")
    with server(said("x")) as (url, asked):
        endpoint(url).ask("?")
        assert asked[0]["key"] is None
        assert not any("secret" in value for value in asked[0]["headers"].values())


def test_a_key_stands_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with server(lambda *_: (401, {}, b"no")) as (url, _), pytest.raises(EndpointError) as caught:
        endpoint(url).ask("?")
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://key:secret@host/v1"])
def test_what_is_no_url_is_wrong_use(url: str) -> None:
    with pytest.raises(UsageError):
        Endpoint(url, "m")


def test_never_more_at_a_time_than_allowed() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1
        if number == 13:
            raise ValueError("unlucky")
        return number * 2

    done = list(side_by_side(range(40), work, 3))
    assert most == 3
    assert sorted(one.result for one in done if one.result is not None) == [2 * i for i in range(40) if i != 13]
    assert [str(one.error) for one in done if one.error] == ["unlucky"]
