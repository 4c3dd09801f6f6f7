import pytest

from av2t_core.labelstudio.label_config import Label
from av2t_core.labelstudio.regions import Choice, choose_label

LABELS = (Label(name="Dog"), Label(name="Geige", predicted_values=("violin", "Fiddle")), Label(name="violin "))


@pytest.mark.parametrize(
    ("detected", "name"), [("Dog", "Dog"), ("dog", "Dog"), (" DOG ", "Dog"), ("fiddle", "Geige"), ("Violin", "violin ")]
)
def test_by_name_before_predicted_values(detected: str, name: str) -> None:
    assert choose_label([detected], LABELS) == Choice(name=name)


def test_the_likeliest_that_the_project_has() -> None:
    assert choose_label(["tram", "fiddle", "dog"], LABELS) == Choice(name="Geige")


@pytest.mark.parametrize("detected", [["tram"], []])
def test_the_single_label_is_for_everything(detected: list[str]) -> None:
    assert choose_label(detected, (Label(name="thing"),)) == Choice(name="thing")


def test_what_the_project_has_no_label_for_is_said() -> None:
    choice = choose_label(["tram", "bus"], LABELS)
    assert choice == Choice(name="Dog", remark='heard "tram", which is none of the labels')


def test_a_model_that_names_nothing_gives_the_first_label_unsurely() -> None:
    assert choose_label([], LABELS) == Choice(name="Dog", remark="label not known")
