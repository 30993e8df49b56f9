"""Peers that compare a window with a reference. Each gives one number per window, and alarms above a threshold, so that
one pass serves every threshold. Runs in the peers' environment."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Compare = Callable[[NDArray[Any]], float]


class WindowMethod(NamedTuple):
    tool: str
    reference: int  # rows; what O(n^2) methods can bear
    default: float  # threshold
    prepare: Callable[[NDArray[Any]], Compare]  # from the reference to the statistic of a window


def _ks(reference: NDArray[Any]) -> Compare:
    test = import_module("scipy.stats").ks_2samp
    return lambda window: _surprise(test(reference, window, method="asymp").pvalue)


def _chi2(reference: NDArray[Any]) -> Compare:
    test = import_module("scipy.stats").chi2_contingency

    def compare(window: NDArray[Any]) -> float:
        size = int(max(reference.max(), window.max())) + 1
        counts = np.stack([np.bincount(each.astype(int), minlength=size) for each in (reference, window)])
        counts = counts[:, counts.sum(0) > 0]
        return _surprise(test(counts, correction=False).pvalue) if counts.shape[1] > 1 else 0.0

    return compare


def _surprise(p: float) -> float:
    return float(-np.log(max(p, 1e-300)))


def _evidently_column(name: str, kind: str) -> Callable[[NDArray[Any]], Compare]:
    def prepare(reference: NDArray[Any]) -> Compare:
        pandas = import_module("pandas")
        tests = import_module("evidently.legacy.calculations.stattests")
        kinds = import_module("evidently.legacy.core").ColumnType
        column_type = kinds.Categorical if kind == "categorical" else kinds.Numerical
        series = pandas.Series(reference)
        test = tests.get_stattest(series, series, column_type, name)
        return lambda window: float(test(series, pandas.Series(window), column_type, None).drift_score)

    return prepare


def _evidently_embedding(method: str) -> Callable[[NDArray[Any]], Compare]:
    def prepare(reference: NDArray[Any]) -> Compare:
        pandas = import_module("pandas")
        drift = getattr(import_module("evidently.legacy.metrics.data_drift.embedding_drift_methods"), method)()
        names = [f"d{i}" for i in range(reference.shape[1])]
        frame = pandas.DataFrame(reference, columns=names)
        return lambda window: float(drift(pandas.DataFrame(window, columns=names), frame.copy())[0])

    return prepare


WINDOW_METHODS = {
    "KS test": WindowMethod("scipy", 5_000, float(-np.log(0.05)), _ks),
    "chi-square test": WindowMethod("scipy", 5_000, float(-np.log(0.05)), _chi2),
    "Wasserstein": WindowMethod("evidently", 5_000, 0.1, _evidently_column("wasserstein", "numerical")),
    "Jensen-Shannon": WindowMethod("evidently", 5_000, 0.1, _evidently_column("jensenshannon", "categorical")),
    "embeddings: distance": WindowMethod("evidently", 1_000, 0.2, _evidently_embedding("DistanceDriftMethod")),
    "embeddings: model": WindowMethod("evidently", 1_000, 0.55, _evidently_embedding("ModelDriftMethod")),
    "embeddings: mmd": WindowMethod("evidently", 1_000, 0.015, _evidently_embedding("MMDDriftMethod")),
}


def report(reference: NDArray[Any], window: NDArray[Any]) -> None:
    """Evidently's own way to check a window of embeddings: a whole Report."""
    pandas, evidently = import_module("pandas"), import_module("evidently")
    metric = import_module("evidently.metrics.embeddings").EmbeddingsDrift(embeddings_name="e")
    names = [f"d{i}" for i in range(reference.shape[1])]
    definition = evidently.DataDefinition(embeddings={"e": names})
    data = [
        evidently.Dataset.from_pandas(pandas.DataFrame(rows, columns=names), data_definition=definition)
        for rows in (window, reference)
    ]
    evidently.Report([metric]).run(*data)
