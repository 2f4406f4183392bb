"""DINOv2's network and losses: DINO between views, iBOT on hidden patches, KoLeo against crowding.

Sources: Caron et al. 2021 (arXiv:2104.14294), Zhou et al. 2022 (arXiv:2111.07832), Sablayrolles et al. 2019
(arXiv:1806.03198), Oquab et al. 2024 (arXiv:2304.07193).

KoLeo is lightly's. Its other parts do not give the published numbers: `DINOLoss` has no Sinkhorn-Knopp and
does not tell global from local terms, `IBOTPatchLoss` averages the means of ranks that hide different numbers
of patches, `DINOProjectionHead` has other names and a frozen scale in its last layer, `random_block_mask`
fails where few patches are to be hidden, and `cosine_schedule` ends one step early.

Shapes: B galaxies, L local views of each, M hidden patches of the 2 B global views, D width, K prototypes.
Views are ordered as `astroclip.model.views` gives them: the first of every galaxy, then the second.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightly.loss.koleo_loss import KoLeoLoss
from torch import Generator, Tensor, nn

from astroclip.config import ImageEncoderConfig
from astroclip.model.vit import ImageEncoder
from astroclip.training.ranks import gather, over_ranks

GLOBAL_VIEWS = 2
_SINKHORN_ITERATIONS = 3


class DinoOutput(NamedTuple):
    """What a network makes of views: `cls` (2 B, D) of the global ones before the head, and logits.

    `global_logits` (2 B, K), `local_logits` (L B, K; none for the teacher), `patch_logits` (M, K).
    """

    cls: Tensor
    global_logits: Tensor
    local_logits: Tensor
    patch_logits: Tensor


class DinoTerms(NamedTuple):
    """The terms of the loss, not yet weighted; `globals` and `local` add up to DINO's mean over all pairs.

    `teacher_entropy` is the mean entropy of what the teacher says of the global views, in nats: 0 if it is
    always sure, ln K if all prototypes are alike to it; at both ends it has collapsed.
    """

    globals: Tensor
    local: Tensor
    ibot: Tensor
    koleo: Tensor
    teacher_entropy: Tensor


class PrototypeLayer(nn.Module):
    """Linear layer without bias whose rows have a length of their own: weight_g weight_v / |weight_v|."""

    def __init__(self, embed_dim: int, prototypes: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(prototypes, 1))
        self.weight_v = nn.Parameter(torch.empty(prototypes, embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Project (..., D) to (..., K)."""
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))


class DinoHead(nn.Module):
    """Projection head: a three-layer MLP into a narrow space, normalisation, prototypes. (N, D) to (N, K)."""

    def __init__(self, embed_dim: int, hidden_dim: int, bottleneck_dim: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        self.last_layer = PrototypeLayer(bottleneck_dim, prototypes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of tokens."""
        x = self.mlp(tokens)
        return self.last_layer(F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12))

    def init_weights(self, generator: Generator) -> None:
        """Fill all weights in place as DINOv2 starts training."""
        for layer in (m for m in self.mlp if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.ones_(self.last_layer.weight_g)
        nn.init.kaiming_uniform_(self.last_layer.weight_v, a=5**0.5, generator=generator)


class DinoNetwork(nn.Module):
    """Image encoder and projection head, named as in the released teacher: `backbone`, `dino_head`.

    It is built on the meta device, without values, as `ImageEncoder` is.
    """

    def __init__(
        self, config: ImageEncoderConfig, hidden_dim: int, bottleneck_dim: int, prototypes: int
    ) -> None:
        super().__init__()
        with torch.device("meta"):
            self.backbone = ImageEncoder(config)
            self.dino_head = DinoHead(config.embed_dim, hidden_dim, bottleneck_dim, prototypes)

    def forward(
        self,
        global_views: Tensor,
        hidden: Tensor,
        masks: Tensor | None = None,
        local_views: Tensor | None = None,
    ) -> DinoOutput:
        """Encode views.

        Parameters
        ----------
        global_views
            (2 B, 3, H, W) z, r, g.
        hidden
            (M,) places of the hidden patches in the 2 B P patches, ascending.
        masks
            (2 B, P) bool: patches that this network does not see. The student gets them, the teacher not.
        local_views
            (L B, 3, h, w) z, r, g: the student's alone.
        """
        cls, patches = self.backbone(global_views, masks)
        tokens = [cls, patches.flatten(0, 1)[hidden]]
        if local_views is not None:
            tokens.append(self.backbone(local_views).cls)
        sizes = [len(t) for t in tokens]
        global_logits, patch_logits, *local = self.dino_head(torch.cat(tokens)).float().split(sizes)
        return DinoOutput(cls, global_logits, local[0] if local else global_logits[:0], patch_logits)

    def init_weights(self, generator: Generator) -> None:
        """Fill all weights in place as DINOv2 starts training."""
        self.backbone.init_weights(generator)
        self.dino_head.init_weights(generator)


class TeacherTargets(nn.Module):
    """Turns the teacher's logits into probabilities such that prototypes are used alike.

    `center` takes off a moving average of the logits over the batches of all ranks and sharpens by the
    temperature; `sinkhorn` is the Sinkhorn-Knopp algorithm over the batch of all ranks (Caron et al. 2020).
    """

    center: Tensor

    def __init__(
        self, prototypes: int, kind: Literal["center", "sinkhorn"] = "center", momentum: float = 0.9
    ) -> None:
        super().__init__()
        self.kind, self.momentum = kind, momentum
        self.register_buffer("center", torch.zeros(1, prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float, update: bool = True) -> Tensor:
        """Return probabilities (N, K) of logits (N, K); in training then `update` the centre by them."""
        if self.kind == "sinkhorn":
            return sinkhorn_knopp(logits, temperature)
        probabilities = ((logits - self.center) / temperature).softmax(dim=-1)
        if update:
            total, count = over_ranks(logits.sum(dim=0)), over_ranks(logits.new_tensor(len(logits)))
            # ranks hide different numbers of patches, and may hide none at all
            mean = total / count.clamp(min=1)
            self.center.lerp_(torch.where(count > 0, mean, self.center), 1 - self.momentum)
        return probabilities


class DinoLoss(nn.Module):
    """The terms of DINOv2's loss for what student and teacher make of the same views.

    DINO: the student's view of a galaxy predicts the teacher's other one; mean over the 2 + 2 L pairs of
    views and over galaxies. iBOT: the student predicts the teacher's hidden patches; mean over those of a
    view, then over all 2 B views, those without hidden patches counting as 0. KoLeo: minus the mean logarithm
    of the distance to the nearest neighbour among the embeddings of a view, summed over the two global views.

    With several ranks the mean of the losses, and the mean of their gradients, is that of one process with
    the whole batch. Differs from Parker+24, where KoLeo looks for neighbours among a device's galaxies only.
    """

    def __init__(
        self,
        prototypes: int,
        student_temperature: float = 0.1,
        targets: Literal["center", "sinkhorn"] = "center",
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.student_temperature = student_temperature
        self.cls_targets = TeacherTargets(prototypes, targets, center_momentum)
        self.patch_targets = TeacherTargets(prototypes, targets, center_momentum)
        self.koleo = KoLeoLoss()

    def forward(
        self, student: DinoOutput, teacher: DinoOutput, masks: Tensor, hidden: Tensor, temperature: float
    ) -> DinoTerms:
        """Return the terms.

        `masks` (2 B, P) and `hidden` (M,) are those of `DinoNetwork`, `temperature` is the teacher's. In
        training mode the centres move, after they are used.
        """
        cls_targets = self.cls_targets(teacher.global_logits, temperature, self.training)
        patch_targets = self.patch_targets(teacher.patch_logits, temperature, self.training)
        first, second = cls_targets.chunk(GLOBAL_VIEWS)
        local_views = len(student.local_logits) // len(first)
        pairs = GLOBAL_VIEWS * (GLOBAL_VIEWS - 1) + GLOBAL_VIEWS * local_views

        across = self.cross_entropy(student.global_logits, torch.cat([second, first]))
        local = self.cross_entropy(student.local_logits, (first + second).repeat(local_views, 1))
        weights = 1 / masks.sum(dim=1).clamp(min=1)  # (2 B,)
        patches = self.cross_entropy(student.patch_logits, patch_targets)
        return DinoTerms(
            globals=across.sum() / len(first) / pairs,
            local=local.sum() / len(first) / pairs,
            ibot=(patches * weights[hidden // masks.shape[1]]).sum() / len(masks),
            koleo=self._koleo(student.cls),
            teacher_entropy=torch.special.entr(cls_targets).sum(dim=-1).mean(),
        )

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the student's cross-entropy (N,) with targets (N, K)."""
        return -(targets * (logits / self.student_temperature).log_softmax(dim=-1)).sum(dim=-1)

    def _koleo(self, cls: Tensor) -> Tensor:
        """Sum KoLeo over the global views, of the galaxies of all ranks."""
        device = "cpu" if cls.is_meta else cls.device.type  # there is no autocast for shapes alone
        with torch.autocast(device, enabled=False):
            views = [gather(view.float()) for view in cls.chunk(GLOBAL_VIEWS)]
            return torch.stack([self.koleo(view) for view in views]).sum()


def sinkhorn_knopp(logits: Tensor, temperature: float) -> Tensor:
    """Return probabilities (N, K): each row adds up to 1, each column to the same over the rows of all ranks.

    Three iterations, as in DINOv2; so the columns' sums are equal only nearly. Differs from Parker+24 in
    working with logarithms: there, the exponential overflows for logits beyond 88 times the temperature.
    """
    logs = logits / temperature
    for _ in range(_SINKHORN_ITERATIONS):
        highest = logs.amax(dim=0) if len(logs) else logs.new_full(logs.shape[1:], -torch.inf)
        highest = over_ranks(highest, "max")
        columns = over_ranks((logs - highest).exp().sum(dim=0)).log() + highest
        logs = (logs - columns).log_softmax(dim=1)
    return logs.exp()
