"""Context of a run: its folder, its configuration and its trainer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pcctlearn.files.atomic import written_whole
from pcctlearn.runs.folder import MARKER, OUTPUTS, discard_empty, held, set_aside
from pcctlearn.runs.results import StudyResults

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

_MADE = (*OUTPUTS[:2], "figures", "checkpoints", "csv", "arrays.h5", ".hydra")


@runtime_checkable
class Job(Protocol):
    """The object that ``config.job`` builds: a study, an evaluation or a simulation.

    Its constructor rejects wrong settings. With a class attribute ``shares_folder = True``, several
    jobs may work in one folder at a time; otherwise the driver locks the folder during ``run``.
    An attribute ``result_names`` lists the names of the results, where they do not depend on the
    run; the driver then rejects a wrong ``objective`` before the run.
    """

    def run(self, context: "Context") -> StudyResults | None:
        """Run, and return the results for the driver to write; ``None`` if there are none yet."""
        ...


@dataclass
class Context:
    """Folder, configuration and trainer of one run.

    Args:
        path: the folder of the run; write to ``folder``, which moves earlier outputs aside first.
        name: title of the report.
        config: resolved YAML of the run, recorded with its results.
        setting: the command-line key that names the folder, for error messages.
        build_trainer: called on the first use of ``trainer``.
        records: {file name: text} to write to the folder at the start.
    """

    path: Path
    name: str = ""
    config: str = ""
    setting: str = "folder"
    build_trainer: "Callable[[], Trainer] | None" = None
    records: Mapping[str, str] = field(default_factory=dict)
    _locks: ExitStack = field(default_factory=ExitStack, repr=False)
    _held: bool = field(default=False, repr=False)
    _made: bool = field(default=False, repr=False)
    _begun: bool = field(default=False, repr=False)

    @property
    def folder(self) -> Path:
        """The folder of the run, after outputs of an earlier run have been moved aside."""
        self.begin()
        return self.path

    @cached_property
    def trainer(self) -> "Trainer":
        """The Lightning trainer, built on first use.

        Raises:
            ValueError: the trainer's settings are inconsistent, or the command has no trainer.
        """
        if self.build_trainer is None:
            raise ValueError("this command has no trainer: run the job with train.py")
        return self.build_trainer()

    @property
    def has_trainer(self) -> bool:
        """Whether ``trainer`` has been used."""
        return "trainer" in self.__dict__

    def hold(self, wait: bool = False) -> None:
        """Lock the folder until the run ends.

        Args:
            wait: wait until another run has ended instead of raising an error.

        Raises:
            OSError: another run has locked the folder, or it cannot be written to.
        """
        if not self._held:
            self._made = not self.path.exists()
            self._locks.enter_context(held(self.path, self.setting, wait))
            self._held = True

    def begin(self, outputs: Sequence[str] = _MADE, keep: bool | None = None) -> None:
        """Move or remove the outputs of an earlier run, once, before anything new is written.

        Args:
            outputs: names of all outputs of a run in the order of their removal, the marker first.
            keep: move them to a folder ``earlier_N`` instead of removing them. ``None``: move them
                if the earlier run finished or left checkpoints.
        """
        if self._begun:
            return
        self.hold()
        if keep is None:
            finished = (self.path / MARKER).exists()
            keep = finished or any((self.path / "checkpoints").glob("*.ckpt"))
        set_aside(self.path, self.setting, outputs, keep)
        self._begun = True
        for name, text in self.records.items():
            with written_whole(self.path / name) as path:
                path.write_text(text, encoding="utf-8")

    def end(self) -> None:
        """Unlock the folder, and remove it if the run has made it and written nothing."""
        self._locks.close()
        if self._made:
            discard_empty(self.path)
