"""Groups of images that belong together (a lesion, a patient, near copies): linked images are one group."""

from __future__ import annotations

from skin.data.missing import is_unknown

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_MAY_BE_NAMES = {"0", "0.0", "00", "000", "99", "999", "9999", "99999"}


def unknown_names(groups: pd.Series) -> list[str]:
    """Return the names of groups that stand for an unknown patient or lesion: of several rows, and no name.

    A zero or 999 is one if it names a tenth of the rows, and three times as many as any other name.
    """
    sizes = groups[groups != ""].astype("str").value_counts()
    several = sizes.index[sizes > 1]
    words = [name for name in several if is_unknown(name) or name.lower() == "other"]
    names = sizes.drop(words)
    second = names.iloc[1] if len(names) > 1 else 0
    if len(names) and names.index[0] in _MAY_BE_NAMES and names.iloc[0] >= max(2, len(groups) / 10, 3 * second):
        words.append(names.index[0])
    return words


def join_groups(*columns: pd.Series) -> pd.Series:
    """Return one group name per row, the same for rows which share a value (not `""`) of any of the columns.

    A group has the least value of its first column that has one as its name; `""` stands for rows without
    any value. Words for an unknown patient link no rows. They name a row that has nothing else.
    """
    if len(columns) == 1:
        return columns[0]
    filled = [column for column in columns if (column != "").any()]
    if len(filled) < 2:
        return (filled or columns)[0].fillna("").astype("str").rename(None)
    rows = len(columns[0])
    unknown = [column.isin(unknown_names(column)) for column in columns]
    codes = [
        pd.factorize(column.mask((column == "") | words), sort=True)
        for column, words in zip(columns, unknown, strict=True)
    ]
    edges, total = [], rows
    for code, values in codes:
        known = np.flatnonzero(code >= 0)
        edges.append(np.stack([known, total + code[known]]))
        total += len(values)
    component = _components(np.concatenate(edges, axis=1), total)[:rows]
    group = np.full(rows, "", dtype=object)
    for code, values in reversed(codes):
        known = code >= 0
        least = np.full(component.max() + 1, len(values))
        np.minimum.at(least, component[known], code[known])
        named = least[component] < len(values)
        group[named] = np.asarray(values, dtype=object)[least[component[named]]]
    for column, words in zip(columns, unknown, strict=True):
        alone = words.to_numpy() & (group == "")
        group[alone] = column.to_numpy(dtype=object)[alone]
    return pd.Series(group, index=columns[0].index, dtype="str")


def join_pairs(groups: pd.Series, pairs: np.ndarray) -> pd.Series:
    """Return `groups` (one name per row) with the groups joined that a pair of rows links.

    Args:
        groups: [N] names.
        pairs: int [M, 2], positions in `groups`.

    Returns:
        [N] names; a joined group has the least of its names.
    """
    code, names = pd.factorize(groups, sort=True)
    component = _components(code[np.asarray(pairs, dtype=np.int64).reshape(-1, 2)].T, len(names))
    least = np.full(len(names), len(names))
    np.minimum.at(least, component, np.arange(len(names)))
    return pd.Series(np.asarray(names, dtype=object)[least[component[code]]], index=groups.index, dtype="str")


def _components(edges: np.ndarray, nodes: int) -> np.ndarray:
    """Return the number of each node's connected component, int [nodes]; `edges` is int [2, M]."""
    graph = coo_matrix((np.ones(edges.shape[1], dtype=np.int8), (edges[0], edges[1])), shape=(nodes, nodes))
    component: np.ndarray = connected_components(graph, directed=False)[1]
    return component
