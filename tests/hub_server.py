"""A stand-in for the Hugging Face hub on the loopback: makes repositories, takes commits, gives files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class HubServer:
    """For a ``with`` statement.

    Attributes:
        repositories: name -> whether it is private.
        branches: name of a repository, branch -> its commit.
        files: name of a repository, commit -> name of a file -> its bytes.
        answers: status and ``X-Error-Code`` that every request gets in place of an answer.
        headers: of the answers on files, in place of the right ones.
        requests: method and path of each, and the token that came with it.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.answers: tuple[int, str] | None = None
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_OfThis", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be there no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def make(self, name: str, private: bool = False) -> None:
        """A new repository, without files."""
        self.repositories[name] = private
        self.commit(name, "main", {})

    def commit(self, name: str, branch: str, files: dict[str, bytes]) -> str:
        """Add files to a branch; return the commit."""
        before = self.branches.get((name, branch), "")
        content = self.files.get((name, before), {}) | files
        commit = hashlib.sha1(repr((before, sorted(content.items()))).encode()).hexdigest()
        self.branches[name, branch], self.files[name, commit] = commit, content
        return commit

    def head(self, name: str, revision: str) -> str | None:
        """The commit of a branch or commit."""
        return revision if (name, revision) in self.files else self.branches.get((name, revision))


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads HF_ENDPOINT when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
        if self.hub.answers:
            self._send(self.hub.answers[0], b"", {"X-Error-Code": self.hub.answers[1]})
            return
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            self._give(*found.groups())
            return
        answer = self._do(sent)
        status = 404 if answer is None else 400 if answer.get("errors") else 200
        self._send(status, json.dumps(answer).encode())

    def _give(self, name: str, revision: str, file: str) -> None:
        revision = revision.replace("%2F", "/")
        commit = self.hub.head(name, revision)
        files = self.hub.files.get((name, commit or ""))
        missing = "RepoNotFound" if name not in self.hub.repositories else "RevisionNotFound" if files is None else ""
        if missing or file not in files:  # type: ignore[operator]
            self._send(404, b"", {"X-Error-Code": missing or "EntryNotFound"})
            return
        content = files[file]  # type: ignore[index]
        etag = hashlib.sha256(content).hexdigest()
        self._send(200, content, {"X-Repo-Commit": str(commit), "ETag": f'"{etag}"'} | self.hub.headers)

    def _do(self, sent: bytes) -> Any:
        words = self.path.partition("?")[0].removeprefix("/api/").split("/")
        if words == ["repos", "create"]:
            wanted = json.loads(sent)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name not in self.hub.repositories:
                self.hub.make(name, wanted.get("visibility") == "private" or bool(wanted.get("private")))
            return {"url": f"{self.hub.url}/{name}"}
        if words == ["validate-yaml"]:
            is_known = "license: none-such" not in json.loads(sent)["content"]
            return {"warnings": [], "errors": [] if is_known else [{"message": '"license" must be one of'}]}
        name, rest = "/".join(words[1:3]), words[3:]
        if name not in self.hub.repositories:
            return None
        if not rest:
            commit = self.hub.branches[name, "main"]
            names = [{"rfilename": file} for file in self.hub.files[name, commit]]
            return {"id": name, "sha": commit, "private": self.hub.repositories[name], "siblings": names}
        if rest[0] == "preupload":
            files = json.loads(sent)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if rest[0] == "branch":
            self.hub.commit(name, rest[1], {})
            return {}
        assert rest[0] == "commit", self.path
        lines = [json.loads(line) for line in sent.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        commit = self.hub.commit(name, rest[1].replace("%2F", "/"), files)
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass
