"""XML files of unknown origin."""

import re
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

DECLARED = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([\w.-]+)""")

MULTI_BYTE = {"big5": "big5", "euc-jp": "euc_jp", "euc-kr": "euc_kr", "shift_jis": "cp932"}
MULTI_BYTE |= dict.fromkeys(("cp936", "gb18030", "gb2312", "gbk"), "gb18030")
"""Codecs for encodings that some tools declare, but that expat cannot read."""


def read_xml(file: Path) -> ElementTree.Element:
    """Reads the root element of an XML file.

    Declarations of entities are refused: a few lines of them can expand to gigabytes or include other files.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file (a pipe may never end), not valid XML, or declares entities.
    """
    if file.exists() and not file.is_file():
        raise ValueError("not a regular file")
    content = file.read_bytes()
    declared = DECLARED.match(content)
    codec = MULTI_BYTE.get(declared[1].decode().lower()) if declared else None
    tree = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("utf-8" if codec else None)
    parser.buffer_text = True
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(content.decode(codec).encode() if codec else content, True)
        return tree.close()
    except (expat.ExpatError, UnicodeError, LookupError) as error:
        raise ValueError(f"not valid XML ({error})") from error


def _refuse_entity(name: str, *_: object) -> None:
    raise ValueError(f"not valid as an annotation: it declares the XML entity {name!r}")
