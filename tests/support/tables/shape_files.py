"""Entries of the corpus of shapes as files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
from entry import Entry


def write(entry: Entry, folder: Path) -> list[Path]:
    """The files of an entry, and those that are joined; the paths of its own."""
    for name, records in entry.files.items():
        (folder / name).write_bytes(encoded(records, name.rpartition(".")[2]))
    names = entry.places or [f"records.{entry.kind}"] * len(entry.records)
    paths = []
    for name in dict.fromkeys(names):
        mine = [record for record, its in zip(entry.records, names, strict=True) if its == name]
        paths.append(folder / name)
        paths[-1].write_bytes(encoded(mine, entry.kind, short=entry.short, around=entry.around))
    return paths


def encoded(records: list[dict], kind: str, *, short: int = 0, around: str = "") -> bytes:
    """Records as the bytes of a file of some kind."""
    kind, _, packed = kind.partition(".")
    if kind == "parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records), out)
        return out.getvalue()
    if kind == "xlsx":
        return workbook([list(records[0]), *([*record.values()] for record in records)])
    if kind == "json":
        whole: object = records
        if around == "*":
            whole = {f"r{i}": record for i, record in enumerate(records)}
        elif around:
            whole = {"meta": {"by": "the garden"}, around: records}
        text = json.dumps(whole, ensure_ascii=False, indent=2)
    elif kind == "jsonl":
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        text = separated(records, "\t" if kind == "tsv" else ",", short)
    data = text.encode()
    if packed == "gz":
        return gzip.compress(data)
    return pa.compress(data, codec="zstd", asbytes=True) if packed == "zst" else data


def separated(records: list[dict], delimiter: str, short: int) -> str:
    """CSV with a whole header, and rows that lack the last `short` fields."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    names = list(records[0])
    writer.writerow(names)
    for record in records:
        writer.writerow([record[name] for name in names[: len(names) - short]])
    return out.getvalue()


def workbook(rows: list[list]) -> bytes:
    """The smallest .xlsx that holds one sheet of texts and numbers."""

    def cell(value: object) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{escape(str(value))}</t></is></c>'

    lines = [f"<row>{''.join(map(cell, row))}</row>" for row in rows]
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    there = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels"'
        ' ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1"'
        f' Type="{there}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{there}"><sheets>'
        '<sheet name="Answers" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{there}/worksheet" Target="worksheets/sheet1.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}'
        "</sheetData></worksheet>",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, text in parts.items():
            file.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')
    return out.getvalue()
