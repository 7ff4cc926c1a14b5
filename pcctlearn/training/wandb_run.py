"""Lightning's logger for W&B, without a deprecated option."""

from typing import Any

from pytorch_lightning.loggers import WandbLogger


class WandbRun(WandbLogger):
    """A run in W&B; arguments as ``WandbLogger``.

    Lightning always passes the option ``anonymous``, for which W&B prints a warning.
    """

    def __init__(
        self,
        project: str,
        name: str,
        save_dir: str,
        offline: bool = True,
        log_model: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(
            name=name,
            save_dir=save_dir,
            offline=offline,
            project=project,
            log_model=log_model,
            **more,
        )
        self._wandb_init.pop("anonymous", None)
