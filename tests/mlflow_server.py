"""A stand-in for an MLflow server on the loopback: as much of its REST as a training needs."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class MlflowServer:
    """For a ``with`` statement.

    Attributes:
        url: its address.
        runs: of each run, by id, its name, status, params and metrics; of each metric the steps and values in order.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_OfThis", (_Handler,), {"store": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> MlflowServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread.is_alive():
            self.stop()

    def stop(self) -> None:
        """Be there no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, what: str, said: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request such as ``runs/create``. Raises ``LookupError`` for what is not there."""
        if what == "experiments/get-by-name":
            return {"experiment": {"experiment_id": self.experiments[said["experiment_name"]], "name": "any"}}
        if what == "experiments/create":
            return {"experiment_id": self.experiments.setdefault(said["name"], "7")}
        if what == "runs/create":
            tags = {tag["key"]: tag["value"] for tag in said.get("tags", ())}
            run_id = f"run{len(self.runs)}"
            self.runs[run_id] = {"tags": tags, "status": "RUNNING", "params": {}, "metrics": {}}
            return {"run": self._described(run_id)}
        run = self.runs[said["run_id"]]
        if what == "runs/log-batch":
            for param in said.get("params", ()):
                if run["params"].setdefault(param["key"], param["value"]) != param["value"]:
                    raise LookupError
            for metric in said.get("metrics", ()):
                run["metrics"].setdefault(metric["key"], []).append((int(metric.get("step", 0)), metric["value"]))
            return {}
        if what == "runs/update":
            run["status"] = said["status"]
            return {"run_info": self._described(said["run_id"])["info"]}
        return {"run": self._described(said["run_id"])}

    def _described(self, run_id: str) -> dict[str, Any]:
        info = {"run_id": run_id, "run_uuid": run_id, "experiment_id": "7", "status": self.runs[run_id]["status"]}
        return {"info": info | {"lifecycle_stage": "active", "artifact_uri": "file:///nowhere"}, "data": {}}


class _Handler(BaseHTTPRequestHandler):
    store: MlflowServer

    def do_GET(self) -> None:
        words = parse_qs(urlsplit(self.path).query)
        self._answer({name: values[0] for name, values in words.items()})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, said: dict[str, Any]) -> None:
        what = urlsplit(self.path).path.partition("/mlflow/")[2]
        try:
            status, answer = 200, self.store.answer(what, said)
        except LookupError:
            status, answer = 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "not there"}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass
