"""What ranks write, signed with the job's secret where the launcher passes one.

A signature covers the run, the key and the text: what was signed for one key is nothing under
another one, and nothing in the store of another run. What isn't signed is as good as nothing.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass, field

from step37_flickr8k.cluster.codec import LONGEST
from step37_flickr8k.cluster.protocol.messages import SIGNED

__all__ = ["Seal"]

_OF_A_SIGNATURE = len(SIGNED) + hashlib.sha256().digest_size * 2 + 1


@dataclass(frozen=True)
class Seal:
    """Signs texts for the keys of a run's store; without a secret they stay as they are."""

    secret: bytes = field(default=b"", repr=False)
    run: str = ""

    def closed(self, key: str, text: str) -> str:
        """Return a text as it is written to a key."""
        return f"{self._signature(key, text)} {text}" if self.secret else text

    def opened(self, key: str, stands: str | None) -> str | None:
        """Return the text that was written to a key; None if there is none that is signed."""
        if not self.secret or stands is None:
            return stands
        if len(stands) > LONGEST + _OF_A_SIGNATURE:
            return None
        signature, _, text = stands.partition(" ")
        expected = self._signature(key, text)
        is_signed = hmac.compare_digest(signature.encode(errors="replace"), expected.encode())
        return text if is_signed else None

    def _signature(self, key: str, text: str) -> str:
        # As JSON it can't be cut in another way. It makes ASCII of whatever else was in the store.
        signed = json.dumps([self.run, key, text]).encode()
        return SIGNED + hmac.new(self.secret, signed, hashlib.sha256).hexdigest()
