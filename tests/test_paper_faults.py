"""Faults of SPKLIP's public code that this model must not have, one or more tests each."""

import re

import pytest
import torch
import torch.nn.functional as F
from test_model import make_model, packed, planes, tokens

from spklip import SpklipConfig, SpklipModel, build_tokenizer, contrastive_loss

PLAYING = ("Cello", "Daf", "Dhol", "Flute", "Guitar", "Piano", "Sitar", "Tabla", "Violin")


def spoken(class_name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", class_name).lower()


def nearest_other(model, texts):
    """Greatest cosine between two different texts."""
    with torch.no_grad():
        text_bd = model.encode_text(**tokens(model, texts))
    return (text_bd @ text_bd.T - 2 * torch.eye(len(texts))).max().item()


# Fault 1: no real end token, so class names collapse to one embedding.


def test_fault_1_the_playing_classes_have_embeddings_of_their_own():
    names = [f"Playing{instrument}" for instrument in PLAYING]
    assert nearest_other(make_model(), [f"a video of {spoken(name)}" for name in names]) < 0.9999


def test_fault_1_kick_and_kick_ball_have_embeddings_of_their_own():
    assert nearest_other(make_model(), ["kick", "kick ball"]) < 0.999


def test_fault_1_all_ucf101_classes_have_embeddings_of_their_own(shared_data):
    lines = (shared_data / "ucf101/ucfTrainTestlist/classInd.txt").read_text().split("\n")
    texts = [f"a video of {spoken(line.split()[1])}" for line in lines if line.strip()]
    assert len(texts) == 101
    assert nearest_other(make_model(), texts) < 0.9999


def test_fault_1_texts_end_in_one_real_end_token():
    batch = build_tokenizer(SpklipConfig.preset("tiny"))(["kick", "kick ball"], padding=True)
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids.count(1) == 1
        assert ids[sum(mask) - 1] == 1


# Fault 2: clips of one class count as each other's negatives.


def test_fault_2_clips_of_one_class_do_not_push_each_other_away():
    video_bd = F.normalize(torch.tensor([[1.0, 0.2], [0.2, 1.0]]), dim=1).requires_grad_()
    text_bd = F.normalize(torch.ones(2, 2), dim=1)
    together = contrastive_loss(video_bd, text_bd, torch.tensor(5.0), torch.tensor([3, 3]))
    apart = contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor(5.0), torch.tensor([3, 3]))
    assert together < apart  # one class at one place is best; the public loss has it the other way


# Fault 4: windows straddle cuts between segments; time order is invisible.


def test_fault_4_a_window_sees_its_own_segment_only():
    model = make_model()
    planes_bsthw = planes(1, 3, 21, 8, 8)
    other = planes_bsthw.clone()
    other[:, 1] = 1 - other[:, 1]
    with torch.no_grad():
        before_vd = model.video.window_features(planes_bsthw)[0][0]
        after_vd = model.video.window_features(other)[0][0]
    changed = (before_vd - after_vd).abs().amax(dim=1) > 1e-5
    assert changed.tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_fault_4_reversing_time_changes_the_embedding():
    model = make_model()
    planes_bsthw = planes(1, 1, 21, 8, 8)
    with torch.no_grad():
        forth, back = (model.encode_video(x) for x in (planes_bsthw, planes_bsthw.flip(2)))
    assert (forth - back).norm() > 1e-2


def test_fault_4_the_order_of_windows_is_visible_even_if_windows_are_symmetric():
    model = make_model()
    still_hw = planes(2, 8, 8)
    scene_bsthw = still_hw.repeat_interleave(9, dim=0)[None, None]  # 9 ticks of each picture
    model.video.step_ticks = 9
    with torch.no_grad():
        forth, back = (model.encode_video(x) for x in (scene_bsthw, scene_bsthw.flip(2)))
    assert (forth - back).norm() > 1e-3


# Fault 5: per-sample loops, sizes hard-coded, parameters that are never used.


def test_fault_5_the_batch_is_one_call_whatever_its_size():
    model = make_model()
    calls = []
    model.video.extractor.register_forward_hook(lambda _m, args, _o: calls.append(len(args[0])))
    with torch.no_grad():
        model.encode_video(planes(4, 2, 21, 8, 8))
    assert calls == [4 * 2 * 3]


def test_fault_5_one_model_takes_any_resolution_ticks_and_windows():
    model = make_model()
    with torch.no_grad():
        for shape in ((1, 1, 9, 16, 16), (2, 3, 30, 24, 40), (1, 2, 100, 7, 5)):
            assert model.encode_video(planes(*shape)).shape == (shape[0], 12)


def unused_parameters(model):
    """Parameters of the video tower that four random clips leave without a gradient."""
    ticks = 2 * model.config.hsfe_ticks
    torch.manual_seed(1)
    model.train().encode_video(planes(4, 1, ticks, 24, 32)).pow(3).sum().backward()
    named = dict(model.video.named_parameters())
    assert len(named) > 50
    return [name for name, p in named.items() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("preset", ["tiny", "paper"])
def test_fault_5_every_parameter_is_used(preset):
    torch.manual_seed(0)
    assert unused_parameters(SpklipModel(SpklipConfig.preset(preset))) == []


def test_fault_5_an_unused_positional_table_would_be_seen():
    model = SpklipModel(SpklipConfig.preset("tiny"))
    model.video.backbone.pool.table = torch.nn.Parameter(torch.zeros(77, 8))
    assert unused_parameters(model) == ["backbone.pool.table"]


# Fault 7: inference always answers class 0; a missing checkpoint trains from scratch.


def test_fault_7_a_few_steps_of_training_tell_four_clips_apart():
    model = make_model().train()
    batch = tokens(model, ["upper half", "left half", "right half", "lower half"])
    planes_bsthw = torch.zeros(4, 1, 15, 8, 8, dtype=torch.uint8)
    planes_bsthw[0, ..., :4, :] = planes_bsthw[3, ..., 4:, :] = 1
    planes_bsthw[1, ..., :4] = planes_bsthw[2, ..., 4:] = 1
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-3, 0.0))
    for _ in range(30):
        out = model(packed(planes_bsthw), 15, **batch, label_b=torch.arange(4))
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        out = model.eval()(packed(planes_bsthw), 15, **batch)
    assert (out.video_bd @ out.text_bd.T).argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_fault_7_a_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(OSError, match="nothing_here"):
        SpklipModel.from_pretrained(tmp_path / "nothing_here", local_files_only=True)


def test_fault_7_a_checkpoint_without_all_weights_is_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    make_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["video.time.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, first 'video\.time\.weight'"):
        SpklipModel.from_pretrained(tmp_path)
