"""Where a run is trained: on a CPU or GPUs, in one process or many, and Lightning's Trainer for it."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from timm.models import vision_transformer

from astroclip.errors import ConfigError, UsageError
from astroclip.model import specformer
from astroclip.training.callbacks import ClipShards
from astroclip.training.dino import DinoNetwork
from astroclip.training.settings import Training

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
BLOCKS = (specformer.Block, vision_transformer.Block)  # what is compiled, and sharded, as one
# DINOv2's student and teacher are sharded alike, so that the one can follow the other shard by shard
SHARDED = {*BLOCKS, DinoNetwork}


class Devices(NamedTuple):
    """What a run is trained on: its devices on each node, and how their processes find each other."""

    accelerator: str
    per_node: int
    nodes: int
    environment: ClusterEnvironment


def is_first_process() -> bool:
    """Tell whether this is the process that speaks, where several train together."""
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK") if several else ("RANK", "LOCAL_RANK")
    return int(next((os.environ[name] for name in ranks if name in os.environ), "0")) == 0


def find_devices(gpus: int | None, nodes: int) -> Devices:
    """Return where to train.

    Inside ``srun`` with several tasks, or ``torchrun``, there is one process a device already, and the
    number of devices is theirs. Elsewhere Lightning starts the others of this machine itself.

    Raises
    ------
    UsageError
        If more GPUs are asked for than are here, or several nodes without ``srun`` or ``torchrun``.
    """
    here = torch.cuda.device_count()
    if gpus is not None and gpus > here > 0:
        raise UsageError(f"--gpus {gpus}: this machine has {here}")
    accelerator = "gpu" if here and gpus != 0 else "cpu"
    if (tasks := int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))) > 1:
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
        if tasks % nodes:
            raise UsageError(f"srun started {tasks} tasks on {nodes} nodes: expected as many on each node")
        # Lightning takes srun's word for it only if it was asked for so many tasks of each node
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(tasks // nodes))
        return Devices(accelerator, tasks // nodes, nodes, SLURMEnvironment(auto_requeue=False))
    if TorchElasticEnvironment.detect():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
        return Devices(accelerator, devices, nodes, TorchElasticEnvironment())
    if gpus and not here:
        raise UsageError(f"--gpus {gpus}: this machine has none; --gpus 0 trains on the CPU")
    if nodes > 1:
        raise UsageError(
            f"--nodes {nodes}: start one process for each GPU on them with srun or torchrun, or submit "
            "the training with --slurm"
        )
    return Devices(accelerator, 1 if accelerator == "cpu" else gpus or here, 1, LightningEnvironment())


def check_devices(settings: Training, devices: Devices) -> None:
    """Refuse what the devices cannot do.

    Raises
    ------
    ConfigError
        Naming the setting.
    """
    run = settings.run
    if devices.accelerator == "cpu" and run.precision == "fp16":
        raise ConfigError("run.precision=fp16 needs a GPU; on a CPU use bf16 or fp32")
    if devices.accelerator == "cpu" and run.strategy == "fsdp":
        raise ConfigError("run.strategy=fsdp needs GPUs; on a CPU use ddp")
    if run.wandb and find_spec("wandb") is None:
        raise ConfigError("run.wandb=true, but wandb is not installed: pip install wandb")


def make_trainer(
    settings: Training, folder: Path, devices: Devices, watch: list[Callback], validates: bool
) -> Trainer:
    """Return Lightning's Trainer for a run; checkpoints, logs and progress are our own."""
    run, clip_norm = settings.run, settings.optim.clip_norm
    strategy: Strategy | str = "auto"
    if run.strategy == "fsdp":
        strategy = FSDPStrategy(auto_wrap_policy=SHARDED, state_dict_type="full")
        if clip_norm is not None:
            watch, clip_norm = [*watch, ClipShards(clip_norm)], None
    elif devices.per_node * devices.nodes > 1:
        strategy = DDPStrategy(gradient_as_bucket_view=True)
    return Trainer(
        accelerator=devices.accelerator,
        devices=devices.per_node,
        num_nodes=devices.nodes,
        strategy=strategy,
        plugins=[devices.environment],
        precision=PRECISIONS[run.precision],
        max_steps=run.steps,
        max_epochs=-1,
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=clip_norm,
        val_check_interval=run.val_every * run.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        deterministic=run.deterministic,
        inference_mode=False,
        use_distributed_sampler=False,
        callbacks=watch,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's own messages back; what matters is an error of ours or in the records."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", module=r"lightning\.")  # its use of what torch will drop
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
