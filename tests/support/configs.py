"""Configurations as the commands compose them."""

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from support.studies import REPOSITORY

from pcctlearn.app.composition import check_compositions

check_compositions()  # as the commands do

CONF = REPOSITORY / "conf"
FEW_SLABS = [
    "experiment=thresholds_slabs",
    "study.water_cm=[0.0,24.0,8.0]",
    "study.calcium_cm=[0.0,1.0,0.5]",
    "study.max_steps=8",
    "logger=none",
    "n_threads=1",
]


def composed(folder, *overrides, name="train"):
    """The configuration of a run, as the main of this command gets it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        where = f"hydra.runtime.output_dir={folder}"
        config = compose(name, [where, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config
