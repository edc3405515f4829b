"""The times of requests: when the target of an example was met, and how long after the event before it."""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ssd4rec._csr import IntArray
from ssd4rec.data.sequences import Sequences
from ssd4rec.data.split import Examples
from ssd4rec.data.timestamps import Clock
from ssd4rec.errors import ConfigError

RequestTime = Literal["known", "unknown", "shuffled"]
REQUEST_TIMES: tuple[RequestTime, ...] = get_args(RequestTime)
NOT_KNOWN = (-1, 0)  # gap and moment of a request whose time is not known


def check_clock(clock: Clock) -> int:
    """Return the ticks of a second of a clock.

    Raises:
        ConfigError: the times of the data are not moments of a calendar.
    """
    if (ticks := clock.ticks_per_second) is None:
        raise ConfigError(
            f"the time of a request needs data with times of a calendar, and these have {clock.kind} instead; name the time "
            f"column with --time, or leave the time of the request out (training: backbone.request_time = false, "
            f"evaluation: evaluation.request_time = unknown)"
        )
    return ticks


def times_before(sequences: Sequences, at: IntArray) -> npt.NDArray[np.int64]:
    """Return the time of each event, and how long it came after the event before it.

    Args:
        sequences: with times of a calendar.
        at: [n] positions of events that are not the first of their sequence.

    Returns:
        int64 [n, 2]: gap and moment, in seconds.
    """
    ticks = check_clock(sequences.clock)
    moments = sequences.times[at]
    return np.stack([(moments - sequences.times[at - 1]) // ticks, moments // ticks], axis=1)


def request_times(sequences: Sequences, single: Examples, request_time: RequestTime, seed: int = 0) -> npt.NDArray[Any]:
    """Return the time of each target.

    Args:
        sequences: with times of a calendar.
        single: examples with one target each.
        request_time: "known"; "unknown": none; "shuffled": each example has the time of another one, drawn at random.
            A model that gains by the time of its own request, and not by knowing times at all, loses with the last.
        seed: of the shuffle.

    Returns:
        int64 [examples, 2]: gap and moment, in seconds.
    """
    if request_time == "unknown":
        return np.tile(np.array(NOT_KNOWN), (len(single), 1))
    times = times_before(sequences, single.first_target)
    return times if request_time == "known" else np.random.default_rng(seed).permutation(times)
