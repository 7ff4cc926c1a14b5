"""Check every configuration when Hydra composes it, before anything is built."""

import re
from typing import Any

from hydra._internal import hydra as hydra_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pcctlearn.app.keys import require_known, unknown_key
from pcctlearn.app.quoting import ambiguous, unreadable
from pcctlearn.reading.targets import require_allowed
from pcctlearn.simulation.settings import register_digest


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader, which also refuses unknown keys and targets outside the allow-list."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose and check a configuration, of a single run or of a job of a sweep.

        Raises:
            ValueError: a word that cannot be read, an unknown key, or a target that is not allowed.
        """
        rest = (run_mode, from_shell, validate_sweep_overrides)
        try:
            config = super().load_configuration(config_name, overrides, *rest)
        except OverrideParseException as error:
            raise ValueError(unreadable(error.override)) from None
        except ConfigCompositionException as error:
            if sentence := self._sentence(str(error), config_name, overrides, run_mode):
                raise ValueError(sentence) from None
            raise
        self._check(config, config_name, overrides)
        return config

    def _check(self, config: DictConfig, config_name: str | None, overrides: list[str]) -> None:
        plain: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
        typed = {word.lstrip("+~").partition("=")[0]: word for word in overrides}
        more = plain.get("allowed_targets") or []
        if more and "allowed_targets" not in typed:
            raise ValueError(
                "allowed_targets is set in a file: give it on the command line, as in "
                f"'allowed_targets=[{','.join(map(str, more))}]'"
            )
        require_allowed(plain, more)
        if config_name is not None:
            added = {key for key, word in typed.items() if word.startswith("+")}
            groups = [group for group in plain["hydra"]["runtime"]["choices"] if group not in added]
            require_known(plain, self._written(config_name), groups)

    def _written(self, name: str) -> dict[str, Any]:
        """The keys of a command's file and of the files that it is based on."""
        found = self.repository.load_config(name)
        assert found is not None  # Hydra has composed it
        written: Any = OmegaConf.to_container(found.config, resolve=False)
        for default in found.defaults_list or []:
            base = getattr(default, "path", None)  # the defaults of groups have no path
            if base is not None and base != "_self_":
                written = self._written(base) | written
        return written

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """The choices of a group, without the files that others are based on (``_base``).

        Hydra's own method copies all configurations for each group, which takes a second.
        """
        choices = self.repository.get_group_options(group_name, results_filter)
        return [choice for choice in choices if not choice.startswith("_")]

    def _sentence(
        self, text: str, config_name: str | None, overrides: list[str], run_mode: RunMode
    ) -> str | None:
        """Replacement for a Hydra message that suggests a wrong remedy; ``None`` for all others."""
        words = [word for word in overrides if f"'{word}'" in text]
        if text.startswith("Ambiguous value"):
            return ambiguous(words[0])
        if text.startswith("Sweep parameters"):
            return f"{words[0]!r} runs once for each value: add -m"
        found = re.search(r"Could not (?:override|delete|delete from config\.) '([^'=@]*)", text)
        if found is None:
            return None
        key = found[1]
        words = [word for word in overrides if word.lstrip("+~").partition("=")[0] == key]
        if words and words[-1].startswith("~"):
            return f"{words[-1]!r} deletes nothing (the configuration has no {key}): leave it out"
        try:
            known = super().load_configuration(
                config_name, [word for word in overrides if word not in words], run_mode
            )
        except ConfigCompositionException:
            known = super().load_configuration(config_name, [], run_mode)
        plain: Any = OmegaConf.to_container(known, resolve=False, enum_to_str=True)
        value = words[-1].partition("=")[2] if words else "VALUE"
        groups = list(plain["hydra"]["runtime"]["choices"])
        return unknown_key(key, value, plain, plain.get("allowed_targets") or [], groups)


def check_compositions() -> None:
    """Have Hydra load every configuration of this process through ``CheckedLoader``."""
    register_digest()
    hydra_module.ConfigLoaderImpl = CheckedLoader  # type: ignore[misc]
