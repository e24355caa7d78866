"""Model files on the Hugging Face hub, by addresses such as ``hf://owner/name@revision``.

``huggingface_hub`` fetches them, into its own cache, and is imported when the first such address is opened. Names are
checked before anything is asked, and answers before that library makes names of files of them. Beside the model file
lies its SHA-256, by which it is judged at each opening; the copy that was last found right is the one that opens
without a network.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files.content import file_digest
from pipeline.files.failures import reason_of
from pipeline.network import status_in_words
from pipeline.sources import hub_parts, shown_source

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

MODEL_FILE, DIGEST_FILE = "model.safetensors", "model.safetensors.sha256"
COMMIT = re.compile("[0-9a-f]{40}")
_LOG_IN = "log in with hf auth login, or set HF_TOKEN"

_MAX_BYTES = {MODEL_FILE: 1 << 34, DIGEST_FILE: 200}
_ETAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)  # the cache names a file by it
_PREFIX = "hf:/"  # one slash is what is left of two in a path


@dataclass(frozen=True)
class HubModel:
    """A repository of the hub with a model file, at a revision: a branch, a tag or a commit."""

    name: str
    """owner/name"""
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision != "main" else "")


def local_model(source: str, *, output: str | None = "") -> str:
    """Return the path of a model file: ``source`` itself, or for an ``hf://`` address its verified copy in the cache.

    Args:
        source: a path or an address.
        output: ``--output`` of a command that else writes beside its model; None: it was not given.

    Raises:
        UserError: the address names nothing, the hub does not give it, or the file is not what was pushed.
    """
    if not source.startswith(_PREFIX):
        return source
    model = parse_hub_address(source)
    if output is None:
        raise UserError(
            f"{model}: this command writes beside its model, and the hub's cache is no place for that; name one by "
            "--output"
        )
    return str(_bring(model))


def parse_hub_address(address: str) -> HubModel:
    """Return what an address names. Raises ``UserError`` for a name that no repository or revision can have."""
    found = hub_parts(address)
    if found is None:
        raise UserError(
            f"{shown_source(address)}: a model of the hub is named hf://owner/name or hf://owner/name@revision, "
            "of letters, digits, - _ . and at most 96 of them; a token belongs into HF_TOKEN"
        )
    return HubModel(found[0], found[1] or "main")


def _bring(model: HubModel) -> Path:
    with hub_failures(str(model)):
        if COMMIT.fullmatch(model.revision) and (found := _cached(model)):
            return found
        try:
            return _fetch(model)
        except _errors() as error:
            if not _is_unreachable(error):
                raise
        found = _cached(model)
    if found is None:
        raise UserError(
            f"{model}: the hub cannot be reached (or HF_HUB_OFFLINE is set), and this model was not opened here "
            "before; go online once, or name a model file by its path"
        )
    return found


def _fetch(model: HubModel) -> Path:
    from huggingface_hub import hf_hub_download

    commit = _ask(model, DIGEST_FILE).commit_hash
    at_commit = replace(model, revision=str(commit))
    if _cached_files(at_commit) is None:
        for name in (MODEL_FILE, DIGEST_FILE):
            counted = _meter(at_commit, _ask(at_commit, name).size or 0)
            hf_hub_download(model.name, name, revision=at_commit.revision, tqdm_class=counted)
    found = _cached(at_commit)
    if found is None:
        raise UserError(f"{model}: was fetched and is not in the hub's cache; is another process emptying it?")
    if _cached_files(model) != _cached_files(at_commit):  # only now does the cache take it for the revision's
        hf_hub_download(model.name, DIGEST_FILE, revision=model.revision, tqdm_class=_meter(model, 0))
    return found


def _ask(model: HubModel, name: str) -> HfFileMetadata:
    """The hub's words on a file. The library makes paths of them, and believes the size."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    found = get_hf_file_metadata(hf_hub_url(model.name, name, revision=model.revision))
    if not (COMMIT.fullmatch(found.commit_hash or "") and _ETAG.fullmatch(found.etag or "")):
        raise UserError(
            f"{model}: the answer to {name} is none of a hub (no commit, or a name that no file may have); see "
            "HF_ENDPOINT and the proxy"
        )
    if found.size is None or found.size > _MAX_BYTES[name]:
        size = "no size" if found.size is None else f"{found.size:,} bytes"
        raise UserError(
            f"{model}: {name} has {size}, and may have {_MAX_BYTES[name]:,}; fetch it by other means if you trust it, "
            "and name it by its path"
        )
    return found


def _meter(model: HubModel, num_bytes: int) -> type[Any]:
    """A progress bar that shows nothing, since the library's would show an address, and ends what sends too much:
    clearly more than announced, for of a file in chunks it also counts what comes twice."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Meter(tqdm):  # type: ignore[misc]
        num_left = 2 * num_bytes + (1 << 20)

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            self.num_left -= int(n or 0)
            if self.num_left < 0:
                raise UserError(f"{model}: the server sends more than the {num_bytes:,} bytes that it announces")

    return Meter


def _cached_files(model: HubModel) -> tuple[Path, Path] | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(model.name, name, revision=model.revision) for name in (MODEL_FILE, DIGEST_FILE)]
    file, digest = (Path(path) if isinstance(path, str) else None for path in found)
    return (file, digest) if file and digest else None


def _cached(model: HubModel) -> Path | None:
    """The model file in the cache, if it is there.

    Raises:
        UserError: it has not the SHA-256 that lies beside it.
    """
    files = _cached_files(model)
    if files is None:
        return None
    file, digest = files
    try:
        with digest.open("rb") as stream:
            said = re.fullmatch(rb"([0-9a-f]{64})  model\.safetensors\n", stream.read(_MAX_BYTES[DIGEST_FILE]))
        is_right = said is not None and said[1].decode() == file_digest(file)
    except OSError as error:
        raise UserError(f"{model}: {file}: {reason_of(error)}") from error
    if not is_right:
        raise UserError(
            f"{model}: its model file is not the one that was pushed (SHA-256 differs from {DIGEST_FILE}): damaged or "
            f"changed; remove {file.parents[2]} and open it anew, or else ask its owner to push it again"
        )
    return file


def _errors() -> tuple[type[Exception], ...]:
    """All that the library raises where a server, a disk or a setting is not as it should be."""
    import httpx2

    of_content = (ValueError, LookupError, TypeError, RuntimeError, AssertionError)
    return httpx2.HTTPError, httpx2.InvalidURL, OSError, *of_content


def _is_unreachable(error: Exception) -> bool:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, httpx2.TransportError | LocalEntryNotFoundError | OfflineModeIsEnabled)


@contextmanager
def hub_failures(what: str) -> Iterator[None]:
    """Turn whatever the hub's library raises into a ``UserError`` of one line that begins with ``what``, without the
    library's or a server's words, which may hold addresses and tokens; meanwhile the library logs nothing.

    Raises:
        UserError: also if the library is not there.
    """
    try:
        errors = _errors()
        import huggingface_hub.utils.logging  # noqa: F401  # sets the level of the library's logger
    except ImportError as error:
        raise UserError(f"{what}: the hub needs huggingface_hub ({error}); pip install 'clipgru[hub]'") from error
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except errors as error:
        raise UserError(f"{what}: {_reason(error)}") from None
    finally:
        logger.setLevel(before)


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if _is_unreachable(error):
        return "the hub cannot be reached, or HF_HUB_OFFLINE is set; go online and try again"
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: accept its terms on its page on the hub, then {_LOG_IN}"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return f"the hub shows no such repository: check the name, or if it is private {_LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision; name a branch, a tag or a commit that it has"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no {MODEL_FILE} with a {DIGEST_FILE}, as clipgru push writes them; name another one"
    if status:
        cure = f"{_LOG_IN}, by a token that may do this" if status == 403 else "try again later"
        return f"the hub answers {status_in_words(status)}; {cure}"
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
    return f"the hub's answer is not as it should be ({type(error).__name__}); try again, and see HF_ENDPOINT"
