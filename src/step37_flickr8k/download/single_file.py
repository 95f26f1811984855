"""One file of the repository into a cache directory: staged, verified, renamed."""

import logging
from dataclasses import replace
from pathlib import Path

from step37_flickr8k.cache.staging import Staging, staging
from step37_flickr8k.dataset.digests import digest_of
from step37_flickr8k.errors import FetchFailed, FolderNotUsable
from step37_flickr8k.hub.api import PUBLIC_ENDPOINT
from step37_flickr8k.hub.certificates import check_certificates
from step37_flickr8k.hub.file_request import FileRequest
from step37_flickr8k.hub.plain_http import warn_of_readable
from step37_flickr8k.hub.proxies import Proxies
from step37_flickr8k.hub.single_file import fetch_file
from step37_flickr8k.settings.options import FetchOptions, HubOptions

__all__ = ["download_file"]

log = logging.getLogger("step37_flickr8k")

_NOTES = ".cache/huggingface/download"  # huggingface_hub's own, below the directory


def download_file(
    repo_id: str, filename: str, cache_dir: Path, *, options: HubOptions, fetch: FetchOptions
) -> Path:
    """Return the path of a file, downloaded to ``cache_dir/<filename>`` or reused from there.

    Its bytes are hashed either way: huggingface_hub keeps a file with wrong bytes of the right
    size. Here such a file is downloaded once more, and refused the second time.
    """
    root, path = cache_dir.resolve(), cache_dir / filename
    # Not every version of huggingface_hub checks the name.
    if not filename or not (root / filename).resolve().is_relative_to(root):
        raise FolderNotUsable(
            f"{filename!r} is outside of {cache_dir}: name a file of the repository"
        )
    Proxies().check()
    check_certificates()
    endpoint = options.endpoint or PUBLIC_ENDPOINT
    if not options.offline:
        warn_of_readable(endpoint, options)
    with staging(root, filename, f"{_NOTES}/{filename}.metadata") as staged:
        request = FileRequest(
            repo_id=repo_id,
            filename=filename,
            directory=str(root),
            opened=str(staged.directory),
            endpoint=endpoint,
            token=options.token,
            headers=dict(options.headers),
            offline=options.offline,
            force=False,
            connect_timeout=fetch.connect_timeout,
            read_timeout=fetch.read_timeout,
        )
        for force in (False, True):
            fetch_file(replace(request, force=force), fetch.attempts, staged.descriptors)
            if _matches_note(staged):
                staged.publish()
                return path
            log.warning("%s has other bytes than the Hub states: downloading it again", path)
    raise FetchFailed(
        f"{path} has other bytes than {request.requested.repository} states, twice:"
        " is there a proxy that changes them?"
    )


def _matches_note(staged: Staging) -> bool:
    """Return whether a file has the hash that huggingface_hub noted for it.

    That is its ETag: a sha256 (LFS) or the sha1 of a git blob. A file without a note matches.
    """
    try:
        etag = staged.note.read_text(encoding="utf-8").splitlines()[1].strip()
    except (OSError, IndexError):
        return True
    kind = {64: "sha256", 40: "git-sha1"}.get(len(etag))
    if kind is None:
        return True
    with staged.path.open("rb") as file:
        return digest_of(file, f"{kind}:") == f"{kind}:{etag}"
