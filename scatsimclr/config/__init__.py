"""Settings: what can be set, how files and `key=value` overrides are read, and what is refused.

The original code's `config.yaml` and `config_pretext.yaml` are valid files. The defaults of single settings are the
original's recipe; a data set's own recipe is the file `configs/<data set>.yaml`.
"""

from scatsimclr.extras import require

require(__name__, "train", "pydantic", "yaml")


from scatsimclr.config.augmentation import AugmentSettings
from scatsimclr.config.reading import load_config, shipped
from scatsimclr.config.run import Config, parse_config, setting_names
from scatsimclr.config.sections import (
    DatasetSettings,
    DataSettings,
    EvaluationSettings,
    LossSettings,
    ModelSettings,
    PretextSettings,
)

__all__ = [
    "AugmentSettings",
    "Config",
    "DataSettings",
    "DatasetSettings",
    "EvaluationSettings",
    "LossSettings",
    "ModelSettings",
    "PretextSettings",
    "load_config",
    "parse_config",
    "setting_names",
    "shipped",
]
