"""Dead letters by Kafka: a reject's original bytes and headers, with headers of ours that say why, in a topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from stream import letters
from stream.events import Reject
from stream.kafka.link import KafkaSettings, connect, ensure_topic, may_pass

CLOSE_SECONDS_MAX = 5.0
CUT_LETTER_BYTES = 256 << 10
DELIVERY_SECONDS_MAX = 20.0


class KafkaDeadLetters:
    """A `DeadLetters` that produces to a topic, made if it is missing.

    A letter is the original bytes and headers, and headers of ours: where the message stood, why it was rejected. One
    that is too large for the topic is cut, and a header says so.
    """

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        ensure_topic(settings, topic)
        self._producer = connect(KafkaProducer, settings, **_PRODUCER_OPTIONS)

    def send(self, rejects: Sequence[Reject]) -> None:
        failures = self._write([(reject, reject.value) for reject in rejects])
        too_large = [reject for reject, error in failures if isinstance(error, MessageSizeTooLargeError)]
        failures = [each for each in failures if each[0] not in too_large]
        # A reject that its own topic cannot hold must not stop the stream: its first bytes say what it was.
        failures += self._write([(reject, (reject.value or b"")[:CUT_LETTER_BYTES]) for reject in too_large])
        if failures:
            raise may_pass(failures[0][1], self._settings, self._topic) from failures[0][1]

    def _write(self, pairs: Sequence[tuple[Reject, bytes | None]]) -> list[tuple[Reject, KafkaError]]:
        """Produce and wait for the acknowledgements; answers what failed, and how."""
        try:
            sent = [self._produce(reject, value) for reject, value in pairs]
            self._producer.flush(timeout=DELIVERY_SECONDS_MAX + 1)
        except KafkaError as error:
            return [(pairs[0][0], error)]
        late = KafkaTimeoutError("not acknowledged in time")
        results = [
            (reject, future.exception if future.is_done else late)
            for (reject, _), future in zip(pairs, sent, strict=True)
        ]
        return [(reject, error) for reject, error in results if error is not None]

    def _produce(self, reject: Reject, value: bytes | None) -> Any:
        # The key makes a letter that is written again the same letter, and a null value needs one.
        key = f"{self._settings.topic}/{reject.partition}/{reject.offset}".encode()
        headers = letters.headers(reject, self._settings.topic, cut=value != reject.value)
        return self._producer.send(self._topic, value, key=key, headers=headers)

    def close(self) -> None:
        self._producer.close(timeout=CLOSE_SECONDS_MAX)


_PRODUCER_OPTIONS: dict[str, Any] = {
    "acks": "all",
    # At least once is promised, and a new producer session after a time-out is not needed for that.
    "enable_idempotence": False,
    "max_request_size": 64 << 20,
    "linger_ms": 5,
    "max_block_ms": round(DELIVERY_SECONDS_MAX * 1000),
    "delivery_timeout_ms": round(DELIVERY_SECONDS_MAX * 1000),
}
