import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrobust import data


def test_digits():
    digits = data.load("digits")
    assert (digits.train_x.dtype, digits.train_y.dtype, digits.names[3]) == (np.float32, np.int32, "3")
    assert (digits.train_x.min(), digits.train_x.max(), digits.shape) == (0.0, 1.0, (8, 8, 1))
    whole, held_out = (np.bincount(y) for y in (np.r_[digits.train_y, digits.test_y], digits.test_y))
    np.testing.assert_array_equal(held_out, whole // 5)  # stratified
    rows = {image.tobytes() for image in digits.train_x}
    assert not any(image.tobytes() in rows for image in digits.test_x)
    np.testing.assert_array_equal(digits.test_x, data.load("digits", split="test").test_x)
    assert len(data.load("digits", split="test").train_x) == 0
    assert data.load("digits", split="train").shape == (8, 8, 1)


def test_moments():
    x = np.zeros((4, 2, 2, 2), np.float32)
    x[2:, ..., 0], x[..., 1] = 1.0, 0.25
    for images in (x, (x * 255).round().astype(np.uint8)):
        mean, std = data.arrays(images, [0, 1, 2, 3], raw=True).moments()
        np.testing.assert_allclose((mean, std), ((0.5, 0.25), (0.5, 0.0)), atol=2e-3)


def test_arrays():
    x, y = np.random.default_rng(0).integers(0, 256, (6, 3, 3, 1), np.uint8), np.array([0, 1, 2, 1, 0, 4])
    scaled, raw = data.arrays(x, y, x[:2], y[:2]), data.arrays(x, y, raw=True)
    assert (scaled.train_x.dtype, raw.train_x.dtype, scaled.classes, len(raw.test_x)) == (np.float32, np.uint8, 5, 0)
    np.testing.assert_allclose(jax.jit(data.unit)(raw.train_x), scaled.train_x, atol=1e-7)
    np.testing.assert_array_equal(data.unit(jnp.asarray(scaled.train_x)), scaled.train_x)


nan = np.full((2, 2, 2, 1), 0.5)
nan[1, 0, 1, 0] = np.nan
half = np.full((2, 2, 2, 1), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.arrays(nan, [0, 1]), r"x\[1, 0, 1, 0\] is nan"),
        (lambda: data.arrays(half * 3, [0, 1]), r"x\[0, 0, 0, 0\] is 1.5"),
        (lambda: data.arrays(half, [0]), "2 images but 1 labels"),
        (lambda: data.arrays(half, [0.0, 1.0]), "labels are integers"),
        (lambda: data.arrays(half, [0, -1]), r"y\[1\] is -1"),
        (lambda: data.arrays(half, [0, 3], names="ab"), "label 3 has no name"),
        (lambda: data.arrays(half, [0, 1], half), "test_x and test_y together"),
        (lambda: data.arrays(half, [0, 1], half[:, :1], [0, 1]), "test images"),
        (lambda: data.arrays(half.astype(int), [0, 1]), "dtype int64"),
        (lambda: data.arrays(np.zeros(3), [0, 1, 2]), r"shape \(3,\)"),
        (lambda: data.load("digits", split="val"), "split is all, train or test"),  # pyright: ignore
        (lambda: data.load("digit"), "did you mean 'digits'"),
    ],
)
def test_bad_arrays(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_directory_and_unknown_name(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match=r"set \$TFDS_DATA_DIR"):
        data.load("mnist")
    with pytest.raises(FileNotFoundError, match="no data directory"):
        data.load("mnist", data_dir=tmp_path / "none")
    (tmp_path / "mnist").mkdir()
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        data.load("mnits", data_dir=tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="holds mnist"):
        data.load("cifar10")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'jrobust\[data\]'"):
        data.load("mnist")


def write_prepared(folder, images, labels):
    """A tiny tensorflow_datasets folder with one array_record file a split, every image in the test split twice."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from array_record.python.array_record_module import ArrayRecordWriter  # pyright: ignore
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    records = []
    for image, label in zip(images, labels, strict=True):
        png, example = io.BytesIO(), tf_example_pb2.Example()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
        example.features.feature["image"].bytes_list.value.append(png.getvalue())
        example.features.feature["label"].int64_list.value.append(int(label))
        records.append(example.SerializeToString())
    splits = []
    for split, content in (("train", records), ("validation", records + records)):
        writer = ArrayRecordWriter(
            str(folder / f"{folder.parent.name}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for record in content:
            writer.write(record)
        writer.close()
        splits.append({"name": split, "numBytes": "1", "shardLengths": [str(len(content))]})
        splits[-1]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": folder.parent.name, "version": folder.name, "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    shape = images[0].shape[:2] if len({i.shape for i in images}) == 1 else (None, None)
    features = {
        "image": tfds.features.Image(shape=(*shape, images[0].shape[-1])),
        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
    }
    tfds.features.FeaturesDict(features).save_config(folder)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_prepared_set(tmp_path, channels):
    folder = tmp_path / "pets" / "1.0.0"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), np.uint8)
    labels = np.array([0, 1, 1, 0, 1])
    write_prepared(folder, images, labels)
    pets = data.load("pets", data_dir=tmp_path)
    np.testing.assert_array_equal(pets.train_x, images.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(pets.test_y, np.r_[labels, labels])
    assert pets.names == ("cat", "dog")
    raw = data.load("pets", data_dir=tmp_path, split="test", raw=True)
    np.testing.assert_array_equal(raw.test_x, np.r_[images, images])
    assert raw.train_x.shape == (0, 4, 6, channels)


def test_images_of_several_sizes(tmp_path):
    folder = tmp_path / "pets" / "1.0.0"
    folder.mkdir(parents=True)
    write_prepared(folder, [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], [0, 1])
    with pytest.raises(ValueError, match="images differ in size"):
        data.load("pets", data_dir=tmp_path)


def test_crop_and_flip():
    x = jax.random.uniform(jax.random.key(1), (64, 6, 6, 2))
    crop = jax.jit(data.random_crop_flip, static_argnames=("pad", "flip"))
    key = jax.random.key(0)
    out = crop(key, x, pad=2)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    np.testing.assert_array_equal(crop(key, x, pad=0, flip=False), x)
    np.testing.assert_array_equal(crop(key, x[:5], pad=2), out[:5])  # no dependence on the batch size
    # Every output is one of the 2 * 25 shifted and mirrored copies, and all 50 kinds are drawn.
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    kinds = set()
    for i, image in enumerate(np.asarray(out)):
        shifts = [(r, c, m) for r in range(5) for c in range(5) for m in (1, -1)]
        match = [s for s in shifts if (padded[i, s[0] : s[0] + 6, s[1] : s[1] + 6][:, :: s[2]] == image).all()]
        assert len(match) == 1
        kinds.add(match[0])
    assert len(kinds) > 25
    flips = crop(key, x, pad=0)
    mirrored = np.array([(a == b[:, ::-1]).all() for a, b in zip(flips, x, strict=True)])
    assert 16 < mirrored.sum() < 48
    assert np.array([(a == b).all() for a, b in zip(flips, x, strict=True)])[~mirrored].all()
    with pytest.raises(ValueError, match="B, H, W, C"):
        data.random_crop_flip(key, x[0])
