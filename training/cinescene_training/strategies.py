"""How devices share the work: copies (DDP), everything sharded (FSDP), or the optimiser sharded (DeepSpeed's ZeRO).

Whichever it is, weights, gradients and averages are float32, a checkpoint is one ordinary file that
holds everything whole, and a run may go on from it under another strategy or number of devices.
"""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from .config import RunConfig, TrainingConfig
from .ema import trained_parameters

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter besides the count of steps."""
BUCKET = 100_000_000
"""Gradients that ZeRO averages at once; 0.4 GB."""


def strategy_of(config: TrainingConfig) -> Strategy | str:
    """Lightning's strategy for a run.

    Raises:
        ValueError: DeepSpeed is wanted but not installed.
    """
    run = config.run
    if run.strategy == "fsdp":
        # One file a checkpoint, as without sharding: it resumes on any number of devices, and export reads it.
        return ModelParallelStrategy(
            data_parallel_size=run.devices * run.num_nodes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    if run.strategy == "deepspeed_stage_1":
        return ZeroStrategy(run, stage=1, clip_norm=config.optimiser.clip_norm)
    if run.strategy == "deepspeed_stage_2":
        return ZeroStrategy(run, stage=2, clip_norm=config.optimiser.clip_norm)
    if run.strategy == "ddp" or run.devices * run.num_nodes > 1:
        return DDPStrategy(gradient_as_bucket_view=True)
    return run.strategy


def gradient_norm(module: pl.LightningModule) -> Tensor:
    """Length of a step's whole gradient, before it is clipped; for `on_before_optimizer_step`."""
    strategy = module.trainer.strategy
    if isinstance(strategy, ZeroStrategy):
        return strategy.gradient_norm()
    norm = get_total_norm([parameter.grad for _, parameter in trained_parameters(module) if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def not_finite(step: int) -> str:
    """The sentence for a step whose gradient holds NaN or infinity."""
    return (
        f"The gradient of step {step} is not finite, and a step along it would spoil every weight. Start a new run "
        "with a lower optimiser.learning_rate."
    )


class ZeroPrecision(DeepSpeedPrecision):
    """Float32 weights and batches under autocast, as in the other strategies; DeepSpeed goes backward and steps.

    Args:
        precision: `32-true`, or `bf16-mixed` for autocast.
        device: type of the device that computes.
    """

    def __init__(self, precision: Literal["32-true", "bf16-mixed"], device: str) -> None:
        super().__init__(precision)
        self.device = device

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module

    def convert_input(self, data: Any) -> Any:
        return data

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        # Without a cache, as Lightning's: gradients of a weight that is read twice add up in float32.
        is_mixed = self.precision == "bf16-mixed"
        with torch.autocast(self.device, torch.bfloat16, enabled=is_mixed, cache_enabled=False):
            yield

    def backward(self, tensor: Tensor, model: pl.LightningModule, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        engine: Any = model.trainer.model
        engine.backward(tensor, scale_wrt_gas=False)  # Lightning has divided by the micro-batches already

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: pl.LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> None:
        """One micro-batch; the last of a step makes the step.

        Raises:
            FloatingPointError: the gradient is not finite.
        """
        engine: Any = model.trainer.model
        closure()
        is_last = engine.is_gradient_accumulation_boundary()
        if is_last:
            self._after_closure(model, optimizer)
        engine.step()
        if is_last and not engine.was_step_applied():  # DeepSpeed leaves such a step out and goes on
            raise FloatingPointError(not_finite(model.trainer.global_step + 1))


class ZeroStrategy(DDPStrategy):
    """DeepSpeed's ZeRO: each device updates its share of the weights and keeps AdamW's moments of that share.

    Lightning's own strategy refuses CPUs, casts the weights to bfloat16 and writes a folder for each
    checkpoint; this one does none of it.

    Args:
        run: devices, precision, batch and accumulation.
        stage: 1 shards the optimiser, 2 the averaged gradients too.
        clip_norm: longest gradient; 0 for no limit.

    Raises:
        ValueError: DeepSpeed is not installed.
    """

    def __init__(self, run: RunConfig, *, stage: Literal[1, 2], clip_norm: float) -> None:
        if find_spec("deepspeed") is None:
            raise ValueError(
                f"run.strategy '{run.strategy}' needs DeepSpeed, which is not installed. Install it with pip install "
                "'cinescene-training[deepspeed]', or set run.strategy: fsdp."
            )
        device = "cuda" if run.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        super().__init__(precision_plugin=ZeroPrecision(run.precision, device))
        self.settings = {
            "train_micro_batch_size_per_gpu": run.micro_batch,
            "gradient_accumulation_steps": run.accumulate,
            "gradient_clipping": clip_norm,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": stage,
                "overlap_comm": True,
                "reduce_bucket_size": BUCKET,
                "allgather_bucket_size": BUCKET,
            },
            # Without this the engine would switch Lightning's autocast off. No module's gradients are averaged in bf16.
            "torch_autocast": {
                "enabled": run.precision == "bf16-mixed",
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],
            },
        }

    @property
    def handles_gradient_accumulation(self) -> bool:
        return True

    def configure_ddp(self) -> None:
        """The engine of `setup_optimizers` takes the place of DDP's wrapper."""

    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        """Shard the module's optimiser.

        Raises:
            ValueError: DeepSpeed would compute on another kind of device.
        """
        import deepspeed

        super().setup_optimizers(trainer)
        found = deepspeed.accelerator.get_accelerator().device_name()
        if found != self.root_device.type:
            raise ValueError(
                f"DeepSpeed computes on '{found}', but the run is on '{self.root_device.type}'. Set the environment "
                f"variable DS_ACCELERATOR={self.root_device.type}."
            )
        deepspeed.utils.logger.setLevel(logging.WARNING)
        deepspeed.init_distributed(self.process_group_backend)
        (optimiser,) = self.optimizers
        self.model, sharded, _, _ = deepspeed.initialize(
            model=self.model, optimizer=optimiser, config=self.settings, dist_init_required=False
        )
        self.optimizers = [sharded]

    def gradient_norm(self) -> Tensor:
        """Length of the averaged gradient, of which each device holds a share."""
        (optimizer,) = self.optimizers
        norm: Tensor = optimizer.scaled_global_norm()  # type: ignore[attr-defined]
        return norm

    def teardown(self) -> None:
        """Take DeepSpeed's hooks off the module."""
        if self.model is not self.lightning_module:
            self.model.destroy()  # type: ignore[operator, union-attr]
            self.model = self.lightning_module
        super().teardown()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """AdamW's state gathered from all devices, as one device alone would hold it; empty on all but the first."""
        from deepspeed.utils import safe_get_full_optimizer_state
        from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state

        state: dict[int, dict[str, Tensor]] = {}
        groups: list[dict[str, Any]] = []
        count = 0
        for group, parameters in zip(optimizer.optimizer.param_groups, optimizer.bit16_groups, strict=True):
            (share,) = group["params"]
            # After its first step DeepSpeed has tied the moments to the parameters of the first group alone.
            lazy_init_hp_params_optimizer_state(parameters, share, optimizer.optimizer.state)
            step = optimizer.optimizer.state[share]["step"]
            groups.append(group | {"params": list(range(count, count + len(parameters)))})
            for parameter in parameters:
                whole = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
                if self.is_global_zero:
                    state[count] = {"step": step.cpu().clone()} | {name: value.cpu() for name, value in whole.items()}
                count += 1
        return {"state": state, "param_groups": groups} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give each device its share of a whole AdamW's state."""
        from deepspeed.utils import safe_set_full_optimizer_state
        from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state

        (saved,), (optimizer,) = checkpoint["optimizer_states"], self.optimizers
        adamw: Any = optimizer.optimizer  # type: ignore[attr-defined]
        groups = zip(adamw.param_groups, optimizer.bit16_groups, saved["param_groups"], strict=True)  # type: ignore[attr-defined]
        for group, parameters, held in groups:
            (share,) = group["params"]
            group |= {name: value for name, value in held.items() if name != "params"}
            step = saved["state"][held["params"][0]]["step"].clone()
            adamw.state[share] = {"step": step} | {name: torch.zeros_like(share) for name in MOMENTS}
            lazy_init_hp_params_optimizer_state(parameters, share, adamw.state)
            for number, parameter in zip(held["params"], parameters, strict=True):
                for name in MOMENTS:
                    safe_set_full_optimizer_state(parameter, saved["state"][number][name].to(parameter.device), name)
