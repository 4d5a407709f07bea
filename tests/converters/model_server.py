"""A server on this machine that speaks as a model's does, with the answers that a test gives it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from converters.novel.endpoint import Endpoint

Answer = tuple[int, dict[str, str], bytes]


def completion(text: str, **more: Any) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 3}, **more}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


@contextmanager
def server(answer: Callable[[dict[str, Any], int], Answer]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers the n-th request by a function; yields its URL and the requests."""
    asked: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                request = {"path": self.path, "key": self.headers.get("Authorization"), "headers": dict(self.headers)}
                asked.append({**request, **body})
                number = len(asked)
            status, headers, data = answer(body, number)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1", asked
    finally:
        httpd.shutdown()
        httpd.server_close()


def endpoint(url: str, **options: Any) -> Endpoint:
    return Endpoint(url, "m", **{"tries": 4, "backoff": 0.01, "timeout": 5, **options})


def said(text: str) -> Callable[[dict[str, Any], int], Answer]:
    return lambda _body, _number: completion(text)
