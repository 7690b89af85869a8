"""Shape of a SPKLIP model: every size, checked when it is set."""

import difflib
import math
from typing import Any, get_args

from transformers import PretrainedConfig

from spklip.model.pooling import MAX_POOL_PX

MAY_BE_ZERO = (
    "extractor_blocks",
    "text_adapter_width",
    "picture_px",
    "unfreeze_stages",
    "lora_rank",
    "temporal_adapter_width",
)
PICTURES = ("colour", "tfp", "hsfe")
ENCODERS = ("cnn", "spiking_resnet", "full_spiking")
ATTENTIONS = ("sdsa", "hamming")
TEXT_POOLINGS = (None, "end", "mean", "cls", "joint")


class SpklipConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Shape of a SPKLIP model. The defaults are the ``paper`` preset."""

    model_type = "spklip"

    pool_px: int = 1
    """Average pool x pool cells of every spike plane before anything else; 1 keeps them."""
    radius_ticks: int = 30
    """A window is 2 * radius_ticks + 1 ticks."""
    step_ticks: int = 45
    """From one window to the next, and the unit of their positions in time."""
    windows_per_segment: int | None = None
    """Spread this many windows evenly over a segment instead of one every step_ticks."""
    branch_ticks: tuple[int, ...] = (61, 59, 57, 55)
    """Nested temporal crops of a window, one a branch."""
    branch_channels: tuple[int, ...] = (16, 15, 15, 14)
    """Channels of each branch; fewer for shorter crops."""
    branch_features: int = 1
    """Features each branch hands on."""
    extractor_channels: int = 64
    """Channels of the residual extractor."""
    extractor_blocks: int = 2
    """Residual blocks of the extractor."""
    extractor_stride: int = 2
    """1 or 2: stride of the convolution that enters the residual extractor."""
    group_blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Bottlenecks in each group of the backbone; each group but the first halves the map."""
    group_width: int = 64
    """Inner width of the first group; it doubles with every group."""
    expansion: int = 4
    """Channels leaving a bottleneck for one inside."""
    pool_heads: int = 8
    """Heads of the attention pooling."""
    temporal_width: int = 512
    """Width of the Transformer over windows."""
    temporal_layers: int = 2
    """Its layers."""
    temporal_heads: int = 8
    """Its heads."""
    embed_dim: int = 512
    """Width of the shared space, D."""
    dropout: float = 0.0
    """Dropout in both Transformers."""
    shuffle_order: bool = False
    """Train with the windows of every batch in another order: a control that cannot learn from
    order, and is judged on clips as they are."""
    encoder: str = "cnn"
    """What the video tower is made of: ``cnn``, or spiking neurons, ``spiking_resnet`` (a
    convolution over windows) or ``full_spiking`` (spike-driven attention over windows)."""
    spike_levels: int = 8
    """Spikes that a neuron fires at most in a time step, D: its count is learnt as 0 to D, and runs
    as D binary steps."""
    spike_steps: int = 1
    """Time steps T into which spiking neurons divide a window, each with its own ticks."""
    spike_attention: str = "sdsa"
    """Attention of ``full_spiking``: ``sdsa`` (spikes times spikes, no softmax) or ``hamming`` (how
    many spikes agree)."""
    image_encoder: str = ""
    """Pretrained image tower on pictures of spikes: ``embedded``, a Hugging Face name or folder, or
    ``package.module:function``; empty reads spikes by the paper's own network."""
    picture: str = "colour"
    """What an image tower is shown of a window: ``colour`` (three successive exposures as red,
    green and blue), ``tfp`` (one exposure in grey), or ``hsfe`` (an HSFE that begins as
    ``colour``)."""
    exposure_ticks: int = 15
    """Ticks of an exposure."""
    exposure_step_ticks: int = 30
    """From one exposure of a ``colour`` picture to the next."""
    picture_px: int = 0
    """Height and width that pictures are given for the tower; 0 takes the tower's own."""
    unfreeze_stages: int = 0
    """Stages of the image tower, from its end, that learn; 0 keeps it as it is."""
    lora_rank: int = 0
    """Rank of low-rank adapters (LoRA) in the image tower; 0 has none."""
    temporal_adapter_width: int = 0
    """Width of adapters after each stage through which neighbouring windows see each other; 0 has
    none."""
    image_rate: float = 0.1
    """Learning rate of what learns in the image tower, for one of the rest."""
    image_config: dict[str, Any] | None = None
    """Architecture of the image tower, noted when the model is built."""
    text_encoder: str = ""
    """Pretrained text encoder: ``embedded``, or a Hugging Face name or folder; empty trains one
    from scratch, or takes that of a joint image and text encoder (CLIP, SigLIP)."""
    text_frozen: bool = False
    """Keep the text encoder as it is and train only adapter and projection."""
    text_adapter_width: int = 0
    """Width of the adapter's bottleneck; 0 has no adapter."""
    text_width: int = 512
    """Width of the text encoder from scratch."""
    text_layers: int = 4
    """Its layers."""
    text_heads: int = 8
    """Its heads."""
    max_text_tokens: int = 128
    """Longest text of the encoder from scratch, in bytes with the end token."""
    text_rate: float = 0.1
    """Learning rate of the text tower for one of the rest."""
    text_config: dict[str, Any] | None = None
    """Architecture of the text encoder, noted when the model is built."""
    text_pooling: str | None = None
    """How its states become a text's vector, noted when the model is built."""

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("branch_ticks", "branch_channels", "group_blocks"):
            setattr(self, name, tuple(getattr(self, name)))  # JSON and YAML give lists
        self._check()
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def _check(self) -> None:
        for name, kind in type(self).__annotations__.items():
            self._check_field(name, kind)
        for name in ("temporal_width", "text_width", "group_width"):
            heads = name.replace("group", "pool").replace("width", "heads")
            if getattr(self, name) % getattr(self, heads):
                raise ValueError(
                    f"{name} {getattr(self, name)} is not a multiple of {heads} "
                    f"{getattr(self, heads)}"
                )
        if self.pool_px > MAX_POOL_PX:
            raise ValueError(f"pool_px is at most {MAX_POOL_PX}, got {self.pool_px}")
        if self.dropout >= 1:
            raise ValueError(f"dropout must be below 1, got {self.dropout}")
        if self.extractor_stride not in (1, 2):
            raise ValueError(f"extractor_stride must be 1 or 2, got {self.extractor_stride}")
        for name, known in (
            ("picture", PICTURES),
            ("encoder", ENCODERS),
            ("spike_attention", ATTENTIONS),
            ("text_pooling", TEXT_POOLINGS),
        ):
            if getattr(self, name) not in known:
                words = ", ".join(map(str, known))
                raise ValueError(f"{name} must be {words}, got {getattr(self, name)!r}")
        if self.image_encoder and self.picture_ticks > self.hsfe_ticks:
            raise ValueError(
                f"a {self.picture} picture needs {self.picture_ticks} ticks; a window has "
                f"{self.hsfe_ticks} (2 * radius_ticks + 1)"
            )
        if self.encoder != "cnn" and self.image_encoder:
            self._check_spiking_pictures()
        if len(self.branch_ticks) != len(self.branch_channels):
            raise ValueError(
                f"branch_ticks {self.branch_ticks} and branch_channels {self.branch_channels} "
                "must have one entry a branch each"
            )
        if not all(1 <= ticks <= self.hsfe_ticks for ticks in self.branch_ticks):
            raise ValueError(
                f"branch_ticks {self.branch_ticks} must lie in a window of {self.hsfe_ticks} "
                "ticks (2 * radius_ticks + 1)"
            )

    def _check_spiking_pictures(self) -> None:
        if self.picture == "hsfe" or self.lora_rank or self.temporal_adapter_width:
            raise ValueError(
                f"encoder {self.encoder} has no picture hsfe, lora_rank or temporal_adapter_width: "
                "what they put before or into an image tower are no spikes"
            )
        if self.exposure_ticks % self.spike_steps:
            raise ValueError(
                f"exposure_ticks {self.exposure_ticks} does not divide into spike_steps "
                f"{self.spike_steps}"
            )

    def _check_field(self, name: str, kind: Any) -> None:
        value = getattr(self, name)
        if value is None and type(None) in get_args(kind):
            return
        if kind is float and (type(value) not in (int, float) or not 0 <= value < math.inf):
            raise ValueError(f"{name} must be a number from 0, got {value!r}")
        if kind in (bool, str) and type(value) is not kind:
            raise ValueError(f"{name} must be a {kind.__name__}, got {value!r}")
        if int in (kind, *get_args(kind)):
            least = 0 if name in MAY_BE_ZERO else 1
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or any(type(n) is not int or n < least for n in numbers):
                raise ValueError(f"{name} must be of whole numbers from {least}, got {value!r}")

    @property
    def hsfe_ticks(self) -> int:
        """Ticks of a window."""
        return 2 * self.radius_ticks + 1

    @property
    def picture_ticks(self) -> int:
        """Ticks from the first to the last of a picture, in the middle of a window."""
        return self.picture_starts[-1] - self.picture_starts[0] + self.exposure_ticks

    @property
    def picture_starts(self) -> tuple[int, ...]:
        """First tick of each exposure of a picture, counted from the start of a window."""
        steps = 0 if self.picture == "tfp" else 2
        spare = self.hsfe_ticks - steps * self.exposure_step_ticks - self.exposure_ticks
        return tuple(spare // 2 + i * self.exposure_step_ticks for i in range(steps + 1))

    @property
    def features_stay(self) -> bool:
        """Whether a clip's window features never change: nothing before the head learns."""
        learns = self.unfreeze_stages or self.lora_rank or self.temporal_adapter_width
        return bool(self.image_encoder) and self.picture != "hsfe" and not learns

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "SpklipConfig":
        """Configuration by name, ``paper``, ``tower`` or ``tiny``, with some fields changed.

        Raises:
            ValueError: there is no preset or no field of that name.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
        fields = [key for key in cls.__annotations__ if key != "model_type"]
        for key in changes:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"SpklipConfig has no field {key!r}.{hint}")
        return cls(**{**PRESETS[name], **changes})


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "tower": {
        "radius_ticks": 37,
        "step_ticks": 75,
        "windows_per_segment": 1,
        "branch_ticks": (75, 73, 71, 69),
        "branch_channels": (16, 15, 15, 14),
        "branch_features": 2,
        "temporal_width": 256,
        "temporal_layers": 1,
        "temporal_heads": 4,
        "embed_dim": 384,
        "text_width": 96,
        "text_layers": 2,
        "text_heads": 4,
    },
    "tiny": {
        "radius_ticks": 15,
        "step_ticks": 32,
        "branch_ticks": (31, 29, 27, 25),
        "branch_channels": (8, 8, 8, 8),
        "branch_features": 2,
        "extractor_channels": 32,
        "extractor_blocks": 1,
        "group_blocks": (1, 1, 1),
        "group_width": 32,
        "expansion": 2,
        "pool_heads": 4,
        "temporal_width": 128,
        "temporal_layers": 2,
        "temporal_heads": 4,
        "embed_dim": 128,
        "text_width": 96,
        "text_layers": 2,
        "text_heads": 4,
    },
}
