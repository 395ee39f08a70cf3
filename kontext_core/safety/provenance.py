"""Marks in a file that say a picture was made by a model: EXIF, and IPTC's digital source type as XMP, which
sites and search engines read. They are metadata: whoever wants to can remove them.

EXIF as the reference repository writes it (black-forest-labs/flux, src/flux/util.py): Software names what made
it, ImageDescription may hold the instruction. IPTC's terms: cv.iptc.org/newscodes/digitalsourcetype.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from PIL import Image

SOFTWARE, MODEL, DESCRIPTION = 0x0131, 0x0110, 0x010E
_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# Made from words alone, or of pictures that were given.
MADE, EDITED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmp:CreatorTool={tool} Iptc4xmpExt:DigitalSourceType={term}>{words}</rdf:Description>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
_WORDS = (
    '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description>'
)
# JPEG's segment for XMP begins so, and holds at most 65533 bytes with it.
_JPEG = b"http://ns.adobe.com/xap/1.0/\x00"
_LARGEST = 65_500


@dataclass(frozen=True)
class Provenance:
    """Where a picture comes from.

    Attributes:
        software: what made it, with its version.
        model: that painted it.
        edited: whether pictures were given to it.
        prompt: the instruction, if it is to be told.
    """

    software: str
    model: str = ""
    edited: bool = True
    prompt: str = ""

    def exif(self, exif: Image.Exif) -> None:
        """Write it into EXIF."""
        kind = "img2img" if self.edited else "txt2img"
        exif[SOFTWARE] = f"AI generated;{kind};{self.software}"
        for tag, value in ((MODEL, self.model), (DESCRIPTION, self.prompt)):
            if value:
                # EXIF's texts are ASCII.
                exif[tag] = value.encode("ascii", "backslashreplace").decode()

    def xmp(self) -> str:
        """The packet as text."""
        term = _TERMS + (EDITED if self.edited else MADE)
        words = _WORDS.format(escape(_legal(self.prompt[:8000]))) if self.prompt else ""
        return _XMP.format(tool=quoteattr(self.software), term=quoteattr(term), words=words)

    def jpeg_segment(self) -> bytes:
        """The packet as JPEG's APP1 segment."""
        data = _JPEG + self.xmp().encode()[:_LARGEST]
        return b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data


def _legal(text: str) -> str:
    """Without the control characters that XML can't hold."""
    return "".join(x for x in text if x in "\t\n\r" or x >= " ")
