"""A PASCAL VOC folder."""

from pathlib import Path
from xml.etree import ElementTree

from pipeline.datasets.image_names import without_suffix
from pipeline.exchange.formats.export import Export, check_shared, place_one, xml_text
from pipeline.system.errors import PipelineError
from pipeline.system.files import replacing_folder


def write(export: Export, out: Path) -> None:
    """PASCAL VOC folder: JPEGImages, ImageSets/Main with a list a class and split (1 or -1), Annotations.

    An annotation has an object a box; without boxes, the lists alone tell the labels. A photo's name is its image id
    with `_` for slashes and white space, at which readers cut the lines of the lists. It ends in .jpg whatever the
    format, as readers look for that ending alone and recognise the format by content.
    """
    labels = export.labels
    rows = list(range(len(labels.image_ids)))
    stems = [
        "".join("_" if letter == "/" or letter.isspace() else letter for letter in without_suffix(image_id))
        for image_id in labels.image_ids
    ]
    check_shared(labels.image_ids, stems)
    odd = [name for name in labels.class_names if not name.strip() or any(letter in name for letter in "/\\\0")]
    if odd:
        raise PipelineError(f"voc has a file a class, which {odd[0]!r} cannot name. Choose another format.")
    with replacing_folder(out) as folder:
        lists = folder / "ImageSets" / "Main"
        for path in (lists, folder / "Annotations", folder / "JPEGImages"):
            path.mkdir(parents=True)
        for row in rows:
            place_one(export, row, folder / "JPEGImages" / f"{stems[row]}.jpg")
            write_annotation(export, row, stems[row], folder)
        for split in dict.fromkeys(labels.splits):
            own = [row for row in rows if labels.splits[row] == split]
            (lists / f"{split}.txt").write_text("".join(f"{stems[row]}\n" for row in own), encoding="utf-8")
            for c, name in enumerate(labels.class_names):
                lines = [f"{stems[row]} {'1' if labels.present[row, c] else '-1'}\n" for row in own]
                (lists / f"{name}_{split}.txt").write_text("".join(lines), encoding="utf-8")


def write_annotation(export: Export, row: int, stem: str, folder: Path) -> None:
    """The annotation of one image in a VOC folder; none where boxes are not asked for."""
    if export.boxes is None:
        return
    height, width = export.size(row)
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{stem}.jpg"
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, name).text = str(value)
    for c, (x1, y1, x2, y2) in export.boxes_of(row):
        found = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(found, "name").text = export.labels.class_names[c]
        ElementTree.SubElement(found, "difficult").text = "0"
        corners = ElementTree.SubElement(found, "bndbox")
        # VOC counts pixels from 1 and includes the last
        for name, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
            ElementTree.SubElement(corners, name).text = str(round(value))
    (folder / "Annotations" / f"{stem}.xml").write_text(xml_text(root), encoding="utf-8")
