"""What a command hands to its job: the folder of the run, its configuration, a trainer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pcctlearn.files.atomic import written_whole
from pcctlearn.runs.folder import MARKER, OUTPUTS, held, set_aside
from pcctlearn.runs.results import StudyResults

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

_MADE = (*OUTPUTS[:2], "figures", "checkpoints", "csv", "arrays.h5", ".hydra")


@runtime_checkable
class Job(Protocol):
    """What ``config.job`` builds.

    Its constructor refuses wrong settings. A class attribute ``shares_folder = True`` says that
    several jobs may work in one folder at a time; otherwise the driver locks the folder during
    ``run``. A class attribute ``result_names`` lists the names of its numbers, if they do not
    depend on the run; a wrong ``objective`` is then found before it.
    """

    def run(self, context: "Context") -> StudyResults | None:
        """Do the work. The results are written by the driver; ``None``: nothing to write yet."""
        ...


@dataclass
class Context:
    """The surroundings of one run.

    Args:
        path: the folder of the run; write to ``folder``, which moves earlier outputs aside first.
        name: title of the report.
        config: resolved YAML of the run, recorded with its results.
        setting: the key of the command line that names the folder.
        build_trainer: called on the first use of ``trainer``.
        records: texts that are written to the folder at the start, by file name.
    """

    path: Path
    name: str = ""
    config: str = ""
    setting: str = "folder"
    build_trainer: "Callable[[], Trainer] | None" = None
    records: Mapping[str, str] = field(default_factory=dict)
    _locks: ExitStack = field(default_factory=ExitStack, repr=False)
    _held: bool = field(default=False, repr=False)
    _begun: bool = field(default=False, repr=False)

    @property
    def folder(self) -> Path:
        """The folder of the run, in which outputs of earlier runs have been moved aside."""
        self.begin()
        return self.path

    @cached_property
    def trainer(self) -> "Trainer":
        """Lightning's trainer, built on first use.

        Raises:
            ValueError: the settings of the trainer do not fit together, or there are none.
        """
        if self.build_trainer is None:
            raise ValueError("this command has no trainer: run the job with train.py")
        return self.build_trainer()

    @property
    def has_trainer(self) -> bool:
        """Whether ``trainer`` has been used."""
        return "trainer" in self.__dict__

    def hold(self, wait: bool = False) -> None:
        """Keep other runs out of the folder until the run ends.

        Args:
            wait: until another run has ended, instead of raising an error.

        Raises:
            OSError: another run holds the folder, or it cannot be written to.
        """
        if not self._held:
            self._locks.enter_context(held(self.path, self.setting, wait))
            self._held = True

    def begin(self, outputs: Sequence[str] = _MADE, keep: bool | None = None) -> None:
        """Clear the folder of an earlier run's outputs, once, before anything new is written.

        Args:
            outputs: names of all outputs of a run in the order of their removal, the marker first.
            keep: move them to a folder ``earlier_N``; otherwise they are removed. ``None``: move
                them if that run was finished or has checkpoints.
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
        """Let other runs into the folder."""
        self._locks.close()
