import pytest

from pipeline.datasets.class_names import check_class_names
from pipeline.machine.errors import PipelineError


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "Found 0 class names, expected at least 2"),
        (["cat"], "Found 1 class names"),
        (["cat", " "], "Class name 2 of 2 is empty"),
        (["cat", "dog; puppy"], "'dog; puppy' has a semicolon"),
        (["cat", "dog", "Cat "], "'cat' and 'Cat ' are the same"),
    ],
)
def test_class_names_among_which_nothing_can_be_chosen(names, match):
    with pytest.raises(PipelineError, match=match):
        check_class_names(names)
