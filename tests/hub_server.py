"""A loopback server that speaks enough of the Hugging Face Hub's HTTP protocol for data sets.

In tests: ``with HubServer(root) as hub:`` and give clients ``hub.environment(home)``. By hand:
``python tests/hub_server.py PORT ROOT``. It keeps every commit, so revisions can be pinned, and
speaks LFS, not Xet. What is stored under ROOT survives a restart.
"""

import base64
import hashlib
import json
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import yaml

USER = "tester"
TOKEN = "hf_loopback_secret"
LICENCES = frozenset(["cc-by-4.0", "cc0-1.0", "mit", "unknown", "other"])
"""Some of those that the Hub knows; it refuses any other."""
NO_FILES = hashlib.sha1(b"").hexdigest()

Files = dict[str, dict[str, Any]]


class RefusalError(Exception):
    """An HTTP error to answer with."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Repositories:
    """Repositories on disk: content-addressed blobs, and one JSON file of commits each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True, exist_ok=True)

    def _file(self, repo: str) -> Path:
        return self.root / f"{repo.replace('/', '--')}.json"

    def create(self, repo: str, private: bool) -> None:
        if self._file(repo).exists():
            raise RefusalError(409, "You already created this repo")
        self._save(repo, {"private": private, "commits": [{"id": NO_FILES, "files": {}}]})

    def load(self, repo: str) -> dict[str, Any]:
        if not self._file(repo).exists():
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        state: dict[str, Any] = json.loads(self._file(repo).read_text())
        return state

    def _save(self, repo: str, state: dict[str, Any]) -> None:
        self._file(repo).write_text(json.dumps(state))

    def files(self, repo: str, revision: str) -> tuple[str, Files]:
        commits = self.load(repo)["commits"]
        for commit in reversed(commits):
            if revision in ("main", commit["id"]):
                return commit["id"], commit["files"]
        raise RefusalError(404, "Revision not found", "RevisionNotFound")

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> str:
        state = self.load(repo)
        files: Files = dict(state["commits"][-1]["files"])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                files[value["path"]] = {"oid": self.put(data), "size": len(data)}
            elif line["key"] == "lfsFile":
                if not self.blob(value["oid"]).exists():
                    raise RefusalError(400, f"LFS object {value['oid']} was never uploaded")
                size = self.blob(value["oid"]).stat().st_size
                files[value["path"]] = {"oid": value["oid"], "size": size, "lfs": True}
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit_id = hashlib.sha1(json.dumps(files, sort_keys=True).encode()).hexdigest()
        state["commits"].append({"id": commit_id, "files": files})
        self._save(repo, state)
        return commit_id

    def put(self, data: bytes) -> str:
        oid = hashlib.sha256(data).hexdigest()
        self.blob(oid).write_bytes(data)
        return oid

    def blob(self, oid: str) -> Path:
        return self.root / "blobs" / oid


class HubServer(ThreadingHTTPServer):
    """The server, and what a test may look at or change.

    ``requests`` lists what was asked, ``bytes_sent`` counts what of files was answered.
    ``lfs_uploads_left`` and ``downloads_left`` cut transfers of whole files short.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.repositories = Repositories(root)
        self.requests: list[str] = []
        self.bytes_sent = 0
        self.licences = LICENCES
        self.lfs_uploads_left: int | None = None
        self.downloads_left: int | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that point the Hugging Face client here and nowhere else."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def uploads(self) -> list[str]:
        """Content hashes of the LFS objects that were sent, in order."""
        return [line.split("/")[-1] for line in self.requests if line.startswith("PUT /lfs/")]

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


def read_body(request: BaseHTTPRequestHandler) -> bytes:
    """What a client sent with a request, in one piece or in chunks."""
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    out = b""
    while size := int(request.rfile.readline().strip() or b"0", 16):
        out += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return out


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        data = read_body(self)
        with self.server.lock:
            self.server.requests.append(f"{self.command} {urllib.parse.urlsplit(self.path).path}")
        try:
            self._route(data)
        except RefusalError as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            self._reply({"error": str(error)}, error.status, headers)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

    def _reply(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _route(self, data: bytes) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            self._need_token()
            auth = {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}}
            return self._reply({"type": "user", "name": USER, "orgs": [], "auth": auth})
        if path == "/api/validate-yaml":
            return self._validate(json.loads(data)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(data))
        if parts[:2] == ["api", "datasets"]:
            return self._repository("/".join(parts[2:4]), parts[4:], data)
        if path.endswith("/info/lfs/objects/batch"):
            return self._lfs_batch(json.loads(data))
        if parts[0] == "lfs" and self.command == "PUT":
            return self._lfs_put(parts[1], data)
        if parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            return self._resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        raise RefusalError(404, f"unknown path {path}")

    @property
    def _url(self) -> str:
        """Where the client finds the server: behind a proxy it is the proxy's address."""
        return f"http://{self.headers['Host']}"

    def _need_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusalError(401, "Invalid username or password.")

    def _validate(self, card: str) -> None:
        licence = yaml.safe_load(card.split("---")[1])["license"]
        known = sorted(self.server.licences)
        problem = {"message": f'"license" must be one of {known}, got {licence}'}
        errors = [] if licence in known else [problem]
        self._reply({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _create(self, query: dict[str, Any]) -> None:
        self._need_token()
        repo = f"{query.get('organization') or USER}/{query['name']}"
        private = query.get("private", query.get("visibility") == "private")
        answer = {"url": f"{self._url}/datasets/{repo}", "name": repo}
        status = 200
        try:
            self.server.repositories.create(repo, bool(private))
        except RefusalError as error:
            status, answer["error"] = error.status, str(error)
        self._reply(answer, status)

    def _repository(self, repo: str, rest: list[str], data: bytes) -> None:
        repositories = self.server.repositories
        if repositories.load(repo)["private"]:
            self._need_token()
        if rest[:1] == ["preupload"]:
            wanted = json.loads(data)["files"]
            modes = [
                {"path": file["path"], "shouldIgnore": False, "oid": None}
                | {"uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular"}
                for file in wanted
            ]
            return self._reply({"files": modes})
        if rest[:1] == ["commit"]:
            self._need_token()
            with self.server.lock:
                commit = repositories.commit(repo, [json.loads(x) for x in data.splitlines()])
            url = f"{self._url}/datasets/{repo}/commit/{commit}"
            return self._reply({"commitUrl": url, "commitOid": commit, "success": True})
        if rest[:1] == ["refs"]:
            head, _ = repositories.files(repo, "main")
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
            return self._reply({"branches": [branch], "tags": [], "converts": []})
        revision = rest[1] if len(rest) > 1 else "main"
        commit, files = repositories.files(repo, revision)
        if rest[:1] == ["tree"]:
            return self._tree(files, "/".join(rest[2:]))
        if rest[:1] == ["paths-info"]:
            query = urllib.parse.parse_qs(data.decode())
            paths = json.loads(data)["paths"] if data[:1] == b"{" else query.get("paths", [])
            return self._reply([_entry(path, files[path]) for path in paths if path in files])
        if rest == [] or rest[0] == "revision":
            private = repositories.load(repo)["private"]
            siblings = [self._sibling(path, files[path]) for path in sorted(files)]
            info = {"id": repo, "sha": commit, "private": private, "siblings": siblings}
            return self._reply(info | {"tags": [], "downloads": 0, "likes": 0, "gated": False})
        raise RefusalError(404, f"unknown request {'/'.join(rest)}")

    def _sibling(self, path: str, file: dict[str, Any]) -> dict[str, Any]:
        """What is told of a file; with ``blobs`` also size and, of an LFS file, digest."""
        if "blobs" not in self._query():
            return {"rfilename": path}
        about = _entry(path, file)
        lfs = {"lfs": {**about["lfs"], "sha256": file["oid"]}} if "lfs" in about else {}
        return {"rfilename": path, "size": about["size"], "blobId": about["oid"]} | lfs

    def _query(self) -> dict[str, list[str]]:
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)

    def _tree(self, files: Files, folder: str) -> None:
        query = self._query()
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = f"{folder}/" if folder else ""
        entries, folders = [], set()
        for path in sorted(files):
            inner = path.removeprefix(prefix)
            if not path.startswith(prefix):
                continue
            if "/" in inner and not recursive:
                folders.add(prefix + inner.split("/")[0])
            else:
                entries.append(_entry(path, files[path]))
        if folder and not entries and not folders:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        folder_entries = [{"type": "directory", "path": f, "oid": NO_FILES} for f in folders]
        self._reply(folder_entries + entries)

    def _lfs_batch(self, query: dict[str, Any]) -> None:
        self._need_token()
        objects = []
        for wanted in query["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if not self.server.repositories.blob(wanted["oid"]).exists():
                href = f"{self._url}/lfs/{wanted['oid']}"
                entry["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(entry)
        self._reply(
            {"transfer": "basic", "objects": objects},
            headers={"Content-Type": "application/vnd.git-lfs+json"},
        )

    def _lfs_put(self, oid: str, data: bytes) -> None:
        with self.server.lock:
            if self.server.lfs_uploads_left is not None:
                self.server.lfs_uploads_left -= 1
                if self.server.lfs_uploads_left < 0:
                    raise RefusalError(403, "Storage quota exceeded")
        if hashlib.sha256(data).hexdigest() != oid:
            raise RefusalError(400, "content does not match its hash")
        self.server.repositories.put(data)
        self._reply(b"")

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        if self.server.repositories.load(repo)["private"]:
            self._need_token()
        commit, files = self.server.repositories.files(repo, revision)
        if path not in files:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        data = self.server.repositories.blob(files[path]["oid"]).read_bytes()
        headers = {
            "ETag": f'"{files[path]["oid"]}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        wanted = self.headers.get("Range")
        if self.command == "GET":
            self._count_download(whole=not wanted)
        if not wanted or self.command != "GET":
            self.server.bytes_sent += len(data) if self.command == "GET" else 0
            return self._reply(data, headers=headers)
        first, _, last = wanted.split("=")[1].partition("-")
        end = min(int(last) if last else len(data) - 1, len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
        self.server.bytes_sent += end + 1 - int(first)
        return self._reply(data[int(first) : end + 1], 206, headers)

    def _count_download(self, *, whole: bool) -> None:
        with self.server.lock:
            if whole and self.server.downloads_left is not None:
                self.server.downloads_left -= 1
                if self.server.downloads_left < 0:
                    raise RefusalError(403, "Too much was downloaded")


def _entry(path: str, file: dict[str, Any]) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": file["size"], "oid": file["oid"][:40]}
    if file.get("lfs"):
        entry["lfs"] = {"oid": file["oid"], "size": file["size"], "pointerSize": 128}
    return entry


if __name__ == "__main__":
    HubServer(Path(sys.argv[2]), int(sys.argv[1])).serve_forever()
