"""Labels as people write them down, and what they are told of their mistakes."""

import pytest

from scatsimclr.data.csvfile import read_labels
from scatsimclr.errors import UserError

FILES = ("a.png", "sub/b.png", "Sub2/c.PNG", "x,y.png", "é.png")


def read(tmp_path, content):
    path = tmp_path / "few.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labels(path, tmp_path / "images", FILES)


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na.png,cat\nsub/b.png,dog\n",
        "a.png,cat\r\nsub/b.png,dog\r\n",
        "label,other,Path\ncat,1,a.png\ndog,2,sub/b.png",
        "path;label\na.png;cat\nsub/b.png;dog\n",
        "sep=;\npath;label\na.png;cat\nsub/b.png;dog\n",
        "path\tlabel\n\n./a.png\t cat \n\n.\\sub\\b.png\tdog\n",
        'path,label\n"a.png","cat"\nSUB\\B.PNG , dog\nx.png,\n',
        "images/a.png,cat\nimages/sub/b.png,dog\n",
        "path,label\na.png,cat\nsub/b.png,dog\n".encode("utf-8-sig"),
        "path,label\na.png,cat\nsub/b.png,dog\n".encode("utf-16"),
        "path;label\r\na.png;cat\r\nsub/b.png;dog\r\n".encode("utf-16-le"),
    ],
)
def test_every_way_to_write_the_same(tmp_path, content):
    given = read(tmp_path, content)
    assert given.labels == {0: "cat", 1: "dog"}
    assert given.notes == []


def test_names_with_separators_and_accents(tmp_path):
    assert read(tmp_path, '"x,y.png",cat\ne\u0301.png,dog\n').labels == {3: "cat", 4: "dog"}
    assert read(tmp_path, "é.png;chien\n".encode("cp1252")).labels == {4: "chien"}


def test_another_case_only_where_one_file_fits(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("A.PNG,cat\nb.png,dog\n")
    given = read_labels(path, tmp_path, ("a.png", "A.png", "b.png"))
    assert given.labels == {2: "dog"}
    assert "A.PNG" in given.notes[0]


def test_contradictions_predictions_and_missing_files_are_told(tmp_path):
    given = read(tmp_path, "a.png,cat\na.png,dog\na.png,dog\nsub/b.png,cat\nsub/b.png,dog\ngone.png,cat\n")
    assert given.labels == {0: "dog"}
    told = "\n".join(given.notes)
    assert "gone.png" in told
    assert "files with several labels, the most frequent one counts (1): a.png" in told
    assert "treated as unlabelled (1): sub/b.png" in told
    given = read(tmp_path, "path,label,confidence\na.png,cat,1\nsub/b.png,dog,0.7312\n")
    assert given.labels == {0: "cat"}
    assert "predictions" in given.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("path,label\n", "no rows below"),
        ("path,size\na.png,3\n", "must have columns path,label"),
        ("a.png\nsub/b.png\n", "must have columns path,label"),
        ("p.png,cat\nq.png,dog\n", "none of the 2 files that it labels is in"),
        ("path,label\na.png,\n", "gives no image a label"),
        (b"\x89PNG\r\n\x1a\n\0\1\2\3\0abc", "not a CSV file"),
    ],
)
def test_mistakes_are_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_labels(tmp_path / "none.csv", tmp_path, FILES)
