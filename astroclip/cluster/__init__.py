"""Run a function as a Slurm job: one launcher for training and embedding."""

from astroclip.cluster.queue import JobFailedError, Submitted, follow
from astroclip.cluster.submit import Launcher, SlurmOptions

__all__ = ["JobFailedError", "Launcher", "SlurmOptions", "Submitted", "follow"]
