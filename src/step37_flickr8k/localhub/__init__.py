"""A Hub over a directory, with faults on demand: for the demo, the tests and the benchmarks.

It serves ``<split>/metadata.csv`` and ``<split>/*.jpg`` as one dataset repository, so that
huggingface_hub, curl or any other client works against it unchanged. Images are LFS files,
redirected to a second origin that stands for the CDN::

    from step37_flickr8k.localhub import Fault, LocalHub

    # eight images and a metadata.csv
    with LocalHub("dataset", repo_id="intro/flickr8k", token="hf_x") as hub:
        too_many = Fault.status(429, path="train/*.jpg", kind="cdn", retry_after=0, times=2)
        hub.faults.add(too_many, Fault.delay(0.05))
        snapshot_download(
            "intro/flickr8k", repo_type="dataset", endpoint=hub.endpoint, token="hf_x"
        )
        assert len(hub.file_requests()) == 9
        assert not any(one.authorization for one in hub.requests if one.origin == "cdn")

Only regular files below the directory are served, wherever links lead. With ``control=True``
another process reads the log with ``GET /_localhub/requests``, sets faults by ``POST
/_localhub/faults`` with a JSON list of `Fault` fields, and clears either with ``DELETE``; a page in
a browser may not.
"""

from .faults import Fault, Faults
from .requests import Request
from .server import LocalHub, run

__all__ = ["Fault", "Faults", "LocalHub", "Request", "run"]
