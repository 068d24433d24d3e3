"""Every way in which Headrace stops on purpose, split by what the operator can do, each with its own exit code."""

from __future__ import annotations

from typing import ClassVar


class HeadraceError(Exception):
    """Base of the errors that are meant for a person: the message names the input and the remedy."""

    exit_code: ClassVar[int] = 1


class ConfigError(HeadraceError):
    """A setting or an argument is missing or wrong."""

    exit_code = 2


class Fenced(HeadraceError):
    """Another writer has taken over this lineage; this process must stop and must not be restarted blindly."""

    exit_code = 3


class StoreRefused(HeadraceError):
    """The object store cannot be used as it is: no bucket, wrong credentials, no conditional writes, lost objects."""

    exit_code = 4


class SourceRefused(HeadraceError):
    """The source cannot give what the state asks for: no such topic, refused login, offsets past retention."""

    exit_code = 5


class LearnerFailed(HeadraceError):
    """The learner could not be started, or fails on the same plan again and again."""

    exit_code = 6


class LearnerAway(LearnerFailed):
    """The cluster that is to hold the learner is out of reach. While the service runs, it is waited for."""


class DrainIncomplete(HeadraceError):
    """SIGTERM was obeyed, but the last checkpoint could not be written in time; nothing is lost, plans are replayed."""

    exit_code = 7


class StoreUnavailable(HeadraceError):
    """A call to the store failed in a way that may pass (time-out, 5xx, connection refused). Retry; outcome unknown."""


class NotFound(HeadraceError):
    """The object does not exist."""


class PreconditionFailed(HeadraceError):
    """A conditional write was refused (HTTP 412): the object exists already, or has another ETag."""


class Conflict(HeadraceError):
    """Two conditional writes met (HTTP 409): nothing was written; try again."""


class LearnerLost(HeadraceError):
    """The learner's process is gone, and with it the state since the last checkpoint: restore and replay."""


class Diverged(LearnerLost):
    """Learning plan `seq` left a model that is no good any more, for `reason`: its state is given up.

    At the second time, from a state restored anew, it is the batch: that one is set aside.
    """

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(seq, reason)
        self.seq = seq
        self.reason = reason

    def __str__(self) -> str:
        return f"learning plan {self.seq} diverged: {self.reason}"


class CheckpointInvalid(HeadraceError):
    """A checkpoint's manifest or part is missing, damaged or from another format: use the next older one."""


EXIT_CODES: dict[int, str] = {
    0: "stopped as asked: drained and checkpointed",
    1: "verify: a breach; doctor: a failed check; else an error without a code of its own (a broken machine, a bug)",
    2: "configuration or usage error",
    3: "fenced: another writer has taken over this lineage",
    4: "the object store refused: no bucket, wrong credentials, no conditional writes, damaged or missing objects",
    5: "the source refused: no such topic, refused login, or the offsets needed are past Kafka's retention",
    6: "the learner cannot be started, or fails on the same plan repeatedly",
    7: "stopped as asked, but the last checkpoint could not be written in time (nothing is lost: plans are replayed)",
    130: "second SIGINT or SIGTERM: exited at once (nothing is lost: plans are replayed)",
}
