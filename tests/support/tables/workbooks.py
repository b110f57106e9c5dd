"""Excel files as spreadsheet programs write them: a zip of XML, made by code."""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels"'
    ' ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Override PartName="/xl/workbook.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>'
)
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
#: Formats of cells: none, a date, a date with its time, a time of day, a duration.
_STYLES = (
    f'<styleSheet xmlns="{_MAIN}"><numFmts count="1"><numFmt numFmtId="164"'
    ' formatCode="[h]:mm:ss"/></numFmts><cellXfs count="5">'
    + "".join(f'<xf numFmtId="{number}"/>' for number in (0, 14, 22, 21, 164))
    + "</cellXfs></styleSheet>"
)
_EPOCH = dt.datetime(1899, 12, 30)


class Error(str):
    """A cell whose formula failed, as `#N/A`."""


class Formula(str):
    """A formula that no program has computed."""


def workbook(sheets: Mapping[str, Sequence[Sequence[object]]], hidden: Sequence[str] = ()) -> bytes:
    """A workbook of these sheets, each a list of rows; None is an empty cell."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("[Content_Types].xml", _TYPES)
        file.writestr("_rels/.rels", _relations([("officeDocument", "xl/workbook.xml")]))
        targets = [("worksheet", f"worksheets/sheet{n}.xml") for n in range(1, len(sheets) + 1)]
        file.writestr(
            "xl/_rels/workbook.xml.rels", _relations([*targets, ("styles", "styles.xml")])
        )
        entries = []
        for number, name in enumerate(sheets, 1):
            state = ' state="hidden"' if name in hidden else ""
            title = escape(name, {'"': "&quot;"})
            entries.append(f'<sheet name="{title}" sheetId="{number}" r:id="rId{number}"{state}/>')
        file.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{"".join(entries)}</sheets>'
            "</workbook>",
        )
        file.writestr("xl/styles.xml", _STYLES)
        for number, rows in enumerate(sheets.values(), 1):
            file.writestr(f"xl/worksheets/sheet{number}.xml", _sheet(rows))
    return out.getvalue()


def _relations(targets: Sequence[tuple[str, str]]) -> str:
    entries = "".join(
        f'<Relationship Id="rId{number}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, 1)
    )
    return f'<Relationships xmlns="{_RELATIONS}">{entries}</Relationships>'


def _sheet(rows: Sequence[Sequence[object]]) -> str:
    lines = []
    for at, row in enumerate(rows, 1):
        cells = [_cell(f"{_column(n)}{at}", value) for n, value in enumerate(row)]
        lines.append(f'<row r="{at}">{"".join(cells)}</row>')
    return f'<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'


def _column(number: int) -> str:
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(65 + rest) + name
    return name


def _cell(place: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Error):
        return f'<c r="{place}" t="e"><v>{value}</v></c>'
    if isinstance(value, Formula):
        return f'<c r="{place}"><f>{escape(value)}</f></c>'
    if isinstance(value, bool):
        return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
    if isinstance(value, str):
        text = f'<is><t xml:space="preserve">{escape(value)}</t></is>'
        return f'<c r="{place}" t="inlineStr">{text}</c>'
    if isinstance(value, dt.datetime):
        return _number(place, (value - _EPOCH) / dt.timedelta(days=1), 2)
    if isinstance(value, dt.date):
        return _number(place, (value - _EPOCH.date()).days, 1)
    if isinstance(value, dt.time):
        seconds = value.hour * 3600 + value.minute * 60 + value.second
        return _number(place, seconds / 86400, 3)
    if isinstance(value, dt.timedelta):
        return _number(place, value / dt.timedelta(days=1), 4)
    return _number(place, value, 0)


def _number(place: str, value: object, style: int) -> str:
    return f'<c r="{place}" s="{style}"><v>{value!r}</v></c>'
