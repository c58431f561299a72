"""Photos by URL, against a real HTTP server on loopback that fails in every way a server can."""

import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from macrec_hf.data.image_download import HOPELESS_AFTER, download_images, file_name
from macrec_hf.model.files import beside_of


def picture(kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """`/good/…` serves; `/flaky/N/…` answers 503 N times first; the rest fails as its name says."""

    def do_GET(self):
        server, kind = self.server, self.path.split("/")[1]
        with server.lock:
            server.hits[self.path] += 1
            hits = server.hits[self.path]
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        time.sleep(server.delay)
        if kind == "flaky" and hits <= int(self.path.split("/")[2]):
            self.answer(503, b"later")
        elif kind == "missing":
            self.answer(404, b"no")
        elif kind == "page":
            self.answer(200, b"<html>please log in</html>", "text/html")
        elif kind == "cut":
            body = picture()
            self.answer(200, body[: len(body) // 2] if hits == 1 else body, length=len(body))
        elif kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/good/there.jpg")
            self.end_headers()
        else:
            self.answer(200, picture("PNG" if self.path.endswith("png") else "JPEG"))
        with server.lock:
            server.active -= 1

    def answer(self, status, body, kind="image/jpeg", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hits, server.lock, server.delay, server.active, server.most_active = Counter(), threading.Lock(), 0.0, 0, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(server, paths: dict[str, str], folder, **kwargs):
    urls = {item: path if "://" in path or path == "photo" else server.url + path for item, path in paths.items()}
    return download_images(urls, folder, **{"backoff": 0.01, "timeout": 5.0, **kwargs})


def test_photos_arrive_whole(server, tmp_path):
    paths = {"01": "/good/a.jpg", "x/..": "/good/b.png?size=9", "é": "/good/c", "m": "/moved/d.jpg"}
    report = fetch(server, paths, tmp_path)
    assert report.files == {"01": "01.jpg", "x/..": "x%2F...png", "é": "%C3%A9.jpg", "m": "m.jpg"}
    assert (report.failed, report.fetched) == ({}, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report.files.values())
    for name in report.files.values():
        assert Image.open(tmp_path / name).getpixel((3, 3))[0] > 150


def test_passing_failures_are_tried_again(server, tmp_path):
    report = fetch(server, {"a": "/flaky/2/a.jpg", "b": "/cut/b.jpg"}, tmp_path, retries=2)
    assert report.failed == {} and set(server.hits.values()) == {3, 2}
    assert Image.open(tmp_path / "b.jpg").size == (8, 8)


def test_lasting_failures_are_named_and_do_not_stop_the_rest(server, tmp_path):
    paths = {"a": "/flaky/9/a.jpg", "b": "/missing/b.jpg", "c": "/page/c.jpg", "d": "photo", "e": "/good/e.jpg"}
    report = fetch(server, paths, tmp_path, retries=1)
    assert list(report.files) == ["e"]
    assert report.failed["a"].startswith("HTTP 503") and report.failed["b"].startswith("HTTP 404")
    assert report.failed["c"] == "no picture but text/html, 26 bytes"
    assert "expected an http address, got 'photo'" in report.failed["d"]
    # what another try cannot change is not tried again
    assert server.hits == {"/flaky/9/a.jpg": 2, "/missing/b.jpg": 1, "/page/c.jpg": 1, "/good/e.jpg": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["e.jpg"]  # nothing half-written


def test_a_server_that_does_not_answer(server, tmp_path):
    server.delay = 0.5
    start = time.time()
    report = fetch(server, {"a": "/good/a.jpg"}, tmp_path, retries=1, timeout=0.1)
    assert "timed out" in report.failed["a"].lower() and time.time() - start < 3


def test_a_second_run_fetches_only_what_is_not_there(server, tmp_path):
    """As after a run that was stopped: two files are there, one of them empty, and a partial one."""
    paths = {str(number): f"/good/{number}.jpg" for number in range(6)}
    (tmp_path / "0.jpg").write_bytes(picture())
    (tmp_path / "1.jpg").touch()
    partial = beside_of(tmp_path / "2.jpg")
    partial.write_bytes(picture()[:50])
    report = fetch(server, paths, tmp_path)
    assert len(report.files) == 6 and report.fetched == 5 and "/good/0.jpg" not in server.hits
    assert Image.open(tmp_path / "2.jpg").size == (8, 8) and not partial.exists()
    report = fetch(server, paths, tmp_path)
    assert len(report.files) == 6 and report.fetched == 0 and sum(server.hits.values()) == 5


def test_failures_are_tried_again_by_the_next_run(server, tmp_path):
    assert fetch(server, {"a": "/flaky/1/a.jpg"}, tmp_path, retries=0).failed
    assert fetch(server, {"a": "/flaky/1/a.jpg"}, tmp_path, retries=0).files == {"a": "a.jpg"}


def test_it_is_parallel(server, tmp_path):
    server.delay = 0.1
    start = time.time()
    report = fetch(server, {str(number): f"/good/{number}.jpg" for number in range(32)}, tmp_path, workers=16)
    assert len(report.files) == 32 and server.most_active > 4
    assert time.time() - start < 32 * 0.1  # less than one after the other


def test_offline_it_gives_up(server, tmp_path):
    """Where nothing at all can be fetched, it does not wait for every single address."""
    paths = {str(number): f"/missing/{number}.jpg" for number in range(5_000)}
    report = fetch(server, paths, tmp_path, workers=4)
    assert len(report.failed) == 5_000 and HOPELESS_AFTER <= len(server.hits) < 2_500
    assert report.failed["4999"].startswith("not tried")


def test_names_belong_to_one_item_alone():
    names = [file_name(item, "http://h/x.JPEG") for item in ["a/b", "a%2Fb", "a b", "..", "A"]]
    assert len(set(names)) == 5 and all("/" not in name and name.endswith(".jpeg") for name in names)
