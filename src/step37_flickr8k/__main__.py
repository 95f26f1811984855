"""``python -m step37_flickr8k`` is the command."""

import sys

from step37_flickr8k.cli import main

sys.exit(main())
