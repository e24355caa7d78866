"""An S3 server on the loopback, of moto, that can be told to be slow, and to forbid."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "clips"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAHIDDENHIDDENHIDD", "AWS_SECRET_ACCESS_KEY": "hidden-secret-key"}


class _Quiet(WSGIRequestHandler):
    def log(self, *args: object) -> None:
        pass


class BucketServer:
    """Attributes:
    url: its address.
    requests: method, path and range of each request.
    forbidden: names or paths of objects whose content and facts nobody gets (403).
    slow: names or paths of objects whose content takes longer than any test.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.forbidden: set[str] = set()
        self.slow: set[str] = set()
        self.is_over = threading.Event()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path, environ.get("HTTP_RANGE", "")))
        names = {path, path.rpartition("/")[2]}
        if names & self.forbidden and method in ("GET", "HEAD"):
            start("403 Forbidden", [("Content-Length", "0")])
            return []
        if names & self.slow and method == "GET":
            self.is_over.wait(60)
        answer: Iterable[bytes] = self._app(environ, start)
        return answer

    def put(self, name: str, content: bytes) -> None:
        """Put an object into the bucket."""
        self._store.pipe(f"{BUCKET}/{name}", content)
        self._store.invalidate_cache()

    def clear(self) -> None:
        """Empty the bucket, and forbid nothing."""
        self.forbidden, self.slow = set(), set()
        if found := self._store.find(BUCKET):
            self._store.rm(found)
        self._store.invalidate_cache()

    def make_bucket(self) -> None:
        """Make the bucket, for the keys of the environment."""
        import s3fs

        self._store: Any = s3fs.S3FileSystem()
        self._store.mkdir(BUCKET)

    def stop(self) -> None:
        """Be there no more."""
        self.is_over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def serving_buckets() -> Iterator[BucketServer]:
    """A server with one empty bucket, ``clips``, which the environment names."""
    import s3fs

    server = BucketServer()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": server.url, "AWS_DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            server.make_bucket()
            yield server
        finally:
            server.stop()
            s3fs.S3FileSystem.clear_instance_cache()
