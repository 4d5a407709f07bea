"""Ask a model behind an OpenAI-compatible endpoint: retries with backoff, several questions at a time, tokens counted.

The standard library's HTTP is enough: one POST a question, a handful at a time. Answers may come whole or, as from
``transformers serve``, always as a stream of events.
"""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Generic, TypeVar

from converters.common.console import say
from converters.common.errors import UsageError, UserError

LONGEST_WAIT = 60.0
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""HTTP states that another try may mend."""

T = TypeVar("T")
R = TypeVar("R")


class EndpointError(UserError):
    """A server that does not answer as it should, after all tries."""


class _PassingError(Exception):
    """A fault that another try may mend, and how long the server asks to wait."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """What the model said, and whether it was cut at the token limit."""

    text: str
    cut: bool


@dataclass
class Usage:
    """Tokens and requests of one endpoint, failed tries included as far as the server tells them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    retries: int = 0
    untold: int = 0
    """Answers for which the server told no tokens."""

    def as_json(self) -> dict[str, int]:
        """For a report."""
        return dict(vars(self))

    def add(self, other: dict[str, int]) -> None:
        """Add the counts of another."""
        for key, value in other.items():
            setattr(self, key, getattr(self, key) + value)

    def __str__(self) -> str:
        told = f"{self.prompt_tokens:,} prompt + {self.completion_tokens:,} completion tokens"
        untold = f"; no tokens told for {self.untold:,} answers" if self.untold else ""
        again = f", {self.retries:,} of them again" if self.retries else ""
        return f"{told} in {self.requests:,} requests{again}{untold}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class Endpoint:
    """One server and model.

    Attributes:
        url: of the API, with or without ``/chat/completions``.
        model: its name there.
        key_names: environment variables that may hold the key, the first that is set.
        max_tokens: the most tokens of an answer.
        temperature: 0 is greedy.
        tries: of each question.
        backoff: seconds before the second try; each later wait is twice as long, give or take a half.
        timeout: seconds without a byte.
    """

    url: str
    model: str
    key_names: tuple[str, ...] = ("OPENAI_API_KEY",)
    max_tokens: int = 512
    temperature: float = 0.7
    tries: int = 6
    backoff: float = 1.0
    timeout: float = 120.0
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.url!r} is no URL of an endpoint, such as http://localhost:8000/v1")
        if parts.username or parts.password:
            raise UsageError(f"a key does not belong in the URL; set {self.key_names[0]}")
        if not parts.path.rstrip("/").endswith("/chat/completions"):
            self.url = self.url.rstrip("/") + "/chat/completions"
        self._key = next((os.environ[name] for name in self.key_names if os.environ.get(name)), None)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if self._key and parts.scheme == "http" and not local:
            say(f"warning: the key goes to {parts.hostname} unencrypted; use https")
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()
        self.stop = threading.Event()

    def ask(self, prompt: str) -> Reply:
        """Ask one question, with as many tries as allowed.

        Raises:
            EndpointError: it is refused, or does not answer properly after all tries.
        """
        for attempt in range(1, self.tries + 1):
            try:
                return self._once(prompt)
            except _PassingError as error:
                if attempt == self.tries or self.stop.is_set():
                    raise EndpointError(f"{self.url}: {error}, {attempt} times over") from None
                wait = self.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                self._count(retries=1)
                self.stop.wait(min(LONGEST_WAIT, max(wait, error.wait or 0.0)))
        raise AssertionError("no try was made")

    def _once(self, prompt: str) -> Reply:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": False,
        }
        headers = {"Content-Type": "application/json", "User-Agent": "twinlora"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        self._count(requests=1)
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                stream = "text/event-stream" in response.headers.get("Content-Type", "")
                # a stream may break off; reading it all first keeps half an answer from looking whole
                data = response.read()
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise _PassingError(str(reason) or type(error).__name__) from None
        try:
            return self._from_stream(data) if stream else self._from_json(json.loads(data))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            shown = data[:120].decode(errors="replace")
            raise _PassingError(f"an answer that is no chat completion: {shown!r}") from None

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        detail = " ".join(error.read(2_000).decode(errors="replace").split())[:200]
        message = f"HTTP {error.code} {error.reason}{': ' if detail else ''}{detail}"
        if error.code in _PASSING:
            asked = error.headers.get("Retry-After", "")
            return _PassingError(message, float(asked) if asked.isdecimal() else None)
        hint = f"; set {' or '.join(self.key_names)}" if error.code in (401, 403) else ""
        return EndpointError(f"{self.url}: {message}{hint}")

    def _from_json(self, answer: Any) -> Reply:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError
        self._count_tokens(answer.get("usage"))
        return Reply(text, choice.get("finish_reason") == "length")

    def _from_stream(self, data: bytes) -> Reply:
        pieces: list[str] = []
        finished, usage = None, None
        for line in data.decode().splitlines():
            if not line.startswith("data:") or line.removeprefix("data:").strip() == "[DONE]":
                continue
            event = json.loads(line.removeprefix("data:"))
            if event.get("error"):
                raise _PassingError(f"the server says {str(event['error'])[:200]}")
            usage = event.get("usage") or usage
            for choice in event.get("choices", []):
                pieces.append(choice.get("delta", {}).get("content") or "")
                finished = choice.get("finish_reason") or finished
        if finished is None:
            raise _PassingError("the stream broke off")
        self._count_tokens(usage)
        return Reply("".join(pieces), finished == "length")

    def _count_tokens(self, usage: Any) -> None:
        told = isinstance(usage, dict) and all(
            isinstance(usage.get(key), int) for key in ("prompt_tokens", "completion_tokens")
        )
        if told:
            self._count(prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"])
        else:
            self._count(untold=1)

    def _count(self, **counts: int) -> None:
        with self._lock:
            self.usage.add(counts)


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """One job and its result, or why there is none."""

    job: T
    result: R | None
    error: Exception | None


def side_by_side(jobs: Iterable[T], work: Callable[[T], R], threads: int) -> Iterator[Done[T, R]]:
    """Do jobs, at most ``threads`` at a time; yield them as they are done.

    The threads are daemons: when the caller leaves, nothing waits for a server that does not answer.
    """
    todo: queue.SimpleQueue[T | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[Done[T, R]] = queue.SimpleQueue()

    def worker() -> None:
        while (job := todo.get()) is not None:
            try:
                done.put(Done(job, work(job), None))
            except Exception as error:
                done.put(Done(job, None, error))

    waiting = iter(jobs)
    running = 0
    for _ in range(threads):
        threading.Thread(target=worker, daemon=True).start()
    try:
        for job in waiting:
            todo.put(job)
            running += 1
            if running >= threads:
                yield done.get()
                running -= 1
        for _ in range(running):
            yield done.get()
    finally:
        for _ in range(threads):
            todo.put(None)
