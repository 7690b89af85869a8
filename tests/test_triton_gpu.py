"""The Triton kernel gives the reference's bits: here under Triton's interpreter, else on a GPU."""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import luma_frames, noises, sensors
from triton_modules import copy_of, load_triton_gpu

from spikedata.errors import MissingExtraError, SpikeDataError
from spikedata.simulator import (
    NoiseConfig,
    SensorConfig,
    SensorMaps,
    SensorState,
    load_sensor,
    sensor_names,
    simulate,
    simulate_ticks,
)

# The interpreter takes about a millisecond a tick for each block of pixels, whatever their number.
SIZES_HW = [(1, 1), (3, 5), (2, 17)]
BLOCK = 16


@pytest.fixture(scope="module", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def gpu(request):
    return load_triton_gpu(interpret=request.param == "interpreter")


@st.composite
def recordings(draw, max_ticks=40):
    sensor = draw(sensors())
    height_px, width_px = draw(st.sampled_from(SIZES_HW))
    ticks = draw(st.integers(1, max_ticks))
    frames = sensor.frames_needed(0, ticks)
    return draw(luma_frames(frames, height_px, width_px)), sensor, ticks


def random_luma(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def start_of(luma_nhw, sensor, clip_id="clip"):
    return SensorState.initial(sensor, *luma_nhw.shape[1:], clip_id)


def reference(luma_nhw, state, sensor, ticks):
    return simulate_ticks(luma_nhw, state, sensor, ticks, backend="reference", flush=True)


def assert_same(left, right):
    (left_ghw, left_state), (right_ghw, right_state) = left, right
    np.testing.assert_array_equal(left_ghw, right_ghw)
    np.testing.assert_array_equal(left_state.residue_hw, right_state.residue_hw)
    np.testing.assert_array_equal(left_state.pending_hw, right_state.pending_hw)
    assert left_state.tick == right_state.tick


@settings(max_examples=12)
@given(recording=recordings())
def test_the_kernel_gives_the_reference_bits(gpu, recording):
    luma_nhw, sensor, ticks = recording
    state = start_of(luma_nhw, sensor)
    got = gpu.advance(luma_nhw, state, sensor, ticks)
    assert_same(got, reference(luma_nhw, state, sensor, ticks))


@settings(max_examples=8)
@given(recording=recordings(), data=st.data())
def test_cutting_a_clip_anywhere_changes_no_bit(gpu, recording, data):
    luma_nhw, sensor, ticks = recording
    cuts = [0, *data.draw(st.lists(st.integers(0, ticks), max_size=3).map(sorted)), ticks]
    start = start_of(luma_nhw, sensor)
    want_ghw, want = reference(luma_nhw, start, sensor, ticks)
    state, groups = start, []
    for begin, end in itertools.pairwise(cuts):
        frames_nhw = luma_nhw[begin // sensor.ticks_per_frame :]
        packed_ghw, state = gpu.advance(frames_nhw, state, sensor, end - begin)
        groups.append(packed_ghw[: end // 8 - begin // 8])
    if state.pending_ticks:
        groups.append(state.pending_hw[None])
    assert_same((np.concatenate(groups), state), (want_ghw, want))
    np.testing.assert_array_equal(start.residue_hw, start_of(luma_nhw, sensor).residue_hw)


@pytest.mark.parametrize("transfer", ["identity", "srgb", "bt709"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("interpolation", ["hold", "linear"])
@pytest.mark.parametrize("threshold", [0.3, 2.0])
def test_every_option_gives_the_reference_bits(gpu, threshold, interpolation, reset, transfer):
    sensor = SensorConfig(
        threshold=threshold,
        interpolation=interpolation,
        reset=reset,
        transfer=transfer,
        ticks_per_frame=3,
    )
    luma_nhw = random_luma(7, 3, 5)
    state = start_of(luma_nhw, sensor)
    got = gpu.advance(luma_nhw, state, sensor, 17)
    assert_same(got, reference(luma_nhw, state, sensor, 17))


NOISE = NoiseConfig(
    response_spread=0.2,
    dark_charge=0.05,
    dark_spread=0.5,
    threshold_spread=0.1,
    shot_quanta=1e4,
    threshold_jitter=0.05,
    dead_time=0.3,
    hot_share=0.2,
    dead_share=0.1,
)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("interpolation", ["hold", "linear"])
@pytest.mark.parametrize("threshold", [0.3, 2.0])
def test_noise_gives_the_reference_bits(gpu, threshold, interpolation, reset):
    sensor = SensorConfig(
        threshold=threshold,
        interpolation=interpolation,
        reset=reset,
        ticks_per_frame=3,
        noise=NOISE,
    )
    luma_nhw = random_luma(8, 3, 11)
    state = start_of(luma_nhw, sensor)
    got = gpu.advance(luma_nhw, state, sensor, 21)
    want = reference(luma_nhw, state, sensor, 21)
    assert_same(got, want)
    quiet = replace(sensor, noise=None)
    assert (want[0] != reference(luma_nhw, start_of(luma_nhw, quiet), quiet, 21)[0]).any()


@pytest.mark.parametrize("preset", sensor_names())
def test_presets_give_the_reference_bits_cut_anywhere(gpu, preset):
    sensor = replace(load_sensor(preset), ticks_per_frame=7)
    luma_nhw = random_luma(6, 2, 9)
    start = start_of(luma_nhw, sensor)
    want_ghw, want = reference(luma_nhw, start, sensor, 33)
    head_ghw, middle = gpu.advance(luma_nhw, start, sensor, 13)
    tail_ghw, after = gpu.advance(luma_nhw[1:], middle, sensor, 20)
    assert_same((np.concatenate([head_ghw[:1], tail_ghw]), after), (want_ghw, want))


def test_every_light_sum_has_the_reference_root(gpu):
    """Shot noise follows the root of the light: all codes, each with another."""
    noise = NoiseConfig(shot_quanta=5e3, response_spread=0.3, dark_charge=0.5, dark_spread=0.5)
    sensor = SensorConfig(ticks_per_frame=2, threshold=0.8, noise=noise, seed=3)
    luma_nhw = np.stack([np.arange(256, dtype=np.uint8).reshape(4, 64), random_luma(4, 64)])
    state = start_of(luma_nhw, sensor)
    assert_same(gpu.advance(luma_nhw, state, sensor, 2), reference(luma_nhw, state, sensor, 2))


def batch_of(gpu, sensors_, luma_bnhw, clip_ids):
    device = gpu.compute_device()
    states = [
        start_of(luma_nhw, sensor, clip_id)
        for luma_nhw, sensor, clip_id in zip(luma_bnhw, sensors_, clip_ids, strict=True)
    ]
    return (
        torch.from_numpy(luma_bnhw).to(device),
        gpu.BatchState.of(states, device),
        gpu.BatchSensors(tuple(sensors_), device),
    )


@pytest.mark.parametrize("noisy", [False, True])
def test_clips_of_a_batch_have_their_own_sensor_and_start(gpu, noisy):
    kinds = [
        SensorConfig(threshold=2.0, seed=1),
        SensorConfig(threshold=0.7, seed=2, transfer="srgb"),
        SensorConfig(threshold=3.3, start="zero", transfer="bt709"),
    ]
    if noisy:
        others = [NOISE, NoiseConfig(), NoiseConfig(shot_quanta=1e5, dead_time=0.01)]
        kinds = [replace(kind, noise=noise) for kind, noise in zip(kinds, others, strict=True)]
    luma_bnhw = random_luma(3, 4, 2, 9)
    ids = ["a", "b", "c"]
    luma, state, batch = batch_of(gpu, kinds, luma_bnhw, ids)
    first_bghw, middle = gpu.advance_batch(luma, state, batch, 11, block=BLOCK)
    rest_bghw, after = gpu.advance_batch(luma[:, 1:], middle, batch, 10, block=BLOCK)
    for i, (sensor, clip_id) in enumerate(zip(kinds, ids, strict=True)):
        start = start_of(luma_bnhw[i], sensor, clip_id)
        want_ghw, want = reference(luma_bnhw[i], start, sensor, 21)
        got_ghw = torch.cat([first_bghw[i, :1], rest_bghw[i]]).cpu().numpy()
        assert_same((got_ghw, after.clip(i)), (want_ghw, want))


@settings(max_examples=5)
@given(noisy=st.booleans(), data=st.data())
def test_a_batch_starts_as_its_clips_do(gpu, noisy, data):
    """Maps, words and residues, drawn on the device."""
    noise = noises().filter(lambda noise: (noise is not None) == noisy)
    kinds = [data.draw(sensors(ticks_per_frame=10, noise=data.draw(noise))) for _ in "ab"]
    batch = gpu.BatchState.initial(kinds, 5, 67, ["a", "b"], gpu.compute_device())
    for i, (sensor, clip_id) in enumerate(zip(kinds, "ab", strict=True)):
        want, got = SensorState.initial(sensor, 5, 67, clip_id), batch.clip(i)
        assert_same((want.pending_hw[None], want), (got.pending_hw[None], got))
        assert (got.pixels is not None) == noisy
        for name in ("response_hw", "dark_hw", "threshold_hw", "word_hw") if noisy else ():
            left, right = getattr(got.pixels, name), getattr(want.pixels, name)
            np.testing.assert_array_equal(left, right)
        assert not noisy or got.pixels.tick_key == want.pixels.tick_key


def test_maps_from_a_file_are_those_of_the_batch(gpu, tmp_path):
    rng = np.random.default_rng(0)
    maps = SensorMaps.from_shares(*(rng.uniform(0.8, 1.2, (4, 6)) * f for f in (1, 0.01, 1)))
    maps.save(tmp_path / "maps.npz")
    named = SensorConfig(noise=NoiseConfig(maps=str(tmp_path / "maps.npz")))
    batch = gpu.BatchState.initial([named], 4, 6, ["clip"], gpu.compute_device())
    np.testing.assert_array_equal(batch.clip(0).pixels.dark_hw, maps.dark_hw)
    plain = SensorConfig(noise=NoiseConfig())
    luma_nhw = random_luma(2, 4, 6)
    want = np.concatenate(list(simulate([luma_nhw], named, clip_id="clip")))
    got = list(gpu.simulate_on_gpu([luma_nhw], plain, clip_id="clip", maps=maps))
    np.testing.assert_array_equal(np.concatenate(got), want)


def test_a_batch_with_and_without_noise_is_refused(gpu):
    kinds = [SensorConfig(), SensorConfig(noise=NOISE)]
    with pytest.raises(ValueError, match="all have noise or none"):
        gpu.BatchState.initial(kinds, 2, 2, ["a", "b"], gpu.compute_device())


def test_it_is_one_of_the_backends(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "spikedata.simulator.triton_gpu", gpu)
    monkeypatch.setattr("spikedata.simulator.triton_gpu", gpu, raising=False)
    sensor, luma_nhw = SensorConfig(noise=NOISE, ticks_per_frame=4), random_luma(3, 2, 5)
    blocks = simulate([luma_nhw], sensor, clip_id="clip", backend="triton", block_ticks=9)
    want = simulate([luma_nhw], sensor, clip_id="clip", backend="reference")
    np.testing.assert_array_equal(np.concatenate(list(blocks)), np.concatenate(list(want)))


def test_past_the_last_frame_its_light_holds(gpu):
    sensor = SensorConfig(ticks_per_frame=4)
    luma_nhw = random_luma(3, 2, 3)
    luma, state, batch = batch_of(gpu, [sensor], luma_nhw[None], ["clip"])
    packed_bghw, _ = gpu.advance_batch(luma, state, batch, 12)
    want_ghw = np.concatenate(list(simulate([luma_nhw], sensor, clip_id="clip")))
    np.testing.assert_array_equal(packed_bghw[0].cpu().numpy(), want_ghw)


@settings(max_examples=5)
@given(
    cuts=st.lists(st.integers(0, 6), max_size=3).map(sorted),
    block_ticks=st.sampled_from([8, 11, 256]),
    interpolation=st.sampled_from(["hold", "linear"]),
    noise=st.sampled_from([None, NOISE]),
)
def test_a_whole_clip_streams_through_the_device(gpu, cuts, block_ticks, interpolation, noise):
    sensor = SensorConfig(ticks_per_frame=5, interpolation=interpolation, noise=noise)
    luma_nhw = random_luma(6, 3, 5)
    luma_nhw.flags.writeable = False
    want = list(simulate([luma_nhw], sensor, clip_id="clip"))
    blocks = np.split(luma_nhw, cuts)
    got = list(gpu.simulate_on_gpu(blocks, sensor, clip_id="clip", block_ticks=block_ticks))
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(want))
    assert max(len(packed_ghw) for packed_ghw in got) <= max(1, block_ticks // 8)


def test_several_threads_may_simulate_at_once(gpu):
    """As the converter does, a clip a thread."""
    sensor = SensorConfig(ticks_per_frame=3, noise=NOISE)
    luma_bnhw = random_luma(6, 5, 3, 5)

    def one(i):
        return np.concatenate(list(gpu.simulate_on_gpu([luma_bnhw[i]], sensor, clip_id=f"{i}")))

    with ThreadPoolExecutor(3) as pool:
        for i, got_ghw in enumerate(pool.map(one, range(6))):
            want = simulate([luma_bnhw[i]], sensor, clip_id=f"{i}")
            np.testing.assert_array_equal(got_ghw, np.concatenate(list(want)))


def test_a_clip_without_frames_gives_nothing(gpu):
    empty = np.zeros((0, 2, 2), np.uint8)
    assert list(gpu.simulate_on_gpu([empty], SensorConfig(), clip_id="clip")) == []


def test_frames_of_another_size_are_refused(gpu):
    blocks = [random_luma(2, 3, 5), random_luma(2, 5, 3)]
    with pytest.raises(ValueError, match=r"frames of \(5, 3\) after frames of \(3, 5\)"):
        list(gpu.simulate_on_gpu(blocks, SensorConfig(), clip_id="clip"))


@pytest.mark.parametrize(
    "other", [{"ticks_per_frame": 9}, {"reset": "zero"}, {"interpolation": "hold"}]
)
def test_a_batch_refuses_sensors_that_differ_in_what_it_shares(gpu, other):
    with pytest.raises(ValueError, match=f"share one {next(iter(other))}"):
        gpu.BatchSensors((SensorConfig(), SensorConfig(**other)), gpu.compute_device())


def test_a_batch_refuses_shapes_that_do_not_agree(gpu):
    luma, state, batch = batch_of(gpu, [SensorConfig()], random_luma(1, 2, 3, 5), ["clip"])
    for wrong in (luma.float(), luma[0], luma[:, :0], luma[..., :4], luma.repeat(2, 1, 1, 1)):
        with pytest.raises(ValueError, match="luma"):
            gpu.advance_batch(wrong, state, batch, 8)


def test_a_state_of_a_sensor_with_other_noise_is_refused(gpu):
    luma, state, _ = batch_of(gpu, [SensorConfig()], random_luma(1, 2, 3, 5), ["clip"])
    noisy = gpu.BatchSensors((SensorConfig(noise=NOISE),), gpu.compute_device())
    with pytest.raises(ValueError, match="other noise"):
        gpu.advance_batch(luma, state, noisy, 8)


def test_without_a_cuda_device_the_error_says_so(monkeypatch):
    pytest.importorskip("triton", reason="triton is for Linux alone")
    compiled = copy_of("triton_gpu", interpret=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    luma_nhw, sensor = random_luma(2, 1, 1), SensorConfig()
    with pytest.raises(SpikeDataError, match="needs a CUDA device"):
        compiled.advance(luma_nhw, start_of(luma_nhw, sensor), sensor, 8)


@pytest.mark.parametrize("noise", [None, NoiseConfig()])
def test_no_unsigned_word_is_inverted_by_way_of_minus_one(monkeypatch, noise):
    """Which Triton's interpreter does for ``~``, and NumPy 2.5 refuses."""
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="for Linux alone")
    full = np.full

    def strict(shape, value, dtype=None, **options):
        assert not (np.dtype(dtype).kind == "u" and value == -1), "-1 as an unsigned word"
        return full(shape, value, dtype=dtype, **options)

    monkeypatch.setattr(interpreter.np, "full", strict)
    luma_nhw, sensor = random_luma(3, 4, 5), SensorConfig(noise=noise)
    gpu = copy_of("triton_gpu", interpret=True)
    gpu.advance(luma_nhw, start_of(luma_nhw, sensor), sensor, 13)


def test_without_triton_the_error_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spklip\[gpu\]'"):
        copy_of("triton_gpu", interpret=True)


BYTES = {"luma_bnp", "pending_bp", "packed_bgp", "pending_after_bp"}
NUMBERS = {"pixels", "frames", "groups", "tick", "ticks", "period"}
KERNELS = [
    ("start_kernel", {"noisy": True}),
    ("advance_kernel", {"linear": False, "zero": True, "noisy": False}),
    ("advance_kernel", {"linear": True, "zero": False, "noisy": True}),
]


@pytest.mark.parametrize(("name", "constants"), KERNELS)
def test_the_kernels_compile_for_hardware(name, constants, monkeypatch, tmp_path):
    """To machine code of compute capability 9.0; nothing spills out of the registers."""
    pytest.importorskip("triton", reason="triton is for Linux alone")
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    kernel = getattr(copy_of("triton_kernels", interpret=False), name)
    constants = constants | {"block": 512}
    types = {"draws_bq": "*i64"} | dict.fromkeys(BYTES, "*u8") | dict.fromkeys(NUMBERS, "i32")
    signature = {
        argument: "constexpr" if argument in constants else types.get(argument, "*i32")
        for argument in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constexprs=constants)
    made = compile_kernel(source, target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"][:4] == b"\x7fELF"
    assert ".local" not in made.asm["ptx"]
    rooted = name == "advance_kernel" and constants["noisy"]
    assert ("sqrt.rn.f32" in made.asm["ptx"]) == rooted
