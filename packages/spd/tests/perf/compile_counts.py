"""Run by itself, without the shape checker: compares compiled steps with others, and counts graphs and their breaks.

Arguments: the task, steps, rows of a batch, and switches as JSON. Prints JSON.
"""

import json
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from small_tasks import batch_of, trainer_of

from spd.config.perf import PRESETS, PerfConfig
from spd.perf import compiling


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    task, steps, rows, switches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    compiling.BACKEND = switches.pop("backend", "eager")
    perf = PerfConfig(**{**PRESETS[switches.pop("preset", "none")].model_dump(), **switches})
    interpreted = {
        name: False for name in PerfConfig.model_fields if name.startswith("compile_") and name != "compile_mode"
    }
    trainer, plain = trainer_of(task, perf), trainer_of(task, perf.model_copy(update=interpreted))
    worst, gradient, graphs = 0.0, 0.0, []
    counters = torch._dynamo.utils.counters
    for index in range(steps):
        batch = batch_of(task, index, rows)
        one = trainer.step(iter([batch]))
        if not perf.row_dedup and index < 5:
            two = plain.step(iter([batch]))
            worst = max(worst, *(abs(one.losses[k].item() / two.losses[k].item() - 1) for k in one.losses))
            for a, b in zip(*(t.optimizer.param_groups[0]["params"] for t in (trainer, plain)), strict=True):
                gradient = max(gradient, float((a.grad - b.grad).norm() / (b.grad.norm() + 1e-9)))
        graphs.append(counters["stats"]["unique_graphs"])
    print(
        json.dumps(
            {
                "breaks": sum(counters["graph_break"].values()),
                "reasons": [reason[:200] for reason in counters["graph_break"]],
                "graphs": graphs[-1],
                "frames": counters["frames"]["total"],
                "changed_at": [i for i in range(1, steps) if graphs[i] != graphs[i - 1]],
                "plans": len(trainer.own_losses._planned._plans) if perf.compile_step else 0,
                "loss": worst,
                "gradient": gradient,
            }
        )
    )


if __name__ == "__main__":
    main()
