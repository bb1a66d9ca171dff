"""Scratch of the kernels, made before they run: what makes no array counts no references and compiles sooner."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.random.splitmix import OF_PLACE, STREAMS
from engine.walk import columns as lay


class Rounds(NamedTuple):
    """What a kernel keeps for each round of a point, whatever its way.

    streams: uint64[rounds, STREAMS]; pins: uint64[7]; scan: int64[rounds, 3], tables held by the async scan's gather,
    first and last page; flags: bool[4, rounds], PMD and PUD tables touched and mapped; pace: int64[rounds x threads],
    attempts: int64[rounds, PMD span], -1 throughout, and steps: int64[2, 2 x PMD span] of points with threads
    """

    streams: Any
    pins: Any
    scan: Any
    flags: Any
    pace: Any
    attempts: Any
    steps: Any


def rounds_of(par: NDArray[np.int64]) -> Rounds:
    """As much as the largest of these points needs; par: int64[n, PARAMETERS]."""
    rounds, threaded = most(par, lay.ROUNDS), par[par[:, lay.THREADS] > 1]
    span = most(threaded, lay.PMD_SPAN)
    return Rounds(
        np.zeros((rounds, STREAMS), np.uint64),
        np.zeros(OF_PLACE + 1, np.uint64),
        np.zeros((rounds, 3), np.int64),
        np.zeros((4, rounds), np.bool_),
        np.zeros(paces(threaded), np.int64),
        np.full((most(threaded, lay.ROUNDS), span), -1, np.int64),
        np.zeros((2, 2 * span), np.int64),
    )


def most(par: NDArray[np.int64], column: int) -> int:
    """The largest value of a parameter, 0 of no points."""
    return int(par[:, column].max(initial=0))


def paces(threaded: NDArray[np.int64]) -> int:
    """Rounds x threads of that of these points which has most."""
    return int((threaded[:, lay.ROUNDS] * threaded[:, lay.THREADS]).max(initial=0))
