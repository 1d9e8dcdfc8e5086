"""Embeddings of other models: every form of file, which utterance is whose, and what is refused."""

import datetime
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_jax.corpora.table import Utterance, utterance_id
from ser_jax.features import embeddings
from ser_jax.features.embedding_files import EMBEDDER, entries
from ser_jax.runtime import strict_json
from ser_jax.runtime.errors import UserError

FILES = ("anna/1.wav", "anna/2.wav", "ben/1.wav")
VALUES = {file: np.arange(3, dtype=np.float32) + 10 * n for n, file in enumerate(FILES)}


def utterance(file: str, start: float | None = None, end: float | None = None) -> Utterance:
    return Utterance(utterance_id(file, start, end), file, start, end)


UTTERANCES = tuple(map(utterance, FILES))


def found(
    path, utterances=UTTERANCES, level="utterance", mean=False, root=Path("/data"), **options
):
    matched, without = embeddings.match(path, utterances, root, level=level, **options)
    return embeddings.read(path, matched, level=level, mean=mean), without


def write_tree(folder: Path, arrays: dict[str, np.ndarray], suffix=".npy") -> Path:
    for name, values in arrays.items():
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(path, values)
        elif suffix == ".npz":
            np.savez(path, values)
        else:
            from safetensors.numpy import save_file

            save_file({"embedding": values}, path)
    return folder


def stems(arrays=VALUES):
    return {file.removesuffix(".wav"): values for file, values in arrays.items()}


def csv_text(index, rows, separator=","):
    lines = [[*index, "d0", "d1", "d2"], *rows]
    return "".join(separator.join(map(str, line)) + "\n" for line in lines)


def tree(folder, suffix):
    return write_tree(folder / "tree", stems(), suffix)


def npz(folder):
    arrays: dict[str, Any] = dict(VALUES)
    np.savez(folder / "all.npz", **arrays)
    return folder / "all.npz"


def named_rows(folder):
    names, values = np.array(FILES), np.stack(list(VALUES.values()))
    np.savez(folder / "all.npz", names=names, values=values)
    return folder / "all.npz"


def safetensors(folder, dtype: Any = np.float32):
    from safetensors.numpy import save_file

    save_file({key: a.astype(dtype) for key, a in stems().items()}, folder / "a.safetensors")
    return folder / "a.safetensors"


def bfloat16(folder):
    import ml_dtypes

    return safetensors(folder, ml_dtypes.bfloat16)


def csv_file(folder, rows, index=("file",), separator=","):
    (folder / "a.csv").write_text(csv_text(index, rows, separator))
    return folder / "a.csv"


def plain_csv(folder):
    return csv_file(folder, [(file, *VALUES[file]) for file in FILES])


def absolute_csv(folder):
    return csv_file(folder, [(f"/data/{file}", *VALUES[file]) for file in FILES], separator=";")


def segmented_csv(folder):
    span = ("0 days", "0 days 00:00:01.877812500")
    rows = [(file, *span, *VALUES[file]) for file in FILES]
    return csv_file(folder, rows, ("file", "start", "end"))


def parquet(folder):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"file": list(FILES)}
    columns["start"] = pa.array([datetime.timedelta(0)] * 3, pa.duration("ns"))
    columns["end"] = pa.array([datetime.timedelta(seconds=1.5)] * 3, pa.duration("ns"))
    columns |= {f"d{k}": [float(VALUES[file][k]) for file in FILES] for k in range(3)}
    parquet.write_table(pa.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def pandas_parquet(folder):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    index = pandas.Index(list(FILES))
    pandas.DataFrame(np.stack(list(VALUES.values())), index, list("abc")).to_parquet(
        folder / "a.parquet"
    )
    return folder / "a.parquet"


def list_parquet(folder):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lists = [VALUES[file].tolist() for file in FILES]
    parquet.write_table(pa.table({"file": list(FILES), "embedding": lists}), folder / "a.parquet")
    return folder / "a.parquet"


FORMS = {
    **{f"tree of {suffix}": lambda f, s=suffix: tree(f, s) for suffix in (".npy", ".npz")},
    "tree of safetensors": lambda folder: tree(folder, ".safetensors"),
    **{"npz": npz, "npz of names and rows": named_rows, "safetensors": safetensors},
    **{"bfloat16": bfloat16, "csv": plain_csv, "absolute paths": absolute_csv},
    **{"segmented csv": segmented_csv, "parquet": parquet, "parquet of pandas": pandas_parquet},
    "parquet of lists": list_parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_values_of_every_utterance(form, tmp_path):
    got, without = found(FORMS[form](tmp_path))
    assert not without and got.shape == (1, 3)
    np.testing.assert_array_equal(got.vectors(), np.stack(list(VALUES.values())))


@pytest.mark.parametrize(
    ("level", "shape", "expected"),
    [
        ("utterance", (4,), (1, 1, 4)),
        ("utterance", (1, 4), (1, 1, 4)),
        ("frame", (5, 4), (5, 1, 4)),
        ("frame", (1, 5, 4), (5, 1, 4)),
        ("layers", (2, 5, 4), (5, 2, 4)),
        ("layers", (2, 4), (1, 2, 4)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_the_axes_of_a_level(level, shape, expected, dtype):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    got = embeddings.canonical(values, level)
    assert isinstance(got, np.ndarray) and got.shape == expected and got.dtype == np.float32
    ordered = np.swapaxes(got, 0, 1) if level == "layers" else got
    np.testing.assert_array_equal(ordered.ravel(), values.ravel())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("anna/1", "anna/2", "ben/1"), True),  # ids
        (("x/anna/1", "x/anna/2", "x/ben/1"), True),  # deeper
        (("anna/1.wav", "anna\\2.WAV", "./ben/1.flac"), True),  # with suffixes
        (("anna/1", "2", "ben/1"), True),  # one by its name, which is unique
        (("1", "2", "ben/1"), True),  # ben has one of his own
        (("1", "2"), False),  # "1" may be that of anna or of ben
        (("x/anna/1", "y/anna/1", "anna/2", "ben/1"), False),  # two for anna/1
        (("anna/1", "anna/1.wav", "anna/2", "ben/1"), False),  # the same name twice
        (("x/1", "y/1", "2"), False),
    ],
)
def test_an_utterance_is_found_by_id_path_or_unique_name(names, expected, tmp_path):
    rows = [(name, n, n, n) for n, name in enumerate(names)]
    path = csv_file(tmp_path, rows)
    if expected:
        assert found(path)[0].vectors()[:, 0].tolist() == [0, 1, 2]
    else:
        with pytest.raises(UserError, match="utterances 1|utterances 2"):
            found(path)


@given(st.permutations(range(3)), st.sampled_from(["", "deep/er/", "/data/"]))
def test_the_order_of_a_table_and_its_root_do_not_matter(tmp_path_factory, order, prefix):
    rows = [(prefix + FILES[n], *VALUES[FILES[n]]) for n in order]
    got, _ = found(csv_file(tmp_path_factory.mktemp("order"), rows))
    np.testing.assert_array_equal(got.vectors(), np.stack(list(VALUES.values())))


def test_spans_are_found_by_their_times(tmp_path):
    spans = [utterance("a.wav", 0.0, 1.5), utterance("a.wav", 1.5, None), utterance("b.wav")]
    rows = [
        ("a.wav", "1.5", "", 1, 1, 1),
        ("a.wav", "00:00:00", "0 days 00:00:01.5", 0, 0, 0),
        ("b.wav", "", "NaT", 2, 2, 2),
    ]
    path = csv_file(tmp_path, rows, ("file", "start", "end"))
    assert found(path, spans)[0].vectors()[:, 0].tolist() == [0, 1, 2]
    write_tree(tmp_path / "tree", {row.id: np.full(3, n) for n, row in enumerate(spans)})
    assert found(tmp_path / "tree", spans)[0].vectors()[:, 0].tolist() == [0, 1, 2]
    for wrong in (utterance("a.wav", 0.0, 1.4), utterance("a.wav")):  # another end; the whole
        with pytest.raises(UserError, match="of 1 utterance 1 have"):
            found(path, [wrong])


def test_rows_of_a_recording_are_its_frames(tmp_path):
    rows = [("a.wav", 0.02 * n, 0.02 * n + 0.025, n, n, n) for n in (2, 0, 1, 3)]
    path = csv_file(tmp_path, rows, ("file", "start", "end"))
    whole, _ = found(path, [utterance("a.wav")], "frame")
    assert whole[0][:, 0, 0].tolist() == [0, 1, 2, 3]
    part, _ = found(path, [utterance("a.wav", 0.02, 0.06)], "frame")
    assert part[0][:, 0, 0].tolist() == [1, 2]
    with pytest.raises(UserError, match="of 1 utterance 1 have 4 "):
        found(path, [utterance("a.wav")])


BAD = {
    "missing": (lambda v: v.pop("ben/1"), "1 have none: ben/1"),
    "not finite": (lambda v: v["anna/2"].__setitem__(1, np.nan), "not finite: anna/2"),
    "width": (lambda v: v.update({"ben/1": np.zeros(4)}), "than the others (3 values): ben/1 (4"),
    "axes": (
        lambda v: v.update({"ben/1": np.zeros((2, 3))}),
        "1 are arrays [2, 3], not [D]: ben/1",
    ),
    "empty": (lambda v: v.update({"ben/1": np.zeros(0)}), "1 are empty: ben/1"),
    "too large": (lambda v: v.update({"ben/1": np.full(3, 1e300)}), "not finite: ben/1"),
    "text": (lambda v: v.update({"ben/1": np.array(["x"] * 3)}), "1 hold no numbers: ben/1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_refused_with_count_and_example(kind, tmp_path):
    spoil, sentence = BAD[kind]
    arrays = {name: values.copy() for name, values in stems().items()}
    spoil(arrays)
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        found(write_tree(tmp_path / "tree", arrays))
    assert "of 3 utterances " in str(caught.value) and str(tmp_path / "tree") in str(caught.value)


def test_three_examples_of_many(tmp_path):
    rows = [utterance(f"{n}.wav") for n in range(9)]
    path = write_tree(tmp_path / "tree", {"0": np.zeros(3)})
    with pytest.raises(UserError, match="of 9 utterances 8 have none: 1, 2, 3, …; "):
        found(path, rows)


def test_those_without_are_dropped_when_asked_for(tmp_path):
    arrays = stems()
    del arrays["anna/2"]
    got, without = found(write_tree(tmp_path / "tree", arrays), missing="drop")
    assert [row.id for row in without] == ["anna/2"]
    np.testing.assert_array_equal(got.vectors(), np.stack(list(arrays.values())))


FAULTY = {
    "a.csv": {
        "file,a\nx,1,2\n": "line 2 has another number of cells",
        "name,a\nx,1\n": "has the columns name, a: expected file",
        "file,start,end\nx,0,1\n": "expected file (and start, end), then one column per value",
        "file,a,b\nx,1,anna\n": "line 2: column b holds 'anna', which is no number",
        "file,start,a\nx,soon,1\n": "line 2: 'soon' is no time",
        "file,a,a\nx,1,1\n": "names a column twice",
        "file,a\n": "holds no embedding",
    },
    "a.npy": {"": "is not read; name a folder"},
    "a.npz": {"no archive": "no plain array of numbers"},
    "a.safetensors": {"no such file": "cannot be read ("},
    "a.parquet": {"no table": "is no Parquet file"},
    "a.pkl": {"": "is not read"},
}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [(name, *pair) for name, cases in FAULTY.items() for pair in cases.items()],
)
def test_a_file_that_cannot_be_read_says_why(name, content, sentence, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        found(tmp_path / name)


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "1.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"1\.npy cannot be read \(no plain array of numbers\)"):
        found(tmp_path, [utterance("1.wav")])


def test_threads_read_one_file(tmp_path):
    values = {f"u{n}": np.full((50, 64), n, np.float32) for n in range(200)}
    np.savez(tmp_path / "all.npz", **values)  # type: ignore[arg-type]
    listed = entries(tmp_path / "all.npz")
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda entry: entry.read(), listed * 5))
    assert all(np.array_equal(a, values[e.name]) for a, e in zip(read, listed * 5, strict=True))


def test_what_identifies_them_is_their_content(tmp_path):
    one, _ = found(tree(tmp_path, ".npy"))
    other, _ = found(npz(tmp_path))
    assert one.facts == other.facts and one.digests == other.digests
    changed = {**stems(), "ben/1": VALUES["ben/1.wav"] + 1}
    third, _ = found(write_tree(tmp_path / "changed", changed))
    assert third.facts["sha256"] != one.facts["sha256"]
    assert one.of(UTTERANCES[:2]).facts == third.of(UTTERANCES[:2]).facts
    strict_json.write(tmp_path / "tree" / EMBEDDER, {"sha256": "x"})
    made, _ = found(tmp_path / "tree")
    assert made.facts["embedder"]["sha256"] == "x" and made.facts["sha256"] == one.facts["sha256"]
    (tmp_path / "tree" / EMBEDDER).write_text('{"sha256": 5}')
    with pytest.raises(UserError, match="embedder.json is damaged or was edited by hand"):
        found(tmp_path / "tree")


@pytest.mark.parametrize("mean", [False, True])
def test_what_does_not_fit_into_memory_is_read_on_access(mean, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(size=(2, 3 + n, 4)) for n, key in enumerate(stems())}
    path = write_tree(tmp_path / "tree", arrays)
    matched, _ = embeddings.match(path, UTTERANCES, Path("/data"), level="layers")
    kept, read = (
        embeddings.read(path, matched, level="layers", mean=mean, most_bytes=most)
        for most in (1e9, 0)
    )
    assert kept.in_memory and not read.in_memory and kept.facts == read.facts
    assert kept.lengths().tolist() == read.lengths().tolist() == ([1] * 3 if mean else [3, 4, 5])
    for one, other, values in zip(kept, read, arrays.values(), strict=True):
        np.testing.assert_array_equal(one, other)
        expected = values.swapaxes(0, 1).astype(np.float32)
        expected = expected.mean(0, keepdims=True) if mean else expected
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def test_overlapping_spans_share_frames_and_recordings_share_nothing(tmp_path):
    rows = [("1", 0.1 * n, 0.1 * n + 0.1, n, n, n) for n in range(4)]
    path = csv_file(tmp_path, rows, ("file", "start", "end"))
    spans = [utterance("anna/1.wav", 0.0, 0.3), utterance("anna/1.wav", 0.2, 0.4)]
    both, _ = found(path, spans, "frame")
    assert [one[:, 0, 0].tolist() for one in both] == [[0, 1, 2], [2, 3]]
    with pytest.raises(UserError, match="fit the same embedding as another"):
        found(path, [spans[0], utterance("ben/1.wav", 0.0, 0.3)], "frame")
