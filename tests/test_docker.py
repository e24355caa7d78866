"""The container files, without an engine: their parts exist and agree, and their health check works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main

ROOT = Path(__file__).parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Keyword and the rest, continuation lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines()]


def test_there_is_one_for_a_cpu_and_one_for_a_gpu() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile", "Dockerfile.cuda"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_nothing_runs_as_root(path: Path) -> None:
    steps = instructions(path)
    keywords = [keyword for keyword, _ in steps]
    assert keywords[0] == "FROM"
    assert ":" in steps[0][1]
    assert not steps[0][1].endswith(":latest")
    for keyword, rest in steps:
        if keyword == "COPY":
            sources = rest.split()[:-1]
            assert all((ROOT / source).exists() for source in sources), rest
        if keyword == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest
        if keyword == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest
            assert "PIP_CONSTRAINT=constraints.txt" in rest
    assert {"USER", "HEALTHCHECK"} <= set(keywords)
    assert keywords.index("USER") < keywords.index("ENTRYPOINT")
    assert "ADD" not in keywords


def test_both_install_the_same_way() -> None:
    runs = [[rest for keyword, rest in instructions(path) if keyword in ("RUN", "COPY")] for path in DOCKERFILES]
    assert runs[0] == runs[1]


def test_the_composed_command_is_one_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    service = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["webcam"]
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    words = [re.sub(r"\$\{(\w+)[^}]*\}", r"\1", word) for word in service["command"]]
    assert main([*words, "--no_such_option"]) == 2
    assert "unrecognized arguments: --no_such_option" in capsys.readouterr().err
    port = words[words.index("--serve") + 1].split(":")[1]
    assert f":{port}/health" in service["environment"]["CLIPGRU_HEALTH_URL"]
    assert service["ports"][0].startswith("127.0.0.1:")


@contextmanager
def server_that_says(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/health"
    server.shutdown()
    server.server_close()
    thread.join()


def health(url: str | None) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "CLIPGRU_HEALTH_URL"}
    environment |= {"CLIPGRU_HEALTH_URL": url} if url else {}
    script = ROOT / "docker" / "health.py"
    return subprocess.run([sys.executable, script], env=environment, check=False, capture_output=True).returncode


def test_the_health_check() -> None:
    with server_that_says(200) as url:
        assert health(url) == 0
    assert health(url) == 1  # nobody there any more
    with server_that_says(503) as url:
        assert health(url) == 1
    assert health(None) == 0
