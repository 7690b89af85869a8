"""Clips to the vectors that are judged: the model's, in several orders of time, and the baselines'.

What depends on no weight that learns is kept beside the store (:mod:`spklip.features`); the rest is
worked out anew. Both ways see the same windows.

Shapes: N clips, B clips of a batch, E drawings of a clip (``eval.windows``), S segments, G groups
of eight ticks, H rows, W columns, V windows, C features of a window, F features of a clip.
"""

import contextlib
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from spikedata import SpikeClips, SpikeDataError, collate, worker_options
from spklip import baselines
from spklip.batches import Augmented, middle
from spklip.features import Encode, FeatureFolder, KeptViews, keep_features
from spklip.model import SpklipConfig, build_image_encoder, reverse_packed
from spklip.recipe import Recipe
from spklip.splits import Splits, other_windows

OTHER_ORDERS = ("shuffled", "reversed")
"""The model's vectors of clips with windows in another order, and played backwards."""


class Embedder:
    """A model and all that it takes to have the vectors of clips from it and from the baselines."""

    def __init__(
        self, model: Any, recipe: Recipe, root: Path, towers: Any, *, progress: bool = True
    ) -> None:
        """Take what stays the same for all clips.

        Args:
            model: SpklipModel, judging.
            recipe: how clips are fed.
            root: folder for what is kept of clips.
            towers: :class:`spklip.baselines.Towers`, or None for baselines without one.
            progress: show bars on standard error.
        """
        self.model, self.recipe, self.root = model, recipe, root
        self.towers, self.progress = towers, progress
        self.weights = model.video.encoder.weights_sha256() if model.config.features_stay else ""

    def vectors(self, clips: SpikeClips, title: str, *, orders: bool = False) -> dict[str, Tensor]:
        """Vectors (N, F) of all clips: ``spklip``, ``head`` and one for each baseline.

        ``spklip`` is the mean embedding over ``eval.windows`` drawings, scaled to unit length;
        ``head`` is what a few-shot head reads. One drawing is the middle of the clip; several lie
        at random, by ``eval.seed``. Of each picture the middle is seen, as large as training saw.

        Args:
            clips: which.
            title: of the bar.
            orders: also ``shuffled`` and ``reversed``, where the clips have an order to turn.

        Raises:
            SpikeDataError: a clip cannot be read, or an embedding is not finite.
        """
        drawings = [draw_windows(clips, self.recipe, n) for n in range(self.recipe.eval.windows)]
        found = self._baselines(clips, drawings, title)
        if self.weights:
            found |= self._kept(clips, drawings, title, orders)
        else:
            found |= self._live(clips, drawings, title, orders)
        if not bool(torch.isfinite(found["spklip"]).all()):
            raise SpikeDataError("the model's embeddings are not finite; use train.precision=fp32")
        return found

    def _folder(self, **more: Any) -> FeatureFolder:
        data, judged = self.recipe.data, self.recipe.eval
        fed = {
            "ticks": data.window_ticks,
            "segments": data.segments,
            "crop": data.crop,
            "size": data.size,
            "windows": judged.windows,
            "seed": judged.seed,
        }
        return FeatureFolder(self.root, fed | more)

    def _keep(
        self,
        folder: FeatureFolder,
        clips: SpikeClips,
        drawings: Sequence[SpikeClips],
        encode: Encode,
        title: str,
    ) -> None:
        keep_features(
            folder,
            clips,
            drawings,
            lambda packed, ticks: encode(middle(packed, self.recipe.data.crop), ticks),
            device=self.model.device,
            workers=self.recipe.data.workers,
            title=title,
            progress=self.progress,
        )

    def _baselines(
        self, clips: SpikeClips, drawings: Sequence[SpikeClips], title: str
    ) -> dict[str, Tensor]:
        """The baselines' features, mean over drawings."""
        if self.recipe.eval.baselines == "none":
            return {}
        towers = self.towers
        key = {"of": "baselines", "towers": towers.key if towers else ""}
        folder = self._folder(**key)

        def encode(packed_bsghw: Tensor, ticks: int) -> dict[str, Tensor]:
            found = baselines.features(packed_bsghw, ticks)
            return found | (towers.features(packed_bsghw, ticks) if towers else {})

        self._keep(folder, clips, drawings, encode, f"{title}: baselines")
        rows = [folder.read(clips.digest(i)) for i in range(len(clips))]
        return {name: torch.stack([row[name].mean(dim=0) for row in rows]) for name in rows[0]}

    @torch.no_grad()
    def _kept(
        self, clips: SpikeClips, drawings: Sequence[SpikeClips], title: str, orders: bool
    ) -> dict[str, Tensor]:
        """From window features that are kept; only the head is worked out."""
        ways = {"spklip": False} | ({"reversed": True} if orders else {})
        rows: dict[str, list[Tensor]] = {}
        for name, backwards in ways.items():
            folder = self.window_folder(backwards=backwards)
            self._keep(folder, clips, drawings, window_encoder(self.model, backwards), title)
            for index, clip_id in enumerate(clips.ids):
                kept = folder.read(clips.digest(index))
                feature_evc = kept["windows"].to(self.model.device)
                centre_v = kept["centres"][0].to(self.model.device)
                read = self._read(feature_evc, centre_v, name)
                if name == "spklip" and self.tower_is_the_model_s and self.towers:
                    vector_evc = feature_evc[..., : self.model.video.encoder.features]
                    read["tower"] = vector_evc.mean(dim=(0, 1)).cpu()
                for key, row in read.items():
                    rows.setdefault(key, []).append(row)
                if orders and name == "spklip" and len(centre_v) > 1:
                    shuffled_evc = shuffle_windows(feature_evc, clip_id)
                    row = self._read(shuffled_evc, centre_v, "shuffled")["shuffled"]
                    rows.setdefault("shuffled", []).append(row)
        return {name: torch.stack(row) for name, row in rows.items()}

    @property
    def tower_is_the_model_s(self) -> bool:
        """Whether the baseline ``tower`` is what the model's own frozen tower gives."""
        config = self.model.config
        return bool(self.weights) and config.picture == "colour" and config.encoder == "cnn"

    def window_folder(self, *, backwards: bool = False, **more: Any) -> FeatureFolder:
        """Where the window features of a frozen tower are kept."""
        config = self.model.config
        tower = {
            "weights": self.weights,
            "picture": config.picture,
            "starts": config.picture_starts,
            "exposure": config.exposure_ticks,
            "window": [config.hsfe_ticks, config.step_ticks, config.windows_per_segment],
            "px": self.model.video.encoder.size_px,
            "encoder": [config.encoder, config.spike_levels, config.spike_steps],
        }
        return self._folder(of="windows", backwards=backwards, **tower, **more)

    def _read(self, feature_evc: Tensor, centre_v: Tensor, name: str) -> dict[str, Tensor]:
        """Embedding (D,) of a clip from its drawings' windows and, in order, its head's vector."""
        with autocast(self.model, self.recipe):
            unit_ed = self.model.encode_features(feature_evc, centre_v)
            head_ef = self.model.head_features(feature_evc, centre_v)
        unit_d = torch.nn.functional.normalize(unit_ed.float().mean(dim=0), dim=0).cpu()
        if name != "spklip":
            return {name: unit_d}
        return {name: unit_d, "head": head_ef.float().mean(dim=0).cpu()}

    @torch.no_grad()
    def _live(
        self, clips: SpikeClips, drawings: Sequence[SpikeClips], title: str, orders: bool
    ) -> dict[str, Tensor]:
        """From the bits, in batches."""
        sums: dict[str, Tensor] = {}
        batch_size, workers = self.recipe.eval.batch_size, self.recipe.data.workers
        steps = len(drawings) * -(-len(clips) // batch_size)
        with tqdm(total=steps, desc=title, file=sys.stderr, disable=not self.progress) as bar:
            for drawing in drawings:
                loader = DataLoader(
                    drawing,
                    batch_size=batch_size,
                    collate_fn=collate,
                    **worker_options(clips.opened, workers),
                )
                parts: dict[str, list[Tensor]] = {}
                for batch in loader:
                    for name, part in self.embed(batch, orders=orders).items():
                        parts.setdefault(name, []).append(part)
                    bar.update()
                for name, own in parts.items():
                    sums[name] = sums.get(name, torch.tensor(0.0)) + torch.cat(own)
        means = {name: total / len(drawings) for name, total in sums.items()}
        unit = torch.nn.functional.normalize
        return {name: mean if name == "head" else unit(mean, dim=1) for name, mean in means.items()}

    @torch.no_grad()
    def embed(self, batch: Mapping[str, Any], *, orders: bool = False) -> dict[str, Tensor]:
        """Vectors (B, F) of a batch as a loader gives it, from its bits; see :meth:`vectors`."""
        model, ticks = self.model, batch["ticks"]
        packed_bsghw = middle(batch["packed_bsghw"].to(model.device), self.recipe.data.crop)
        with autocast(model, self.recipe):
            feature_bvc, centre_v = model.window_features(packed_bsghw, ticks)
            found = {
                "spklip": model.encode_features(feature_bvc, centre_v),
                "head": model.head_features(feature_bvc, centre_v),
            }
            if orders:
                found["reversed"] = model.encode_packed(reverse_packed(packed_bsghw, ticks), ticks)
            if orders and len(centre_v) > 1:
                pairs = zip(feature_bvc, batch["ids"], strict=True)
                shuffled = torch.cat([shuffle_windows(f[None], i) for f, i in pairs])
                found["shuffled"] = model.encode_features(shuffled, centre_v)
        return {name: tensor.float().cpu() for name, tensor in found.items()}


def draw_windows(clips: SpikeClips, recipe: Recipe, number: int) -> SpikeClips:
    """The same clips as judging sees them in its drawing ``number`` of ``eval.windows``."""
    judged = recipe.eval
    sampling: Literal["random", "center"] = "random" if judged.windows > 1 else "center"
    drawing = other_windows(clips, replace(recipe.data, sampling=sampling, seed=judged.seed))
    drawing.set_epoch(number)
    return drawing


def training_items(
    model: Any, splits: Splits, recipe: Recipe, root: Path, progress: bool, teacher: Any = None
) -> Augmented | KeptViews:
    """The clips to train on: as bits, or as features that are kept where nothing changes them.

    Args:
        model: about to be trained, on the device that it will be trained on.
        splits: the clips.
        recipe: how they are fed.
        root: folder for what is kept of clips.
        progress: show a bar on standard error.
        teacher: a model whose features come beside, where they are kept; None: there is none.
    """
    data = recipe.data
    if data.views is None or not model.config.features_stay:
        return Augmented(splits.fit, data)
    folder = _keep_views(model, splits, recipe, root, progress)
    taught = None
    if teacher is not None:
        taught = _keep_views(teacher.to(model.device), splits, recipe, root, progress)
    return KeptViews(splits.fit, folder, data.views, taught)


def _keep_views(
    model: Any, splits: Splits, recipe: Recipe, root: Path, progress: bool
) -> FeatureFolder:
    """Folder of the features of all drawings of the training clips, by a frozen tower."""
    data = recipe.data
    assert data.views is not None
    embedder = Embedder(model, recipe, root, None, progress=progress)
    folder = embedder.window_folder(
        training=[data.sampling, data.views, data.mirror, data.seed, data.crop]
    )
    drawings = []
    for view in range(data.views):
        drawing = Augmented(splits.fit.copy(), data)
        drawing.set_epoch(view)
        drawings.append(drawing)
    keep_features(
        folder,
        splits.fit,
        drawings,
        window_encoder(model.eval()),
        device=model.device,
        workers=data.workers,
        title="features of training clips",
        progress=progress,
    )
    return folder


def baseline_towers(model: Any) -> baselines.Towers:
    """The frozen encoder that baselines look through: the model's own, or the embedded one."""
    config = model.config
    names = list(baselines.PICTURES)
    if not config.features_stay or config.encoder != "cnn":
        embedded = SpklipConfig.preset("tower", image_encoder="embedded")
        encoder = build_image_encoder(embedded, pretrained=True).to(model.device)
        return baselines.Towers(encoder, names)
    if config.picture == "colour":
        names.remove("tower")  # the model's own features
    return baselines.Towers(model.video.encoder, names)


def window_encoder(model: Any, backwards: bool = False) -> Encode:
    """What is kept of a clip for a frozen tower: ``windows`` (E, V, C) and ``centres`` (E, V)."""

    def encode(packed_esghw: Tensor, ticks: int) -> dict[str, Tensor]:
        if backwards:
            packed_esghw = reverse_packed(packed_esghw, ticks)
        # One drawing at a time: what a tower needs for its pictures then stays in the cache.
        found = [model.window_features(packed[None], ticks) for packed in packed_esghw]
        return {
            "windows": torch.cat([feature_1vc.float() for feature_1vc, _ in found]),
            "centres": torch.stack([centre_v for _, centre_v in found]),
        }

    return encode


def shuffle_windows(feature_evc: Tensor, clip_id: str) -> Tensor:
    """Windows in an order drawn by the clip's id, never their own.

    The whole id counts: the end of it often spells the class, which would give all clips of a
    class the same order.
    """
    windows = feature_evc.shape[1]
    seed = zlib.crc32(clip_id.encode())
    generator = torch.Generator().manual_seed(seed)
    order_v = torch.randperm(windows, generator=generator)
    if bool((order_v == torch.arange(windows)).all()):
        order_v = order_v.roll(1)
    return feature_evc[:, order_v.to(feature_evc.device)]


@contextlib.contextmanager
def autocast(model: Any, recipe: Recipe) -> Iterator[None]:
    """Compute in the arithmetic that ``train.precision`` names."""
    from spklip.train import pick_precision  # noqa: PLC0415  # transformers.Trainer: two seconds

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(pick_precision(recipe.train))
    with torch.autocast(model.device.type, dtype=kind, enabled=kind is not None):
        yield
