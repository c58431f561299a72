"""A Hub on this machine for tests: repositories in memory, the routes that models and datasets need, over HTTP.

`local_hub(monkeypatch, cache_dir)` points the libraries of this process to it; `hub.environment(home)` is what another
process needs to talk to it. Repositories have commits, branches, tags, and may be private: then only `TOKEN` opens
them.
"""

import base64
import hashlib
import json
import os
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_local"
LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "openrail", "unknown", "other")  # some that the Hub knows
DATE = "2026-01-01T00:00:00.000Z"


class Repository:
    """Commits `{sha: {path: bytes}}` and the names that point to them."""

    def __init__(self, private: bool = False):
        self.private, self.commits, self.branches, self.tags = private, {}, {}, {}
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], title: str) -> str:
        before = self.branches.get(branch, "")
        content = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        sha = hashlib.sha1(repr((before, title, content)).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str | None:
        return (
            self.branches.get(revision) or self.tags.get(revision) or (revision in self.commits and revision) or None
        )

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.sha(revision)]

    def add(self, files: dict[str, bytes], branch: str = "main") -> str:
        """What somebody else has pushed."""
        return self.commit(branch, self.files(branch) | files, "more files")


class Refused(Exception):
    def __init__(self, status: int, code: str = "", text: str = ""):
        self.status, self.code, self.text = status, code, text


def entry(path: str, data: bytes) -> dict:
    """A file as the tree and paths-info routes describe it."""
    about = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if path.endswith(".parquet"):
        about["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return about


def folder(path: str) -> dict:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def card_errors(content: str) -> list[str]:
    """What the Hub's schema says against the metadata of a card; the rules that our cards touch."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.S)
    if match is None:
        return []  # the Hub warns and takes it
    data, errors = yaml.safe_load(match[1]) or {}, []
    if data.get("license", "unknown") not in LICENCES:
        errors.append(f'"license" must be one of {LICENCES}')
    if data.get("license") == "other" and not data.get("license_name"):
        errors.append('"license_name" is required where the license is "other"')
    for name in ("tags", "metrics", "datasets"):
        if not all(isinstance(value, str) for value in data.get(name, [])):
            errors.append(f'"{name}" must be strings')
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str) or not model["name"]:
            errors.append('"model-index[].name" is required')
        for result in model["results"]:
            if not result["task"].get("type") or not {"type", "name"} <= set(result["dataset"]):
                errors.append('"model-index[].results[]" needs task.type, dataset.type and dataset.name')
            for metric in result["metrics"]:
                if not isinstance(metric.get("type"), str) or not isinstance(metric.get("value"), (int, float, str)):
                    errors.append('"metrics[]" needs type and value')
    return errors


class _Handler(BaseHTTPRequestHandler):
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

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        self.server.requests.append(f"{self.command} {address.path}")
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, address.path)
            if match and self.command in method.split("|"):
                groups = [unquote(group or "") for group in match.groups()]
                try:
                    action(self, body, parse_qs(address.query), *groups)
                except Refused as refused:
                    headers = {"X_Error_Code": refused.code} if refused.code else {}
                    self.answer(refused.text.encode(), refused.status, **headers)
                return
        self.server.unknown.append(f"{self.command} {self.path}")
        self.answer({"error": "no such route"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    @property
    def knows_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, kind: str, name: str, write: bool = False) -> Repository:
        repository = self.server.repositories.get((kind, name))
        if repository is None or (repository.private and not self.knows_token):
            raise Refused(404 if self.knows_token else 401, "RepoNotFound")
        if write and not self.knows_token:
            raise Refused(401, text="a token is needed")
        return repository

    def commit_of(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        sha = repository.sha(revision or "main")
        if sha is None:
            raise Refused(404, "RevisionNotFound")
        return sha, repository.commits[sha]

    # ---- routes; each gets the body, the query and the groups of its pattern ----

    def who_am_i(self, body, query):
        if not self.knows_token:
            raise Refused(401, text="Invalid credentials in Authorization header")
        self.answer({"type": "user", "name": "somebody", "orgs": [], "auth": {"type": "access_token"}})

    def create(self, body, query):
        if not self.knows_token:
            raise Refused(401, text="a token is needed")
        request = json.loads(body)
        name = "/".join(part for part in (request.get("organization") or "somebody", request["name"]) if part)
        kind = request.get("type") or "model"
        exists = (kind, name) in self.server.repositories
        if not exists:
            self.server.repositories[kind, name] = Repository(request.get("visibility") == "private")
        prefix = "" if kind == "model" else f"{kind}s/"
        self.answer({"url": f"{self.server.url}/{prefix}{name}", "name": name}, 409 if exists else 200)

    def validate(self, body, query):
        errors = card_errors(json.loads(body)["content"])
        self.answer({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    def about(self, body, query, kind, name, revision=""):
        repository = self.repository(kind, name)
        sha, files = self.commit_of(repository, revision)
        siblings = [{"rfilename": path} for path in files]
        about = {"id": name, "sha": sha, "private": repository.private, "tags": [], "downloads": 0, "likes": 0}
        self.answer(about | {"siblings": siblings, "lastModified": DATE, "createdAt": DATE})

    def tree(self, body, query, kind, name, revision, path=""):
        _, files = self.commit_of(self.repository(kind, name), revision)
        head = path + "/" if path else ""
        inside = {name: data for name, data in files.items() if name.startswith(head)}
        if path and not inside:
            raise Refused(404, "EntryNotFound")
        deep = query.get("recursive", ["false"])[0].lower() in ("1", "true")
        found = [entry(name, data) for name, data in inside.items() if deep or "/" not in name[len(head) :]]
        parents = {head + "/".join(name[len(head) :].split("/")[:depth]) for name in inside
                   for depth in range(1, 1 + name[len(head) :].count("/"))}  # fmt: skip
        found += [folder(parent) for parent in sorted(parents) if deep or "/" not in parent[len(head) :]]
        self.answer(found)

    def paths_info(self, body, query, kind, name, revision):
        _, files = self.commit_of(self.repository(kind, name), revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode())["paths"]
        found = [entry(path, files[path]) for path in paths if path in files]
        found += [folder(path) for path in paths if any(name.startswith(path + "/") for name in files)]
        self.answer(found)

    def refs(self, body, query, kind, name):
        repository = self.repository(kind, name)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": s} for n, s in repository.branches.items()]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": s} for n, s in repository.tags.items()]
        self.answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def commits(self, body, query, kind, name, revision):
        sha, _ = self.commit_of(self.repository(kind, name), revision)
        self.answer([{"id": sha, "title": "commit", "message": "", "date": DATE, "authors": []}])

    def branch(self, body, query, kind, name, branch):
        repository = self.repository(kind, name, write=True)
        if branch in repository.branches:
            raise Refused(409, text="the branch exists")
        start = (json.loads(body or b"{}") or {}).get("startingPoint") or "main"
        repository.branches[branch], _ = self.commit_of(repository, start)
        self.answer({})

    def tag(self, body, query, kind, name, revision):
        repository = self.repository(kind, name, write=True)
        repository.tags[json.loads(body)["tag"]], _ = self.commit_of(repository, revision)
        self.answer({})

    def preupload(self, body, query, kind, name, revision):
        self.repository(kind, name, write=True)
        # `datasets` deletes its files after they went up by LFS: only then may they be sent that way.
        plans = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular"}
            for file in json.loads(body)["files"]
        ]
        self.answer({"files": [plan | {"shouldIgnore": False} for plan in plans]})

    def commit(self, body, query, kind, name, revision):
        repository = self.repository(kind, name, write=True)
        _, files = self.commit_of(repository, revision)
        files, title = dict(files), ""
        for line in map(json.loads, body.decode().splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            else:  # deletedFile, deletedFolder
                gone = value["path"].rstrip("/")
                files = {path: data for path, data in files.items() if not f"{path}/".startswith(f"{gone}/")}
        sha = repository.commit(revision, files, title)
        self.answer({"success": True, "commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def lfs_batch(self, body, query, prefix, name):
        self.repository(prefix.rstrip("s/") or "model", name, write=True)
        objects = json.loads(body)["objects"]
        uploads = [{"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}} for item in objects]
        told = [item | {"actions": actions} for item, actions in zip(objects, uploads, strict=True)]
        self.answer({"transfer": "basic", "objects": told})

    def lfs_put(self, body, query, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.answer({})

    def resolve(self, body, query, prefix, name, revision, path):
        sha, files = self.commit_of(self.repository(prefix.rstrip("s/") or "model", name), revision)
        if path not in files:
            raise Refused(404, "EntryNotFound")
        data, part = files[path], self.headers.get("Range")
        headers = {"X_Repo_Commit": sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept_Ranges": "bytes"}
        if part and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", part)):
            first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            self.answer(data[first : last + 1], 206, **headers)
        else:
            self.answer(data, **headers)


_API, _ID = r"/api/(model|dataset)s/", r"([^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.who_am_i),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", _API + _ID, _Handler.about),
    ("GET", _API + _ID + r"/revision/([^/]+)", _Handler.about),
    ("GET", _API + _ID + r"/tree/([^/]+)(?:/(.*))?", _Handler.tree),
    ("GET", _API + _ID + r"/refs", _Handler.refs),
    ("GET", _API + _ID + r"/commits/([^/]+)", _Handler.commits),
    ("POST", _API + _ID + r"/paths-info/([^/]+)", _Handler.paths_info),
    ("POST", _API + _ID + r"/branch/([^/]+)", _Handler.branch),
    ("POST", _API + _ID + r"/tag/([^/]+)", _Handler.tag),
    ("POST", _API + _ID + r"/preupload/([^/]+)", _Handler.preupload),
    ("POST", _API + _ID + r"/commit/([^/]+)", _Handler.commit),
    ("POST", r"/(datasets/)?" + _ID + r"\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(\w+)", _Handler.lfs_put),
    ("GET|HEAD", r"/(datasets/)?" + _ID + r"/resolve/([^/]+)/(.+)", _Handler.resolve),
]


class LocalHub(ThreadingHTTPServer):
    """The server; `hub["somebody/shop"]` is a model's [`Repository`], `hub["dataset", …]` a data set's."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.objects, self.requests, self.unknown = {}, {}, [], []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __getitem__(self, key) -> Repository:
        return self.repositories[key if isinstance(key, tuple) else ("model", key)]

    def environment(self, home, **more: str) -> dict[str, str]:
        """Variables of another process that talks to this Hub, with caches of its own in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "PYTHON"))}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        return kept | ours | more


@contextmanager
def local_hub(monkeypatch, cache_dir):
    """Starts a Hub and points `huggingface_hub` and `datasets` of this process to it; yields the [`LocalHub`]."""
    import datasets
    from huggingface_hub import constants

    hub = LocalHub()
    Thread(target=hub.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache_dir))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the first endpoint
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
