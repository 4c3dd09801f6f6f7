"""What README.md says holds."""

import re
from pathlib import Path

from av2t_core.labelstudio.label_config import parse_label_config
from av2t_core.settings import ModelSettings
from worker.settings import Settings

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_setting_stands_in_the_table() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (?:`(.*)` )?\| (.*) \|$", README, re.MULTILINE)
    for settings in (ModelSettings, Settings):
        for field in settings.model_fields.values():
            default = "" if field.default is None else str(field.default)
            assert (field.validation_alias, default, " ".join(str(field.description).split())) in rows
    assert len(rows) == len(Settings.model_fields)


def test_the_label_config_is_one_that_is_accepted() -> None:
    [config] = re.findall(r"<View>.*</View>", README, re.DOTALL)
    targets = parse_label_config(config)
    assert (targets.video.value, targets.frame_variables) == ("$video", ("frames",))
