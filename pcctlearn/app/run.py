"""Run the job of a configuration: check, build, run, write, print."""

import random
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from pcctlearn.app.config import check_config
from pcctlearn.console import say
from pcctlearn.figures.arrays import read_numbers
from pcctlearn.runs.context import Context, Job
from pcctlearn.runs.folder import discard_empty
from pcctlearn.runs.results import StudyResults, finished_with, print_table, write_run
from pcctlearn.threads import set_threads


def run(config: DictConfig) -> float | None:
    """Run the job that ``config.job`` builds; return the number that ``config.objective`` names.

    Every command is run by this function. Outputs are written to ``config.folder``, or to Hydra's
    folder of the run if there is no such key.

    Raises:
        ValueError: a wrong setting; or, after the results are written, the job's ``failure``.
    """
    try:
        return _run(config)
    except BaseException:
        if "folder" not in config:
            discard_empty(Path(HydraConfig.get().runtime.output_dir))  # which Hydra has made
        raise


def _run(config: DictConfig) -> float | None:
    began = time.perf_counter()
    check_config(config)
    context = _context(config)
    objective = config.get("objective")
    if _is_sweep() and "folder" not in config and finished_with(context.path, context.config):
        say(f"{context.path} already holds this run")
        return _objective(objective, read_numbers(context.path), context.name)
    set_threads(config.n_threads)
    _seed(config.seed)
    job: Job = instantiate(config.job, _convert_="all")
    _require_result(objective, getattr(job, "result_names", None), context.name)
    if _is_sweep() and "folder" in config and not getattr(job, "shares_folder", False):
        context.path /= str(HydraConfig.get().job.num)
    try:
        results = _results(job, context, config, began)
    finally:
        context.end()
    if results is None:
        return None
    print_table(context.name, results, context.path, time.perf_counter() - began)
    if results.failure:
        raise ValueError(results.failure)
    return _objective(objective, results.numbers, context.name)


def _results(job: Job, context: Context, config: DictConfig, began: float) -> StudyResults | None:
    if not getattr(job, "shares_folder", False):
        context.hold()
    try:
        if config.get("logger"):
            context.trainer  # noqa: B018  # starts the loggers before the run
        results = job.run(context)
        if results is not None:
            overrides = HydraConfig.get().overrides.task
            write_run(context.name, results, context.folder, context.config, began, overrides)
            if context.has_trainer:
                from pcctlearn.app.trainer import log_results

                log_results(context.trainer, results, context.path)
        return results
    finally:
        if context.has_trainer:
            from pcctlearn.app.trainer import end_loggers

            end_loggers(context.trainer)


def _context(config: DictConfig) -> Context:
    """Folder, records and trainer of the run, from its configuration and Hydra's."""
    hydra = HydraConfig.get()
    # the job only refers to the other keys
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "job"])
    text = OmegaConf.to_yaml(plain, resolve=True)
    if "folder" in config:
        return Context(Path(config.folder), config.name, text)
    records = {
        "config": plain,
        "hydra": HydraConfig.instance().cfg,
        "overrides": hydra.overrides.task,
    }
    context = Context(
        Path(hydra.runtime.output_dir),
        config.name,
        text,
        "hydra.sweep.dir" if _is_sweep() else "hydra.run.dir",
        records={f".hydra/{key}.yaml": OmegaConf.to_yaml(node) for key, node in records.items()},
    )

    def build() -> Any:
        from pcctlearn.app.trainer import build_trainer, start_loggers  # takes seconds

        trainer = build_trainer(config)
        context.begin()  # after the settings are checked, before loggers write
        start_loggers(trainer, plain)
        return trainer

    context.build_trainer = build
    return context


def _is_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _objective(objective: str | None, numbers: Mapping[str, float], name: str) -> float | None:
    _require_result(objective, numbers, name)
    return None if objective is None else numbers[objective]


def _require_result(objective: str | None, names: Iterable[str] | None, name: str) -> None:
    if objective is not None and names is not None and objective not in names:
        raise ValueError(
            f"objective={objective!r} is not a result of {name}; accepted: {', '.join(names)}"
        )
