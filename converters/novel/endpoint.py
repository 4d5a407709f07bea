"""Ask a model behind an OpenAI-compatible endpoint: several questions at a time, faults waited out, tokens counted.

The connection, its time-outs and the reading of streams are the ``openai`` client's. What the client cannot know is
done here: an answer that arrived whole may still be unusable. It is then asked for again, as after a fault of the
server, and both count towards the same number of tries.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from converters.common.console import say
from converters.common.errors import UsageError, UserError

if TYPE_CHECKING:
    import openai

LONGEST_WAIT = 60.0
_PASSING = (408, 409, 425, 429)
"""HTTP states beside the server's own faults (from 500 on) that another try may mend."""

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
        timeout: seconds without a byte from the server, after which a request has failed.
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
        self.url = self.url.rstrip("/").removesuffix("/chat/completions")
        key = next((os.environ[name] for name in self.key_names if os.environ.get(name)), "")
        if key and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            say(f"warning: the key goes to {parts.hostname} unencrypted; use https")
        self._client = _client(self.url, key, self.timeout)
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
                # spread at random, so that requests refused together do not all come back together
                wait = self.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                self._count(retries=1)
                # not a sleep: when the run ends, nobody waits for this
                self.stop.wait(min(LONGEST_WAIT, max(wait, error.wait or 0.0)))
        raise AssertionError("no try was made")

    def _once(self, prompt: str) -> Reply:
        import openai

        self._count(requests=1)
        try:
            # the raw response, because only its content type tells a stream from a whole answer
            response = self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                stream=False,
            )
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise _PassingError(str(cause) or type(cause).__name__) from None
        # some servers stream unasked, as ``transformers serve`` does; the stream is here whole by now
        streamed = "text/event-stream" in response.headers.get("content-type", "")
        pieces: list[str] = []
        finished, usage = None, None
        try:
            events: Iterable[Any] = self._events(response.http_response) if streamed else [response.parse()]
            for event in events:
                usage = event.usage or usage
                for choice in event.choices or []:
                    content = (choice.delta if streamed else choice.message).content
                    pieces += [content] if isinstance(content, str) else []
                    finished = choice.finish_reason or finished
        except openai.APIError as error:
            raise _PassingError(f"the server says {str(error.body or error)[:200]}") from None
        # the client does not check what it parses: any field may be missing or of another type
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            finished = None
        # a whole answer has a text, be it empty; a stream may end without any
        if finished is None or not (streamed or pieces):
            shown = response.content[:120].decode(errors="replace")
            fault = "the stream broke off" if streamed else "an answer that is no whole chat completion"
            raise _PassingError(f"{fault}: {shown!r}")
        counts = {key: getattr(usage, key, None) for key in ("prompt_tokens", "completion_tokens")}
        told = all(isinstance(count, int) for count in counts.values())
        self._count(**(counts if told else {"untold": 1}))
        return Reply("".join(pieces), finished == "length")

    def _events(self, response: Any) -> Iterable[Any]:
        from openai import Stream
        from openai.types.chat import ChatCompletionChunk

        return Stream(cast_to=ChatCompletionChunk, response=response, client=self._client)

    def _refused(self, error: openai.APIStatusError) -> Exception:
        response = error.response
        detail = " ".join(response.text[:2_000].split())[:200]
        message = f"HTTP {response.status_code} {response.reason_phrase}{': ' if detail else ''}{detail}"
        if response.status_code in _PASSING or response.status_code >= 500:
            # the header may also hold a date; then our own wait applies
            wished = response.headers.get("retry-after", "")
            return _PassingError(message, float(wished) if wished.isdecimal() else None)
        hint = f"; set {' or '.join(self.key_names)}" if response.status_code in (401, 403) else ""
        return EndpointError(f"{self.url}: {message}{hint}")

    def _count(self, **counts: int) -> None:
        # several threads ask at the same time
        with self._lock:
            self.usage.add(counts)


def _client(url: str, key: str, timeout: float) -> openai.OpenAI:
    """The client of one server.

    Raises:
        UserError: the client is not installed.
    """
    try:
        import openai
    except ImportError:
        raise UserError("asking a model needs the openai client: pip install 'twinlora[novel]'") from None

    def only_this_key(request: Any) -> None:
        # the client takes an account and further keys from the environment, which are nothing to this server
        for name in ("Authorization", "OpenAI-Organization", "OpenAI-Project"):
            request.headers.pop(name, None)
        if key:
            request.headers["Authorization"] = f"Bearer {key}"

    return openai.OpenAI(
        base_url=url,
        # the client does not start without a key; only_this_key takes this one out again
        api_key=key or "none",
        timeout=timeout,
        # Endpoint.ask counts the tries: it also repeats a request whose answer arrived but is unusable
        max_retries=0,
        # a redirect would take the key to another host
        http_client=openai.DefaultHttpxClient(
            follow_redirects=False, timeout=timeout, event_hooks={"request": [only_this_key]}
        ),
    )


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """One job and its result, or why there is none."""

    job: T
    result: R | None
    error: Exception | None


def side_by_side(jobs: Iterable[T], work: Callable[[T], R], threads: int) -> Iterator[Done[T, R]]:
    """Do jobs in threads and yield each as it is done, in any order.

    The threads are daemons: when the caller leaves, nothing waits for a server that does not answer.

    Args:
        jobs: what to do; taken one by one as threads become free.
        work: does one job.
        threads: jobs at a time.

    Returns:
        Each job with its result, or with the exception that ``work`` raised.
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
        # one for each thread, which ends when it takes it
        for _ in range(threads):
            todo.put(None)
