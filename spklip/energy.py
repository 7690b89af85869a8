"""What a torch module computes on real input: products, additions, spikes, bytes, picojoules.

Every product that PyTorch does while a module runs is seen, whichever class or function asked for
it: convolutions, linear layers, products of two activations, fused attention. Where one operand
holds nothing but spikes the product needs no multiplication: a spike adds a weight. Whether it does
is read from its values, over all that is run, and never from the name of a class.

Two numbers of additions stand side by side. ``sops`` is the field's convention, mean spikes of an
input value times the products of the dense layer, padding included; energy goes by it. ``acs`` are
the additions that the spikes cause: one at the edge of a picture reaches fewer outputs.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spikedata import SpikeDataError

MOST_SPIKES = 255
"""A value is a number of spikes if it is whole and no larger: what a byte counts."""

Kind = Literal["convolution", "linear", "product", "attention"]
Sees = Literal["zeros", "bits", "counts", "signed counts", "real values"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyCosts:
    """What arithmetic costs, pJ."""

    mac_pj: float
    """A multiplication and the addition of its product."""
    ac_pj: float
    """An addition."""


COSTS = {
    "fp32": EnergyCosts(mac_pj=4.6, ac_pj=0.9),
    "fp16": EnergyCosts(mac_pj=1.5, ac_pj=0.4),
    "int8": EnergyCosts(mac_pj=0.23, ac_pj=0.03),
}
"""Costs in 45 nm at 0.9 V: multiplication and addition 3.7 + 0.9 pJ in ``fp32``, 1.1 + 0.4 pJ in
``fp16``, 0.2 + 0.03 pJ in ``int8``. Source: M. Horowitz, "Computing's Energy Problem (and what we
can do about it)", ISSCC 2014."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCount:
    """What a layer does in one pass, mean over the passes."""

    name: str
    """Where its weights are, or the module that multiplies two activations."""
    kind: Kind
    """``product`` is of two activations; ``attention`` two of them in one fused call."""
    sees: Sees
    """What its input held in all passes: nothing but 0; 0 and 1; whole numbers of spikes; such
    whose sign says which of two cells (ON, OFF) fired; anything else."""
    macs: float
    """Products of the dense layer, as FLOP counters have them: outputs times fan-in."""
    rate: float | None
    """Spikes of an input value, mean; None where it sees real values."""
    spike_count: float
    """Spikes of the whole input."""
    sops: float
    """``rate`` times ``macs``."""
    acs: float
    """Additions that the spikes cause: ``sops`` but for what falls outside the picture."""
    parameters: int
    """Weights and biases."""
    weight_bytes: float
    """Bytes of weights and biases read."""
    input_bytes: float
    """Bytes of inputs read, in the type they are computed with."""
    output_bytes: float
    """Bytes of outputs written."""

    @property
    def spikes(self) -> bool:
        """Whether it needs no multiplication."""
        return self.sees != "real values"

    def energy_pj(self, costs: EnergyCosts) -> float:
        """By the field's convention: an addition a spike and connection, or all products."""
        return costs.ac_pj * self.sops if self.spikes else costs.mac_pj * self.macs


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleCount:
    """What a module does in one pass, mean over the passes."""

    layers: tuple[LayerCount, ...]
    """Every layer that multiplies, in the order in which they are first used."""
    elementwise: float
    """Values that everything else works out one by one: normalisations, activations, neurons, sums
    at shortcuts. In no ``energy_pj``, as the convention has it."""

    @property
    def macs(self) -> float:
        """Products of the dense layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def spike_macs(self) -> float:
        """Those of them that saw spikes and need no multiplication."""
        return sum(layer.macs for layer in self.layers if layer.spikes)

    def energy_pj(self, costs: EnergyCosts) -> float:
        """Energy of all layers."""
        return sum(layer.energy_pj(costs) for layer in self.layers)


def count_layers(
    module: nn.Module,
    passes: Iterable[Sequence[Any]],
    *,
    run: Callable[..., Any] | None = None,
) -> ModuleCount:
    """Run a module, as it is, on real input, and count what its layers do.

    Args:
        module: its submodules and parameters give layers their names.
        passes: arguments of each pass.
        run: what is called with them; the module itself if it is None.

    Raises:
        ValueError: no pass.
        SpikeDataError: a fused operation whose products cannot be told.
    """
    mode = _CountingMode(module)
    count = 0
    for arguments in passes:
        with torch.no_grad(), _no_fused_layers(), mode.modules_followed(), mode:
            (run or module)(*arguments)
        count += 1
    if not count:
        raise ValueError("nothing was run: give at least one pass")
    return mode.told(count)


@contextlib.contextmanager
def _no_fused_layers() -> Iterator[None]:
    """Let the layers of a Transformer run as their parts, which can be looked into."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@dataclass
class _Operand:
    """What an operand that may be spikes held, over all passes."""

    spikes: bool = True
    signed: bool = False
    most: float = 0.0
    values: int = 0
    total: float = 0.0
    acs: float = 0.0

    def look(self, values_x: Tensor, uses: float | Sequence[Tensor], times: float = 1.0) -> None:
        """Take in values.

        Args:
            values_x: of one call.
            uses: how often each is used; of a picture (N, C, ...), by its place along each axis.
            times: how often beside that.
        """
        self.values += values_x.numel()
        if not self.spikes or not values_x.numel():
            return
        values_x = values_x if values_x.is_floating_point() else values_x.double()
        magnitude_x = values_x.abs()
        most = float(magnitude_x.max())
        self.spikes = most <= MOST_SPIKES and bool((values_x == values_x.round()).all())
        if not self.spikes:
            return
        self.most = max(self.most, most)
        self.signed = self.signed or float(values_x.min()) < 0
        if isinstance(uses, float):
            total = float(magnitude_x.sum(dtype=torch.float64))
            self.total, self.acs = self.total + total, self.acs + total * uses * times
            return
        # Every channel is used alike: only its places count.
        place_x = magnitude_x.sum(dim=(0, 1), dtype=torch.float64)
        self.total += float(place_x.sum())
        for use in uses:
            place_x = torch.tensordot(use.to(place_x.device), place_x, dims=1)
        self.acs += float(place_x) * times

    @property
    def sees(self) -> Sees:
        if not self.spikes:
            return "real values"
        if self.signed:
            return "signed counts"
        if self.most <= 1:
            return "bits" if self.most else "zeros"
        return "counts"


@dataclass
class _Layer:
    """Sums of one layer over all passes."""

    name: str
    kind: Kind
    operands: list[_Operand] = field(default_factory=list)
    macs: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0

    def add(
        self, macs: int, inputs: Sequence[Tensor], weights: Sequence[Tensor], out: Tensor
    ) -> None:
        """Take in what one call multiplies and moves."""
        self.macs += macs
        self.parameters = sum(one.numel() for one in weights)
        self.weight_bytes += _bytes(weights)
        self.input_bytes += _bytes(inputs)
        self.output_bytes += _bytes([out])

    def operand(self, place: int) -> _Operand:
        """The operand at this place among those that may be spikes."""
        while len(self.operands) <= place:
            self.operands.append(_Operand())
        return self.operands[place]

    def told(self, name: str, passes: int) -> LayerCount:
        """Mean of a pass; of two operands that are spikes, those of the one with fewer count."""
        found = [one for one in self.operands if one.spikes]
        driver = min(found, key=lambda one: one.acs, default=_Operand(spikes=False))
        spikes, values = driver.spikes, max(1, driver.values)
        return LayerCount(
            name=name,
            kind=self.kind,
            sees=driver.sees,
            macs=self.macs / passes,
            rate=driver.total / values if spikes else None,
            spike_count=driver.total / passes if spikes else 0.0,
            sops=driver.total * self.macs / values / passes if spikes else 0.0,
            acs=driver.acs / passes if spikes else 0.0,
            parameters=self.parameters,
            weight_bytes=self.weight_bytes / passes,
            input_bytes=self.input_bytes / passes,
            output_bytes=self.output_bytes / passes,
        )


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


class _CountingMode(TorchDispatchMode):
    """Sees every operation of PyTorch while it is on, and which module asked for it.

    A layer is a place in a module: its first product, its second, and so on, whenever the module is
    called. What is worked out from parameters alone (a folded, masked or rounded weight) is a
    weight, and bears the name of the largest parameter in it; a weight is never spikes, however
    whole its numbers.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {id(one): name for name, one in module.named_modules()}
        self._stack: list[list[Any]] = []
        self._layers: dict[tuple[str, int], _Layer] = {}
        self._elementwise = 0
        # Of a weight, how large its largest parameter is and what that is called; "" of a constant.
        self._known: Any = WeakTensorKeyDictionary()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            self._known[tensor] = (tensor.numel(), name)

    @contextlib.contextmanager
    def modules_followed(self) -> Iterator[None]:
        """Know, for one pass, which module runs."""

        def enter(module: nn.Module, _: Any) -> None:
            # What is no part of the module counts as its caller's own.
            name = self._names.get(id(module))
            self._stack.append(self._stack[-1] if name is None else [name, 0])

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            self._stack.pop()

        self._stack = [["", 0]]
        hooks = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation, and count it."""
        name = func._schema.name
        if name in CANNOT_LOOK_INTO or name.partition("::")[0] not in LOOKED_INTO:
            raise SpikeDataError(f"energy cannot be counted: {name} hides what it multiplies")
        kwargs = kwargs or {}
        if name not in PRODUCTS:
            with self:  # in inference mode operations come whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        made = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
        fixed = name == "aten::lift_fresh" or all(one in self._known for one in given)
        if name in PRODUCTS:
            PRODUCTS[name](self, args, made[0])
        elif not fixed and (name in NORMALISING or torch.Tag.pointwise in func.tags):
            self._elementwise += made[0].numel() if name != "aten::clone" else 0
        origin = max((self._known[one] for one in given if one in self._known), default=(0, ""))
        for one in made:
            if fixed:
                self._known[one] = origin
            else:
                self._known.pop(one, None)
        return out

    def _changes(self, tensor: Tensor) -> int:
        """0 of a weight, 1 of a constant, 2 of what depends on the input."""
        known = self._known.get(tensor)
        return 2 if known is None else 0 if known[1] else 1

    def _layer(self, kind: Kind, weight: Tensor | None = None) -> _Layer:
        """The layer that the running module has come to."""
        frame = self._stack[-1]
        frame[1] += 1
        parameter = self._known.get(weight, (0, ""))[1] if weight is not None else ""
        name = parameter.rpartition(".")[0] or frame[0]
        return self._layers.setdefault((frame[0], frame[1]), _Layer(name, kind))

    def convolution(self, args: Any, out: Tensor) -> None:
        """Count a convolution; its input may be spikes, its weight never."""
        input_nc, weight, bias, stride, padding, dilation, transposed = args[:7]
        groups = args[8]
        seen = input_nc if transposed else out
        layer = self._layer("convolution", weight)
        weights = [weight] if bias is None else [weight, bias]
        layer.add(seen.numel() * prod(weight.shape[1:]), [input_nc], weights, out)
        axes = zip(input_nc.shape[2:], out.shape[2:], weight.shape[2:], strict=True)
        uses = [
            _uses(
                *sizes,
                *(one[i % len(one)] for one in (stride, padding, dilation)),
                transposed=transposed,
            )
            for i, sizes in enumerate(axes)
        ]
        after = weight.shape[1] if transposed else weight.shape[0] // groups
        layer.operand(0).look(input_nc, uses, float(after))

    def linear(self, args: Any, out: Tensor) -> None:
        """Count a linear layer that PyTorch left whole."""
        self._multiply(args[0], args[1], out, args[2] if len(args) > 2 else None, args[1].shape[1])

    def product(self, args: Any, out: Tensor) -> None:
        """Count a product of two matrices, or of as many pairs of them."""
        self._multiply(args[0], args[1], out, None, args[0].shape[-1])

    def added_product(self, args: Any, out: Tensor) -> None:
        """Count a product that is added to something."""
        self._multiply(args[1], args[2], out, args[0], args[1].shape[-1])

    def _multiply(
        self, first: Tensor, second: Tensor, out: Tensor, added: Tensor | None, terms: int
    ) -> None:
        most = max(self._changes(first), self._changes(second))
        inputs = [one for one in (first, second) if self._changes(one) == most]
        held = [one for one in (second, first) if self._changes(one) < most]
        weights = [one for one in held if not self._changes(one)]
        if weights and added is not None and not self._changes(added):
            weights.append(added)
        macs = out.numel() * terms
        layer = self._layer("linear" if held else "product", *held)
        layer.add(macs, inputs + held[len(weights) :], weights, out)
        # A product of weights alone sees no spikes.
        for place, values_x in enumerate(inputs if most else []):
            layer.operand(place).look(values_x, macs / max(1, values_x.numel()))

    def attention(self, args: Any, out: Tensor) -> None:
        """Count fused attention: its weights, and what they weigh; it sees no spikes."""
        query, key, value = args[:3]
        layer = self._layer("attention")
        pairs = query.numel() // query.shape[-1] * key.shape[-2]
        layer.add(pairs * (query.shape[-1] + value.shape[-1]), [query, key, value], [], out)

    def told(self, passes: int) -> ModuleCount:
        """What was counted, of one pass; layers of one name and kind are numbered."""
        seen: dict[tuple[str, str], int] = {}
        layers = []
        for layer in self._layers.values():
            key = (layer.name, layer.kind)
            number = seen[key] = seen.get(key, 0) + 1
            name = layer.name if number == 1 else f"{layer.name} ({number})"
            layers.append(layer.told(name, passes))
        return ModuleCount(layers=tuple(layers), elementwise=self._elementwise / passes)


def _uses(
    before: int, after: int, kernel: int, stride: int, pad: int, dilation: int, *, transposed: bool
) -> Tensor:
    """How many outputs each input along an axis reaches, float64 (before,)."""
    start_o = torch.arange(before if transposed else after) * stride - pad
    reached_ok = start_o[:, None] + torch.arange(kernel) * dilation
    if transposed:
        inside_ok = (reached_ok >= 0) & (reached_ok < after)
        return inside_ok.sum(dim=1).double()
    inside_k = reached_ok[(reached_ok >= 0) & (reached_ok < before)]
    return torch.bincount(inside_k, minlength=before).double()


PRODUCTS: dict[str, Callable[[_CountingMode, Any, Tensor], None]] = {
    "aten::convolution": _CountingMode.convolution,
    "aten::linear": _CountingMode.linear,
    "aten::mm": _CountingMode.product,
    "aten::bmm": _CountingMode.product,
    "aten::mv": _CountingMode.product,
    "aten::dot": _CountingMode.product,
    "aten::addmm": _CountingMode.added_product,
    "aten::addmm_": _CountingMode.added_product,
    "aten::_addmm_activation": _CountingMode.added_product,
    "aten::baddbmm": _CountingMode.added_product,
    "aten::addmv": _CountingMode.added_product,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _CountingMode.attention,
    "aten::_scaled_dot_product_flash_attention": _CountingMode.attention,
    "aten::_scaled_dot_product_efficient_attention": _CountingMode.attention,
    "aten::_scaled_dot_product_cudnn_attention": _CountingMode.attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _CountingMode.attention,
}
"""Operations that multiply and add, and what counts them."""

NORMALISING = frozenset(
    f"aten::{name}"
    for name in (
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
        "native_group_norm",
        "native_layer_norm",
        "_softmax",
    )
)
"""Operations that work out values one by one and are not tagged so."""

CANNOT_LOOK_INTO = frozenset(
    f"aten::{name}"
    for name in (
        "_native_multi_head_attention",
        "_transformer_encoder_layer_fwd",
        "_triton_multi_head_attention",
        "mkldnn_rnn_layer",
        "_cudnn_rnn",
        "miopen_rnn",
        "_trilinear",
        "addbmm",
        "_int_mm",
        "_scaled_mm",
        "_grouped_mm",
        "_sparse_addmm",
        "_weight_int4pack_mm",
        "_weight_int8pack_mm",
    )
)
"""Operations that multiply inside: to pass over them would make a module look cheap."""

LOOKED_INTO = frozenset(("aten", "prim", "prims", "profiler"))
"""PyTorch's own libraries of operations; what others multiply is not known."""
