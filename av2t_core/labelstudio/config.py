"""A label config → the targets that a prediction can be written into.

Every name is read from the config. Format: https://labelstud.io/tags; what a control of a clip can be in the Community
edition is listed in the README.
"""

from dataclasses import dataclass
from xml.etree import ElementTree

from av2t_core.errors import ConfigError

# The control tags that can hold a mask, each with one class in `controls`; the first of them in the config is used.
MASK_TAGS = ("BrushLabels", "BitmaskLabels")

REMEDY = (
    '<BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels> '
    '<Image name="frames" valueList="$frames"/>'
)


@dataclass(frozen=True, kw_only=True)
class Label:
    name: str  # as regions carry it
    predicted_values: tuple[str, ...] = ()  # names that a model may give to the same thing


@dataclass(frozen=True, kw_only=True)
class Video:
    """The tag that plays the clip."""

    name: str
    variable: str  # key of the clip's URL in the task's data
    fps_variable: str | None = None  # key of the frame rate in the task's data, if the tag reads it from there


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The Image tag that pages through the keyframes."""

    name: str
    variable: str  # key of the list of URLs in the task's data


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control tag and the labels that its regions may carry."""

    tag: str  # one of MASK_TAGS
    name: str
    to_name: str
    labels: tuple[Label, ...]  # never empty, in the config's order


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where the clip comes from and where its prediction goes."""

    video: Video
    frames: Frames
    controls: tuple[Control, ...]  # never empty; each gets its own regions


def parse_label_config(xml: str) -> Targets:
    """The targets of a project's label config; ConfigError names what is missing and shows the remedy."""
    root = _parse(xml)
    mask, frames = _mask(root)
    return Targets(video=_video(root), frames=frames, controls=(mask,))


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ConfigError("The label config has a DOCTYPE, which Label Studio's tags do not need; remove it.")


def _parse(xml: str) -> ElementTree.Element:
    if not xml.strip():
        raise ConfigError(
            f'The label config is empty; give it <View><Video name="video" value="$video"/> {REMEDY}</View>.'
        )
    try:
        # Entities can only be declared in a DOCTYPE, and the builder refuses that before any is expanded.
        parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314
        parser.feed(xml)
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise ConfigError(f"The label config is not well-formed XML ({error}); correct it in the settings.") from None
    return root


def _mask(root: ElementTree.Element) -> tuple[Control, Frames]:
    """The first mask control that points at a list of images and has labels; else the first one's defect."""
    elements = [element for element in root.iter() if element.tag in MASK_TAGS]
    if not elements:
        raise ConfigError(f"The label config has no BrushLabels or BitmaskLabels to predict masks into; add {REMEDY}.")
    defects = []
    for element in elements:
        try:
            return _control(element, root)
        except ConfigError as error:
            defects.append(error)
    raise defects[0]


def _control(element: ElementTree.Element, root: ElementTree.Element) -> tuple[Control, Frames]:
    tag, name, to_name = str(element.tag), element.get("name", ""), element.get("toName", "")
    if not name:
        raise ConfigError(f"A {tag} of the label config has no name; write it like {REMEDY}.")
    image = next((image for image in root.iter("Image") if image.get("name") == to_name), None)
    if not to_name or image is None:
        raise ConfigError(
            f'{tag} "{name}" points at "{to_name}", and there is no Image of that name; write it like {REMEDY}.'
        )
    variable = _variable(image.get("valueList"))
    if variable is None:
        raise ConfigError(
            f'Image "{to_name}", which {tag} "{name}" points at, does not read a list of frames from the task; '
            f'give it valueList="$frames" in place of value.'
        )
    labels = _labels(element)
    if not labels:
        raise ConfigError(f'{tag} "{name}" has no Label; give it at least one, like {REMEDY}.')
    return Control(tag=tag, name=name, to_name=to_name, labels=labels), Frames(name=to_name, variable=variable)


def _labels(element: ElementTree.Element) -> tuple[Label, ...]:
    labels: dict[str, Label] = {}
    for label in element.iter("Label"):
        # An alias stands in the regions in place of the value.
        if name := label.get("alias") or label.get("value"):
            values = (value.strip() for value in label.get("predicted_values", "").split(","))
            labels.setdefault(name, Label(name=name, predicted_values=tuple(value for value in values if value)))
    return tuple(labels.values())


def _video(root: ElementTree.Element) -> Video:
    for element in root.iter("Video"):
        name, variable = element.get("name"), _variable(element.get("value"))
        if name and variable:
            return Video(name=name, variable=variable, fps_variable=_variable(element.get("framerate")))
    raise ConfigError(
        "The label config has no Video that reads its clip from the task; "
        'add <Video name="video" value="$video" framerate="$fps"/>.'
    )


def _variable(value: str | None) -> str | None:
    """`$frames` → `frames`; None for a constant."""
    if value is None or not value.startswith("$"):
        return None
    return value[1:].strip() or None
