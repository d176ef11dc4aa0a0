"""The data room: from ``conf/dataset/NAME.yaml`` to batches.

``search_data`` gives search_train and search_valid and cannot reach the test images,
``evaluation_data`` gives train and test; ``describe`` says what a network has to know, without
reading images.
"""

from .augmentation import Augmentation
from .load import EvaluationData, SearchData, describe, evaluation_data, search_data
from .seeds import derive_seed
from .settings import DatasetSettings
from .split import Batch, DataInfo, Split

__all__ = [
    "Augmentation",
    "Batch",
    "DataInfo",
    "DatasetSettings",
    "EvaluationData",
    "SearchData",
    "Split",
    "derive_seed",
    "describe",
    "evaluation_data",
    "search_data",
]
