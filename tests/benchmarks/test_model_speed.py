"""A training step of SPKLIP against the same model with the public code's extractor.

``python tests/benchmarks/test_model_speed.py`` prints one JSON line at full size, and so does
pytest with ``SPIKEDATA_BENCH=full`` and ``-s``; otherwise pytest runs it at tiny size, checking the
answers only. ``alone`` in it is ours in a process of its own, with inference and peak memory. The
peer keeps full resolution and eight residual blocks in the extractor, as the public code does;
everything else is the same. A step is forward, backward and AdamW in 32 bits.

Shapes: B clips, S segments, G groups of eight ticks, H rows, W columns.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from spklip import SpklipConfig, SpklipModel, build_tokenizer
from spklip.speed import keep_freed_memory

PUBLIC = {"extractor_stride": 1, "extractor_blocks": 8}


@dataclass(frozen=True)
class Size:
    preset: str
    ticks: int
    height_px: int
    width_px: int
    rounds: int


TINY = Size(preset="tiny", ticks=40, height_px=16, width_px=16, rounds=1)
FULL = Size(preset="paper", ticks=250, height_px=240, width_px=320, rounds=3)
THREADS = min(2, os.cpu_count() or 1)


class Training:
    """One model and its optimiser, at batch 1."""

    def __init__(self, size: Size, **changes: Any) -> None:
        torch.manual_seed(0)
        config = SpklipConfig.preset(size.preset, **changes)
        self.model = SpklipModel(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameter_groups(1e-4, 0.05), fused=True)
        tokens = build_tokenizer(config)(["a video of a kick"], return_tensors="pt")
        groups = -(-size.ticks // 8)
        self.batch = {
            "packed_bsghw": torch.randint(
                0, 256, (1, 1, groups, size.height_px, size.width_px), dtype=torch.uint8
            ),
            "ticks": size.ticks,
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
        }

    def step(self) -> float:
        """Seconds of one step; the loss of a single clip is constant, so its cosine is used."""
        began = time.perf_counter()
        out = self.model(**self.batch)
        (out.scale * (out.video_bd * out.text_bd).sum()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began

    def gmac(self) -> float:
        """Billions of multiply-accumulates of the video tower, forward, for one clip."""
        counter = FlopCounterMode(display=False)
        clip_bsthw = torch.zeros(
            1, 1, self.batch["ticks"], *self.batch["packed_bsghw"].shape[-2:], dtype=torch.uint8
        )
        with counter:
            self.model.video(clip_bsthw)
        return counter.get_total_flops() / 2e9


def check_answers(size: Size) -> None:
    """Training steps change every parameter that learns and leave all of them finite."""
    training = Training(size)
    before = [p.detach().clone() for p in training.model.parameters()]
    training.step()
    for name, new in training.model.named_parameters():
        assert torch.isfinite(new).all(), name
    changed = sum(
        not torch.equal(old, new)
        for old, new in zip(before, training.model.parameters(), strict=True)
    )
    assert changed > 0.9 * len(before)


def measure(size: Size) -> dict[str, object]:
    """Check the answers, then time one after the other, round after round."""
    check_answers(size)
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    sides = {"ours": Training(size), "public extractor": Training(size, **PUBLIC)}
    took: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side.step()
    for _ in range(size.rounds):
        for name, side in sides.items():
            took[name].append(side.step())
    ratios = [b / a for a, b in zip(took["ours"], took["public extractor"], strict=True)]
    return {
        "benchmark": "training step, batch 1, float32, against the public code's extractor",
        "preset": size.preset,
        "ticks": size.ticks,
        "height_px": size.height_px,
        "width_px": size.width_px,
        "threads": THREADS,
        "ratio_min_median_max": spread(ratios),
        "seconds_min_median_max": {name: spread(times) for name, times in took.items()},
        "gmac": {name: round(side.gmac(), 2) for name, side in sides.items()},
        "parameters": {
            name: sum(p.numel() for p in side.model.parameters()) for name, side in sides.items()
        },
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }


def measure_alone(size: Size) -> dict[str, object]:
    """Ours in a process of its own: training step, inference, and the most memory that it held."""
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    training = Training(size)
    training.step()
    steps = [training.step() for _ in range(size.rounds)]
    training.model.eval()
    asked = []
    with torch.no_grad():
        for _ in range(size.rounds + 1):
            began = time.perf_counter()
            training.model.encode_packed(training.batch["packed_bsghw"], size.ticks)
            asked.append(time.perf_counter() - began)
    return {
        "step_seconds_min_median_max": spread(steps),
        "inference_seconds_min_median_max": spread(asked[1:]),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def spread(values: list[float]) -> list[float]:
    return [round(f(values), 3) for f in (min, statistics.median, max)]


def test_model_speed():
    full = os.environ.get("SPIKEDATA_BENCH") == "full"
    result = measure(FULL if full else TINY)
    print(json.dumps(result))
    assert measure_alone(TINY)["peak_gb"] > 0
    assert result["gmac"]["ours"] < result["gmac"]["public extractor"]


if __name__ == "__main__":
    if sys.argv[1:] == ["alone"]:
        print(json.dumps(measure_alone(FULL)))
    else:
        own = subprocess.run(
            [sys.executable, __file__, "alone"], check=True, capture_output=True, text=True
        )
        print(json.dumps(measure(FULL) | {"alone": json.loads(own.stdout.splitlines()[-1])}))
