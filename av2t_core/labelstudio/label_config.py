"""A label config → the targets that a prediction can be written into. Format: https://labelstud.io/tags.

Names of tags and attributes may stand in any case there, as Label Studio's page takes them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from av2t_core import limits
from av2t_core.errors import ConfigError
from av2t_core.labelstudio.controls import DrawnTag, ImageTag, VideoTag
from av2t_core.labelstudio.controls.bitmask import BitmaskLabels
from av2t_core.labelstudio.controls.brush import BrushLabels, MagicWand
from av2t_core.labelstudio.controls.ellipse import EllipseLabels
from av2t_core.labelstudio.controls.keypoint import KeyPointLabels
from av2t_core.labelstudio.controls.polygon import PolygonLabels
from av2t_core.labelstudio.controls.rectangle import RectangleLabels
from av2t_core.labelstudio.controls.timeline import TimelineLabels
from av2t_core.labelstudio.controls.vector import VectorLabels
from av2t_core.labelstudio.controls.video_rectangle import VideoRectangle
from av2t_core.labelstudio.task_data import variable, variables

CONTROLS: dict[str, ImageTag | VideoTag] = {
    "BrushLabels": BrushLabels(),
    "BitmaskLabels": BitmaskLabels(),
    "PolygonLabels": PolygonLabels(),
    "RectangleLabels": RectangleLabels(),
    "VideoRectangle": VideoRectangle(),
    "TimelineLabels": TimelineLabels(),
}
"""All control tags that can hold what sounds. What is not here is passed over."""

READ_ONLY: tuple[DrawnTag, ...] = (MagicWand(), EllipseLabels(), VectorLabels(), KeyPointLabels())
"""With which people draw on the frames as well: nothing is predicted into them."""

REMEDY = (
    '<BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels> '
    '<Image name="frames" valueList="$frames"/>'
)


@dataclass(frozen=True, kw_only=True)
class Label:
    name: str  # as regions carry it
    predicted_values: tuple[str, ...] = ()  # names that a model may give to the same object


@dataclass(frozen=True, kw_only=True)
class Video:
    """The tag that plays the clip."""

    name: str
    value: str  # the clip's URL as the tag has it, with variables of the task's data, see `task_data`
    framerate: str = ""  # likewise


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control tag, what it draws on, and the labels that its regions may carry."""

    tag: ImageTag | VideoTag
    name: str
    to_name: str  # of an Image that shows the keyframes, or of the Video
    frames: str | None  # variable of the list of URLs in the task's data; None on the Video
    labels: tuple[Label, ...]  # never empty, in the config's order


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where the clip comes from and where its prediction goes."""

    video: Video
    controls: tuple[Control, ...]  # never empty; each gets its own regions
    images: tuple[str, ...] = ()  # names of the Images that show the frames
    apart: frozenset[str] = frozenset()  # names of the controls with predict="false", which are people's alone

    @property
    def frame_variables(self) -> tuple[str, ...]:
        """Variables of the lists of URLs in the task's data."""
        return tuple(dict.fromkeys(control.frames for control in self.controls if control.frames))

    @property
    def names(self) -> tuple[str, ...]:
        """What the labels mean, for a model that reads: their `predicted_values`, or the label's own name."""
        labels = [label for control in self.controls for label in control.labels]
        return tuple(dict.fromkeys(name for label in labels for name in label.predicted_values or (label.name,)))


def parse_label_config(xml: str) -> Targets:
    """The targets of a project's label config, in linear time. ConfigError names what is missing and what helps."""
    root = _parse(xml)
    controls = _controls(root)
    video = _video(root, next((control.to_name for control in controls if control.frames is None), None))
    # There is one clip: the one that the first control of a Video points at.
    controls = tuple(control for control in controls if control.frames or control.to_name == video.name)
    shown = {control.frames for control in controls if control.frames}
    images = [each.get("name", "") for each in root.iter("image") if variable(each.get("valuelist", "")) in shown]
    apart = frozenset(each.get("name", "") for each in root.iter() if _is_apart(each))
    targets = Targets(video=video, controls=controls, images=tuple(images), apart=apart)
    if len(targets.names) > limits.CONFIG_NAMES:
        raise ConfigError(
            f"The labels of the label config have {len(targets.names)} names, and the model looks for each of them;"
            f" leave at most {limits.CONFIG_NAMES}."
        )
    return targets


class _Bounded(ElementTree.TreeBuilder):
    """With all names of tags and attributes in lower case."""

    def __init__(self) -> None:
        super().__init__()
        self._tags = self._depth = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ConfigError("The label config has a DOCTYPE, which Label Studio's tags do not need; remove it.")

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        self._tags += 1
        self._depth += 1
        if self._tags > limits.CONFIG_TAGS:
            raise ConfigError(f"The label config has more than {limits.CONFIG_TAGS} tags; take some of them out.")
        if self._depth > limits.CONFIG_DEPTH:
            raise ConfigError(f"The label config has more than {limits.CONFIG_DEPTH} tags in each other; flatten it.")
        return super().start(tag.lower(), {name.lower(): value for name, value in attrs.items()})

    def end(self, tag: str) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def _parse(xml: str) -> ElementTree.Element:
    if not xml.strip():
        raise ConfigError(
            f'The label config is empty; give it <View><Video name="video" value="$video"/> {REMEDY}</View>.'
        )
    if len(xml) > limits.LABEL_CONFIG:
        raise ConfigError(
            f"The label config has {len(xml)} characters; make it smaller than {limits.LABEL_CONFIG >> 20} MB."
        )
    try:
        # Entities can only be declared in a DOCTYPE, and the builder refuses that before any is expanded.
        return ElementTree.fromstring(xml, ElementTree.XMLParser(target=_Bounded()))  # noqa: S314
    except ElementTree.ParseError as error:
        raise ConfigError(f"The label config is not well-formed XML ({error}); correct it in the settings.") from None


def _controls(root: ElementTree.Element) -> tuple[Control, ...]:
    """Of each kind the first that can be used; ConfigError of the first control if none can."""
    objects: dict[tuple[str, str], ElementTree.Element] = {}  # what controls may point at, by tag and name
    for tag in {control.object_tag for control in CONTROLS.values()}:
        for element in root.iter(tag.lower()):
            objects.setdefault((tag, element.get("name", "")), element)
    beside = defaultdict(list)  # the <Labels> for each of them
    for element in root.iter("labels"):
        beside[element.get("toname", "")].append(element)
    labels = {name: _labels(tags) for name, tags in beside.items()}
    known = {name.lower(): control for name, control in CONTROLS.items()}
    controls: dict[str, Control] = {}
    defects = []
    for element in root.iter():
        if (control := known.get(element.tag)) and control.kind not in controls and not _is_apart(element):
            try:
                controls[control.kind] = _control(control, element, objects, labels)
            except ConfigError as error:
                defects.append(error)
    if not controls:
        none = f"The label config has none of {', '.join(CONTROLS)} to predict what sounds into; add {REMEDY}."
        raise defects[0] if defects else ConfigError(none)
    return tuple(controls.values())


def _is_apart(element: ElementTree.Element) -> bool:
    return element.get("predict", "").strip().lower() == "false"


def _control(
    tag: ImageTag | VideoTag,
    element: ElementTree.Element,
    objects: Mapping[tuple[str, str], ElementTree.Element],
    beside: Mapping[str, tuple[Label, ...]],
) -> Control:
    name, to_name = element.get("name", ""), element.get("toname", "")
    if not name:
        raise ConfigError(f"A {tag.name} of the label config has no name; write it like {REMEDY}.")
    shown = objects.get((tag.object_tag, to_name))
    if not to_name or shown is None:
        raise ConfigError(
            f'{tag.name} "{name}" points at "{to_name}", and there is no {tag.object_tag} of that name; write it like'
            f" {REMEDY}."
        )
    frames = variable(shown.get(tag.frames_attribute.lower(), "")) if tag.frames_attribute else None
    if tag.frames_attribute and frames is None:
        raise ConfigError(
            f'{tag.object_tag} "{to_name}", which {tag.name} "{name}" points at, does not read a list of frames from'
            f' the task; give it {tag.frames_attribute}="$frames" in place of value.'
        )
    labels = beside.get(to_name, ()) if tag.labels_beside else _labels([element])
    if not labels:
        place = f' in a <Labels toName="{to_name}"> beside it' if tag.labels_beside else ""
        raise ConfigError(f'{tag.name} "{name}" has no Label; give it at least one{place}, like {REMEDY}.')
    return Control(tag=tag, name=name, to_name=to_name, frames=frames, labels=labels)


def _labels(elements: Iterable[ElementTree.Element]) -> tuple[Label, ...]:
    labels: dict[str, Label] = {}
    for label in (label for element in elements for label in element.iter("label")):
        # An alias stands in the regions in place of the value.
        if name := label.get("alias") or _value(label):
            values = (value.strip() for value in label.get("predicted_values", "").split(","))
            labels.setdefault(name, Label(name=name, predicted_values=tuple(value for value in values if value)))
    return tuple(labels.values())


def _video(root: ElementTree.Element, wanted: str | None) -> Video:
    """The Video of this name, or the first."""
    for element in root.iter("video"):
        name, value = element.get("name"), _value(element)
        if name and variables(value) and wanted in (None, name):
            return Video(name=name, value=value, framerate=element.get("framerate", ""))
    raise ConfigError(
        "The label config has no Video that reads its clip from the task; "
        'add <Video name="video" value="$video" framerate="$fps"/>.'
    )


def _value(element: ElementTree.Element) -> str:
    """That of a tag: what stands inside it goes before the attribute."""
    inside = "" if len(element) else (element.text or "").strip()
    return inside or element.get("value", "")
