"""CVAT for images, XML."""

import re
from pathlib import Path
from xml.etree import ElementTree

from pipeline.exchange.formats.export import Export
from pipeline.system.errors import PipelineError
from pipeline.system.files import write_text


def write(export: Export, out: Path) -> None:
    """CVAT for images 1.1: one tag per label and one rectangle per box."""
    labels = export.labels
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    listed = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in labels.class_names:
        label = ElementTree.SubElement(listed, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "type").text = "any"
        ElementTree.SubElement(label, "attributes")
    for row, image_id in enumerate(labels.image_ids):
        height, width = export.size(row)
        place = {"id": str(row), "name": image_id, "subset": labels.splits[row]}
        image = ElementTree.SubElement(root, "image", **place, width=str(width), height=str(height))
        for name in export.names(row):
            ElementTree.SubElement(image, "tag", label=name, source="auto")
        for c, corners in export.boxes_of(row):
            values = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{v:.2f}" for v in corners), strict=True))
            rectangle = {"label": labels.class_names[c], "source": "auto", "occluded": "0", "z_order": "0"}
            ElementTree.SubElement(image, "box", **rectangle, **values)
    write_text(out, xml_text(root))


def xml_text(root: ElementTree.Element) -> str:
    """An indented XML document; raises PipelineError for a character that XML cannot contain."""
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
    if match := re.search(r".{0,40}[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", text):
        raise PipelineError(f"XML cannot contain the last character of {match[0]!r}. Rename the photo or the class.")
    return text
