"""SPKLIP's shapes, windows, towers and checkpoints."""

import copy
import dataclasses
import json
import os
import re
import socket

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata import unpack_planes
from spklip import SpklipConfig, SpklipModel, build_tokenizer, contrastive_loss
from spklip.gather import gather_with_gradients
from spklip.model.hsfe import MultiScaleTemporalFilter, smooth_in_time_
from spklip.model.pooling import pool_packed, pool_planes
from spklip.model.video_tower import AttentionPool, cut_windows, sine_positions, window_starts

MINI = {
    "radius_ticks": 4,
    "step_ticks": 6,
    "branch_ticks": (9, 7),
    "branch_channels": (4, 3),
    "branch_features": 2,
    "extractor_channels": 8,
    "group_blocks": (1, 1),
    "group_width": 8,
    "pool_heads": 2,
    "temporal_width": 16,
    "temporal_layers": 1,
    "temporal_heads": 2,
    "embed_dim": 12,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
}


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_model(**changes):
    torch.manual_seed(0)
    return SpklipModel(SpklipConfig.preset("tiny", **{**MINI, **changes})).eval()


def planes(*shape, seed=0):
    return torch.randint(
        0, 2, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def packed(planes_bsthw):
    ticks = planes_bsthw.shape[2]
    padded = F.pad(planes_bsthw, (0, 0, 0, 0, 0, -ticks % 8)).unflatten(2, (-1, 8))
    return (padded << torch.arange(8)[:, None, None]).sum(dim=3).to(torch.uint8)


def tokens(model, texts, **how):
    tokenizer = build_tokenizer(model.config)
    batch = tokenizer(texts, return_tensors="pt", **({"padding": True} | how))
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


# Windows


def test_paper_windows_of_250_ticks():
    assert window_starts(250, 61, 45, None) == [0, 45, 90, 135, 180]


def test_windows_can_be_spread_evenly():
    assert window_starts(100, 10, 1, 4) == [0, 30, 60, 90]
    assert window_starts(100, 11, 1, 1) == [44]


@given(
    ticks=st.integers(1, 400),
    window=st.integers(1, 400),
    step=st.integers(1, 99),
    count=st.none() | st.integers(1, 9),
)
def test_no_window_leaves_its_segment(ticks, window, step, count):
    if window > ticks:
        with pytest.raises(ValueError, match=f"{ticks} ticks is shorter than one window"):
            window_starts(ticks, window, step, count)
        return
    starts = window_starts(ticks, window, step, count)
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] + window <= ticks
    assert count is None or len(starts) == count


def test_cut_windows_holds_the_planes_of_each_window_and_its_middle_tick(model):
    planes_bsthw = planes(2, 3, 17, 5, 7)
    window_nkhw, centre_v = cut_windows(planes_bsthw, model.config, torch.float32)
    assert centre_v.tolist() == [4, 10, 21, 27, 38, 44]  # starts 0 and 6 of 17-tick segments
    want = torch.stack([planes_bsthw[1, 2, 0:9], planes_bsthw[1, 2, 6:15]])
    assert torch.equal(window_nkhw[10:], want.float())
    assert window_nkhw.is_contiguous(memory_format=torch.channels_last)


def test_pooling_averages_cells():
    planes_bsthw = torch.zeros(1, 1, 9, 4, 5)
    planes_bsthw[:, :, :, 0, 0] = 1
    assert pool_planes(planes_bsthw, 2)[0, 0, 3].tolist() == [[0.25, 0.0], [0.0, 0.0]]


# Video tower


@settings(max_examples=12)
@given(
    clips=st.integers(1, 3),
    segments=st.integers(1, 3),
    ticks=st.integers(9, 30),
    height=st.integers(1, 21),
    width=st.integers(1, 21),
)
def test_any_size_gives_unit_vectors(clips, segments, ticks, height, width):
    with torch.no_grad():
        video_bd = make_model().encode_video(planes(clips, segments, ticks, height, width))
    assert video_bd.shape == (clips, 12)
    assert torch.allclose(video_bd.norm(dim=1), torch.ones(clips))


def test_a_clip_is_embedded_alike_alone_and_in_a_batch(model):
    planes_bsthw = planes(4, 2, 20, 16, 12)
    with torch.no_grad():
        together = model.encode_video(planes_bsthw)
        alone = torch.cat([model.encode_video(clip[None]) for clip in planes_bsthw])
    assert torch.allclose(together, alone, atol=1e-5)


@torch.no_grad()
def test_a_model_that_learns_without_order_sees_windows_in_any_and_is_judged_in_theirs():
    plain, control = make_model(), make_model(shuffle_order=True)
    features = plain.window_features(packed(planes(1, 2, 15, 8, 8)), 15)
    assert len(features[1]) == 4
    assert torch.equal(control.encode_features(*features), plain.encode_features(*features))
    control.train()
    seen = {
        tuple(control.encode_features(*features).flatten().mul(1e4).round().tolist())
        for _ in range(200)
    }
    assert len(seen) == 24  # 4!


def test_packed_planes_are_unpacked_in_the_order_of_time(model):
    planes_bsthw = planes(2, 2, 19, 8, 8)
    with torch.no_grad():
        out = model(packed(planes_bsthw), 19, **tokens(model, ["a", "b"]))
        want = model.encode_video(planes_bsthw)
    assert torch.allclose(out.video_bd, want, atol=1e-6)


def test_fused_branches_equal_separate_convolutions():
    torch.manual_seed(0)
    fused = MultiScaleTemporalFilter(9, (9, 5), (3, 2), 2)
    torch.nn.init.normal_(fused.mask_mk)
    window_nkhw = torch.rand(2, 9, 6, 6)
    want, channel = [], 0
    for branch, (first, ticks, channels) in enumerate([(0, 9, 3), (2, 5, 2)]):
        crop = slice(first, first + ticks)
        mask_k = fused.mask_mk[branch, crop].softmax(0) * ticks
        own = slice(channel, channel + channels)
        weight = fused.filter.weight[own, crop] * mask_k[:, None, None]
        hidden = F.relu(F.conv2d(window_nkhw[:, crop], weight, fused.filter.bias[own], padding=1))
        features = slice(2 * branch, 2 * branch + 2)
        merge = fused.merge.weight[features, own]
        want.append(F.conv2d(hidden, merge, fused.merge.bias[features], padding=1))
        channel += channels
    assert torch.allclose(fused(window_nkhw), torch.cat(want, dim=1), atol=1e-5)


def test_temporal_masks_keep_the_sum_of_each_crop():
    temporal = MultiScaleTemporalFilter(9, (9, 7, 3), (3, 2, 1), 1)
    torch.nn.init.normal_(temporal.mask_mk)
    masks_mk = temporal.temporal_masks()
    assert torch.allclose(masks_mk.sum(dim=1), torch.tensor([9.0, 7.0, 3.0]))
    assert (masks_mk[2, :3] == 0).all()
    assert (masks_mk[2, 6:] == 0).all()


def test_filters_begin_slow_in_time_at_the_size_they_had():
    torch.manual_seed(0)
    weight_ckyx = torch.randn(8, 32, 3, 3) * 0.1
    smooth_in_time_(weight_ckyx)
    spectrum = torch.fft.rfft(weight_ckyx, dim=1).abs().pow(2).sum(dim=(0, 2, 3))
    assert spectrum[:4].sum() > 0.9 * spectrum.sum()  # white noise would have 4 in 17
    assert weight_ckyx.std().item() == pytest.approx(0.1, rel=0.05)


def test_sine_positions_tell_apart_any_two_times():
    position_vd = sine_positions(torch.tensor([0.0, 0.5, 1.0, 40.0, 5_000.0]), 15)
    assert position_vd.shape == (5, 15)
    distance_vv = torch.cdist(position_vd, position_vd) + 9 * torch.eye(5)
    assert distance_vv.min() > 0.1


def test_every_parameter_learns_and_a_batch_of_one_trains():
    model = make_model(text_adapter_width=4).train()
    out = model(packed(planes(2, 1, 9, 8, 8)), 9, **tokens(model, ["a", "b"]))
    (out.video_bd[0] @ out.text_bd[1] * out.scale).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    one = model(packed(planes(1, 1, 9, 8, 8)), 9, **tokens(model, ["a"]))
    assert torch.isfinite(one.video_bd).all()


@pytest.mark.parametrize("pool_px", [1, 2, 3, 15])
def test_packed_planes_are_pooled_as_unpacked_ones_are(pool_px):
    planes_bsthw = planes(2, 3, 21, 17, 31)
    want = pool_planes(planes_bsthw, pool_px).float()
    assert torch.equal(pool_packed(packed(planes_bsthw), 21, pool_px).float(), want)
    assert want.shape == (2, 3, 21, 17 // pool_px, 31 // pool_px)


def test_gradient_checkpointing_changes_no_gradient():
    grads = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            for module in model.modules():  # what activation_checkpointing_enable() sets
                if hasattr(module, "gradient_checkpointing"):
                    module.gradient_checkpointing = True
        model.encode_video(planes(2, 1, 15, 8, 8)).pow(3).sum().backward()
        grads.append(model.video.extractor.temporal.filter.weight.grad)
    assert torch.allclose(grads[0], grads[1], atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 9, 8, 8), r"\(B, S, T, H, W\).*\(1, 9, 8, 8\)"),
        ((1, 1, 8, 8, 8), "8 ticks is shorter than one window of 9"),
        ((0, 1, 9, 8, 8), r"none of them 0.*\(0, 1, 9, 8, 8\)"),
    ],
)
def test_wrong_planes_are_refused(model, shape, says):
    with pytest.raises(ValueError, match=says):
        model.encode_video(planes(*shape))


def test_planes_smaller_than_a_pooling_cell_are_refused():
    with pytest.raises(ValueError, match=r"3x8 pixels.*pool_px 4"):
        make_model(pool_px=4).encode_video(planes(1, 1, 9, 3, 8))


def test_wrong_packing_is_refused(model):
    text = tokens(model, ["a"])
    with pytest.raises(ValueError, match=r"expected uint8.*float32"):
        model(torch.zeros(1, 1, 2, 8, 8), 9, **text)
    with pytest.raises(ValueError, match="17 ticks need 3 groups"):
        model(torch.zeros(1, 1, 2, 8, 8, dtype=torch.uint8), 17, **text)


@pytest.mark.parametrize("pool_px", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "ticks"),
    [
        (torch.zeros(1, 1, 2, 8, 8), 16),
        (torch.zeros(1, 1, 2, 8, 8, dtype=torch.uint8), 100),
        (torch.zeros(1, 1, 5, 8, 8, dtype=torch.uint8), 17),
    ],
)
def test_wrong_packing_is_refused_in_the_same_words_with_and_without_pooling(pool_px, wrong, ticks):
    with pytest.raises(ValueError) as unpacking:  # noqa: PT011  # the words are compared below
        unpack_planes(wrong, ticks)
    with pytest.raises(ValueError, match=re.escape(str(unpacking.value))):
        pool_packed(wrong, ticks, pool_px)


def test_a_model_runs_in_half_precision(model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    planes_bsthw = planes(2, 1, 20, 8, 8)
    with torch.no_grad():
        video_bd = half.encode_video(planes_bsthw)
        packed_bd = half.encode_packed(packed(planes_bsthw), 20)
        text_bd = half.encode_text(**tokens(half, ["a", "b"]))
        want = model.encode_video(planes_bsthw)
    assert {video_bd.dtype, packed_bd.dtype, text_bd.dtype} == {torch.bfloat16}
    assert F.cosine_similarity(video_bd.float(), want).min() > 0.99  # three digits a number


# Text tower


def test_padding_does_not_change_a_text(model):
    texts = ["kick", "a person kicks a ball on the pitch"]
    with torch.no_grad():
        together = model.encode_text(**tokens(model, texts))
        longer = model.encode_text(**tokens(model, texts, padding="max_length"))
        alone = torch.cat([model.encode_text(**tokens(model, [text])) for text in texts])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(longer, alone, atol=1e-6)


def test_a_text_that_is_cut_keeps_its_end_token():
    model = make_model(max_text_tokens=8)
    ids = tokens(model, ["a very long sentence"], truncation=True)["input_ids"]
    assert ids.shape == (1, 8)
    assert ids[0, -1] == 1


@pytest.fixture(scope="module")
def pretrained_text(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "square", "moves", "left", "right"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(1)
    bert = BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )
    bert.save_pretrained(folder)
    return folder, bert.eval()


def test_a_named_text_encoder_comes_with_its_weights_and_is_pooled_over_real_tokens(
    pretrained_text,
):
    folder, bert = pretrained_text
    model = make_model(text_encoder=str(folder))
    batch = tokens(model, ["a square moves left", "right"])
    with torch.no_grad():
        got = model.encode_text(**batch)
        hidden_ble = bert(**tokens(model, ["right"])).last_hidden_state
        want = F.normalize(model.text.leave(hidden_ble.mean(dim=1)), dim=1)
    assert torch.allclose(got[1:], want, atol=1e-6)


def test_one_config_builds_any_number_of_models_with_pretrained_texts(pretrained_text):
    folder, bert = pretrained_text
    config = SpklipConfig.preset("tiny", **MINI, text_encoder=str(folder))
    for _ in range(2):
        words = SpklipModel(config).text.encoder.embeddings.word_embeddings.weight
        assert torch.equal(words, bert.embeddings.word_embeddings.weight)
    assert config.text_config is None


def test_a_config_with_a_noted_architecture_still_gets_pretrained_texts(pretrained_text):
    folder, bert = pretrained_text
    noted = make_model(text_encoder=str(folder)).config
    words = SpklipModel(noted).text.encoder.embeddings.word_embeddings.weight
    assert torch.equal(words, bert.embeddings.word_embeddings.weight)


def test_the_default_text_tower_is_from_scratch_and_an_adapter_follows_the_pooling():
    assert SpklipConfig.preset("paper").text_encoder == ""
    model = make_model(text_adapter_width=4)
    shapes = []
    model.text.adapter.register_forward_hook(lambda _m, args, _o: shapes.append(args[0].shape))
    model.encode_text(**tokens(model, ["kick", "a kick"]))
    assert shapes == [(2, 16)]  # one vector a text: the pooled one


def test_both_embeddings_are_centred_over_the_batch():
    model = make_model().train()
    video_bd = model.video.read(*model.video.window_features(planes(5, 1, 15, 8, 8)))
    text_bd = model.text(**{f"{k}_bl": v for k, v in tokens(model, list("abcde")).items()})
    for vector_bd in (video_bd, text_bd):
        assert vector_bd.mean(dim=0).abs().max() < 1e-5
        assert (vector_bd.var(dim=0, correction=0) - 1).abs().max() < 0.1  # eps at tiny variance


def test_a_frozen_text_encoder_stays_and_its_adapter_learns(pretrained_text):
    folder, _ = pretrained_text
    model = make_model(text_encoder=str(folder), text_frozen=True, text_adapter_width=4).train()
    model.encode_text(**tokens(model, ["a square"])).pow(3).sum().backward()
    assert not model.text.encoder.training
    assert all(p.grad is None for p in model.text.encoder.parameters())
    assert all(p.grad is not None for p in model.text.adapter.parameters())


def test_a_saved_model_does_not_need_its_text_encoder_again(pretrained_text, tmp_path):
    folder, _ = pretrained_text
    model = make_model(text_encoder=str(folder))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_encoder": "gone/nowhere"}))
    again = SpklipModel.from_pretrained(tmp_path)
    assert same_weights(model, again)


# Configuration and checkpoints


def same_weights(one, other):
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_saving_and_loading_changes_nothing(model, tmp_path):
    model.save_pretrained(tmp_path)
    again, told = SpklipModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert same_weights(model, again)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    # Loaded weights lie at odd addresses of the mapped file, and a matrix product's rounding
    # depends on its operands' alignment; those of a copy lie as the first model's do.
    again = copy.deepcopy(again)
    with torch.no_grad():
        assert torch.equal(
            again.encode_video(planes(1, 1, 9, 8, 8)), model.encode_video(planes(1, 1, 9, 8, 8))
        )


def test_presets_are_strict():
    assert SpklipConfig.preset("paper").hsfe_ticks == 61
    assert SpklipConfig.preset("paper").branch_channels == (16, 15, 15, 14)
    assert SpklipConfig.preset("tiny").branch_channels == (8, 8, 8, 8)
    with pytest.raises(ValueError, match="unknown preset 'huge'; there are paper, tower, tiny"):
        SpklipConfig.preset("huge")
    with pytest.raises(ValueError, match=r"no field 'pool'. Did you mean 'pool_px'\?"):
        SpklipConfig.preset("tiny", pool=2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pool_px": 0}, "pool_px"),
        ({"pool_px": "4"}, "pool_px.*'4'"),
        ({"radius_ticks": 10}, r"branch_ticks \(31, 29, 27, 25\).*21"),
        ({"branch_channels": [8]}, "one entry a branch"),
        ({"temporal_width": 130}, "130 is not a multiple of temporal_heads 4"),
        ({"extractor_stride": 3}, "extractor_stride must be 1 or 2, got 3"),
        ({"group_blocks": [1, 0]}, r"group_blocks.*\(1, 0\)"),
        ({"branch_ticks": [], "branch_channels": []}, r"branch_ticks.*\(\)"),
        ({"text_adapter_width": -4}, "text_adapter_width.*from 0, got -4"),
        ({"extractor_blocks": 1.5}, "extractor_blocks.*1.5"),
        ({"windows_per_segment": 0}, "windows_per_segment.*0"),
        ({"dropout": "1e-1"}, "dropout must be a number from 0, got '1e-1'"),
        ({"dropout": float("nan")}, "dropout must be a number from 0, got nan"),
        ({"dropout": 1.0}, "dropout must be below 1, got 1.0"),
        ({"text_rate": -0.1}, "text_rate.*-0.1"),
        ({"text_frozen": "no"}, "text_frozen must be a bool, got 'no'"),
        ({"text_encoder": 3}, "text_encoder must be a str, got 3"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        SpklipConfig.preset("tiny", **changes)


def test_total_stride_is_the_same_with_and_without_the_halved_extractor():
    maps = []
    for stride in (1, 2):
        backbone = make_model(extractor_stride=stride).video
        window_nkhw, _ = cut_windows(planes(1, 1, 9, 64, 32), backbone.config, torch.float32)
        shapes = []
        handle = backbone.backbone.blocks[-1].register_forward_hook(
            lambda _m, _i, out, shapes=shapes: shapes.append(tuple(out.shape))
        )
        backbone.backbone(backbone.extractor(window_nkhw))
        handle.remove()
        maps += shapes
    assert maps[0] == maps[1] == (1, 32, 8, 4)


def test_the_text_tower_learns_at_its_own_rate_and_norms_do_not_decay():
    model = make_model(text_rate=0.25)
    model.text.leave.requires_grad_(False)
    groups = model.parameter_groups(8.0, 0.5)
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]
    }
    assert len(found) == len(list(model.parameters())) - 1
    assert found[id(model.log_scale)] == (8.0, 0.0)
    assert found[id(model.video.time.weight)] == (8.0, 0.5)
    assert found[id(model.text.encoder.final_layer_norm.weight)] == (2.0, 0.0)


def test_output_is_a_dataclass_of_named_parts(model):
    out = model(packed(planes(1, 1, 9, 8, 8)), 9, **tokens(model, ["a"]), label_b=torch.tensor([0]))
    assert [field.name for field in dataclasses.fields(out)] == [
        "loss",
        "video_bd",
        "text_bd",
        "scale",
        "feature_bvc",
    ]
    assert out.loss.item() == pytest.approx(0.0, abs=1e-6)  # one clip has no negatives
    assert out.scale.item() == pytest.approx(1 / 0.07)


def test_the_temperature_is_held_at_a_hundred():
    model = make_model()
    model.log_scale.data.fill_(9.0)
    assert model.scale.item() == pytest.approx(100.0)


def test_attention_pooling_is_multi_head_attention_of_one_query():
    torch.manual_seed(0)
    pool = AttentionPool(24, 3).double()
    torch.nn.init.normal_(pool.attention.in_proj_bias)
    query_nc, key_npc = torch.randn(2, 24).double(), torch.randn(2, 7, 24).double()
    want_n1c, _ = pool.attention(query_nc[:, None], key_npc, key_npc)
    assert torch.allclose(pool._attend(query_nc, key_npc), want_n1c[:, 0], atol=1e-12)


def test_a_limited_temperature_can_come_down_again():
    model = make_model()
    model.log_scale.data.fill_(9.0)
    model.limit_scale_()
    model.scale.backward()
    assert model.scale.item() == pytest.approx(100.0)
    assert model.log_scale.grad.item() == pytest.approx(100.0)


# Several processes


def _problem() -> tuple[SpklipModel, dict, torch.Tensor]:
    """A model, a batch of eight clips with their texts, and their labels."""
    model = make_model().train()
    texts = tokens(model, ["up", "left", "down", "right"] * 2)
    batch = {"packed_bsghw": packed(planes(8, 1, 15, 8, 8)), "ticks": 15, **texts}
    return model, batch, torch.arange(8) % 4


def _loss(model, batch: dict, label_b: torch.Tensor) -> torch.Tensor:
    out = model(**batch)
    video, text, label = map(gather_with_gradients, (out.video_bd, out.text_bd, label_b))
    return contrastive_loss(video, text, out.scale, label)


def _train_half(rank: int, port: int, folder: str) -> None:
    """One of two processes, on its half of the batch."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    model, batch, label_b = _problem()
    half = slice(4 * rank, 4 * rank + 4)
    own = {name: x[half] if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    loss = _loss(wrapped, own, label_b[half])
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.save((loss.detach(), grads, dict(model.named_buffers())), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    # Without destructors: gloo's waits, with the GIL, for a thread that may be waiting for the GIL.
    os._exit(0)


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> list[tuple[torch.Tensor, dict, dict]]:
    """What two processes got: loss, gradients and buffers of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("halves")
    torch.multiprocessing.spawn(_train_half, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_processes_get_loss_and_gradients_of_one_big_batch(halves):
    model, batch, label_b = _problem()
    want = _loss(model, batch, label_b)
    want.backward()
    # Sums in another order: float32 differs in the last digits of the largest terms.
    limit = 1e-5 * max(parameter.grad.abs().max() for parameter in model.parameters())
    for loss, grads, _ in halves:
        assert torch.allclose(loss, want, rtol=1e-5)
        for name, parameter in model.named_parameters():
            assert (grads[name] - parameter.grad).abs().max() < limit, name


def test_two_processes_hold_the_running_statistics_of_one_big_batch(halves):
    model, batch, _ = _problem()
    model(**batch)
    want = {name: x for name, x in model.named_buffers() if "running" in name}
    assert len(want) == 6  # mean and variance of three FeatureNorms
    (_, _, first), (_, _, second) = halves
    for name, buffer in want.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], buffer, rtol=1e-4, atol=1e-6), name
