"""The job's settings, validated before anything else happens.

Apart from this package only `step37_flickr8k.cluster.launcher` reads the environment, and
`step37_flickr8k.hub` for proxies and certificates.

- `model`: every setting with its type, limits, default and meaning (`WarmupSettings`).
- `sources`: command line, environment, settings file, the Hub's own variables.
- `ignored`: what of it a library call doesn't take.
- `files`: settings files, YAML or TOML.
- `job_secret`: the job's secret, out of the file that a setting names.
- `options`: the settings that a download takes, as values.
- `meant`: texts that nobody can have meant, such as an unexpanded ``$SCRATCH``.
- `variables`: variables with our prefix that hold no setting; Kubernetes' are ignored.
- `names`: how a setting is called as a flag and as a variable.
- `reference`: the settings as documentation.
"""

from step37_flickr8k.settings.ignored import ignored_by
from step37_flickr8k.settings.job_secret import read_job_secret
from step37_flickr8k.settings.model import WarmupSettings
from step37_flickr8k.settings.options import FetchOptions, HubOptions
from step37_flickr8k.settings.sources import (
    Loaded,
    call_settings,
    contradictions,
    library_settings,
    load_settings,
)

__all__ = [
    "FetchOptions",
    "HubOptions",
    "Loaded",
    "WarmupSettings",
    "call_settings",
    "contradictions",
    "ignored_by",
    "library_settings",
    "load_settings",
    "read_job_secret",
]
