"""Folders against official lists and group numbers: who wins, and that it is told."""

import pytest

from spikedata import find_corpus
from spikedata.errors import CorpusError


@pytest.fixture
def root(tmp_path):
    """A folder with none beside it, where official lists would be looked for."""
    return tmp_path / "corpus"


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def splits(corpus):
    return {item.clip.id: (item.clip.label, item.clip.split) for item in corpus.clips}


def test_folders_of_ucf101_win_where_there_are_no_lists(root):
    make(
        root,
        "UCF101_subset/train/Basketball/v_Basketball_g02_c01.avi",  # a test group of split 1
        "UCF101_subset/val/Basketball/v_Basketball_g20_c01.avi",
        "UCF101_subset/test/Basketball/v_Basketball_g21_c01.avi",  # a train group
    )
    corpus = find_corpus(root)
    assert (corpus.name, splits(corpus)) == (
        "ucf101",
        {
            "v_Basketball_g02_c01": ("Basketball", "train"),
            "v_Basketball_g20_c01": ("Basketball", "validation"),
            "v_Basketball_g21_c01": ("Basketball", "test"),
        },
    )
    (note,) = [note for note in corpus.notes if "another split" in note]
    assert note.startswith("3 files in a folder of another split than the group numbers say")


def test_official_lists_win_over_folders_and_that_is_told(root):
    make(
        root,
        "train/Basketball/v_Basketball_g01_c01.avi",
        "test/Basketball/v_Basketball_g09_c01.avi",
    )
    (root / "trainlist01.txt").write_text("Basketball/v_Basketball_g09_c01.avi 1\n")
    (root / "testlist01.txt").write_text("Basketball/v_Basketball_g01_c01.avi\n")
    corpus = find_corpus(root)
    assert [item.clip.split for item in corpus.clips] == ["test", "train"]
    assert any("2 files" in note and "the official lists count" in note for note in corpus.notes)


def test_folders_of_hmdb51_count_where_there_are_no_lists(root):
    stem = "Movie_wave_u_cm_np1_fr_goo_{}"
    make(root, f"train/wave/{stem.format(0)}.avi", f"test/wave/{stem.format(1)}.avi")
    corpus = find_corpus(root)
    assert corpus.name == "hmdb51"
    assert [item.clip.split for item in corpus.clips] == ["train", "test"]


@pytest.mark.parametrize("columns", ["", ',"split": "validation"'])
def test_a_metadata_file_s_split_wins_over_the_folder(root, columns):
    make(root, "videos_train/a.mp4", "videos_test/b.mp4")
    lines = [
        f'{{"file_name": "videos_{s}/{n}.mp4"{columns}}}\n'
        for s, n in (("train", "a"), ("test", "b"))
    ]
    (root / "metadata.jsonl").write_text("".join(lines))
    want = ["validation"] * 2 if columns else ["test", "train"]
    corpus = find_corpus(root)
    assert [item.clip.split for item in corpus.clips] == want
    assert any("another split" in note for note in corpus.notes) is bool(columns)


def test_classes_named_by_folders_are_normalised_and_safe(root):
    make(root, "e\u0301te\u0301/a.mp4", "\u00e9t\u00e9/b.mp4", "ru\u202en/c.mp4", "wa\x07ve/d.mp4")
    corpus = find_corpus(root)
    assert corpus.class_names == ("ru_n", "wa_ve", "\u00e9t\u00e9")
    (note,) = [note for note in corpus.notes if "class" in note]
    assert note == "2 names of classes hold characters that are not shown, now _: ru_n, wa_ve"


def test_files_of_classes_that_were_not_chosen_are_no_failures(root):
    make(root, "run/a.mp4", "run/a.mkv", "jump/b.mp4")
    assert len(find_corpus(root).left_out) == 1
    assert find_corpus(root, classes=["jump"]).left_out == ()


def test_folders_of_pictures_with_dots_are_found_in_the_lists(root):
    stem = "A.B_wave_u_cm_np1_fr_goo_0"
    make(root, f"wave/{stem}/1.png", f"wave/{stem}/2.png")
    (root / "wave_test_split1.txt").write_text(f"{stem}.avi 1\n")
    corpus = find_corpus(root)
    assert [item.clip.split for item in corpus.clips] == ["train"]
    assert corpus.notes == ()


# --- all official splits travel with a clip -----------------------------------------------------


def official(corpus):
    return {item.clip.id: item.clip.source.get("official_splits") for item in corpus.clips}


def test_ucf101_without_lists_notes_all_splits_by_the_group_number(root):
    make(root, *(f"Diving/v_Diving_g{group:02d}_c01.avi" for group in (7, 8, 21, 25)))
    by_group = [
        {"1": "test", "2": "train", "3": "train"},
        {"1": "train", "2": "test", "3": "train"},
        {"1": "train", "2": "train", "3": "test"},
        {"1": "train", "2": "train", "3": "train"},
    ]
    for split in (1, 2, 3):
        corpus = find_corpus(root, split=split)
        assert list(official(corpus).values()) == by_group
        assert [item.clip.split for item in corpus.clips] == [s[str(split)] for s in by_group]


def ucf_lists(root, number, *, train, test):
    for name, stems in (("train", train), ("test", test)):
        lines = "".join(f"Diving/{stem}.avi\n" for stem in stems)
        (root / f"{name}list{number:02d}.txt").write_text(lines)


@pytest.mark.parametrize("split", [1, 3])
def test_ucf101_notes_the_splits_whose_lists_are_there(root, split):
    one, two = "v_Diving_g01_c01", "v_Diving_g02_c01"
    make(root, f"Diving/{one}.avi", f"Diving/{two}.avi")
    ucf_lists(root, 1, train=[one], test=[two])
    ucf_lists(root, 3, train=[two], test=[])  # leaves the first unused
    corpus = find_corpus(root, split=split)
    assert official(corpus) == {one: {"1": "train"}, two: {"1": "test", "3": "train"}}
    want = {1: ["train", "test"], 3: [None, "train"]}
    assert [item.clip.split for item in corpus.clips] == want[split]


@pytest.mark.parametrize("defect", ["line", "missing", "bytes"])
def test_a_defect_in_the_lists_of_another_split_is_told_and_stops_nothing(root, defect):
    stem = "v_Diving_g01_c01"
    make(root, f"Diving/{stem}.avi")
    ucf_lists(root, 1, train=[stem], test=[])
    ucf_lists(root, 2, train=[stem], test=[])
    ucf_lists(root, 3, train=[stem], test=[])
    bad = root / "testlist02.txt"
    if defect == "missing":
        bad.unlink()
    else:
        bad.write_bytes(b"a holiday\n" if defect == "line" else b"\xff\xfe\n")
    corpus = find_corpus(root)
    assert official(corpus) == {stem: {"1": "train", "3": "train"}}
    (note,) = corpus.notes
    assert note.startswith(f"official split 2 is not noted with the clips: {bad}: ")
    with pytest.raises(CorpusError, match="testlist02"):
        find_corpus(root, split=2)


def test_hmdb51_notes_the_splits_that_use_a_clip(root):
    stems = [f"Movie_wave_u_cm_np1_fr_goo_{n}" for n in range(3)]
    make(root, *(f"wave/{stem}.avi" for stem in stems))
    for split, uses in ((1, "012"), (2, "210")):
        lines = "".join(f"{s}.avi {use}\n" for s, use in zip(stems, uses, strict=True))
        (root / f"wave_test_split{split}.txt").write_text(lines)
    (root / "wave_test_split3.txt").write_text("not a list\n")
    corpus = find_corpus(root)
    want = [{"2": "test"}, {"1": "train", "2": "train"}, {"1": "test"}]
    assert list(official(corpus).values()) == want
    assert [item.clip.split for item in corpus.clips] == [None, "train", "test"]
    assert any("official split 3 is not noted" in note for note in corpus.notes)
    with pytest.raises(CorpusError, match="expected a file name and 0, 1 or 2"):
        find_corpus(root, split=3)


def test_a_given_folder_need_only_hold_the_chosen_lists(root):
    stem = "v_Diving_g01_c01"
    make(root, f"Diving/{stem}.avi")
    lists = root.parent / "elsewhere"
    lists.mkdir()
    ucf_lists(lists, 2, train=[stem], test=[])
    corpus = find_corpus(root, split=2, splits=lists)
    assert (official(corpus), corpus.notes) == ({stem: {"2": "train"}}, ())
