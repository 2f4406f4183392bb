"""TARGETID, DESI's number of a target, and the Legacy Survey source that it stands for."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def encode_targetid(release: ArrayLike, brickid: ArrayLike, objid: ArrayLike) -> NDArray[np.int64]:
    """Return the DESI TARGETID of Legacy Survey sources, a unique number for (RELEASE, BRICKID, OBJID).

    OBJID takes the lowest 22 bits, BRICKID the next 20, RELEASE 16 (desitarget.targets.encode_targetid). It
    is the TARGETID of every target that is neither sky, nor mock, nor a secondary target of its own.
    -1 where a number is not positive or too large, as for rows without a source (RELEASE 0).
    """
    numbers = np.broadcast_arrays(*(np.asarray(x, np.int64) for x in (release, brickid, objid)))
    limits = zip(numbers, (1, 0, 0), (1 << 16, 1 << 20, 1 << 22), strict=True)
    valid = np.logical_and.reduce([(low <= x) & (x < high) for x, low, high in limits])
    return np.where(valid, (numbers[0] << 42) | (numbers[1] << 22) | numbers[2], -1)


def decode_targetid(targetid: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (RELEASE, BRICKID, OBJID) of DESI targets, the inverse of `encode_targetid`.

    -1 in all three where a TARGETID is not one of a Legacy Survey source: sky, secondary and stuck fibres.
    """
    ids = np.asarray(targetid, np.int64)
    source = (ids >= 1 << 42) & (ids < 1 << 58)
    release, brickid, objid = ids >> 42, (ids >> 22) & ((1 << 20) - 1), ids & ((1 << 22) - 1)
    return np.where(source, release, -1), np.where(source, brickid, -1), np.where(source, objid, -1)
