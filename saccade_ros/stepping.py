"""Steps of streams: of one alone, or of several as one.

What is done with a tubelet is written as a generator, its Work: where it needs a step of the encoder it yields the
request, and goes on with the vector that it is sent. So a stream's story stands in one place (pipeline.py,
encoding.py), and whoever runs it decides with whose step its own is computed.
"""

from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import TypeVar

from saccade_ros.backends.base import Backend, JointBackend, StepRequest
from saccade_ros.frames import Vector

Outcome = TypeVar("Outcome")
Work = Generator[StepRequest, Vector, Outcome]


def run_alone(work: Work[Outcome]) -> Outcome:
    """Compute the steps that one stream asks for, and return its outcome. Raises what the work raises."""
    try:
        return _finish(work, next(work))
    except StopIteration as ended:
        outcome: Outcome = ended.value
        return outcome


def run_together(works: Sequence[Work[None]], backend: Backend) -> None:
    """Compute the first steps that several streams ask for as one, and all others alone.

    Where the joint step fails, each stream's is computed alone, so that the trouble of one costs no other anything.
    The works are finished in their order, but for those that need no step, which are finished first.

    Args:
        works: of different streams; none raises.
    """
    asked = [(work, request) for work in works if (request := next(work, None)) is not None]
    vectors = _compute_as_one([request for _, request in asked], backend)
    for (work, request), vector in zip(asked, vectors, strict=True):
        with suppress(StopIteration):
            _finish(work, request if vector is None else work.send(vector))


def _compute_as_one(requests: Sequence[StepRequest], backend: Backend) -> Sequence[Vector | None]:
    """Compute the joint step of two or more; None for each that is to be computed alone."""
    if len(requests) > 1 and isinstance(backend, JointBackend):
        with suppress(BaseException):  # whatever it is: alone, a stream fails only if the trouble is its own
            return backend.step_together(requests)
    return [None] * len(requests)


def _finish(work: Work[Outcome], request: StepRequest) -> Outcome:
    """Go on with a work that waits for this step, to its StopIteration."""
    while True:
        try:
            vector = request.compute()
        except BaseException as failed:  # noqa: BLE001  # the work's own: it counts the tubelet
            request = work.throw(failed)
        else:
            request = work.send(vector)
