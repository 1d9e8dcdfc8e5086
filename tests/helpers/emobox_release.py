"""Small fake list folders of the EmoBox benchmark, and recordings for them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

LABEL_MAP = {"anger": "Angry", "boredem": "Boredom", "happy": "Happy"}
LABEL_MAP |= {"Neutral": "Neutral", "sad": "Sad"}


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One utterance of a list, such as Spoken("03a01W", "anger", "male_03")."""

    name: str
    label: str
    speaker: str
    folder: str = "wav"
    suffix: str = ".wav"
    span: tuple[float, float] | None = None

    def row(self, dataset: str) -> dict[str, object]:
        """Returns the object of the list, with the keys of the published ones."""
        span = {} if self.span is None else {"start_time": self.span[0], "end_time": self.span[1]}
        return {
            "key": f"{dataset}-{self.name}",
            "dataset": dataset,
            "wav": f"downloads/{dataset}/{self.folder}/{self.file}",
            "type": "raw",
            "sample_rate": 16000,
            "num_frame": 30045.0,
            "task": "category",
            "length": 1.8778125,
            "emo": self.label,
            "channel": 1,
            **span,
        }

    @property
    def file(self) -> str:
        """Name of the recording; utterances with spans share it."""
        return f"{'long' if self.span else self.name}{self.suffix}"


def utterances(
    speakers: Sequence[str] = ("male_03", "female_08", "female_09"), per_label: int = 2
) -> list[Spoken]:
    """Returns utterances of every speaker with every label but boredom."""
    labels = [label for label in ("anger", "happy", "neutral", "sad") for _ in range(per_label)]
    return [
        Spoken(f"{who[-2:]}{n:02}", label, who)
        for who in speakers
        for n, label in enumerate(labels)
    ]


def write_lists(
    folder: Path,
    folds: Mapping[int, Mapping[str, Sequence[Spoken]]],
    *,
    label_map: Mapping[str, str] | None = None,
    speakers: bool = True,
) -> Path:
    """Writes the folder of a dataset: fold number → part (train, valid, test) → utterances."""
    folder.mkdir(parents=True)
    dataset = folder.name
    (folder / "label_map.json").write_text(json.dumps(label_map or LABEL_MAP, indent=4))
    everything = {
        one.name: one for parts in folds.values() for some in parts.values() for one in some
    }
    if speakers:
        stm = "".join(
            f"{dataset}-{one.name} 1 {one.speaker} 0 1.87 "
            f"<id={dataset}-{one.name},lang=en,spk={one.speaker},emotion={one.label}> {one.label}\n"
            for one in everything.values()
        )
        (folder / "data.seg.wrd.stm").write_text(stm)
    for number, parts in folds.items():
        (folder / f"fold_{number}").mkdir()
        for part, members in parts.items():
            text = "".join(json.dumps(one.row(dataset)) + "\n" for one in members)
            (folder / f"fold_{number}/{dataset}_{part}_fold_{number}.jsonl").write_text(text)
        # Left over from an older version of the benchmark, with other keys: not a list of the fold.
        old = json.dumps({"key": "x", "audio": "downloads/x.wav", "label": "anger"}) + "\n"
        (folder / f"fold_{number}/{dataset}_test_fold{number}.jsonl").write_text(old)
    return folder


def write_recordings(root: Path, members: Sequence[Spoken]) -> Path:
    """Writes empty recordings, for a reader that does not open them; returns the root."""
    for one in members:
        path = root / one.folder / one.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root
