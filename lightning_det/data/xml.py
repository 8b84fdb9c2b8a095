"""XML files of unknown origin."""

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat


def read_xml(file: Path) -> ElementTree.Element:
    """The root element of an XML file.

    Declarations of entities are refused: a few lines of them grow into gigabytes, and others name files to read.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not valid XML, or declares entities.
    """
    tree = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(file.read_bytes(), True)
        return tree.close()
    except (expat.ExpatError, UnicodeError, LookupError) as error:
        raise ValueError(f"not valid XML ({error})") from error


def _refuse_entity(name: str, *_: object) -> None:
    raise ValueError(f"not valid as an annotation: it declares the XML entity {name!r}")
