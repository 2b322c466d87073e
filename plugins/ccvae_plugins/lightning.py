"""PyTorch Lightning: its checkpoints (a state_dict, hyper-parameters, the training state), and a callback for training.

The user provides the class of the networks: ``--plugin FILE --model NAME``. Plain hyper-parameters that its constructor
accepts become its arguments; ``--set`` overrides them. The optimiser's tensors are ignored. A prefix of the weights'
names (``state_dict.model.`` for a class stored as ``self.model``) is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ccvae_eval
from ccvae_eval.checkpoint import Bundle
from ccvae_eval.core.types import Plain

VERSION, WEIGHTS = "pytorch-lightning_version", "state_dict."
PARAMETERS = ("hyper_parameters", "hparams")


class Lightning:
    """Adapter for checkpoints of PyTorch Lightning."""

    def matches(self, bundle: Bundle) -> float:
        """1 for a state_dict with Lightning's version; 0.5 for one with hyper-parameters only (old releases)."""
        weights = any(name.startswith(WEIGHTS) for name in bundle.tensors)
        old = any(key in bundle.metadata for key in PARAMETERS) and "epoch" in bundle.metadata
        return 1.0 if weights and VERSION in bundle.metadata else 0.5 if weights and old else 0.0

    def hints(self, bundle: Bundle) -> Mapping[str, Plain]:
        """The plain hyper-parameters, including those in nested tables (``model: {latent: 16}``); outer ones win."""
        found: dict[str, Plain] = {}
        for key in PARAMETERS:
            found |= _table(bundle.metadata.get(key))
        inner = [_table(value) for value in found.values() if isinstance(value, dict)]
        return {**{key: value for table in inner for key, value in table.items()}, **found}


def _table(value: Any) -> dict[str, Plain]:
    return {str(key): part for key, part in value.items()} if isinstance(value, dict) else {}


@dataclass
class EvaluationCallback:
    """Evaluates a model every few epochs of a training, and logs its values and two figures.

    Lightning is not imported here. Combine the class with Lightning's own::

        class Evaluation(EvaluationCallback, lightning.Callback):
            pass

        trainer = lightning.Trainer(callbacks=[Evaluation(lambda module: module.vae, "folder:PATH", every=5)])

    Args:
        model_of: the model to evaluate (see ``ccvae_eval.wrap``), from the module that is trained.
        data: labelled images, as in ``ccvae_eval.evaluate``.
        every: epochs between evaluations.
        metrics: names of metrics.
        sample: number of images.
        judge: "auto", "none" or a file; "auto" trains a judge for the first evaluation if the data have none.
        figures: file names of the figures to log.
    """

    model_of: Callable[[Any], Any]
    data: Any
    every: int = 1
    metrics: Sequence[str] = ("density", "locality", "reconstruction")
    sample: int = 256
    judge: str = "auto"
    figures: Sequence[str] = ("reconstruction-pairs.png", "locality-change-maps.png")

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Called by Lightning; evaluates on the first process only, and not in the check before the training."""
        due = (trainer.current_epoch + 1) % self.every == 0
        if trainer.sanity_checking or not trainer.is_global_zero or not due:
            return
        model = self.model_of(pl_module)
        run = ccvae_eval.evaluate(
            model, self.data, self.metrics, sample=self.sample, judge=self.judge, references=False
        )
        for logger in trainer.loggers:
            logger.log_metrics(ccvae_eval.flat(run), step=trainer.global_step)
            self._log_figures(run, logger, trainer.global_step)

    def _log_figures(self, run: ccvae_eval.Run, logger: Any, step: int) -> None:
        """Logs figures by ``log_image`` (Weights & Biases) or ``add_image`` (TensorBoard), if the logger has either."""
        from matplotlib.image import imread

        from ccvae_eval.report.figures import draw_figures

        experiment: Any = getattr(logger, "experiment", None)
        with TemporaryDirectory() as folder:
            for path in draw_figures(run, Path(folder)):
                if path.name in self.figures and hasattr(logger, "log_image"):
                    logger.log_image(key=path.stem, images=[str(path)], step=step)
                elif path.name in self.figures and hasattr(experiment, "add_image"):
                    experiment.add_image(path.stem, imread(path), step, dataformats="HWC")
