"""The camera as a layer: the simulator's bits, a camera a sample, the gradient to the light."""

import sys

import numpy as np
import pytest
import torch
from triton_modules import load_triton_gpu

from spikedata.bits import unpack_planes
from spikedata.simulator import NoiseConfig, SensorConfig, simulate
from spikedata.simulator.spike_camera import CameraVariation, SpikeCamera, expected_spikes

NOISE = NoiseConfig(
    response_spread=0.05, dark_charge=0.01, shot_quanta=5e4, threshold_jitter=0.01, dead_time=0.01
)


def random_luma(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


def simulated(luma_nhw, sensor, clip_id):
    blocks = simulate([luma_nhw.numpy()], sensor, clip_id=clip_id)
    return torch.from_numpy(np.concatenate(list(blocks)))


@pytest.mark.parametrize("noise", [None, NOISE])
def test_samples_are_simulated_as_clips_of_their_id(noise):
    sensor = SensorConfig(noise=noise, seed=5)
    luma_bnhw = random_luma(3, 4, 5, 9)
    packed_bghw = SpikeCamera(sensor)(luma_bnhw, ["a", "b", "c"])
    assert packed_bghw.dtype == torch.uint8
    for luma_nhw, packed_ghw, clip_id in zip(luma_bnhw, packed_bghw, "abc", strict=True):
        assert torch.equal(packed_ghw, simulated(luma_nhw, sensor, clip_id))


def test_planes_are_the_packed_bits_in_the_type_of_the_light():
    luma_bnhw = random_luma(2, 3, 4, 5)
    packed_bghw = SpikeCamera()(luma_bnhw, "ab")
    want_bthw = unpack_planes(packed_bghw, 30)
    camera = SpikeCamera(output="planes")
    assert camera.ticks(3) == 30
    assert torch.equal(camera(luma_bnhw, "ab"), want_bthw)
    for dtype in (torch.float32, torch.float64):
        light_bnhw = (luma_bnhw / 255).to(dtype).requires_grad_()
        planes_bthw = camera(light_bnhw, "ab")
        assert planes_bthw.dtype == dtype
        assert planes_bthw.requires_grad
        assert torch.equal(planes_bthw, want_bthw.to(dtype))


def test_light_out_of_range_is_cut_to_it():
    light_bnhw = torch.tensor([-1.0, 0.0, 1.0, 7.0]).view(1, 1, 1, 4)
    codes_bnhw = torch.tensor([0, 0, 255, 255], dtype=torch.uint8).view(1, 1, 1, 4)
    camera = SpikeCamera().eval()
    assert torch.equal(camera(light_bnhw), camera(codes_bnhw))


def test_without_ids_training_samples_differ_and_evaluation_repeats():
    camera = SpikeCamera()
    luma_bnhw = random_luma(1, 3, 8, 8).repeat(2, 1, 1, 1)
    first, second = camera(luma_bnhw), camera(luma_bnhw)
    different = [first[0], first[1], second[0], second[1]]
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[i + 1 :])
    camera.eval()
    assert torch.equal(camera(luma_bnhw), camera(luma_bnhw))


class TestVariation:
    sensor = SensorConfig(noise=NOISE, seed=1)
    variation = CameraVariation(threshold=(1.5, 4.0), noise=(0.0, 2.0))

    def test_each_training_sample_is_a_camera_of_its_own(self):
        camera = SpikeCamera(self.sensor, variation=self.variation)
        sensors = [camera.sensor_of(f"clip {i}") for i in range(400)]
        thresholds = np.array([sensor.threshold for sensor in sensors])
        factors = np.array([sensor.noise.dark_charge / 0.01 for sensor in sensors])
        assert len({sensor.seed for sensor in sensors}) == 400
        # Uniform numbers: the mean of 400 strays by width / sqrt(12 * 400), five times that here.
        for values, (low, high) in ((thresholds, (1.5, 4.0)), (factors, (0.0, 2.0))):
            assert low <= values.min() < values.max() <= high
            assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * 400)
        assert abs(np.corrcoef(thresholds, factors)[0, 1]) < 5 / np.sqrt(400)

    def test_noise_is_scaled_term_by_term(self):
        camera = SpikeCamera(self.sensor, variation=CameraVariation(noise=(2.0, 2.0)))
        noise = camera.sensor_of("clip").noise
        assert noise.response_spread == 0.1
        assert noise.dead_time == 0.02
        assert noise.shot_quanta == 5e4 / 4  # half the quanta's root: twice the noise
        quiet = SpikeCamera(self.sensor, variation=CameraVariation(noise=(0.0, 0.0)))
        assert quiet.sensor_of("clip").noise == NoiseConfig()

    def test_the_bits_are_those_of_the_camera_told_in_any_batch(self):
        camera = SpikeCamera(self.sensor, variation=self.variation)
        luma_bnhw = random_luma(2, 3, 4, 6)
        packed_bghw = camera(luma_bnhw, ["a", "b"])
        assert torch.equal(packed_bghw[1], simulated(luma_bnhw[1], camera.sensor_of("b"), "b"))
        assert torch.equal(camera(luma_bnhw.flip(0), ["b", "a"]), packed_bghw.flip(0))

    def test_in_evaluation_all_are_the_sensor_itself(self):
        camera = SpikeCamera(self.sensor, variation=self.variation).eval()
        luma_bnhw = random_luma(1, 2, 4, 6)
        assert torch.equal(camera(luma_bnhw, ["a"])[0], simulated(luma_bnhw[0], self.sensor, "a"))

    @pytest.mark.parametrize(
        ("variation", "message"),
        [
            ({"threshold": (0.0, 2.0)}, "range above 0"),
            ({"threshold": (3.0, 2.0)}, "range above 0"),
            ({"noise": (-1.0, 2.0)}, "range from 0 up"),
            ({"noise": (0.0, 200.0)}, "must be"),
            ({"threshold": (1.0, 1e6)}, "overflows"),
        ],
    )
    def test_impossible_cameras_are_refused_at_once(self, variation, message):
        with pytest.raises(ValueError, match=message):
            SpikeCamera(self.sensor, variation=CameraVariation(**variation))

    def test_noise_that_is_not_there_cannot_vary(self):
        with pytest.raises(ValueError, match="none to vary"):
            SpikeCamera(SensorConfig(), variation=CameraVariation(noise=(0.5, 1.0)))


class TestGradient:
    def rate_and_gradient(self, light, sensor, frames=40, pixels=16):
        """Mean spikes a tick of constant light, and its derivative as the layer says."""
        light_bnhw = torch.full((1, frames, 1, pixels), light, requires_grad=True)
        planes_bthw = SpikeCamera(sensor, output="planes")(light_bnhw, ["clip"])
        rate = planes_bthw.mean()
        rate.backward()
        return rate.item(), light_bnhw.grad.sum().item()

    @pytest.mark.parametrize("interpolation", ["hold", "linear"])
    @pytest.mark.parametrize("threshold", [1.0, 2.0, 3.7])
    @pytest.mark.parametrize("code", [20, 130, 230])
    def test_it_is_the_finite_difference_of_the_rate_over_a_long_window(
        self, code, threshold, interpolation
    ):
        """T = 4,000 ticks. A count strays from T * light / threshold by less than one spike, so
        the difference of two, over a step of 2 * 20 / 255, by less than 2 / (T * step)."""
        sensor = SensorConfig(threshold=threshold, interpolation=interpolation, ticks_per_frame=100)
        low, _ = self.rate_and_gradient((code - 20) / 255, sensor)
        high, _ = self.rate_and_gradient((code + 20) / 255, sensor)
        _, gradient = self.rate_and_gradient(code / 255, sensor)
        assert abs((high - low) / (40 / 255) - gradient) < 2 / (4000 * 40 / 255)
        assert gradient == pytest.approx(1 / threshold, rel=1e-5)

    @pytest.mark.parametrize("interpolation", ["hold", "linear"])
    def test_one_frame_s_share_is_that_of_its_finite_difference(self, interpolation):
        """Only frame 1 of 3 moves; K = 1,000, so its share is 1,000 ticks of light in all. Counts
        stray by less than a spike each."""
        sensor = SensorConfig(
            threshold=1.5, interpolation=interpolation, ticks_per_frame=1000, start="zero"
        )
        camera = SpikeCamera(sensor, output="planes")

        def spikes(code):
            light_bnhw = torch.tensor([100, code, 60]).view(1, 3, 1, 1) / 255
            light_bnhw.requires_grad_()
            return light_bnhw, camera(light_bnhw, ["clip"]).sum()

        light_bnhw, count = spikes(120)
        count.backward()
        gradient = light_bnhw.grad[0, 1].item()
        difference = (spikes(170)[1] - spikes(70)[1]).item() / (100 / 255)
        assert abs(difference - gradient) < 2 / (100 / 255)
        assert gradient == pytest.approx(1000 / 1.5, rel=1e-5)

    @pytest.mark.parametrize("transfer", ["srgb", "bt709"])
    def test_it_goes_through_the_transfer_table(self, transfer):
        """Between two codes the table is a line; its slope over 2 * 20 codes is their mean."""
        sensor = SensorConfig(threshold=2.0, transfer=transfer, ticks_per_frame=100)
        table = sensor.light_table().astype(float) / 65535
        low, _ = self.rate_and_gradient(180 / 255, sensor)
        high, _ = self.rate_and_gradient(220 / 255, sensor)
        slopes = [self.rate_and_gradient((c + 0.5) / 255, sensor)[1] for c in range(180, 220)]
        assert np.mean(slopes) == pytest.approx((table[220] - table[180]) * 255 / 40 / 2, rel=1e-4)
        assert abs((high - low) / (40 / 255) - np.mean(slopes)) < 2 / (4000 * 40 / 255)

    def test_reset_to_zero_has_the_slope_of_its_stairs(self):
        """Held light fires every ceil(threshold / light) ticks: stairs, so the surrogate's rise
        from one light to another is right to half a stair at either end, here below
        1 / 2 / (3 * 4) at the bright end and 1 / 2 / (9 * 10) at the dark one."""
        sensor = SensorConfig(threshold=2.0, reset="zero", interpolation="hold", start="zero")
        codes = range(51, 154)
        rates, slopes = zip(
            *(self.rate_and_gradient(c / 255, sensor, pixels=1) for c in codes), strict=True
        )
        risen = np.sum(slopes[1:]) / 255
        assert abs(rates[-1] - rates[0] - risen) < 1 / 24 + 1 / 180

    def test_a_saturated_pixel_has_none(self):
        for reset in ("subtract", "zero"):
            sensor = SensorConfig(threshold=0.5, reset=reset)
            rate, gradient = self.rate_and_gradient(200 / 255, sensor, frames=4)
            assert rate == pytest.approx(1, abs=0.03)  # the first tick may be without
            assert gradient == 0

    def test_light_out_of_range_has_none(self):
        _, gradient = self.rate_and_gradient(1.5, SensorConfig(), frames=2)
        assert gradient == 0

    def test_it_reaches_what_made_the_light(self):
        """A gain is found again from the spikes of the light that it made."""
        light_bnhw = random_luma(1, 4, 6, 6) / 255
        camera = SpikeCamera(SensorConfig(ticks_per_frame=50), output="planes")
        gain = torch.tensor(0.4, requires_grad=True)
        wanted = camera(0.8 * light_bnhw, ["clip"]).mean()
        optimizer = torch.optim.SGD([gain], lr=2.0)
        for _ in range(30):
            optimizer.zero_grad()
            (camera(gain * light_bnhw, ["clip"]).mean() - wanted).square().mul(4).backward()
            optimizer.step()
        assert gain.item() == pytest.approx(0.8, abs=0.01)

    def test_packed_spikes_carry_none(self):
        light_bnhw = torch.rand(1, 2, 3, 3, requires_grad=True)
        assert not SpikeCamera()(light_bnhw).requires_grad

    def test_the_surrogate_is_the_rate_where_there_is_no_rounding(self):
        light_bnhw = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
        sensor = SensorConfig(threshold=2.0, ticks_per_frame=2)
        rate_t = expected_spikes(light_bnhw, [sensor]).flatten()
        assert rate_t.tolist() == [0.125, 0.375, 0.5, 0.5]


@pytest.mark.parametrize("noise", [None, NOISE])
def test_the_way_of_cuda_gives_the_same_bits(noise, monkeypatch):
    """The Triton kernel under its interpreter, through the layer's own path."""
    interpreted = load_triton_gpu(interpret=True)
    monkeypatch.setitem(sys.modules, "spikedata.simulator.triton_gpu", interpreted)
    from spikedata import simulator
    from spikedata.simulator import spike_camera

    monkeypatch.setattr(simulator, "triton_gpu", interpreted, raising=False)
    variation = CameraVariation(threshold=(1.5, 3.0), noise=noise and (0.5, 1.5))
    camera = SpikeCamera(SensorConfig(noise=noise, ticks_per_frame=4), variation=variation)
    luma_bnhw = random_luma(2, 3, 3, 5)
    want_bghw = camera(luma_bnhw, "ab")
    monkeypatch.setattr(spike_camera, "simulate_batch", spike_camera._with_triton)
    assert torch.equal(camera(luma_bnhw, "ab"), want_bghw)


@pytest.mark.gpu
@pytest.mark.parametrize("noise", [None, NOISE])
def test_on_cuda_the_bits_are_the_same(noise):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    camera = SpikeCamera(SensorConfig(noise=noise), output="planes")
    light_bnhw = random_luma(2, 4, 33, 65) / 255
    there_bnhw = light_bnhw.cuda().requires_grad_()
    planes_bthw = camera(there_bnhw, "ab")
    assert planes_bthw.is_cuda
    assert torch.equal(planes_bthw.cpu(), camera(light_bnhw, "ab"))
    planes_bthw.sum().backward()
    assert there_bnhw.grad.is_cuda


def test_wrong_input_is_refused():
    camera = SpikeCamera()
    for wrong in (random_luma(3, 4, 5), random_luma(1, 0, 4, 5), torch.zeros(1, 1, 1, 1).int()):
        with pytest.raises(ValueError, match=r"\(B, N, H, W\)"):
            camera(wrong)
    with pytest.raises(ValueError, match="1 sample_ids for 2 samples"):
        camera(random_luma(2, 1, 4, 5), ["a"])
    with pytest.raises(ValueError, match="'bits'"):
        SpikeCamera(output="bits")
