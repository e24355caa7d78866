"""What anybody may see of a source: no password, in whatever place and form it was typed."""

from __future__ import annotations

import itertools
import json
import pickle
import re
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.errors import DecodeError, UserError
from pipeline.options import PredictOptions, WebcamOptions, name_sources
from pipeline.prediction import find_videos
from pipeline.run_report.journal import note_command, now
from pipeline.sources import HIDDEN, distinct_names, file_name_of, shown_path, shown_source
from pipeline.streaming.outputs import file_stems
from pipeline.streaming.sources import parse_sources
from tests.small import small_model

ALLOW_URL = ("--decode.allow_url", "true")

# All that could be told from a secret: its runs of letters and digits.
SECRETS = (
    "Xq7Zk",
    "qzk/xvq",
    "qzk#xvq",
    "qzk?xvq",
    "qzk@xvq",
    "12/qzk@xvq",
    "qzk:8080/xvq",
    "qzk xvq",
    "qzk%40xvq",
    "q;z&k=xvq",
)
FORMS = (
    "{s}://zuser:{p}@127.0.0.1:9/live",
    "{s}://{p}@127.0.0.1:9/live",
    "{s}://zuser:{p}@[::1]:9/live",
    "{s}://zuser%3A{p}@127.0.0.1:9/live",
    "{s}://127.0.0.1:9/user=zuser&password={p}",
    "{s}://127.0.0.1:9/user=zuser_password={p}_channel=1_stream=0.sdp",
    "{s}://127.0.0.1:9/zuser/{p}/live",
    "{s}://127.0.0.1:9/password/{p}",
    "{s}://127.0.0.1:9/{p}",
    "{s}://127.0.0.1:9/live?loginpas={p}",
    "{s}://127.0.0.1:9/live?pw={p}&w=640",
    "{s}://127.0.0.1:9/live?{p}",
    "{s}://127.0.0.1:9/live#token={p}",
    "{s}://127.0.0.1:9/live;pwd={p}",
    "{s}://127.0.0.1:9;pwd={p}/live",
    "{s}://127.0.0.1:9/%70assword/{p}",
    "{s}://127.0.0.1:9/a/b.mp4?X-Amz-Signature={p}",
    "{s}:/zuser:{p}@127.0.0.1:9/live",
    "{s}://http://zuser:{p}@127.0.0.1:9/live",
    "zuser:{p}@127.0.0.1:9/live",
    "zuser:{p}@{s}://127.0.0.1:9/live",
    "{s}src location={s}://zuser:{p}@127.0.0.1:9/live ! decodebin ! appsink",
    "{s}%3A%2F%2Fzuser%3A{p}%40127.0.0.1",
    "{s}:\\\\zuser:{p}@127.0.0.1\\live",
    "{s}://zuser:{p}\\@127.0.0.1:9/live",
    " {s}://zuser:{p}@127.0.0.1:9/live\n",
    "x{s}://zuser:{p}@127.0.0.1:9/live",
)  # fmt: skip


def pieces(secret: str) -> list[str]:
    return [piece for piece in re.findall(r"\w{3,}", secret) if not piece.isdigit()]


def assert_hidden(text: str, secret: str, where: str = "") -> None:
    for piece in (*pieces(secret), "zuser"):
        assert piece.lower() not in text.lower(), (where, text)


ALL = [(form.format(s=scheme, p=secret), secret) for form, scheme, secret in
       itertools.product(FORMS, ("rtsp", "http", "HTTPS"), SECRETS)]  # fmt: skip


def test_a_secret_is_nowhere_to_be_seen() -> None:
    for source, secret in ALL:
        shown = shown_source(source)
        assert_hidden(shown, secret, source)
        assert shown_source(shown) == shown
        for path in (source, Path(source), Path("folder") / source):
            if ":" in str(path).partition(secret)[0] and not source.startswith("zuser:"):
                assert_hidden(shown_path(path), secret, source)
        assert_hidden(file_name_of(source), secret, source)
        error = DecodeError(source, "open", "no answer")
        assert str(error) == str(pickle.loads(pickle.dumps(error)))


def test_messages_tables_and_journals_hide_the_addresses_that_a_file_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A password in a table, a config or an option is in no message, JSON or journal."""
    monkeypatch.chdir(tmp_path)
    url, head = "rtsp://zuser:Xq7vveryS@127.0.0.1:9/live", "path,label,start_seconds,end_seconds"
    Path("truth.csv").write_text(f"{head}\n{url},run,0,1\n")
    Path("other.csv").write_text(f"{head}\na.mp4,run,0,1\n")
    Path("both.csv").write_text(f"{head}\n{url},run,0,1\na.mp4,run,0,1\n")
    Path("config.yaml").write_text(f"data:\n  format: {url}\n")
    Path("root.yaml").write_text(f"data:\n  format: manifest\n  annotations: truth.csv\n  root: {url}\n")
    for words in (
        ["score", "other.csv", "truth.csv"],
        ["score", "other.csv", "both.csv", "--json"],
        ["score", "both.csv", "other.csv"],
        ["check", "truth.csv", "--json", "check.json"],
        ["check", "config.yaml"],
        ["check", "root.yaml"],
        ["check", "z:Xq7vveryS@127.0.0.1/live"],
    ):
        main(words)
        said = capfd.readouterr()
        assert_hidden(said.out + said.err, "Xq7vveryS", str(words))
    assert_hidden(Path("check.json").read_text(), "Xq7vveryS")
    note_command(tmp_path, "evaluate", ["m.safetensors", f"--data.root={url}", url], now())
    journal = (tmp_path / "commands.jsonl").read_text()
    assert_hidden(journal, "Xq7vveryS")
    assert "clipgru evaluate m.safetensors '--data.root=rtsp://***@127.0.0.1:9/live'" in journal


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("rtsp://camera/1", "rtsp://camera/1"),
        ("RTSP://me:pa:ss@Camera:554/Streaming/Channels/101", "rtsp://***@Camera:554/***/101"),
        ("rtsp://me@camera/h264Preview_01_main", "rtsp://***@camera/h264Preview_01_main"),
        ("rtsp://camera/cam/realmonitor?channel=1&subtype=0", "rtsp://camera/***/realmonitor?***"),
        ("rtsps://camera:7441/aBcDeFgHiJkLmNoP?enableSrtp", "rtsps://camera:7441/***?***"),
        ("http://camera/axis-cgi/mjpg/video.cgi", "http://camera/***/video.cgi"),
        ("s3://my-bucket/walks/a b/Clip_1.mp4", "s3://my-bucket/walks/a b/Clip_1.mp4"),
        ("s3:/my-bucket/walks/1.mp4", "s3://my-bucket/walks/1.mp4"),
        ("gs://bucket/token/1.mp4", "gs://bucket/***"),
        ("s3://key:secret@bucket/1.mp4", "s3://***@bucket/1.mp4"),
        ("az://bucket/1.mp4?sig=abc", "az://bucket/1.mp4?***"),
        ("http://camera", "http://camera"),
        ("http://camera/", "http://camera/"),
        ("http://[fe80::1%eth0]:8080/live.sdp", "http://[fe80::1%eth0]:8080/live.sdp"),
        ("https://site/v/v_ApplyEyeMakeup_g01_c01.avi", "https://site/***/v_ApplyEyeMakeup_g01_c01.avi"),
        ("https://site/my%20clip_2.mp4", "https://site/my clip_2.mp4"),
        ("https://site/3f7ac9d0e1.mp4", "https://site/***"),
        ("https://site/my_password_Xq7.mp4", "https://site/***"),
        ("rtsp://camera:99999999/1", "rtsp://***"),
        ("gopher://me:x@host/1", HIDDEN),
        ("/dev/video0", "/dev/video0"),
        ("C:\\videos\\a b.mp4", "C:\\videos\\a b.mp4"),
        ("videos/*.mp4", "videos/*.mp4"),
        ("concat:a.mp4|b.mp4", HIDDEN),
    ],
)
def test_what_is_harmless_is_shown(source: str, expected: str) -> None:
    assert shown_source(source) == expected


def test_files_keep_their_whole_path() -> None:
    for path in ("/home/me/user=a&password=b/clip@2.mp4", "a:b.mp4", "archive.tar:train/x.mp4", "my http clips/a.mp4"):
        assert shown_path(path) == shown_path(Path(path)) == path
        assert str(DecodeError(Path(path), "open", "cut off")) == f"{path}: open: cut off"


def test_names_of_files_for_addresses() -> None:
    urls = [
        "http://a/b/whole.mp4?x",
        "http://a/stream",
        "http://a:x@b/S3xQ.MP4",
        "http://u:p/q@h/a.mp4",
        "http://h/a%2Fb.mkv",
    ]
    assert [file_name_of(url) for url in urls] == ["whole.mp4", "stream", "video.MP4", "video", "b.mkv"]
    assert distinct_names(["a", "b", "a", "a (2)", "a"]) == ["a", "b", "a (2)", "a (2) (2)", "a (3)"]


def test_given_names() -> None:
    assert name_sources(["x", "x"], ()) == ["x", "x (2)"]
    assert name_sources(["x", "x"], ("door", "yard")) == ["door", "yard"]
    with pytest.raises(UserError, match="given 1 times for 2 sources"):
        name_sources(["x", "y"], ("door",))
    for names in (("a", "a"), ("",), (" ",), ("a\x1b[2J",), ("a" * 101,)):
        for options in (WebcamOptions, PredictOptions):
            with pytest.raises(UserError, match="--name"):
                options(name=names)
    sources = parse_sources(["rtsp://me:x@host/1", "rtsp://me:x@host/1"], names=("door", "yard"))
    assert list(file_stems(sources)) == ["door", "yard"]


def test_webcam_says_no_password_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every form at once, at a port where nobody listens: on both streams, in recordings, their names and figures."""
    save_model(tmp_path / "model.safetensors", small_model())
    model, out, urls = str(tmp_path / "model.safetensors"), tmp_path / "out", []
    for url in dict.fromkeys(url for url, _ in ALL if "127.0.0.1" in url or "[::1]" in url):
        with suppress(UserError):
            urls += [parse_sources([url])[0].address]
    refused, first = "zuser:qzk/xvq@127.0.0.1:9/live", urls[0]
    for words in ([refused], [refused, f"--nme={first}"], ["--nme", first], ["--top_k", first], ["--json", first]):
        assert main(["webcam", model, *words, "--headless"]) == 2
        assert main(["predict", model, *words]) == 2
    urls = urls[:: len(urls) // 60]
    assert len(urls) >= 60
    options = ["--headless", "--seconds", "0.5", "--record", str(out), "--stats", str(tmp_path / "stats.json")]
    assert main(["webcam", model, *urls, *options, "--streaming.timeout_seconds", "0.2"]) == 0
    figures = (tmp_path / "stats.json").read_text()
    assert len(json.loads(figures)) == len(urls)
    told = [*capfd.readouterr(), figures]
    for path in out.iterdir():
        told += [path.name, path.read_text()]
    for text in told:
        assert_hidden(text, "qzk/xvq/Xq7Zk")


@pytest.mark.parametrize(
    "source",
    [
        "http://zuser:qzkpw@127.0.0.1:9/x.mp4?t=qzkpw",
        "zuser:qzkpw@h/x.mp4",
        "1.2.3.4/cgi?pwd=qzkpw",
        "h:80/user=a&password=qzkpw",
        "h/live;pwd=qzkpw",
    ],
)
def test_no_command_repeats_an_address_that_it_was_given_by_mistake(
    source: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["check", source],
        ["doctor", source],
        ["learn", source],
        ["explain", source, "x.mp4"],
        ["evaluate", source],
        ["train", "--config", source],
        ["train", f"--data.root={source}"],
        ["shard", source],
        ["merge", source],
        ["report", source],
        [source],
    ):
        assert main(words) == 2, words
    assert_hidden("".join(capfd.readouterr()), "qzkpw")


def test_predict_says_no_password_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model.safetensors", small_model())
    urls = list(
        dict.fromkeys(url for url, _ in ALL if url.startswith("http") and ("127.0.0.1" in url or "[::1]" in url))
    )
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*urls[::7], "ftp://zuser:qzkxvq@127.0.0.1/x.mp4"]), encoding="utf-8")
    out = [f"--{kind}={tmp_path / ('out.' + kind)}" for kind in ("json", "csv", "jsonl")]
    command = [
        "predict",
        str(tmp_path / "model.safetensors"),
        str(listed),
        *ALLOW_URL,
        "--decode.timeout_seconds",
        "0.5",
    ]
    assert main([*command, *out, f"--srt={tmp_path / 'srt'}"]) == 1
    told = [*capfd.readouterr(), *(path.name for path in (tmp_path / "srt").iterdir())]
    told += [(tmp_path / f"out.{kind}").read_text() for kind in ("json", "csv", "jsonl")]
    for text in told:
        assert_hidden(text, "qzk/xvq/Xq7Zk")
    paths = [video["path"] for video in json.loads((tmp_path / "out.json").read_text())["videos"]]
    assert len(set(paths)) == len(find_videos([str(listed)], allow_url=True)) == len(paths)
    assert main([*command[:2], "http://127.0.0.1:9/1", *ALLOW_URL, "--name", "door", *out]) == 1
    assert json.loads((tmp_path / "out.json").read_text())["videos"][0]["path"] == "door"
    assert capfd.readouterr().err.splitlines()[0] == "error: door: open: cannot be fetched: Connection refused"
