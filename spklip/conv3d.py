"""A small 3-D CNN on coarse spike counts: the least a model that reads motion has to beat.

Shapes: N clips, B clips of a batch, C classes, T bins of ticks, H rows, W columns, F channels.

It is trained from nothing on the training clips, in seconds, and sees the windows the model sees
as ``baselines.spike_counts`` of a few pixels. Nothing here touches the global random state.
"""

import math

import torch
from torch import Tensor, nn

CHANNELS = (16, 16, 16, 32, 32)
"""Channels of each layer; multiples of 16 are several times faster on a CPU."""
STRIDES = ((1, 2, 2), (2, 1, 1), (1, 2, 2), (2, 1, 1), (1, 1, 1))
"""Steps of each layer in time, down and across: the first sees every bin, to find motion."""
LARGEST_GRADIENT = 1.0
"""Longer gradients are cut to this: else some seeds get stuck at one answer for everything."""
GROUPS = 4
"""Groups of channels that are normalised together."""


class CountClassifier(nn.Module):
    """Class scores from spike counts: five 3-D convolutions, the mean over place, and a line."""

    mean: Tensor
    spread: Tensor
    seen_c: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, seen_c: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.register_buffer("seen_c", seen_c)
        layers: list[nn.Module] = []
        for before, after, stride in zip((1, *CHANNELS[:-1]), CHANNELS, STRIDES, strict=True):
            convolution = nn.Conv3d(before, after, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(GROUPS, after), nn.ReLU()]
        del layers[-2]  # a mean over place of what was normalised over place would tell little
        self.layers = nn.Sequential(*layers)
        self.answer = nn.Linear(CHANNELS[-1], len(seen_c))

    def forward(self, counts_bthw: Tensor) -> Tensor:
        """Scores (B, C) of counts (B, T, H, W)."""
        x_b1thw = ((counts_bthw - self.mean) / self.spread)[:, None]
        score_bc: Tensor = self.answer(self.layers(x_b1thw).mean(dim=(2, 3, 4)))
        return score_bc


def fit_conv3d(
    train_counts_nthw: Tensor,
    label_n: Tensor,
    classes: int,
    *,
    steps: int = 200,
    batch_size: int = 16,
    learning_rate: float = 3e-3,
    seed: int = 0,
    mirror: bool = False,
) -> CountClassifier:
    """Train a 3-D CNN on spike counts, by AdamW on cross-entropy, its rate falling as a cosine.

    Args:
        train_counts_nthw: float (N, T, H, W), see ``baselines.spike_counts``; training happens on
            their device, with one seed to the same end (on one machine, with as many threads).
        label_n: int64 (N,), 0 to C - 1.
        classes: C; a class without training clips is never an answer.
        steps: batches seen.
        batch_size: clips of a batch; all clips where there are fewer.
        learning_rate: at the start.
        seed: of the first weights, the batches and the mirroring.
        mirror: swap left and right in half of the clips of each batch; not for classes that tell
            left from right.

    Returns:
        The trained module, without gradients; :func:`conv3d_scores` asks it.

    Raises:
        ValueError: no clips, labels of another number, or one that is no class.
    """
    _check_clips(train_counts_nthw, label_n, classes)
    module = _untrained(train_counts_nthw, label_n, classes, seed).train()
    solver = torch.optim.AdamW(
        module.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-2
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for step in range(steps):
            solver.param_groups[0]["lr"] = learning_rate * _cosine(step / steps)
            chosen_b = torch.randperm(len(label_n), generator=generator)[:batch_size]
            flipped_b = torch.rand(len(chosen_b), generator=generator) < (0.5 if mirror else 0.0)
            counts_bthw = train_counts_nthw[chosen_b.to(train_counts_nthw.device)]
            counts_bthw = _flip(counts_bthw, flipped_b.to(counts_bthw.device))
            score_bc = module(counts_bthw)
            answer_b = label_n[chosen_b.to(label_n.device)].to(score_bc.device)
            loss = torch.nn.functional.cross_entropy(score_bc, answer_b)
            solver.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), LARGEST_GRADIENT)
            solver.step()
    solver.zero_grad()
    return module.eval().requires_grad_(False)


def conv3d_scores(module: CountClassifier, counts_nthw: Tensor, *, batch_size: int = 64) -> Tensor:
    """Class scores of clips, float32 (N, C) on the CPU; -inf for classes never trained.

    Args:
        module: from :func:`fit_conv3d`.
        counts_nthw: float (N, T, H, W), made like those it was trained on.
        batch_size: clips asked about at once; it only bounds memory.
    """
    with torch.no_grad():
        batches = torch.split(counts_nthw.to(module.mean.device), batch_size)
        score_nc = torch.cat([module(counts_bthw) for counts_bthw in batches])
        return score_nc.masked_fill(~module.seen_c, -torch.inf).cpu()


def _check_clips(counts_nthw: Tensor, label_n: Tensor, classes: int) -> None:
    if counts_nthw.ndim != 4 or not len(counts_nthw) or len(label_n) != len(counts_nthw):
        raise ValueError(
            f"expected counts (N, T, H, W) and a label a clip, got {tuple(counts_nthw.shape)} "
            f"and {len(label_n)} labels"
        )
    if not 0 <= int(label_n.min()) <= int(label_n.max()) < classes:
        raise ValueError(
            f"labels must be 0 to {classes - 1}, got {int(label_n.min())} to {int(label_n.max())}"
        )


def _untrained(counts_nthw: Tensor, label_n: Tensor, classes: int, seed: int) -> CountClassifier:
    """First weights, drawn on the CPU whatever the device, so that all devices begin alike."""
    mean, spread = counts_nthw.mean(), counts_nthw.std(correction=0).clamp_min(1e-6)
    seen_c = torch.bincount(label_n.cpu(), minlength=classes) > 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed CUDA as well
        module = CountClassifier(mean.cpu(), spread.cpu(), seen_c)
    return module.to(counts_nthw.device)


def _cosine(progress: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * progress)


def _flip(counts_bthw: Tensor, flipped_b: Tensor) -> Tensor:
    return torch.where(flipped_b[:, None, None, None], counts_bthw.flip(3), counts_bthw)
