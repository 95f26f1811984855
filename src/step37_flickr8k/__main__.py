"""``python -m step37_flickr8k`` is the command."""

from step37_flickr8k.cli import main

if __name__ == "__main__":
    main()
