import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.engines.service import answers, has_worker


@pytest.fixture
def server():
    """A server that gives `reply` (status, document) to everything; its address is `url`."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, document = self.server.reply
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _reply  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{made.server_address[1]}"
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_answers_wants_200_and_takes_silence_for_not_yet(server):
    server.reply = 503, {}
    assert not answers(server.url)()
    server.reply = 200, {}
    assert answers(server.url)()
    assert not answers("http://127.0.0.1:9")()


def test_has_worker_wants_this_worker_online(server):
    check = has_worker(server.url, "cpu", "ours")
    server.reply = 404, {"detail": "no such pool"}
    assert not check()
    server.reply = 200, [{"name": "ours", "status": "OFFLINE"}, {"name": "theirs", "status": "ONLINE"}]
    assert not check()
    server.reply = 200, [{"name": "ours", "status": "ONLINE"}]
    assert check()
    assert not has_worker("http://127.0.0.1:9", "cpu", "ours")()
