"""Tables as people make them: headers, separators, lists, numbers; nothing is dropped unsaid."""

import pytest

from spikedata import find_corpus
from spikedata.errors import CorpusError


def corpus_of(root, table, name="metadata.csv", files=("a.mp4", "b.mp4")):
    for number, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]))
    (root / name).write_text(table, encoding="utf-8")
    return find_corpus(root)


def told(corpus):
    return [(i.clip.label, i.clip.split, i.clip.captions) for i in corpus.clips]


@pytest.mark.parametrize(
    "table",
    [
        "file_name,label,split\na.mp4,run,train\nb.mp4,wave,test\n",
        "file_name, label, split\na.mp4, run, train\nb.mp4, wave , test \n",
        "File_Name,Label,SPLIT\na.mp4,run,Train\nb.mp4,wave,TEST\n",
        "File Name,Class,subset\na.mp4,run,training\nb.mp4,wave,testing\n",
        "path;action;partition\na.mp4;run;train\nb.mp4;wave;test\n",
        "video\tlabels\tset\na.mp4\trun\ttrain\nb.mp4\twave\ttest\n",
        "\ufefffilename,category,usage\r\na.mp4,run,train\r\nb.mp4,wave,test\r\n",
        "video_id,class_name,split\na,run,train\nb,wave,test\n",
    ],
)
def test_headers_as_people_write_them(tmp_path, table):
    corpus = corpus_of(tmp_path, table)
    assert [(label, split) for label, split, _ in told(corpus)] == [
        ("run", "train"),
        ("wave", "test"),
    ]
    assert corpus.notes == ()


def test_floats_in_a_column_of_numbers_are_whole(tmp_path):
    corpus = corpus_of(tmp_path, "file_name,label\na.mp4,3.0\nb.mp4,11.0\n")
    assert corpus.class_names == ("11", "3")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_columns_that_are_not_used_are_named(tmp_path, name):
    table = {
        "metadata.csv": "file_name,lable,mood\na.mp4,run,good\nb.mp4,wave,bad\n",
        "metadata.jsonl": '{"file_name": "a.mp4", "lable": "run"}\n'
        '{"file_name": "b.mp4", "mood": 1}\n',
    }[name]
    corpus = corpus_of(tmp_path, table, name)
    assert corpus.notes == (
        f"{name}: columns not used: 'lable' (did you mean 'label'?), 'mood'",
        "no clip has a label",
    )


def test_lists_as_json_and_as_python_writes_them(tmp_path):
    table = """file_name,captions
a.mp4,"['a car is shown', 'it''s fast']"
b.mp4,"[""one"", ""two""]"
"""
    assert [captions for _, _, captions in told(corpus_of(tmp_path, table))] == [
        ("a car is shown", "its fast"),
        ("one", "two"),
    ]


def test_one_line_a_caption(tmp_path):
    table = "file_name,caption,split\na.mp4,one,train\na.mp4,two,train\nb.mp4,three,test\n"
    assert told(corpus_of(tmp_path, table)) == [
        (None, "train", ("one", "two")),
        (None, "test", ("three",)),
    ]


def test_a_true_frame_rate_is_a_number(tmp_path):
    corpus = corpus_of(tmp_path, "file_name;capture_fps\na.mp4;240\nb.mp4;1000,5\n")
    assert [item.capture_fps for item in corpus.clips] == [240.0, 1000.5]
    with pytest.raises(CorpusError, match="capture_fps must be a positive number, got 'fast'"):
        corpus_of(tmp_path, "file_name;capture_fps\na.mp4;fast\n")


@pytest.mark.parametrize("table", ["a.mp4,run\nb.mp4,wave\n", "name,label\na.mp4,run\n"])
def test_a_table_that_names_no_files_is_refused(tmp_path, table):
    with pytest.raises(CorpusError, match="no column 'file_name' .* names the columns"):
        corpus_of(tmp_path, table)


WORDS = [
    "\u0645\u0631\u062f \u0645\u06cc\u200c\u062f\u0648\u062f",  # Persian, with a non-joiner
    "a family \U0001f468\u200d\U0001f469\u200d\U0001f467 waves",  # joined emoji
    "\u0915\u094d\u200d\u0937",  # Devanagari, with a joiner
    "heart \u2764\ufe0f",  # a variation selector
]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("column", ["caption", "label", "id"])
def test_what_languages_need_is_kept(tmp_path, column, words):
    (item,) = corpus_of(tmp_path, f"file_name,{column}\na.mp4,{words}\n", files=["a.mp4"]).clips
    assert {"caption": item.clip.captions, "label": item.clip.label, "id": item.clip.id}[
        column
    ] in (
        words,
        (words,),
    )


def test_ids_and_labels_are_normalised(tmp_path):
    table = "file_name,id,label\na.mp4,cafe\u0301,e\u0301te\u0301\n"
    (item,) = corpus_of(tmp_path, table, files=["a.mp4"]).clips
    assert (item.clip.id, item.clip.label) == ("caf\u00e9", "\u00e9t\u00e9")


@pytest.mark.parametrize("column", ["id", "label"])
@pytest.mark.parametrize("bad", ["run\u202etxt", "\u2066run", "ru\x07n"])
def test_what_is_dangerous_in_a_name_is_refused_and_told(tmp_path, column, bad):
    corpus = corpus_of(tmp_path, f"file_name,{column}\na.mp4,{bad}\nb.mp4,good\n")
    assert [item.path.name for item in corpus.clips] == ["b.mp4"]
    assert any("line 2" in note and "skipped" in note for note in corpus.notes)


def test_what_is_passed_over_is_counted(tmp_path):
    for name in ("run/a.mp4", "run/a.srt", "run/b.srt", "run/notes", "Thumbs.db", "classInd.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert find_corpus(tmp_path).notes == ("3 files passed over: 2 .srt, 1 without a suffix",)


def test_folders_of_numbered_pictures_are_clips(tmp_path):
    for folder, pattern in (
        ("train/Basketball/v_Basketball_g01_c01", "img_{:05d}.jpg"),
        ("test/Basketball/v_Basketball_g08_c01", "img_{:05d}.jpg"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for number in (1, 2, 10):
            (tmp_path / folder / pattern.format(number)).write_bytes(folder.encode())
    corpus = find_corpus(tmp_path)
    assert corpus.name == "ucf101"
    assert [(i.clip.id, i.clip.label, i.clip.split) for i in corpus.clips] == [
        ("v_Basketball_g01_c01", "Basketball", "train"),
        ("v_Basketball_g08_c01", "Basketball", "test"),
    ]
    assert all(item.path.is_dir() for item in corpus.clips)
    alone = find_corpus(corpus.clips[0].path)
    assert [(item.clip.label, item.path) for item in alone.clips] == [
        ("Basketball", corpus.clips[0].path)
    ]
    picture = next(corpus.clips[0].path.iterdir())
    with pytest.raises(CorpusError, match="is one picture; name the folder of all of them"):
        find_corpus(picture)


def test_one_video_is_a_corpus_of_one_clip(tmp_path):
    (tmp_path / "run.mp4").write_bytes(b"x")
    corpus = find_corpus(tmp_path / "run.mp4")
    assert [(item.clip.id, item.clip.label) for item in corpus.clips] == [("run", None)]


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("metadata.csv", "file_name,label,Label\na.mp4,run,wave\n"),
        ("metadata.csv", "file_name,label,label\na.mp4,run,wave\n"),
        ("metadata.csv", "file_name,class,Class\na.mp4,run,wave\n"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "label": "run", "Label": "wave"}\n'),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path, name, table):
    with pytest.raises(CorpusError, match="2 columns are called '(label|class)'; keep one"):
        corpus_of(tmp_path, table, name)


def test_columns_caption_and_captions_are_both_taken(tmp_path):
    table = '{"file_name": "a.mp4", "captions": ["one", "two"], "caption": "three"}\n'
    (item,) = corpus_of(tmp_path, table, "metadata.jsonl", ["a.mp4"]).clips
    assert item.clip.captions == ("one", "two", "three")


def test_lines_of_one_file_fill_each_other_s_blanks(tmp_path):
    table = "file_name,label,split,capture_fps,caption\na.mp4,,train,,one\na.mp4,run,,240,two\n"
    corpus = corpus_of(tmp_path, table, files=["a.mp4"])
    assert told(corpus) == [("run", "train", ("one", "two"))]
    assert [item.capture_fps for item in corpus.clips] == [240.0]
    assert corpus.notes == ()


def test_lines_of_one_file_that_disagree_are_told(tmp_path):
    table = "file_name,capture_fps,caption\na.mp4,120,one\na.mp4,240,two\n"
    corpus = corpus_of(tmp_path, table, files=["a.mp4"])
    assert [item.capture_fps for item in corpus.clips] == [120.0]
    (note,) = [note for note in corpus.notes if "line 3" in note]
    assert "capture_fps 120.0 in a line before, here 240.0; skipped" in note


def test_columns_of_recordings_are_not_used_for_videos(tmp_path):
    table = "file_name,label,camera,tick_rate_hz\na.mp4,run,vidar,20000\n"
    corpus = corpus_of(tmp_path, table, files=["a.mp4"])
    assert corpus.notes == ("columns not used here: 'camera', 'tick_rate_hz'",)


def test_a_misspelt_column_of_files_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"If it is 'filname', call it 'file_name'"):
        corpus_of(tmp_path, "filname,label\na.mp4,run\n")


def test_unicode_text_of_spreadsheets_is_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "metadata.csv").write_bytes("file_name\tlabel\r\na.mp4\trun\r\n".encode("utf-16"))
    assert find_corpus(tmp_path).class_names == ("run",)


def test_metadata_and_lists_that_are_not_read_are_told(tmp_path):
    (tmp_path / "trainlist01.txt").write_text("run/a.mp4 1\n")
    (tmp_path / "data" / "train").mkdir(parents=True)
    table = "file_name,label\na.mp4,run\n"
    (tmp_path / "data" / "train" / "metadata.csv").write_text(table)
    corpus = corpus_of(tmp_path, "", "notes.txt", ["data/train/run/a.mp4"])
    assert "lists not read: data/train/metadata.csv, trainlist01.txt" in corpus.notes


def test_other_files_beside_numbered_pictures_are_counted(tmp_path):
    for name in ("run/a/1.png", "run/a/2.png", "run/a/times.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    assert find_corpus(tmp_path).notes == ("1 file passed over: 1 .txt",)


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e999", '"fast"', "[" * 50 + "]" * 50])
def test_a_rate_past_all_numbers_is_one_note(tmp_path, value):
    lines = f'{{"file_name": "a.mp4", "capture_fps": {value}}}\n{{"file_name": "b.mp4"}}\n'
    corpus = corpus_of(tmp_path, lines, "metadata.jsonl", ["a.mp4", "b.mp4"])
    (note,) = [note for note in corpus.notes if "line 1" in note]
    assert "capture_fps must be a positive number" in note
    assert len(note) < 250
