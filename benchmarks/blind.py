"""The command with workers that decode no image, as the other ways of the benchmark don't."""

from step37_flickr8k.cli import main
from step37_flickr8k.download import worker_process

if __name__ == "__main__":
    worker_process._MODULE = "blind_worker"  # noqa: SLF001 - its workers find it beside this file
    main()
