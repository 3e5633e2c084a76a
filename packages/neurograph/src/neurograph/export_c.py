"""A trained network as one C header: constant arrays and whole-number arithmetic, for machines without floating point.

It needs `stdint.h` alone, allocates nothing and calls nothing. Nodes that reach no output are left out, as in a folder
of files (`neurograph.export.compacted`). Its arithmetic is that of :mod:`neurograph.integer_network`, number for
number, so that its scores are those of Python to the last bit.

Compiled by itself with `-DNEUROGRAPH_SELF_CHECK -x c`, it is a program that classifies samples that were written into
it and compares the classes with those that Python found.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurograph.errors import ConfigError, DataError
from neurograph.export import compacted, integers_of
from neurograph.files import write_whole
from neurograph.integer_network import IntegerNetwork, gain_of, halfway_points, thresholds

if TYPE_CHECKING:
    from neurograph.model import Model

__all__ = ["c_header", "export_c_header"]

_WIDTH = 118
_BYTES = {"int8_t": 1, "uint16_t": 2, "int32_t": 4, "uint32_t": 4}
_GROUP_BYTES = 20
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def export_c_header(
    model: "Model | IntegerNetwork", path: str | Path, *, samples: Any = None, name: str = "neurograph"
) -> int:
    """Writes a header.

    Args:
        model: a trained model or its integers.
        path: the file.
        samples: for the self-check, one a row, from 0 to 1; None = no self-check.
        name: what every name in it begins with.

    Returns:
        Bytes of the constant arrays when compiled, without the self-check's.

    Raises:
        ConfigError: a model that has no form in integers, more nodes than 16 bits tell apart, or a name that is none
            in C.
        DataError: samples that do not fit.
    """
    network = compacted(model if isinstance(model, IntegerNetwork) else integers_of(model))
    text = c_header(network, samples=samples, name=name)
    write_whole(Path(path), lambda temporary: temporary.write_text(text, encoding="ascii"))
    return _constant_bytes(network)


def c_header(network: IntegerNetwork, *, samples: Any = None, name: str = "neurograph") -> str:
    """The text of a header.

    Args:
        network: what it evaluates, all of its nodes.
        samples: for the self-check.
        name: what every name in it begins with.

    Returns:
        C99.

    Raises:
        ConfigError: a name that is none in C, or more nodes than 16 bits tell apart.
        DataError: samples that do not fit.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ConfigError(f"a name in C is letters, digits and _, no digit first; got {name!r}. Choose another.")
    if len(network.sources) > 1 << 16:
        raise ConfigError(
            f"sources have 16 bits, for {1 << 16} nodes; got {len(network.sources)}. Use a smaller graph."
        )
    sizes = {
        "INPUTS": network.n_inputs, "NODES": len(network.sources), "DIM": network.phase.shape[1],
        "OUTPUTS": len(network.outputs), "CLASSES": len(network.codes), "PHASE_BINS": network.phase_bins,
        "MAG_BINS": network.mag_bins, "MAGNITUDE_Q": network.magnitude_q, "GROUPS": len(network.levels),
        "CODE_Q": 0 if network.has_sign_codes else 30,
    }  # fmt: skip
    arrays = [_text_of(*array) for array in _arrays(network)]
    groups = []
    first = start = 0
    for level in network.levels:
        count, each = level.sources.shape
        gain, shift = gain_of(each)
        groups.append(f"{{{first}, {count}, {each}, {start}, {gain}, {shift}}}")
        first, start = first + count, start + count * each
    text = _TEMPLATE
    text = text.replace("@SIZES@", "\n".join(f"#define NG_{key} {value}" for key, value in sizes.items()))
    text = text.replace("@ARRAYS@", "\n".join(arrays)).replace("@GROUPS@", ",\n    ".join(groups) or "{0}")
    text = text.replace("@CHECK@", "" if samples is None else _self_check(network, samples))
    return (
        text.replace("NG_SELF_CHECK", "NEUROGRAPH_SELF_CHECK")
        .replace("NG_", f"{name.upper()}_")
        .replace("ng_", f"{name}_")
    )


def _arrays(network: IntegerNetwork) -> list[tuple[str, str, Any, str]]:
    """Type, name, numbers and comment of each constant array."""
    rows = [row for level in network.levels for row in level.rows.tolist()]
    sources = [row for level in network.levels for row in level.sources.reshape(-1).tolist()]
    half_re, half_im = halfway_points(network.phase_bins)
    code = "int8_t" if network.has_sign_codes else "int32_t"
    own = network.mag[network.n_inputs :].reshape(-1)
    return [
        ("uint16_t", "phase", network.phase.reshape(-1), "own phase indices, node by node"),
        ("uint16_t", "mag", own, "own magnitude indices of nodes that are no inputs"),
        ("uint16_t", "rows", rows, "nodes in the order of evaluation"),
        ("uint16_t", "sources", sources, "sources of each of them"),
        ("uint16_t", "outputs", network.outputs, "output nodes"),
        (code, "codes", network.codes.reshape(-1), "one row a class"),
        ("int32_t", "cos", network.cos, "cosines of phases, Q30"),
        ("int32_t", "sin", network.sin, "sines of phases, Q30"),
        ("int32_t", "edge_cos", half_re, "cosines of edges between phases, Q30"),
        ("int32_t", "edge_sin", half_im, "sines of edges between phases, Q30"),
        ("int32_t", "magnitude", network.magnitude, "magnitudes, times 2 to the power of MAGNITUDE_Q"),
        ("uint32_t", "threshold", thresholds(network.mag_bins), "where a level ends: atanh, Q28"),
    ]


def _constant_bytes(network: IntegerNetwork) -> int:
    arrays = sum(_BYTES[kind] * max(1, len(values)) for kind, _, values, _ in _arrays(network))
    return arrays + _GROUP_BYTES * max(1, len(network.levels))


def _self_check(network: IntegerNetwork, samples: Any) -> str:
    levels, classes = network.input_levels(samples), network.predict(samples)
    if not len(levels):
        raise DataError("a self-check has samples; got none. Give some, or samples=None for no self-check.")
    return _CHECK.replace("@SAMPLES@", str(len(levels))).replace(
        "@ARRAYS@",
        _text_of("uint16_t", "check_samples", levels.reshape(-1), "levels of inputs, sample by sample")
        + "\n"
        + _text_of("uint16_t", "check_classes", classes, "what Python found"),
    )


def _text_of(kind: str, name: str, values: Any, comment: str) -> str:
    numbers = [str(value) for value in np.asarray(values).tolist()] or ["0"]
    lines, line = [], "   "
    for number in numbers:
        if len(line) + len(number) + 2 > _WIDTH:
            lines.append(line)
            line = "   "
        line += f" {number},"
    body = "\n".join([*lines, line])
    return f"/* {comment} */\nstatic const {kind} ng_{name}[{len(numbers)}] = {{\n{body}\n}};"


_TEMPLATE = """\
/* A trained network of phasors in whole numbers. Written by neurograph; C99, needs stdint.h alone.
 *
 *   ng_workspace work;
 *   uint16_t inputs[NG_INPUTS];
 *   for (int i = 0; i < NG_INPUTS; i++) inputs[i] = ng_level(x[i]);      x in [0, 1]
 *   int class_number = ng_predict(&work, inputs);
 *
 * Qn is a number times 2 to the power of n, rounded. Rounding: sums are exact; a sum S is shifted to 30 bits, half up;
 * |S| is the whole square root; products are shifted down, towards minus infinity. The bin of an angle is found by the
 * sign of cross products with the edges between bins, the level of an amplitude by comparison with thresholds.
 */
#ifndef NG_NETWORK_H
#define NG_NETWORK_H

#include <stdint.h>

#if (-1 >> 1) != -1
#error "right shifts of negative numbers must keep the sign"
#endif

@SIZES@

@ARRAYS@

typedef struct { uint16_t start, count; uint32_t each, sources; int32_t gain; int16_t gain_shift; } ng_group;
/* nodes with as many sources: first place in rows, how many, sources of each, first place in sources, 1 / sqrt(K) */
static const ng_group ng_groups[] = {
    @GROUPS@
};

/* States of all nodes: the only memory that is needed. */
typedef struct { int32_t re[NG_NODES][NG_DIM], im[NG_NODES][NG_DIM]; } ng_workspace;

/* x (M - 1) to the nearest whole number, to the even one of two; x is cut to [0, 1]. */
static inline uint16_t ng_level(double x)
{
    double v = (x > 0 ? (x < 1 ? x : 1) : 0) * (NG_MAG_BINS - 1);
    uint32_t k = (uint32_t)v;
    double rest = v - k;
    return (uint16_t)(k + (rest > 0.5 || (rest == 0.5 && (k & 1u))));
}

static inline int32_t ng_times(int32_t table, int64_t amplitude)
{
    return (int32_t)((table * amplitude + ((int64_t)1 << 29)) >> 30);
}

static inline void ng_place(ng_workspace *z, uint32_t node, uint32_t d, uint32_t phase, uint32_t level)
{
    int64_t amplitude = (((int64_t)level << 30) + (NG_MAG_BINS - 1) / 2) / (NG_MAG_BINS - 1);
    z->re[node][d] = ng_times(ng_cos[phase], amplitude);
    z->im[node][d] = ng_times(ng_sin[phase], amplitude);
}

static inline int64_t ng_root(uint64_t square)
{
    uint64_t root = 0, bit = (uint64_t)1 << 62;
    while (bit > square) bit >>= 2;
    for (; bit; bit >>= 2) {
        if (square >= root + bit) {
            square -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return (int64_t)root;
}

static inline int64_t ng_shift(int64_t v, int down)
{
    return down > 0 ? (v + ((int64_t)1 << (down - 1))) >> down : v * ((int64_t)1 << -down);
}

/* Whether the angle of (re, im), from 0 to below a whole turn, has reached the edge after bin b. */
static inline int ng_passed(uint32_t b, int64_t re, int64_t im)
{
    int lower = im < 0 || (im == 0 && re < 0), lower_edge = 2 * b + 1 >= NG_PHASE_BINS;
    return lower == lower_edge ? ng_edge_cos[b] * im - ng_edge_sin[b] * re >= 0 : lower;
}

static inline void ng_cell(ng_workspace *z, uint32_t node, uint32_t d, int64_t re, int64_t im, const ng_group *group)
{
    int64_t a = re < 0 ? -re : re, b = im < 0 ? -im : im, argument = 0;
    uint32_t phase = 0, level = 0, low, high;
    if (a < b) a = b;
    if (a) {
        int e = -30, down;
        for (b = a; b; b >>= 1) e++;
        re = ng_shift(re, e);
        im = ng_shift(im, e);
        b = ng_root((uint64_t)(re * re) + (uint64_t)(im * im));
        b = ((b * ng_magnitude[ng_mag[(node - NG_INPUTS) * NG_DIM + d]]) >> 29) * group->gain;
        down = group->gain_shift + NG_MAGNITUDE_Q + 1 - 28 - e;
        argument = down > 62 ? 0 : b >> down;
        for (low = 0, high = NG_MAG_BINS - 1; low < high;) {
            uint32_t middle = (low + high) / 2;
            if (ng_threshold[middle] <= argument) low = middle + 1; else high = middle;
        }
        level = low;
        for (low = 0, high = NG_PHASE_BINS; low < high;) {
            uint32_t middle = (low + high) / 2;
            if (ng_passed(middle, re, im)) low = middle + 1; else high = middle;
        }
        phase = low;
    }
    ng_place(z, node, d, (phase + ng_phase[node * NG_DIM + d]) % NG_PHASE_BINS, level);
}

/* Scores of all classes; inputs are levels, from 0 to M - 1. */
static inline void ng_scores(ng_workspace *z, const uint16_t *inputs, int64_t *scores)
{
    for (uint32_t node = 0; node < NG_NODES; node++)
        for (uint32_t d = 0; d < NG_DIM; d++)
            ng_place(z, node, d, ng_phase[node * NG_DIM + d], node < NG_INPUTS ? inputs[node] : 0);
    for (const ng_group *group = ng_groups; group != ng_groups + NG_GROUPS; group++)
        for (uint32_t i = 0; i < group->count; i++) {
            const uint16_t *sources = ng_sources + group->sources + i * group->each;
            for (uint32_t d = 0; d < NG_DIM; d++) {
                int64_t re = 0, im = 0;
                for (uint32_t k = 0; k < group->each; k++) {
                    re += z->re[sources[k]][d];
                    im += z->im[sources[k]][d];
                }
                ng_cell(z, ng_rows[group->start + i], d, re, im, group);
            }
        }
    for (uint32_t c = 0; c < NG_CLASSES; c++) {
        scores[c] = 0;
        for (uint32_t o = 0; o < NG_OUTPUTS; o++)
            for (uint32_t d = 0; d < NG_DIM; d++) {
                int64_t code = ng_codes[(c * NG_OUTPUTS + o) * NG_DIM + d];
                scores[c] += (z->re[ng_outputs[o]][d] * code) >> NG_CODE_Q;
            }
    }
}

/* The class of the highest score; the first of equals. */
static inline int ng_predict(ng_workspace *z, const uint16_t *inputs)
{
    int64_t scores[NG_CLASSES];
    int best = 0;
    ng_scores(z, inputs, scores);
    for (int c = 1; c < NG_CLASSES; c++)
        if (scores[c] > scores[best]) best = c;
    return best;
}
@CHECK@
#endif
"""

_CHECK = """
#ifdef NG_SELF_CHECK
#include <stdio.h>

@ARRAYS@

int main(void)
{
    static ng_workspace work;
    int agree = 0;
    for (int i = 0; i < @SAMPLES@; i++)
        agree += ng_predict(&work, ng_check_samples + i * NG_INPUTS) == ng_check_classes[i];
    printf("%d of @SAMPLES@ samples have the class that Python found\\n", agree);
    return agree == @SAMPLES@ ? 0 : 1;
}
#endif
"""
