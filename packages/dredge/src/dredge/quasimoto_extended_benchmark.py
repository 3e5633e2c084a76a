"""The names of *Performance Improvements Documentation* at the place that it gives them.

Waves, ensembles, data and training loops are unchanged in formula. Each stands next to its right form: all waves at
once in `dredge.quasimoto.ensembles.WaveEnsemble`, packets that can move in `dredge.quasimoto.packets.WavePackets`, a
loop with minibatches, schedules and validation in `dredge.quasimoto.fitting.fit`. Needs the extra `inr`.
"""

from dredge.quasimoto.data import generate_4d_data, generate_6d_data, generate_data
from dredge.quasimoto.ensembles import QuasimotoEnsemble, QuasimotoEnsemble4D, QuasimotoEnsemble6D
from dredge.quasimoto.interference import QuasimotoInterferenceBasis
from dredge.quasimoto.layers import RandomFourierFeatures, SirenLayer
from dredge.quasimoto.training import train_model, train_model_4d, train_model_6d
from dredge.quasimoto.waves import QuasimotoWave, QuasimotoWave4D, QuasimotoWave6D

__all__ = [
    "QuasimotoEnsemble", "QuasimotoEnsemble4D", "QuasimotoEnsemble6D", "QuasimotoInterferenceBasis", "QuasimotoWave",
    "QuasimotoWave4D", "QuasimotoWave6D", "RandomFourierFeatures", "SirenLayer", "generate_4d_data", "generate_6d_data",
    "generate_data", "train_model", "train_model_4d", "train_model_6d",
]  # fmt: skip
