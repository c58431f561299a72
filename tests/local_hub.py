"""A Hub on this machine for tests: repositories in memory, the few routes that models need."""

import base64
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SHA = "1" * 40


class _Handler(BaseHTTPRequestHandler):
    """Routes of the Hub's API over `server.repositories`: {repo_id: {path: bytes}}."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            request = json.loads(body)
            repo_id = "/".join(part for part in (request.get("organization"), request["name"]) if part)
            self.server.repositories.setdefault(repo_id, {})
            self.answer({"url": f"{self.server.url}/{repo_id}", "name": repo_id})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.split("?")[0].endswith("/preupload/main"):
            plan = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [plan | {"path": file["path"]} for file in json.loads(body)["files"]]})
        elif match := re.match(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[match[1]][line["value"]["path"]] = content
            url = f"{self.server.url}/{match[1]}/commit/{SHA}"
            self.answer({"success": True, "commitUrl": url, "commitOid": SHA})
        else:
            self.answer({}, 404)

    def do_GET(self):
        path = self.path.split("?")[0]
        if match := re.match(r"/api/models/(.+?)/tree/", path):
            files = self.server.repositories[match[1]]
            entry = {"type": "file", "oid": SHA}
            self.answer([entry | {"path": name, "size": len(content)} for name, content in files.items()])
        elif match := re.match(r"/api/models/(.+?)(/revision/.+)?$", path):
            files = self.server.repositories.get(match[1])
            siblings = [{"rfilename": name} for name in files or ()]
            self.answer({"id": match[1], "sha": SHA, "siblings": siblings}, 200 if files is not None else 404)
        elif match := re.match(r"/(.+?/.+?)/resolve/[^/]+/(.+)$", path):
            content = self.server.repositories.get(match[1], {}).get(match[2])
            if content is None:
                self.answer(b"", 404, X_Error_Code="EntryNotFound")
            else:
                self.answer(content, X_Repo_Commit=SHA, ETag=f'"{hash(content):x}"')
        else:
            self.answer({}, 404)

    do_HEAD = do_GET


@contextmanager
def local_hub(monkeypatch, cache_dir):
    """Points `huggingface_hub` of this process to a fresh Hub; yields its repositories, {repo_id: {path: bytes}}."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.repositories, server.url = {}, f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache_dir))
    try:
        yield server.repositories
    finally:
        server.shutdown()
        server.server_close()
