"""Learning from a trained ``cnn``: its image tower, picture by picture, or its logits and features.

Shapes: B clips of a batch, N clips of all processes, S segments, G groups of eight ticks, H rows,
W columns, V windows, C channels, D width of the shared space.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikedata import SpikeClips, SpikeDataError
from spklip.batches import Augmented, bits_of
from spklip.building import build_model, load_model_parts, of_checkpoint
from spklip.gather import gather_with_gradients
from spklip.model import SpklipConfig, spike_layers, trained_tower
from spklip.recipe import Recipe
from spklip.splits import other_windows
from spklip.train import SpklipTrainer, fit

SEEN = ("radius_ticks", "step_ticks", "windows_per_segment", "picture")
"""What two models must share to be fed from features that are kept of the same windows."""
SPIKES_WEIGHT = 5.0
"""Share in the loss of what a synapse sees beyond the spikes that it may."""
THRESHOLD_RATE = 40.0
"""Learning rate of thresholds, whose logarithms learn, for one of weights."""


class Teacher:
    """A trained model whose answers and window features another one learns to give."""

    def __init__(self, model: Any, weight: float) -> None:
        self.model, self.weight = model.eval().requires_grad_(False), weight

    def loss(self, inputs: Mapping[str, Any], output: Any, logits_nn: Tensor) -> Tensor:
        """How far a student is from the teacher, a scalar.

        Args:
            inputs: of the student's forward pass; ``teacher_feature_bvc`` where features are kept.
            output: what the student gave of them.
            logits_nn: its similarity of the clips of all processes to their texts, with its scale.

        Returns:
            ``weight`` times: Kullback-Leibler divergence of the student's logits from the
            teacher's, both ways, and one less the cosine of window features as wide as each other.
        """
        with torch.no_grad():
            given = dict(inputs)
            kept_bvc = given.pop("teacher_feature_bvc", None)
            if kept_bvc is not None:
                given["feature_bvc"] = kept_bvc
            own = self.model(**given)
            video_nd = gather_with_gradients(own.video_bd)
            text_nd = gather_with_gradients(own.text_bd)
            wanted_nn = (own.scale * video_nd @ text_nd.T).float()
        total = (_divergence(wanted_nn, logits_nn) + _divergence(wanted_nn.T, logits_nn.T)) / 2
        if kept_bvc is None and own.feature_bvc.shape == output.feature_bvc.shape:
            alike_bv = F.cosine_similarity(own.feature_bvc, output.feature_bvc, dim=-1)
            total = total + 1 - alike_bv.mean()
        return self.weight * total


def _divergence(wanted_nn: Tensor, given_nn: Tensor) -> Tensor:
    return F.kl_div(
        given_nn.log_softmax(dim=1),
        wanted_nn.log_softmax(dim=1),
        reduction="batchmean",
        log_target=True,
    )


def load_teacher(recipe: Recipe, config: SpklipConfig) -> Teacher | None:
    """The model of ``distil.teacher``; None where none is named.

    Raises:
        SpikeDataError: there is none, or it cannot teach a model of this config.
    """
    name = recipe.distil.teacher
    if not name:
        return None
    model = of_checkpoint(recipe, name).model
    own: Any = load_model_parts(model)[0]
    differ = [
        key
        for key in ("text_encoder", "max_text_tokens", *(SEEN if recipe.data.views else ()))
        if getattr(own, key) != getattr(config, key)
    ]
    if differ or (recipe.data.views and config.features_stay != own.features_stay):
        raise SpikeDataError(
            f"distil.teacher {name}: cannot teach this model, which is given other texts or "
            f"pictures: {', '.join(differ) or 'features are kept of one of them alone'}"
        )
    return Teacher(build_model(model, own), recipe.distil.weight)


class TowerStudent(nn.Module):
    """A converted image tower that learns to see as the trained one, at few spikes.

    Args:
        video: the tower on pictures whose image encoder learns.
        trained: the trained image tower.
        spikes: mean number of spikes that a synapse may see.
    """

    def __init__(self, video: Any, trained: Any, spikes: float) -> None:
        super().__init__()
        self.encoder = video.encoder.requires_grad_(True)
        self._video, self._trained = [video], [trained.eval().requires_grad_(False)]
        self.spikes = spikes
        self._sums: list[int] = []
        self._spent: list[Tensor] = []
        for layer in spike_layers(self.encoder):
            layer.register_forward_hook(self._note)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Weights and thresholds, for AdamW; both begin trained and do not decay."""
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.encoder.named_parameters():
            parts["threshold" in name].append(parameter)
        rates = {True: THRESHOLD_RATE, False: 1.0}
        return [
            {"params": part, "lr": learning_rate * rates[fires], "weight_decay": 0.0}
            for fires, part in parts.items()
        ]

    def _note(self, layer: Any, given: tuple[Tensor, ...], membrane: Tensor) -> None:
        sums = membrane.numel() * layer.weight[0].numel()
        sides = 2 if layer.two_sided else 1
        self._sums.append(sums)
        self._spent.append(sums * sides * given[0].mean())

    def forward(self, packed_bsghw: Tensor, ticks: int) -> dict[str, Tensor]:
        """Loss, and its parts, on windows of one segment (B, 1, G, H, W)."""
        self._sums.clear()
        self._spent.clear()
        count_pnchw, gain_n = self._video[0].exposed(packed_bsghw.flatten(0, 1), ticks, [0])
        map_nchw, membranes = self.encoder.see(count_pnchw, gain_n)
        wanted_nchw, wanted = self._taught(count_pnchw.sum(dim=0) * gain_n[:, None, None, None])
        vector_nc = map_nchw.mean(dim=(2, 3)) * self.encoder.tower.worth_c
        seen = _distance(vector_nc, wanted_nchw.mean(dim=(2, 3)), [0], whole=True)
        inner = [_distance(x, y, [0, 2, 3]) for x, y in zip(membranes, wanted, strict=True)]
        spent = torch.stack(self._spent).sum() / sum(self._sums)
        spent = gather_with_gradients(spent[None]).mean()
        many = SPIKES_WEIGHT * (spent - self.spikes).clamp_min(0)
        loss = seen + torch.stack(inner).mean() + many
        return {"loss": loss, "spikes": spent.detach(), "seen": seen.detach()}

    @torch.no_grad()
    def _taught(self, picture_nchw: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Last map and what leaves each block of the trained tower."""
        tower = self._trained[0].to(picture_nchw.device)
        x_nchw = tower.stem(self.encoder.prepared(picture_nchw.clamp(0, 1)))
        blocks = []
        for block in tower.blocks:
            x_nchw = block(x_nchw)
            blocks.append(x_nchw)
        return tower.head(x_nchw), blocks


def _distance(given: Tensor, wanted: Tensor, places: list[int], *, whole: bool = False) -> Tensor:
    """Mean square of the difference over the variance of what is wanted, in all processes."""
    with torch.no_grad():
        mean_c = gather_with_gradients(wanted.mean(places)[None]).mean(dim=0)
        square_c = gather_with_gradients(wanted.square().mean(places)[None]).mean(dim=0)
        variance_c = square_c - mean_c.square()
        if whole:
            variance_c = variance_c.mean()
    error_c = (given - wanted).square().mean(places)
    return (error_c / (variance_c + 1e-6)).mean()


class TowerTrainer(SpklipTrainer):
    """Trainer of a :class:`TowerStudent`."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The student's loss."""
        output = model(**inputs)
        self.check_loss(output["loss"])
        self.note(spikes=output["spikes"], seen=output["seen"])
        return (output["loss"], output) if return_outputs else output["loss"]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save weights as they lie in files: a tower's are channels last in memory."""
        model: Any = self.model
        state = state_dict or model.state_dict()
        super()._save(output_dir, {name: part.contiguous() for name, part in state.items()})


def learns_tower(recipe: Recipe, config: SpklipConfig) -> bool:
    """Whether an image tower is converted to spiking neurons, and learns before all else."""
    converted = bool(config.image_encoder) and config.encoder != "cnn"
    return converted and recipe.model.checkpoint is None and recipe.distil.tower_steps > 0


def distil_tower(
    build: Callable[[], Any],
    config: SpklipConfig,
    clips: SpikeClips,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    progress: bool = True,
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Let a converted image tower learn to see what the trained one sees in pictures of clips.

    No label is used; pictures are drawn anew in each step, one window of each clip.

    Args:
        build: makes the model whose tower learns.
        config: that model's.
        clips: to learn from.
        recipe: its ``distil``, ``data`` and ``train``.
        folder: for checkpoints.
        resume: go on from the last of them.
        progress: show a bar on standard error.

    Returns:
        state: of the image encoder, on the CPU.
        curve: as :func:`spklip.train.fit` gives it.
    """
    distil, data = recipe.distil, replace(recipe.data, views=None)
    train = replace(
        recipe.train,
        max_steps=distil.tower_steps,
        batch_size=min(distil.tower_batch, len(clips)),
        learning_rate=distil.tower_rate,
        warmup_steps=min(10, distil.tower_steps // 2),
        accumulate=1,
        gradient_checkpointing=False,
        compile=False,
        save_every=max(1, min(100, distil.tower_steps // 2)),
    )
    single = replace(data, window_ticks=config.hsfe_ticks, segments=1, sampling="random")
    windows = other_windows(clips, single)
    student, curve = fit(
        lambda: TowerStudent(build().video, trained_tower(config), distil.spikes),
        lambda _: Augmented(windows, data),
        bits_of,
        train,
        folder,
        workers=data.workers,
        resume=resume,
        progress=progress,
        title="image tower",
        make_trainer=TowerTrainer,
    )
    state = {name: part.detach().cpu() for name, part in student.encoder.state_dict().items()}
    return state, curve
