"""What a file or a folder of srraw's holds, in a few words: for `srraw inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srraw_tools.errors import UserError
from srraw_tools.exif import file_format, is_picture


def describe(path: Path) -> dict[str, Any]:
    """Describe a raw file, a picture, a sequence or many, alignment.json, truth.json or an srraw.h5.

    Returns:
        Plain values that JSON can hold; "kind" says what it is, and "rows", where there is, holds one
        dictionary per shot, pair or sequence.

    Raises:
        UserError: there is nothing at `path`, or nothing that srraw knows, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist.", wrong_use=True)
    if path.is_dir():
        return _describe_folder(path)
    if path.suffix == ".json":
        return _describe_json(path)
    with open(path, "rb") as file:
        head = file.read(8)
    if head == b"\x89HDF\r\n\x1a\n" or path.suffix in (".h5", ".hdf5"):
        return _describe_shards(path)
    return _describe_picture(path) if is_picture(path) else _describe_raw(path)


def _describe_picture(path: Path) -> dict[str, Any]:
    from srraw_tools.picture import read_picture

    picture = read_picture(path)
    return {
        "kind": f"{file_format(path)} picture",
        "camera": picture.exif.camera,
        "lens": picture.exif.lens,
        "taken_at": picture.exif.taken_at,
        "focal_mm": picture.exif.focal_mm,
        "f_number": picture.exif.f_number,
        "exposure_s": picture.exif.exposure_s,
        "iso": picture.exif.iso,
        "width": picture.size[1],
        "height": picture.size[0],
        "bits": 8 * picture.srgb.itemsize,
        "orientation": picture.exif.orientation,
        "notes": list(picture.notes),
    }


def _describe_raw(path: Path) -> dict[str, Any]:
    from srraw_tools.raw import read_raw

    raw = read_raw(path)
    exif = raw.exif
    return {
        "kind": f"{file_format(path)} raw file",
        "camera": exif.camera,
        "lens": exif.lens,
        "taken_at": exif.taken_at,
        "focal_mm": exif.focal_mm,
        "f_number": exif.f_number,
        "exposure_s": exif.exposure_s,
        "iso": exif.iso,
        "width": raw.size[1],
        "height": raw.size[0],
        "orientation": exif.orientation,
        "cfa": raw.cfa,
        "black_level": list(raw.black_level),
        "white_level": raw.white_level,
        "clipped_share": float((raw.mosaic >= raw.white_level).mean()),
        "camera_wb": [round(value, 4) for value in raw.camera_wb],
        "color_matrix": [[round(value, 4) for value in row] for row in raw.color_matrix.tolist()],
        "notes": list(raw.notes),
    }


def _describe_folder(path: Path) -> dict[str, Any]:
    from srraw_tools.alignment import ALIGNMENT_FILE
    from srraw_tools.sequence import find_sequences, read_sequence

    folders = find_sequences([path])
    if folders == [path]:
        sequence = read_sequence(path)
        unplaced = [shot.file for shot in sequence.shots if shot.focal_nominal is None]
        notes = [
            f"no focal length is known of {', '.join(unplaced)}; 'srraw align' looks for it in the images"
        ]
        return {
            "kind": "sequence",
            "name": sequence.name,
            "made_by": sequence.made_by or "unknown (no sequence.json)",
            "planned_mm": list(sequence.planned_mm),
            "complete": sequence.complete,
            "aligned": (path / ALIGNMENT_FILE).exists(),
            "notes": notes if unplaced else [],
            "rows": [
                {
                    "file": shot.file,
                    "planned mm": shot.focal_planned,
                    "EXIF mm": shot.focal_mm,
                    "f/": shot.f_number,
                    "s": shot.exposure_s,
                    "ISO": shot.iso,
                    "there": "yes" if (path / shot.file).is_file() else "missing",
                }
                for shot in sequence.shots
            ],
        }
    rows = []
    for folder in folders:
        sequence = read_sequence(folder)
        rows.append(
            {
                "sequence": sequence.name,
                "shots": len(sequence.shots),
                "complete": "yes" if sequence.complete else "no",
                "aligned": "yes" if (folder / ALIGNMENT_FILE).exists() else "no",
            }
        )
    return {"kind": "folder of sequences", "sequences": len(rows), "rows": rows}


def _describe_json(path: Path) -> dict[str, Any]:
    from srraw_tools.alignment import read_alignment
    from srraw_tools.files import read_json
    from srraw_tools.sequence import SEQUENCE_FILE

    if path.name == SEQUENCE_FILE:
        return _describe_folder(path.parent)
    record = read_json(path)
    found = record.get("format") if isinstance(record, dict) else None
    if found == "srraw-truth":
        return _describe_truth(record, path)
    if found != "srraw-alignment":
        raise UserError(
            f"{path} is JSON, but none that srraw describes.",
            "Give a sequence.json, an alignment.json or a truth.json.",
        )
    pairs = read_alignment(path)
    return {
        "kind": "alignment",
        "pairs": len(pairs),
        "rejected": sum(pair.status != "ok" for pair in pairs),
        "rows": [
            {
                "low": pair.low,
                "high": pair.high,
                "zoom": pair.zoom,
                "offset": round(pair.scale_offset, 5),
                "score": round(pair.score, 4),
                "residual px": pair.residual_px,
                "status": pair.reason or pair.status,
            }
            for pair in pairs
        ],
    }


def _describe_truth(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """The geometry of a simulated sequence, which no other stage reads."""
    try:
        return {
            "kind": "truth of a simulated sequence",
            "pairs": len(record["pairs"]),
            "width": record["size"][1],
            "height": record["size"][0],
            "planes_m": ["infinity" if plane is None else plane for plane in record["planes_m"]],
            "rows": [
                {
                    "file": shot["file"],
                    "true mm": shot["focal_true"],
                    "rotation deg": shot["rotation_deg"],
                    "shift px": list(shot["shift_px"]),
                    "k1": shot["k1"],
                }
                for shot in record["shots"]
            ],
        }
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is damaged: {error!r}.", "Simulate the sequence again.") from error


def _describe_shards(path: Path) -> dict[str, Any]:
    from srraw_tools import shards

    with shards.open(path) as reader:
        return {
            "kind": "packed pairs",
            "created_by": reader.created_by,
            "zooms": list(reader.zooms),
            "shards": [shard.name for shard in shards.shard_files(path)] or [path.name],
            "options": {k: "by a file" if isinstance(v, dict) else v for k, v in reader.options.items()},
            "pairs": len(reader.pairs),
            "problems": list(reader.problems),
            "rows": [
                {
                    "pair": pair.name,
                    "split": pair.split,
                    "mm": f"{pair.focal_low or 0:.4g}-{pair.focal_high or 0:.4g}",
                    "mosaic": f"{pair.size[1]} x {pair.size[0]}",
                    "cfa": pair.cfa,
                    "target": pair.target_space,
                }
                for pair in reader.pairs
            ],
        }
