"""A worker process that takes every image for good."""

import sys

from step37_flickr8k.download import job_runner, worker
from step37_flickr8k.images.examined import FINE

if __name__ == "__main__":
    vars(job_runner)["examine"] = lambda *_: FINE
    worker.main(sys.argv[1:])
