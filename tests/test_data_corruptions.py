"""Released arrays of corruptions: in order, on disk, and refused in words where they are missing, truncated or of another shape."""

import jax
import numpy as np
import pytest

from jrobust import data
from jrobust.corruptions import cifar_c, corrupted

X = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
Y = np.array([3, 1, 4, 1, 5, 9])


@pytest.fixture
def folder(tmp_path):
    for name in ("fog", "contrast"):
        every = [corrupted(cifar_c[name], X, severity=s, key=jax.random.key(0)) for s in range(1, 6)]
        np.save(tmp_path / f"{name}.npy", np.concatenate(every))
    np.save(tmp_path / "labels.npy", np.tile(Y, 5))
    return tmp_path


def test_severities_in_order(folder):
    found = data.corruptions(folder)
    assert list(found) == ["contrast", "fog"]
    contrast = data.corruptions(folder, "contrast")["contrast"]
    assert (contrast.name, contrast.x.dtype, contrast.x.shape) == ("contrast", np.uint8, (5, 6, 8, 8, 3))
    assert isinstance(contrast.x, np.memmap)
    np.testing.assert_array_equal(contrast.y, Y)
    for severity in (1, 5):
        wanted = corrupted(cifar_c["contrast"], X, severity=severity, key=jax.random.key(1))  # no key matters
        np.testing.assert_array_equal(contrast.at(severity), wanted)
    np.save(folder / "labels.npy", Y)  # once instead of five times
    np.testing.assert_array_equal(data.corruptions(folder, ["fog"])["fog"].y, Y)


def test_what_is_missing_or_damaged_is_said(folder):
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        data.corruptions(folder / "none")
    with pytest.raises(FileNotFoundError, match=r"has no snow\.npy; it holds contrast, fog"):
        data.corruptions(folder, ["fog", "snow"])
    for severity in (0, 6):
        with pytest.raises(ValueError, match=r"fog: severity is an int in 1\.\.5"):
            data.corruptions(folder, "fog")["fog"].at(severity)
    whole = (folder / "fog.npy").read_bytes()
    for kept in (len(whole) - 1, 200, 50, 0):
        (folder / "fog.npy").write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"fog\.npy is damaged, truncated"):
            data.corruptions(folder, "fog")
    np.save(folder / "fog.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"fog\.npy is damaged, truncated or no \.npy of numbers"):
        data.corruptions(folder, "fog")
    for images, said in (
        (X[:4], "not 5 severities of equally many"),
        (np.repeat(X, 5, 0)[:25], "but labels.npy 30 labels"),
        (X.astype(np.float32), r"uint8 images \[N, H, W, C\]"),
    ):
        np.save(folder / "fog.npy", images)
        with pytest.raises(ValueError, match=said):
            data.corruptions(folder, "fog")
    np.save(folder / "labels.npy", np.arange(30))
    with pytest.raises(ValueError, match="differ from severity to severity"):
        data.corruptions(folder, "contrast")
    np.save(folder / "labels.npy", np.tile(Y, 5) / 2)
    with pytest.raises(ValueError, match=r"integers \[N\]"):
        data.corruptions(folder, "contrast")
    (folder / "labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no labels\.npy"):
        data.corruptions(folder, "contrast")
    (folder / "fog.npy").unlink()
    (folder / "contrast.npy").unlink()
    with pytest.raises(FileNotFoundError, match="holds none"):
        data.corruptions(folder)


def test_folders_of_mnist_c(tmp_path):
    x, y = X[..., 0], Y.astype(np.int64)
    for name in ("stripe", "zigzag"):
        (tmp_path / name).mkdir()
        for split in ("test", "train"):
            np.save(tmp_path / name / f"{split}_images.npy", x[..., None] if split == "test" else x)
            np.save(tmp_path / name / f"{split}_labels.npy", y)
    found = data.mnist_corruptions(tmp_path)
    assert list(found) == ["stripe", "zigzag"]
    one = data.mnist_corruptions(tmp_path, "zigzag", split="train")["zigzag"]
    assert (one.name, one.x.shape, one.y.dtype) == ("zigzag", (1, 6, 8, 8, 1), np.int32)
    assert isinstance(one.x, np.memmap)
    np.testing.assert_array_equal(one.at(1)[..., 0], x)
    np.testing.assert_array_equal(one.y, Y)
    with pytest.raises(ValueError, match=r"1\.\.1, got 2"):
        one.at(2)
    with pytest.raises(FileNotFoundError, match=r"has no fog/test_images\.npy; it holds stripe, zigzag"):
        data.mnist_corruptions(tmp_path, ["fog", "stripe"])
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        data.mnist_corruptions(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="has no corruption; it holds none"):
        data.mnist_corruptions(tmp_path / "stripe")
    images, labels = (tmp_path / "stripe" / f"test_{what}.npy" for what in ("images", "labels"))
    whole = images.read_bytes()
    for kept in (len(whole) - 1, 200, 0):
        images.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"stripe/test_images\.npy is damaged, truncated"):
            data.mnist_corruptions(tmp_path)
    for wrong in (x / 255, x[0], x[:0]):
        np.save(images, wrong)
        with pytest.raises(ValueError, match=r"stripe/test_images\.npy must hold uint8 images"):
            data.mnist_corruptions(tmp_path)
    images.write_bytes(whole)
    for wrong in (y[:5], y / 2, y[:, None]):
        np.save(labels, wrong)
        with pytest.raises(ValueError, match=r"stripe/test_labels\.npy must hold 6 integer labels"):
            data.mnist_corruptions(tmp_path)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no stripe/test_labels\.npy"):
        data.mnist_corruptions(tmp_path)
