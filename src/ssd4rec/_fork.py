"""Detect a process that was forked after the library had started threads.

The threads of PyTorch and polars do not exist in a forked child, which waits for them forever. A child that was forked before
anything was computed works.
"""

import os

from ssd4rec.errors import BackendError

_state = {"used": False, "forked": False}


def _after_fork() -> None:
    _state["forked"] = _state["used"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_not_forked() -> None:
    """Remember that threads may be running from now on.

    Raises:
        BackendError: this process was forked from one in which they were running.
    """
    if _state["forked"]:
        raise BackendError(
            "this process was forked after ssd4rec had run in its parent; it lacks the threads of the parent and would hang; "
            'start workers with multiprocessing.get_context("spawn"), run gunicorn without --preload, or load the model in each '
            "worker"
        )
    _state["used"] = True
