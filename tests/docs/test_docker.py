"""The container files, without an engine: their parts exist and agree, and their health check works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from tests.dockerfile import (
    Instruction,
    assignments,
    context,
    copies,
    exec_form,
    instructions,
    usual_command,
)

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))


def test_there_is_one_for_a_cpu_and_one_for_a_gpu() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile", "Dockerfile.cuda"]


def of(keyword: str, steps: list[Instruction]) -> list[str]:
    return [step.rest for step in steps if step.keyword == keyword]


def is_words(rest: str) -> bool:
    try:
        return bool(exec_form(rest))
    except ValueError:
        return False


def copies_follow_a_workdir(steps: list[Instruction]) -> bool:
    keywords = [step.keyword for step in steps]
    return keywords.index("WORKDIR") < keywords.index("COPY")


def consecutive_runs_are_joined(steps: list[Instruction]) -> bool:
    return all((one.keyword, other.keyword) != ("RUN", "RUN") for one, other in pairwise(steps))


def installs_are_exact_and_leave_no_cache(steps: list[Instruction]) -> bool:
    installs = [run for run in of("RUN", steps) if "pip install" in run]
    wanted = ("PIP_CONSTRAINT=constraints.txt", "PIP_BUILD_CONSTRAINT=constraints.txt", "--no-cache-dir")
    return bool(installs) and all(part in run for run in installs for part in wanted)


# What hadolint asks for and matters here, by its numbers. Not followed: DL3008, exact versions of system packages; a
# distribution takes them away again with every security fix.
RULES: dict[str, Callable[[list[Instruction]], bool]] = {
    "DL3000 WORKDIR is absolute": lambda steps: all(path.startswith("/") for path in of("WORKDIR", steps)),
    "DL3002 the last user is not root": lambda steps: of("USER", steps)[-1] not in ("root", "0"),
    "DL3002 USER comes before what runs": lambda steps: (
        [step.keyword for step in steps].index("USER") < [step.keyword for step in steps].index("ENTRYPOINT")
    ),
    "DL3003 no cd in a RUN": lambda steps: not any(re.search(r"(^|[&;|]\s*)cd ", run) for run in of("RUN", steps)),
    "DL3004 no sudo": lambda steps: not any(re.search(r"\bsudo\b", run) for run in of("RUN", steps)),
    "DL3006 DL3007 a base of one version": lambda steps: all(
        re.fullmatch(r"python:\d+\.\d+\S*", base) for base in of("FROM", steps)
    ),
    "DL3009 the lists of apt are removed where they were fetched": lambda steps: all(
        run.endswith("rm -rf /var/lib/apt/lists/*") for run in of("RUN", steps) if "apt-get update" in run
    ),
    "DL3012 one HEALTHCHECK": lambda steps: len(of("HEALTHCHECK", steps)) == 1,
    "DL3013 DL3042 pip installs what is pinned and keeps no cache": installs_are_exact_and_leave_no_cache,
    "DL3014 DL3015 apt-get asks nothing and brings nothing unasked": lambda steps: all(
        "install -y --no-install-recommends" in run for run in of("RUN", steps) if "apt-get install" in run
    ),
    "DL3020 COPY and not ADD": lambda steps: not of("ADD", steps),
    "DL3025 commands in JSON form": lambda steps: all(
        is_words(rest)
        for rest in (*of("ENTRYPOINT", steps), *of("CMD", steps), of("HEALTHCHECK", steps)[0].partition("CMD ")[2])
    ),
    "DL3045 COPY knows where": copies_follow_a_workdir,
    "DL3059 consecutive RUNs are joined": consecutive_runs_are_joined,
    "DL4000 no MAINTAINER": lambda steps: not of("MAINTAINER", steps),
    "DL4003 DL4004 one CMD, one ENTRYPOINT": lambda steps: len(of("CMD", steps)) == len(of("ENTRYPOINT", steps)) == 1,
    "DL4006 pipefail where there are pipes": lambda steps: all(
        "pipefail" in run for run in of("RUN", steps) if re.search(r"[^|]\|[^|]", run)
    ),
}
GOOD = """FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends a && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY a ./
RUN PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt pip install --no-cache-dir .
USER me
HEALTHCHECK CMD ["a"]
ENTRYPOINT ["a"]
CMD ["b"]
"""
# Each breaks the rule at the same place of RULES, and none but that.
BROKEN = [
    ("WORKDIR /app", "WORKDIR app"),
    ("USER me", "USER me\nUSER root"),
    ('USER me\nHEALTHCHECK CMD ["a"]\nENTRYPOINT ["a"]', 'HEALTHCHECK CMD ["a"]\nENTRYPOINT ["a"]\nUSER me'),
    ("RUN PIP", "RUN cd a && PIP"),
    ("RUN PIP", "RUN sudo PIP"),
    ("python:3.12-slim", "python:latest"),
    (" && rm -rf /var/lib/apt/lists/*", ""),
    ("USER me", 'USER me\nHEALTHCHECK CMD ["a"]'),
    (" --no-cache-dir", ""),
    (" --no-install-recommends", ""),
    ("COPY a ./", "COPY a ./\nADD b ./"),
    ('CMD ["b"]', "CMD b"),
    ("WORKDIR /app\nCOPY a ./", "COPY a ./\nWORKDIR /app"),
    ("COPY a ./", "RUN true"),
    ("USER me", "USER me\nMAINTAINER me"),
    ('CMD ["b"]', 'CMD ["b"]\nCMD ["c"]'),
    ("RUN PIP", "RUN true | PIP"),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_rules_of_a_linter(path: Path, rule: str) -> None:
    assert RULES[rule](instructions(path.read_text()))


def test_each_rule_notices_what_it_is_for() -> None:
    assert all(rule(instructions(GOOD)) for rule in RULES.values())
    for (name, rule), (good, bad) in zip(RULES.items(), BROKEN, strict=True):
        assert good in GOOD
        assert not rule(instructions(GOOD.replace(good, bad, 1))), name


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there(path: Path) -> None:
    files = [str(file.relative_to(ROOT)) for file in ROOT.glob("*") if file.is_file()]
    files += [str(file.relative_to(ROOT)) for name in ("pipeline", "docker") for file in (ROOT / name).rglob("*.*")]
    files = context(files, (ROOT / ".dockerignore").read_text())
    for rest in of("COPY", instructions(path.read_text())):
        assert copies(rest, files)


def test_instructions_over_several_lines() -> None:
    text = "# about\nFROM a:1\n\nRUN b \\\n    && c\n  # inside\nENV D=1 \\\n    E='2 3'\n"
    assert instructions(text) == [("FROM", "a:1"), ("RUN", "b && c"), ("ENV", "D=1 E='2 3'")]
    assert assignments("D=1 E='2 3'") == {"D": "1", "E": "2 3"}


def test_the_usual_command_stands_in_the_comments() -> None:
    text = "# one:\n#  docker build -t clipgru .\n#  docker run --rm clipgru:x \\\n#      train --a b\nFROM a:1\n"
    assert usual_command(text) == ["train", "--a", "b"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_usual_command_is_one_of_ours(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_bytes((ROOT / "configs" / "motion.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main([*usual_command(path.read_text()), "--no_such_option"]) == 2
    assert "unrecognized arguments: --no_such_option" in capsys.readouterr().err


@pytest.mark.parametrize("rest", ["clipgru --help", '{"a": 1}', "[1]"])
def test_other_forms_of_commands_are_refused(rest: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting value|not a list of strings"):
        exec_form(rest)


def test_copies_go_where_docker_puts_them() -> None:
    files = ["a.txt", "b.txt", "code/c.py", "code/sub/d.py", "coder.py"]
    assert copies("a.txt b.txt ./", files) == {"a.txt": "a.txt", "b.txt": "b.txt"}
    assert copies("a.txt new.txt", files) == {"a.txt": "new.txt"}
    assert copies("code app", files) == {"code/c.py": "app/c.py", "code/sub/d.py": "app/sub/d.py"}
    assert copies("code/sub/d.py /opt/", files) == {"code/sub/d.py": "/opt/d.py"}
    for rest in ("gone.txt ./", "--chown=me a.txt ./"):
        with pytest.raises(ValueError, match="not in the build context"):
            copies(rest, files)


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        ("", ["a.md", "b/a.md", "b/c/a.md", "b/c/d.pyc"]),
        ("a.md", ["b/a.md", "b/c/a.md", "b/c/d.pyc"]),  # of the root alone
        ("**/a.md", ["b/c/d.pyc"]),
        ("*/a.md", ["a.md", "b/c/a.md", "b/c/d.pyc"]),
        ("b", ["a.md"]),
        ("/b/c/", ["a.md", "b/a.md"]),
        ("b/*\n!b/a.md", ["a.md", "b/a.md"]),
        ("!b/a.md\nb/*", ["a.md"]),  # the last that names it decides
        ("# a.md\n\n**/?.pyc", ["a.md", "b/a.md", "b/c/a.md"]),
        ("a.m", ["a.md", "b/a.md", "b/c/a.md", "b/c/d.pyc"]),
    ],
)
def test_what_dockerignore_leaves(ignore: str, left: list[str]) -> None:
    assert context(["a.md", "b/a.md", "b/c/a.md", "b/c/d.pyc"], ignore) == left


def test_both_install_the_same_way() -> None:
    steps = [instructions(path.read_text()) for path in DOCKERFILES]
    assert of("RUN", steps[0]) == of("RUN", steps[1])
    assert of("COPY", steps[0]) == of("COPY", steps[1])


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
