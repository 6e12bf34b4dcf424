"""Data sets as plain arrays: digits from scikit-learn, tensorflow_datasets without TensorFlow, or your own."""

from jrobust.data._augment import cutmix, mixup, random_crop_flip, unit
from jrobust.data._corruptions import Corrupted, corruptions, mnist_corruptions
from jrobust.data._dataset import Dataset, arrays
from jrobust.data._load import load

__all__ = [
    "Corrupted",
    "Dataset",
    "arrays",
    "corruptions",
    "cutmix",
    "load",
    "mixup",
    "mnist_corruptions",
    "random_crop_flip",
    "unit",
]
