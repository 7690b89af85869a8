"""Folders of labelled video: official splits, groups, captions, hostile and odd names."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.clip import check_clip_id
from spikedata.corpora import (
    clip_id_of,
    find_corpus,
    find_duplicates,
    find_torn_groups,
    spoken_name,
)
from spikedata.corpora.corpus import class_order
from spikedata.corpora.files import ListedFile
from spikedata.corpora.hmdb51 import HMDB51_CLASSES, read_hmdb51
from spikedata.corpora.ucf101 import TEST_GROUPS
from spikedata.errors import CorpusError


def touch(root, *names):
    """Files with contents of their own; listing a corpus decodes none of them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def ids(corpus):
    return [item.clip.id for item in corpus.clips]


def by_id(corpus):
    return {item.clip.id: item.clip for item in corpus.clips}


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "spoken"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("kick_ball", "kick ball"),
        ("flic_flac", "flic flac"),
        ("TaiChi", "tai chi"),
        ("YoYo", "yo yo"),
        ("HandstandPushups", "handstand pushups"),
        ("wave", "wave"),
        ("BMXRiding", "BMX riding"),
        ("TVShow", "TV show"),
        ("PULLUPS", "pullups"),
        ("pull-ups.slow", "pull ups slow"),
        ("ÄpfelEssen", "äpfel essen"),
        ("3DPrint", "3D print"),
        ("__", "__"),
    ],
)
def test_classes_are_spoken(class_name, spoken):
    assert spoken_name(class_name) == spoken


@given(st.lists(st.text(max_size=120), min_size=1, max_size=4))
def test_any_name_makes_a_safe_id(parts):
    made = clip_id_of(*parts)
    assert check_clip_id(made) == made
    assert clip_id_of(*parts) == made


def test_long_names_keep_apart():
    first, second = clip_id_of("a" * 300), clip_id_of("a" * 299 + "b")
    assert first != second
    assert first.startswith("aaaa")


# --- UCF101 --------------------------------------------------------------------------------------


def ucf_list(root, split="01", train=(), test=(), classes=()):
    folder = root / "ucfTrainTestlist"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"trainlist{split}.txt").write_text("".join(f"{line} 1\r\n" for line in train))
    (folder / f"testlist{split}.txt").write_text("".join(f"{line}\r\n" for line in test))
    names = "".join(f"{n} {name}\r\n" for n, name in enumerate(classes, 1))
    (folder / "classInd.txt").write_text(names)
    return folder


def test_ucf101_reads_its_official_lists(tmp_path):
    touch(tmp_path, "YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g09_c02.avi", "YoYo/v_YoYo_g10_c01.avi")
    ucf_list(tmp_path, train=["YoYo/v_YoYo_g01_c01.avi"], test=["YoYo/v_YoYo_g09_c02.avi"])
    corpus = find_corpus(tmp_path)
    clips = by_id(corpus)
    assert corpus.name == "ucf101"
    assert {name: clip.split for name, clip in clips.items()} == {
        "v_YoYo_g01_c01": "train",  # as listed, though the number says test
        "v_YoYo_g09_c02": "test",
        "v_YoYo_g10_c01": None,
    }
    assert clips["v_YoYo_g09_c02"].group == "YoYo_g09"
    assert clips["v_YoYo_g09_c02"].captions == ("a video of yo yo",)
    assert clips["v_YoYo_g09_c02"].source == {
        "name": "YoYo/v_YoYo_g09_c02.avi",
        "official_splits": {"1": "test"},
    }
    assert any("1 clip in neither split list" in note for note in corpus.notes)


def test_ucf101_folder_and_file_may_differ_in_case(tmp_path):
    name = "HandstandPushups/v_HandStandPushups_g22_c05.avi"
    touch(tmp_path / "a", name)
    ucf_list(tmp_path / "a", train=[name])
    (item,) = find_corpus(tmp_path / "a").clips
    assert (item.clip.label, item.clip.split) == ("HandstandPushups", "train")
    assert item.clip.group == "HandstandPushups_g22"
    assert item.clip.id == "v_HandStandPushups_g22_c05"
    touch(tmp_path / "b", "HandStandPushups/v_HandStandPushups_g22_c05.avi")
    ucf_list(tmp_path / "b", train=[name], classes=["HandstandPushups"])
    assert find_corpus(tmp_path / "b").class_names == ("HandstandPushups",)


def test_ucf101_without_lists_splits_by_group_number(tmp_path):
    touch(tmp_path, *(f"v_Diving_g{group:02d}_c01.avi" for group in range(1, 26)))
    for split, groups in TEST_GROUPS.items():
        corpus = find_corpus(tmp_path, split=split)
        test = {item.clip.group for item in corpus.clips if item.clip.split == "test"}
        assert test == {f"Diving_g{group:02d}" for group in groups}
        assert any("no official split lists" in note for note in corpus.notes)


def test_ucf101_lists_may_lie_elsewhere(tmp_path):
    touch(tmp_path / "videos", "YoYo/v_YoYo_g01_c01.avi")
    folder = ucf_list(tmp_path / "lists", split="02", train=["YoYo/v_YoYo_g01_c01.avi"])
    corpus = find_corpus(tmp_path / "videos", split=2, splits=folder)
    assert corpus.clips[0].clip.split == "train"
    assert corpus.notes == ()
    with pytest.raises(CorpusError, match=r"holds no split file trainlist03\.txt"):
        find_corpus(tmp_path / "videos", split=3, splits=folder)


def test_ucf101_lists_that_make_no_sense(tmp_path):
    touch(tmp_path, "YoYo/v_YoYo_g01_c01.avi")
    ucf_list(tmp_path, train=["YoYo/v_YoYo_g01_c01.avi", "hello.avi"])
    with pytest.raises(CorpusError, match=r"trainlist01\.txt: line 2: .* names no UCF101 clip"):
        find_corpus(tmp_path)
    ucf_list(tmp_path, train=["a/v_YoYo_g01_c01.avi"], test=["a/v_YoYo_g01_c01.avi"])
    with pytest.raises(CorpusError, match="is in the train list too"):
        find_corpus(tmp_path)
    with pytest.raises(CorpusError, match="splits 1, 2 and 3, got 4"):
        find_corpus(tmp_path, split=4)


def test_strangers_in_ucf101_are_left_out_and_told(tmp_path):
    touch(tmp_path, "YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g01_c02.avi", "YoYo/holiday.mp4")
    corpus = find_corpus(tmp_path)
    assert len(corpus.clips) == 2
    assert "1 video not named as in UCF101, left out: YoYo/holiday.mp4" in corpus.notes


# --- HMDB51 --------------------------------------------------------------------------------------

TRUMAN = "TrumanShow_wave_f_nm_np1_fr_med_26"


def test_hmdb51_reads_its_official_files(tmp_path):
    names = [f"Film_kick_ball_f_cm_np1_ba_med_{n}" for n in range(4)]
    touch(tmp_path / "org", *(f"kick_ball/{name}.avi" for name in names))
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    lines = "".join(f"{name}.avi {n} \n" for n, name in enumerate(names[:3]))
    (lists / "kick_ball_test_split1.txt").write_text(lines)
    corpus = find_corpus(tmp_path / "org")
    assert corpus.name == "hmdb51"
    assert [item.clip.split for item in corpus.clips] == [None, "train", "test", None]
    assert {item.clip.group for item in corpus.clips} == {"Film_kick_ball"}
    assert corpus.clips[0].clip.captions == ("a video of kick ball",)
    assert any("1 clip in no split file" in note for note in corpus.notes)
    assert any("1 clip not used by split 1" in note for note in corpus.notes)
    assert any("1 group on both sides of the split: Film_kick_ball" in n for n in corpus.notes)
    (lists / "kick_ball_test_split1.txt").write_text("a.avi train\n")
    with pytest.raises(CorpusError, match="line 1: expected a file name and 0, 1 or 2"):
        find_corpus(tmp_path / "org")


def test_hmdb51_without_official_files_has_no_split(tmp_path):
    touch(tmp_path, f"wave/{TRUMAN}.avi")
    corpus = find_corpus(tmp_path)
    assert corpus.clips[0].clip.split is None
    assert "no official split files found: no clip has a split" in corpus.notes


@pytest.mark.parametrize(
    ("name", "label", "group"),
    [
        (f"{TRUMAN}.avi", "wave", "TrumanShow_wave"),
        (f"all/{TRUMAN}.avi", "wave", "TrumanShow_wave"),
        (f"Truman/{TRUMAN}.avi", "wave", "TrumanShow_wave"),
        (f"Wave/{TRUMAN}.avi", "wave", "TrumanShow_wave"),
        ("a/Film_WAVE_f_nm_np1_fr_med_0.AVI", "wave", "Film_WAVE"),
        ("a/Ivanhoe_draw_sword_u_cm_np2_ba_med_7.avi", "draw_sword", "Ivanhoe_draw_sword"),
        ("sword/Ivanhoe_draw_sword_u_cm_np2_ba_med_7.avi", "draw_sword", "Ivanhoe_draw_sword"),
        ("a/hit_and_run_walk_f_cm_np1_fr_med_0.avi", "walk", "hit_and_run_walk"),
        ("juggle/Film_juggle_f_cm_np1_fr_med_0.avi", "juggle", "Film_juggle"),
        ("a/Film_juggle_f_cm_np1_fr_med_0.avi", None, "Film_juggle"),
    ],
)
def test_hmdb51_classes_are_in_the_names(tmp_path, name, label, group):
    (item,) = find_corpus(touch(tmp_path, name)).clips
    assert (item.clip.label, item.clip.group) == (label, group)


def test_an_hmdb51_clip_of_no_known_class_is_told(tmp_path):
    name = "Film_juggle_f_cm_np1_fr_med_0.avi"
    root = touch(tmp_path / "videos", f"a/{name}", f"a/{TRUMAN}.avi")
    corpus = find_corpus(root)
    assert corpus.class_names == ("wave",)
    assert f"1 clip named after no class of HMDB51, without a class: a/{name}" in corpus.notes
    (root / "juggle_test_split1.txt").write_text(f"{name} 1\n")
    assert find_corpus(root).class_names == ("juggle", "wave")
    (root / "wave_test_split1.txt").write_text(f"{name} 2\n")
    with pytest.raises(CorpusError, match="Film_juggle_f_cm_np1_fr_med_0 is listed otherwise"):
        find_corpus(root)


# --- your own folder -----------------------------------------------------------------------------


def test_class_folders(tmp_path):
    touch(
        tmp_path, "run/b.mp4", "run/a.MOV", "jump/deep/a.mkv", "jump/notes.txt", "run/.hidden.avi"
    )
    corpus = find_corpus(tmp_path)
    assert corpus.name == "folder"
    assert ids(corpus) == ["jump__deep__a", "run__a", "run__b"]
    assert corpus.class_names == ("jump", "run")
    assert {clip.split for clip in by_id(corpus).values()} == {None}
    assert corpus.notes == ("1 file passed over: 1 .txt",)


def test_split_folders(tmp_path):
    touch(tmp_path, "train/run/1.mp4", "Test/run/1.mp4", "val/jump/1.mp4")
    clips = by_id(find_corpus(tmp_path))
    assert {name: (clip.label, clip.split) for name, clip in clips.items()} == {
        "train__run__1": ("run", "train"),
        "Test__run__1": ("run", "test"),
        "val__jump__1": ("jump", "validation"),
    }


def test_videos_without_a_class(tmp_path):
    touch(tmp_path, "a.mp4", "run/b.mp4")
    corpus = find_corpus(tmp_path)
    assert by_id(corpus)["a"].label is None
    assert by_id(corpus)["a"].captions == ()
    assert any("1 file in no class folder" in note for note in corpus.notes)


def test_odd_file_names_become_safe_ids(tmp_path):
    touch(tmp_path, "run/a b?.mp4", "run/tab\there.mp4", "..run/ignored.mp4", "run/-rf.mp4")
    assert ids(find_corpus(tmp_path)) == ["run__-rf", "run__a_b_", "run__tab_here"]


def test_names_that_are_not_utf8(tmp_path):
    touch(tmp_path, "run/a.mp4")
    os.rename(tmp_path / "run/a.mp4", os.fsencode(tmp_path / "run") + b"/\xff.mp4")
    (item,) = find_corpus(tmp_path).clips
    assert item.clip.id == "run___"
    assert item.clip.source["name"].encode("utf-8") == "run/\ufffd.mp4".encode()
    assert item.path.exists()


@pytest.mark.parametrize(
    "name",
    [
        b"\xff/a.mp4",
        b"train/\xff/a.mp4",
        b"\xff/v_Yo\xff_g01_c01.avi",
        b"\xff/Film\xff_wave_f_nm_np1_fr_med_0.avi",
        b"\xff/Film_\xff_f_nm_np1_fr_med_0.avi",
    ],
)
def test_all_that_is_told_of_a_clip_can_be_written(tmp_path, name):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe"))
    path = root / os.fsdecode(name)
    path.parent.mkdir(parents=True)
    path.touch()
    corpus = find_corpus(root)
    (item,) = corpus.clips
    told = [corpus.folder_name, *corpus.class_names, *corpus.notes, json.dumps(item.clip.to_dict())]
    assert corpus.folder_name == "\ufffd"
    assert json.loads(json.dumps(told)) == [text.encode().decode() for text in told]
    assert item.path.read_bytes() == b""


def test_files_that_would_be_one_clip_are_told_all_at_once_and_the_rest_go_on(tmp_path):
    touch(tmp_path, "run/a.mp4", "run/a.avi", "run/b.mp4", "run/B.mkv", "run/c.mp4")
    corpus = find_corpus(tmp_path)
    assert [item.clip.source["name"] for item in corpus.clips] == [
        "run/B.mkv",
        "run/a.avi",
        "run/c.mp4",
    ]
    assert [(left.id, Path(left.path).name) for left in corpus.left_out] == [
        ("run__a", "a.mp4"),
        ("run__b", "b.mp4"),
    ]
    assert "would both be clip 'run__a'. Rename or remove one" in corpus.left_out[0].error


def test_links_in_circles_end(tmp_path):
    touch(tmp_path, "run/a.mp4")
    (tmp_path / "run/again").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    assert ids(find_corpus(tmp_path)) == ["run__a"]


def test_linked_class_folders_count(tmp_path):
    touch(tmp_path / "elsewhere", "a.mp4")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/run").symlink_to(tmp_path / "elsewhere")
    assert ids(find_corpus(tmp_path / "mine")) == ["run__a"]


def test_folders_may_lie_deep(tmp_path):
    deep = "/".join("d" * 30)
    assert find_corpus(touch(tmp_path, f"{deep}/a.mp4")).clips[0].clip.label == "d"


def test_folders_that_link_to_each_other_end_and_are_told(tmp_path):
    places = [tmp_path / f"{n}" for n in range(7)]
    for place in places:
        touch(place, "a.mp4")
        for other in places:
            if other is not place:
                (place / f"to{other.name}").symlink_to(other)
    corpus = find_corpus(places[0])
    assert ids(corpus)[:2] == ["a", "to1__a"]
    assert len(corpus.clips) == 1 + 6 + 6 * 5 + 6 * 5 * 4 + 6 * 5 * 4 * 3
    assert "folders behind more than 4 links, left out: to1/to2/to3/to4/to" in corpus.notes[0]


def test_what_is_no_regular_file_is_left_out_and_told(tmp_path):
    touch(tmp_path, "run/a.mp4")
    for name in ("run/one.avi", "run/two.avi"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "run/three.avi").symlink_to("one.avi")
    corpus = find_corpus(tmp_path)
    assert ids(corpus) == ["run__a"]
    assert corpus.notes == ("not regular files, left out: run/one.avi, run/three.avi, run/two.avi",)
    (tmp_path / "run/a.mp4").unlink()
    with pytest.raises(CorpusError, match="no videos found; .* left out: run/one.avi"):
        find_corpus(tmp_path)


def test_a_video_whose_link_leads_nowhere_is_listed(tmp_path):
    touch(tmp_path, "run/a.mp4")
    (tmp_path / "run/b.mp4").symlink_to("gone.mp4")
    (tmp_path / "run/c.mp4").symlink_to("c.mp4")
    assert ids(find_corpus(tmp_path)) == ["run__a", "run__b", "run__c"]


def test_nothing_found_says_what_was_looked_for(tmp_path):
    with pytest.raises(CorpusError, match=r"no videos found; it is empty\. Looked for .*\.avi"):
        find_corpus(tmp_path)
    touch(tmp_path, "run/a.txt")
    with pytest.raises(CorpusError, match="its folders hold none"):
        find_corpus(tmp_path)
    with pytest.raises(CorpusError, match="no such folder"):
        find_corpus(tmp_path / "none")
    with pytest.raises(CorpusError, match="is not a folder"):
        find_corpus(tmp_path / "run/a.txt")
    with pytest.raises(CorpusError, match="none of 1 video is named as in ucf101"):
        find_corpus(touch(tmp_path, "run/a.mp4"), kind="ucf101")


def test_a_corpus_is_the_same_wherever_it_lies(tmp_path):
    names = [f"{c}/{n}.mp4" for c in ("b", "a", "C") for n in range(5)]
    here = find_corpus(touch(tmp_path / "here", *names))
    there = find_corpus(touch(tmp_path / "there", *reversed(names)))
    assert [item.clip for item in here.clips] == [item.clip for item in there.clips]
    assert here.class_names == ("a", "b", "C")
    assert ids(here) == sorted(ids(here))


# --- classes, limit, captions --------------------------------------------------------------------


def test_classes_are_chosen_by_name(tmp_path):
    touch(tmp_path, "PullUps/a.mp4", "PushUps/a.mp4", "wave/a.mp4")
    assert find_corpus(tmp_path, classes=["pullups", "wave"]).class_names == ("PullUps", "wave")
    with pytest.raises(CorpusError, match=r"no class 'PullUp' .* Did you mean 'PullUps'\?"):
        find_corpus(tmp_path, classes=["PullUp"])
    with pytest.raises(CorpusError, match="Classes: PullUps, PushUps, wave"):
        find_corpus(tmp_path, classes=["xyzzy"])


def test_a_limit_is_spread_over_classes_and_splits(tmp_path):
    touch(
        tmp_path, *(f"{s}/{c}/{n}.mp4" for s in ("train", "test") for c in "abc" for n in range(9))
    )
    few = find_corpus(tmp_path, limit=6)
    kinds = Counter((item.clip.label, item.clip.split) for item in few.clips)
    assert kinds == Counter({(c, s): 1 for c in "abc" for s in ("train", "test")})
    more = find_corpus(tmp_path, limit=7)
    assert set(ids(few)) < set(ids(more))
    assert len(find_corpus(tmp_path, limit=1000).clips) == 54
    with pytest.raises(CorpusError, match="limit must be positive"):
        find_corpus(tmp_path, limit=0)


def test_captions_come_from_templates(tmp_path):
    touch(tmp_path, "PullUps/a.mp4")
    corpus = find_corpus(tmp_path, caption_templates=("someone does {name}", "{name}, filmed"))
    assert corpus.clips[0].clip.captions == ("someone does pull ups", "pull ups, filmed")
    assert find_corpus(tmp_path, caption_templates=()).clips[0].clip.captions == ()
    with pytest.raises(CorpusError, match="has no {name}"):
        find_corpus(tmp_path, caption_templates=("a video",))


def test_unknown_kinds_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="no kind of corpus is called 'ucf'"):
        find_corpus(tmp_path, kind="ucf")


# --- metadata ------------------------------------------------------------------------------------


def write_jsonl(root, *entries):
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def test_metadata_jsonl(tmp_path):
    touch(tmp_path, "clips/1.mp4", "clips/2.mp4", "3.mp4", "spare.mp4")
    write_jsonl(
        tmp_path,
        {"file_name": "clips/1.mp4", "label": "run", "split": "val", "group": 7, "other": [1]},
        {"file_name": "clips/2.mp4", "label": "jump", "caption": " a jump ", "license": "CC0-1.0"},
        {"file_name": "3.mp4", "id": "third", "captions": ["one", "two"], "split": "test"},
    )
    corpus = find_corpus(tmp_path)
    clips = by_id(corpus)
    assert corpus.name == "metadata"
    assert list(clips) == ["clips__1", "clips__2", "third"]
    assert clips["clips__1"].split == "validation"
    assert clips["clips__1"].group == "7"
    assert clips["clips__1"].captions == ("a video of run",)
    assert clips["clips__2"].captions == ("a jump",)
    assert clips["clips__2"].licence == "CC0-1.0"
    assert clips["third"].captions == ("one", "two")
    assert clips["third"].label is None
    assert corpus.class_names == ("jump", "run")
    assert corpus.notes == (
        "metadata.jsonl: columns not used: 'other'",
        "1 file without an entry, left out: spare.mp4",
    )


def test_any_json_line_is_read_whole(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    first = '{"file_name": "1.mp4", "label": "a"}'
    second = '{"file_name": "2.mp4", "label": "b", "caption": "in\u2028one\u0085line"}'
    (tmp_path / "metadata.jsonl").write_bytes(
        b"\xef\xbb\xbf" + f"{first}\r\n\r\n  \n{second}".encode()
    )
    clips = by_id(find_corpus(tmp_path))
    assert [clip.label for clip in clips.values()] == ["a", "b"]
    assert clips["2"].captions == ("in one line",)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    touch(tmp_path, "1.mp4")
    write_jsonl(tmp_path, "", {"file_name": "1.mp4"}, "", "{nonsense")
    with pytest.raises(CorpusError, match=r"metadata\.jsonl: line 4: not JSON"):
        find_corpus(tmp_path)
    write_jsonl(tmp_path, "", {"file_name": "1.mp4"}, "", {"file_name": "2.mp4"})
    assert find_corpus(tmp_path).notes[0].startswith("metadata.jsonl: line 4: no file '2.mp4'")
    (tmp_path / "metadata.jsonl").write_bytes(b'\n{"file_name": "1.mp4"}\n{"a": "\xff"}\n')
    with pytest.raises(CorpusError, match=r"metadata\.jsonl: line 3: is not UTF-8"):
        find_corpus(tmp_path)


def test_columns_of_recordings_mean_nothing_for_videos(tmp_path):
    touch(tmp_path, "1.mp4")
    write_jsonl(tmp_path, {"file_name": "1.mp4", "camera": {"of": "mine"}, "tick_rate_hz": "fast"})
    assert find_corpus(tmp_path).notes == (
        "columns not used here: 'camera', 'tick_rate_hz'",
        "no clip has a label",
    )


def test_metadata_csv(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "metadata.csv").write_text(
        'file_name,label,text,captions,split\n1.mp4,run,"a run, fast",,train\n'
        '2.mp4,run,,"[""x"", ""y""]",\n',
        encoding="utf-8-sig",
    )
    clips = by_id(find_corpus(tmp_path))
    assert clips["1"].captions == ("a run, fast",)
    assert clips["2"].captions == ("x", "y")
    assert (clips["1"].split, clips["2"].split) == ("train", None)


def test_metadata_in_split_folders(tmp_path):
    for split in ("train", "test"):
        touch(tmp_path, f"{split}/1.mp4")
        write_jsonl(tmp_path / split, {"file_name": "1.mp4", "label": "run"})
    clips = by_id(find_corpus(tmp_path))
    assert {name: clip.split for name, clip in clips.items()} == {
        "train__1": "train",
        "test__1": "test",
    }
    assert clips["test__1"].source == {"name": "test/1.mp4"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"file_name": "../secret.mp4"}, "leads out of the folder"),
        ({"file_name": "/etc/passwd"}, "leads out of the folder"),
        ({"file_name": "a/../../b.mp4"}, "leads out of the folder"),
        ({"file_name": "C:/a.mp4"}, "leads out of the folder"),
        ({"file_name": "a\\b.mp4"}, "has backslashes"),
        ({"file_name": "a\nb.mp4"}, "control characters"),
        ({"file_name": "a\u202eb.mp4"}, "control characters"),
        ({"file_name": ".hidden.mp4"}, "is hidden"),
        ({"file_name": "."}, "is hidden"),
        ({"file_name": 3}, "must be a path"),
        ({"file_name": ""}, "must be a path"),
        ({"file_name": "none.mp4"}, "no file 'none.mp4'"),
        ({"file_name": "1.mp4", "id": "../up"}, "clip id '../up'"),
        ({"file_name": "1.mp4", "split": "left"}, "is none of train, validation, test"),
        ({"file_name": "1.mp4", "label": ["run"]}, "label must be text"),
        ({"file_name": "1.mp4", "captions": [1]}, "captions must be text"),
        ({"file_name": "1.mp4", "captions": "[" * 100_000}, "is not a JSON list"),
        ({"file_name": "1.mp4", "label": "\x1b[31mred"}, "label '\\x1b[31mred' holds control"),
        ({"file_name": "1.mp4", "caption": "half a \ud800"}, "holds control characters"),
        ({"file_name": "x" * 5000}, "no file 'xxx"),
    ],
)
def test_a_hostile_entry_is_refused_and_the_rest_go_on(tmp_path, entry, said):
    root = touch(tmp_path / "set", "1.mp4", "2.mp4")
    touch(tmp_path, "secret.mp4")
    write_jsonl(root, entry, {"file_name": "2.mp4"})
    corpus = find_corpus(root)
    assert ids(corpus) == ["2"]
    assert corpus.notes[0].startswith("metadata.jsonl: line 1: ")
    assert said in corpus.notes[0]
    assert corpus.notes[0].isprintable()
    write_jsonl(root, entry)
    with pytest.raises(CorpusError, match=re.escape(said)):
        find_corpus(root)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{nonsense", "line 2: not JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"label": "run"}', "line 2: no column 'file_name'"),
    ],
)
def test_malformed_metadata_is_refused(tmp_path, line, said):
    touch(tmp_path, "1.mp4")
    write_jsonl(tmp_path, {"file_name": "1.mp4"}, line)
    with pytest.raises(CorpusError, match=said):
        find_corpus(tmp_path)


def test_metadata_that_is_not_text_or_is_there_twice(tmp_path):
    touch(tmp_path, "1.mp4")
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(CorpusError, match="is not UTF-8"):
        find_corpus(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name\n1.mp4\n")
    with pytest.raises(CorpusError, match="has both"):
        find_corpus(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    assert ids(find_corpus(tmp_path)) == ["1"]
    with pytest.raises(CorpusError, match="has no metadata"):
        find_corpus(touch(tmp_path / "b", "1.mp4"), kind="metadata")


def test_several_lines_for_one_video_are_several_captions(tmp_path):
    touch(tmp_path, "1.mp4")
    lines = [{"file_name": "1.mp4", "caption": "one", "split": "train"}]
    lines += [{"file_name": "./1.mp4", "caption": text} for text in ("two", "one")]
    lines += [{"file_name": "1.mp4", "caption": "three", "split": "test"}]
    write_jsonl(tmp_path, *lines)
    corpus = find_corpus(tmp_path)
    assert [item.clip.captions for item in corpus.clips] == [("one", "two")]
    assert corpus.clips[0].clip.split == "train"
    (note,) = [note for note in corpus.notes if "skipped" in note]
    assert "line 4: '1.mp4' has split 'train' in a line before, here 'test'" in note


# --- duplicates and groups -----------------------------------------------------------------------


def test_identical_files_are_found(tmp_path):
    touch(tmp_path, "train/run/1.mp4", "train/run/2.mp4", "test/run/3.mp4", "test/run/4.mp4")
    shutil.copy(tmp_path / "train/run/1.mp4", tmp_path / "test/run/3.mp4")
    corpus = find_corpus(tmp_path)
    assert find_duplicates(corpus) == [("test__run__3", "train__run__1")]
    assert corpus.notes == (
        "identical files (on both sides of the split): test__run__3, train__run__1",
    )


def test_files_of_one_size_are_copies_only_if_every_byte_is_the_same(tmp_path):
    size = 300_000
    touch(tmp_path, "run/1.mp4")
    for name, at in (("2", 0), ("3", size // 2), ("4", size - 1), ("5", None), ("6", None)):
        data = bytearray(size)
        if at is not None:
            data[at] = 1
        (tmp_path / f"run/{name}.mp4").write_bytes(data)
    assert find_duplicates(find_corpus(tmp_path)) == [("run__5", "run__6")]


@pytest.mark.timeout(20)  # it takes no time, and to read the files through takes minutes
def test_files_with_other_ends_are_not_read_through(tmp_path):
    size = 1 << 36
    for name, at in (("1", 0), ("2", size - 1), ("3", size - 2)):
        path = touch(tmp_path, f"run/{name}.mp4") / f"run/{name}.mp4"
        with path.open("wb") as file:  # sparse: 64 GiB that take no room
            file.truncate(size)
            file.seek(at)
            file.write(b"x")
    assert find_corpus(tmp_path).notes == ()


def test_torn_groups_are_found(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4", "4.mp4")
    write_jsonl(
        tmp_path,
        {"file_name": "1.mp4", "group": "a", "split": "train"},
        {"file_name": "2.mp4", "group": "a", "split": "test"},
        {"file_name": "3.mp4", "group": "b", "split": "test"},
        {"file_name": "4.mp4", "group": "b"},
    )
    corpus = find_corpus(tmp_path)
    assert find_torn_groups(corpus) == ["a"]
    assert corpus.notes[-1] == "1 group on both sides of the split: a"


# --- real corpora --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [1, 2, 3])  # these 132 clips happen to split alike
def test_real_ucf101(shared_data, split):
    corpus = find_corpus(shared_data / "ucf101", split=split)
    counts = Counter(item.clip.split for item in corpus.clips)
    assert counts == {"train": 96, "test": 36}
    assert (corpus.name, len(corpus.clips), len(corpus.class_names)) == ("ucf101", 132, 12)
    assert find_torn_groups(corpus) == []
    assert find_duplicates(corpus) == [
        ("v_TrampolineJumping_g08_c01", "v_TrampolineJumping_g12_c05")
    ]
    handstand = by_id(corpus)["v_HandStandPushups_g22_c05"]
    assert (handstand.label, handstand.split) == ("HandstandPushups", "train")


def test_the_lists_follow_from_the_group_numbers(shared_data, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in (shared_data / "ucf101").glob("*/*.avi"):
        (videos / path.name).symlink_to(path)
    for split in (1, 2, 3):
        official = by_id(find_corpus(shared_data / "ucf101", split=split))
        derived = by_id(find_corpus(videos, split=split))
        assert len(derived) == 132
        for name, clip in derived.items():
            assert clip.split == official[name].split


def test_classes_come_in_official_order(shared_data):
    lines = (shared_data / "ucf101/ucfTrainTestlist/classInd.txt").read_text().splitlines()
    official = [line.split()[1] for line in lines if line.strip()]
    assert len(official) == 101
    assert sorted(official, key=class_order) == official
    names = find_corpus(shared_data / "ucf101").class_names
    assert list(names) == [name for name in official if name in names]


def test_real_hmdb51(shared_data):
    corpus = find_corpus(shared_data / "hmdb51")
    clips = by_id(corpus)
    assert {name: clip.split for name, clip in clips.items()} == {
        "RATRACE_wave_f_nm_np1_fr_goo_37": "train",
        "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0": None,
        TRUMAN: "test",
        "Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6": "train",
    }
    assert clips[TRUMAN].group == "TrumanShow_wave"
    assert corpus.class_names == ("cartwheel", "wave")


def test_each_official_hmdb51_name_holds_its_class(shared_data, tmp_path):
    lists = shared_data / "hmdb51/testTrainMulti_7030_splits"
    ending = "_test_split1.txt"
    assert sorted(HMDB51_CLASSES) == sorted(
        path.name.removesuffix(ending) for path in lists.glob(f"*{ending}")
    )
    stems = {
        Path(line.split()[0]).stem: label
        for label in HMDB51_CLASSES
        for line in (lists / f"{label}{ending}").read_text().splitlines()
    }
    assert len(stems) == 6766
    files = [ListedFile(path=Path(f"{stem}.avi"), parts=(f"{stem}.avi",)) for stem in stems]
    found = read_hmdb51(tmp_path, files, split=1, splits=None).clips
    assert {item.clip.id: item.clip.label for item in found} == stems


def test_official_hmdb51_splits_tear_no_group(shared_data, tmp_path):
    lists = shared_data / "hmdb51/testTrainMulti_7030_splits"
    paths = sorted(lists.glob("*_test_split1.txt"))
    assert len(paths) == 51
    for path in paths[::6]:
        folder = tmp_path / path.name.removesuffix("_test_split1.txt")
        folder.mkdir()
        for line in path.read_text().splitlines():
            (folder / Path(line.split()[0]).name).touch()
    corpus = find_corpus(tmp_path, kind="hmdb51", splits=lists, limit=None)
    counts = Counter(item.clip.split for item in corpus.clips)
    assert (counts["train"], counts["test"]) == (9 * 70, 9 * 30)
    assert find_torn_groups(corpus) == []
    assert all(item.clip.group for item in corpus.clips)
