"""Several processes that train one decomposition.

`torchrun --nproc-per-node 2 -m spd run …` starts the processes; each does

::

    with Distributed.start() as distributed:
        task = build_task(config, rank=distributed.rank, world_size=distributed.world_size)  # a share of the batch
        model = build_model(task.target.to(distributed.device), config, output_attr=task.output_attr)
        faithfulness_warmup(model, config)                         # the same on all ranks
        trainer = Trainer(model, config, distributed.sampler(config.seed))
        share(trainer, distributed)                                # or shard(trainer, distributed), for large targets
        for _ in range(config.steps):
            result = trainer.step(stream)
            if trainer.step_count % config.train_log_freq == 0:
                losses = distributed.mean(result.losses)           # all ranks call it,
                if distributed.is_main:                            # and one writes it down
                    log(losses)

=========  =============================================================================================================
`share`    every rank holds all parameters
`shard`    every rank holds its share of the target, of the parameters in training and of the optimizer's moments;
           evaluate within `gathered(trainer)`, and save what `gathered_state(trainer, distributed)` gives to rank 0
=========  =============================================================================================================
"""

from spd.distributed.ranks import Distributed
from spd.distributed.replicas import Shareable, share
from spd.distributed.shards import gathered, gathered_state, shard, whole

__all__ = ["Distributed", "Shareable", "gathered", "gathered_state", "shard", "share", "whole"]
