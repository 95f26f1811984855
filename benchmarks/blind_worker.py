"""A worker process that takes every image for good."""

import sys

from step37_flickr8k.download import job_runner, worker
from step37_flickr8k.images import Examined

if __name__ == "__main__":
    vars(job_runner)["examine"] = lambda *_: Examined()
    worker.serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
