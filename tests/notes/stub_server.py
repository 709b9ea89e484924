"""A server of this machine with the interface of OpenAI's, whose answers a test writes down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, bytes | str | dict, dict]
"""Status, body, headers."""


def says(*rows: dict, reason: str = "stop") -> Reply:
    """A chat completion whose text is the JSON of these findings."""
    return written(json.dumps({"findings": list(rows)}), reason=reason)


def written(content: str | None, reason: str = "stop") -> Reply:
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": reason}]}, {}


def row(
    name: str, quote: str, comparison: str = "exact", low: float | None = None, high: float | None = None, **more: object
) -> dict:
    unit = {"lvef": "%", "pasp_mmhg": "mmHg", "wall_mm": "mm", "lvedd_mm": "mm"}.get(name, "grade")
    made = {"name": name, "comparison": comparison, "low": low, "high": high, "unit": unit, "when": "now", "certain": True}
    return made | {"by_echo": True, "quote": quote} | more


@dataclass
class Stub:
    """What was asked, and where."""

    url: str = ""
    asked: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def stub(answer: Callable[[str, int], Reply], *, drip_s: float = 0.0) -> Iterator[Stub]:
    """`answer(text of the note, number of the question)`; with `drip_s` one byte in so many seconds."""
    told = Stub()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(told.asked)
                told.asked.append(question)
                told.headers.append(dict(self.headers))
                told.paths.append(self.path)
            status, body, headers = answer(question["messages"][1]["content"], number)
            raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
            try:
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(raw))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if drip_s:
                    for byte in raw:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(drip_s)
                else:
                    self.wfile.write(raw)
            except OSError:
                return

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
