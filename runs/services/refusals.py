"""The refusals of the services."""

from tunixrt.refusals import Conflict, Missing, NotHere, TooMany


class RuntimeUnavailable(NotHere):
    """No host that could take the run has the training runtime."""


class IdempotencyConflict(Conflict):
    """The same client_request_id came with a different body."""


class StateConflict(Conflict):
    """What was asked cannot be done to a run in its status."""


class OutputRootAway(StateConflict):
    """Whether there is a checkpoint cannot be told right now: the output root is away."""


class RunGone(Missing):
    """A run was purged while something was done with it."""


class QueueFull(TooMany):
    """The account has reached its limit of pending runs."""
