"""`headrace resume`: tell a service whose circuit breaker is open to go on, through the store that both can reach.

There is no HTTP route for it: whoever may write to the bucket may say so, and nobody else.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import msgspec

from stream.naming import Layout
from stream.ports import ObjectStore


def say(store: ObjectStore, layout: Layout) -> None:
    """A service with an open breaker closes it within some seconds; any other one takes no notice, now or later."""
    word = {"said": datetime.now(UTC).isoformat(timespec="seconds"), "nonce": uuid.uuid4().hex}
    store.put(layout.resume, msgspec.json.encode(word))
