"""A model file to the hub, with its digest and its card, in one commit."""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint import load_model_file
from pipeline.errors import UserError
from pipeline.files.failures import failures_of
from pipeline.hub import COMMIT, DIGEST_FILE, MODEL_FILE, HubModel, hub_failures
from pipeline.publishing.card import ModelCard, make_card
from pipeline.sources import HUB_NAME, HUB_REVISION
from pipeline.version import __version__

_CARD_FILE = "README.md"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class _Parcel:
    """The content of a push: the bytes of a model file, their digest, and the card."""

    target: HubModel
    content: bytes
    sha256: str
    card: ModelCard

    @property
    def files(self) -> dict[str, bytes]:
        """Name on the hub -> content."""
        return {
            MODEL_FILE: self.content,
            DIGEST_FILE: f"{self.sha256}  {MODEL_FILE}\n".encode(),  # as sha256sum has it
            _CARD_FILE: self.card.text.encode(),
        }


def make_parcel(path: Path, name: str, revision: str | None, licence: str | None) -> _Parcel:
    """Read and check a model file, and make its card; asks nothing of the network.

    Raises:
        UserError: a name that the hub does not take, no model file, or a damaged one.
    """
    if not HUB_NAME.fullmatch(name):
        raise UserError("a repository of the hub is named owner/name: letters, digits, - _ . and at most 96 of them")
    if revision is not None and (not HUB_REVISION.fullmatch(revision) or COMMIT.fullmatch(revision)):
        raise UserError(
            "--revision: a branch has a name of letters, digits, - _ . / and is no commit; leave it out for main"
        )
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError("--licence: an identifier as the hub lists them, such as apache-2.0, cc-by-nc-4.0 or other")
    file = load_model_file(path)
    with failures_of(path):
        content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    target = HubModel(name, revision or "main")
    return _Parcel(target, content, sha256, make_card(path, file, target, sha256, licence))


def push_parcel(parcel: _Parcel, *, private: bool) -> dict[str, Any]:
    """Make the repository and the branch if they are not there, and commit the files; return what was done.

    Raises:
        UserError: the hub refuses, is not there, or has somebody else's files under that name.
    """
    target = parcel.target
    with hub_failures(str(target)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a server's words
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi(library_name="clipgru", library_version=__version__)
        api.create_repo(target.name, private=private or None, exist_ok=True)
        _check_repository(target, api.model_info(target.name), private)
        if target.revision != "main":
            api.create_branch(target.name, branch=target.revision, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in parcel.files.items()]
        message = f"clipgru {__version__}: {MODEL_FILE}, SHA-256 {parcel.sha256[:16]}"
        try:
            done = api.create_commit(target.name, additions, commit_message=message, revision=target.revision)
        except ValueError as error:
            if isinstance(error, HfHubHTTPError):
                raise
            raise UserError(
                f"{target}: the hub does not take the card; give a --licence that it lists, or none"
            ) from None
        if not COMMIT.fullmatch(str(done.oid)):
            raise UserError(f"{target}: the hub took the files, and names no commit; look at its page")
    return {"model": str(HubModel(target.name, done.oid)), "sha256": parcel.sha256, "files": list(parcel.files)}


def _check_repository(target: HubModel, found: Any, private: bool) -> None:
    if private and found.private is False:
        raise UserError(f"{target}: is there already, and public; make it private on its page, or leave --private out")
    names = {file.rfilename for file in found.siblings or ()}
    if names & {MODEL_FILE, _CARD_FILE} and DIGEST_FILE not in names:
        raise UserError(
            f"{target}: has a {_CARD_FILE} or {MODEL_FILE} that clipgru push did not write, and would replace; choose "
            "another name, or remove them there"
        )
