"""Small fake releases with the layout, names, list formats and traps of the real ones."""

import csv
import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf

SAMPLE_RATE = 16000
APPLE_DOUBLE = (
    b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X       "
    b" \x00\x02\x00\x00\x00\x09\x00\x00\x00\x32\xff\xfe"
)

# How each label sounds: pitch factor, syllables per second, spectral slope of the noise, level.
_MANNERS = {
    "angry": (1.5, 6.0, 0.2, 0.6),
    "happy": (1.9, 5.0, 0.6, 0.4),
    "neutral": (1.0, 4.0, 1.0, 0.25),
    "sad": (0.8, 2.5, 1.6, 0.1),
}
_MANNER_OF = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral"}
_MANNER_OF |= {"W": "angry", "F": "happy", "T": "sad"}


def tone_like_speech(seconds: float, label: str, speaker: str, seed: int) -> np.ndarray:
    """Returns a harmonic tone with syllables over coloured noise, in [-1, 1], f32.

    Label (a class name or the code of a corpus) sets pitch, rate, colour and level, so that tiny
    models can learn it; the speaker shifts the pitch, the seed varies everything a little. The same
    arguments give the same samples.
    """
    samples = max(1, round(seconds * SAMPLE_RATE))
    pitch, rate, slope, level = _MANNERS.get(_MANNER_OF.get(label, label), _MANNERS["neutral"])
    rng = np.random.default_rng([zlib.crc32(label.encode()), zlib.crc32(speaker.encode()), seed])
    voice = 100.0 + zlib.crc32(speaker.encode()) % 100
    time = np.arange(samples) / SAMPLE_RATE
    hertz = voice * pitch * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(1, 3) * time))
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    tone = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 7))
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 1.0) ** -slope, n=samples)
    noise /= np.abs(noise).max() + 1e-9
    syllables = 0.55 + 0.45 * np.sin(
        2 * np.pi * rate * rng.uniform(0.9, 1.1) * time + rng.uniform(0, 2 * np.pi)
    )
    wave = (0.3 * tone + 0.3 * noise) * syllables * level * rng.uniform(0.8, 1.0)
    return np.clip(wave, -1.0, 1.0).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Writes a 16 kHz mono 16-bit recording."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples, SAMPLE_RATE, subtype="PCM_16")


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of IEMOCAP, such as Turn("Ses01F_impro05_M019", "ang", 16000)."""

    name: str
    label: str
    samples: int = 8000

    @property
    def session(self) -> int:
        return int(self.name[4])

    @property
    def dialog(self) -> str:
        return self.name[:-5]

    @property
    def speaker(self) -> str:
        return self.name[:5] + self.name[-4]

    @property
    def wav(self) -> str:
        """Path of the recording in the release."""
        return f"Session{self.session}/sentences/wav/{self.dialog}/{self.name}.wav"


# One of each trap: turns of the other speaker than the dialog's letter, a dialog with a part
# letter, excited beside happy, and labels that are none of the four classes.
TRAP_TURNS = (
    Turn("Ses01F_impro01_F000", "neu"),
    Turn("Ses01F_impro01_M000", "ang"),
    Turn("Ses01F_impro01_M001", "xxx"),
    Turn("Ses01M_script01_1_F000", "exc"),
    Turn("Ses01M_script01_1_M000", "hap"),
    Turn("Ses01M_script01_1_F001", "fru"),
    Turn("Ses05M_script01_1b_F000", "sad"),
    Turn("Ses05M_script01_1b_M000", "ang"),
    Turn("Ses05M_script01_1b_M001", "sur"),
    Turn("Ses05F_impro02_M000", "fea"),
    Turn("Ses05F_impro02_M001", "oth"),
    Turn("Ses05F_impro02_F000", "dis"),
    Turn("Ses05F_impro02_F001", "hap"),
)


def iemocap_turns(
    sessions: Iterable[int] = range(1, 6), per_label: int = 2, samples: int = 12000
) -> list[Turn]:
    """Returns `per_label` turns of every speaker and label of the four classes."""
    turns = []
    for session, gender in itertools.product(sessions, "FM"):
        labels = [label for label in ("ang", "exc", "hap", "neu", "sad") for _ in range(per_label)]
        turns += [
            # The dialog is Ses0nF for both speakers: its letter does not say who speaks.
            Turn(f"Ses0{session}F_impro01_{gender}{number:03d}", label, samples + 400 * number)
            for number, label in enumerate(labels)
        ]
    return turns


def iemocap_speech(turn: Turn) -> np.ndarray:
    """Returns the samples of a turn as `write_iemocap` writes them."""
    return tone_like_speech(
        turn.samples / SAMPLE_RATE, turn.label, turn.speaker, zlib.crc32(turn.name.encode())
    )


def write_iemocap(
    root: Path,
    turns: Sequence[Turn],
    *,
    audio: Callable[[Turn], np.ndarray] | None = iemocap_speech,
) -> Path:
    """Writes `IEMOCAP_full_release` under `root` with everything that has misled readers.

    `audio`: the samples of a turn; None: empty files, for a reader that does not open them.
    """
    release = root / "IEMOCAP_full_release"
    dialogs: dict[str, list[Turn]] = {}
    for turn in turns:
        dialogs.setdefault(turn.dialog, []).append(turn)
        path = release / turn.wav
        path.parent.mkdir(parents=True, exist_ok=True)
        if audio is None:
            path.touch()
        else:
            write_wav(path, audio(turn))
    for dialog, members in dialogs.items():
        session = release / f"Session{members[0].session}"
        _write_evaluation(session / "dialog/EmoEvaluation", dialog, members)
        _write(session / f"sentences/wav/{dialog}/._{members[0].name}.wav", APPLE_DOUBLE)
        _write(session / f"sentences/wav/._{dialog}", APPLE_DOUBLE)
        spoken = "".join(f"{turn.name} [000.0000-001.0000]: Excuse me.\n" for turn in members)
        _write(session / f"dialog/transcriptions/{dialog}.txt", spoken.encode())
    return release


def _write_evaluation(folder: Path, dialog: str, members: Sequence[Turn]) -> None:
    text = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    start = 6.2901
    for turn in members:
        end = start + turn.samples / SAMPLE_RATE
        text += (
            f"[{start:.4f} - {end:.4f}]\t{turn.name}\t{turn.label}\t[2.5000, 2.5000, 2.5000]\n"
            "C-E2:\tNeutral;\t()\nC-E3:\tAnger; Frustration;\t()\nC-E4:\tSadness;\t()\n"
            f"C-{turn.speaker[-1]}1:\tNeutral;\t(curious)\n"
            "A-E3:\tval 3; act 2; dom  2;\t()\nA-E4:\tval 2; act 3; dom  3;\t(mildly aggravated)\n"
            f"A-{turn.speaker[-1]}1:\tval 3; act 2; dom  1;\t()\n\n"
        )
        start = end + 0.5
    _write(folder / f"{dialog}.txt", text.encode())
    first = members[0]
    summary = f"[1.0000 - 2.0000]\t{first.name}\tsad\t"
    _write(folder / f"._{dialog}.txt", APPLE_DOUBLE + f"\n{summary}\n".encode())
    # Opinions of single raters, some in the very format of the summary: none of them is a label.
    opinion = f"{first.name} :Sadness; ()\n{summary}[1.0000, 1.0000, 1.0000]\n"
    _write(folder / f"Categorical/{dialog}_e2_cat.txt", opinion.encode())
    _write(folder / f"Attribute/{dialog}_e3_atr.txt", f"{first.name} :act 2; :val 3; ()\n".encode())
    _write(
        folder / f"Self-evaluation/{dialog}_{first.speaker[-1].lower()}1_cat.txt", opinion.encode()
    )


def write_iemocap_from_turns(
    root: Path,
    csv_path: Path,
    sessions: Iterable[int] = (1,),
    cap_seconds: float | None = None,
    *,
    empty: bool = False,
) -> Path:
    """Writes the turns of a list (session, turn, label, samples) as noise of their lengths."""
    wanted = set(sessions)
    with open(csv_path, newline="", encoding="utf-8") as file:
        turns = [
            Turn(row["turn"], row["label"], int(row["samples"]))
            for row in csv.DictReader(file)
            if int(row["session"]) in wanted
        ]
    longest = max(turn.samples for turn in turns)
    limit = longest if cap_seconds is None else round(cap_seconds * SAMPLE_RATE)
    turns = [dataclasses.replace(turn, samples=min(turn.samples, limit)) for turn in turns]
    # One buffer for all turns: making noise for seven hours would take longer than writing it.
    buffer = np.random.default_rng(0).integers(-3000, 3000, limit + SAMPLE_RATE, dtype=np.int16)

    def noise(turn: Turn) -> np.ndarray:
        offset = zlib.crc32(turn.name.encode()) % SAMPLE_RATE
        return buffer[offset : offset + turn.samples]

    return write_iemocap(root, turns, audio=None if empty else noise)


def emotass_rows(train: int = 4, devel: int = 4, test: int = 2) -> list[tuple[str, str | None]]:
    """Returns (file name, label) rows: per class in train and devel, unlabelled in test."""
    rows: list[tuple[str, str | None]] = []
    for part, count in (("train", train), ("devel", devel)):
        labels = [label for label in ("angry", "happy", "neutral", "sad") for _ in range(count)]
        rows += [(f"{part}_{number:04d}.wav", label) for number, label in enumerate(labels, 1)]
    return rows + [(f"test_{number:04d}.wav", None) for number in range(1, test + 1)]


def write_emotass(
    root: Path,
    rows: Sequence[tuple[str, str | None]],
    *,
    seconds: float = 0.75,
    name: str = "ComParE2018_AtypicalAffect",
) -> Path:
    """Writes a ComParE 2018 Atypical Affect release; a label of None leaves its row out."""
    release = root / name
    text = "file_name\temotion\n"
    for number, (file, label) in enumerate(rows):
        text += "" if label is None else f"{file}\t{label}\n"
        speech = tone_like_speech(seconds, label or "neutral", file.split("_")[0], number)
        write_wav(release / "wav" / file, speech)
    _write(release / "lab/ComParE2018_AtypicalAffect.tsv", text.encode())
    _write(release / "wav/._train_0001.wav", APPLE_DOUBLE)
    _write(release / "lab/._ComParE2018_AtypicalAffect.tsv", APPLE_DOUBLE)
    for part in ("train", "devel", "test"):
        header = "@relation ComParE2018_AtypicalAffect\n@attribute name string\n@data\n"
        _write(release / f"arff/ComParE2018_AtypicalAffect.ComParE.{part}.arff", header.encode())
    return release


def emodb_names(
    speakers: Sequence[str] = ("03", "08", "09", "10"), emotions: str = "WFNT", per_emotion: int = 2
) -> list[str]:
    """Returns file names of EMO-DB: each speaker says `per_emotion` texts in each emotion."""
    texts = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")[:per_emotion]
    return [
        f"{speaker}{text}{emotion}a.wav"
        for speaker in speakers
        for text in texts
        for emotion in emotions
    ]


def write_emodb(
    root: Path, names: Sequence[str], *, seconds: float = 0.75, folder: str = "wav"
) -> Path:
    """Writes an EMO-DB release `emodb`; with folder="" its recordings lie in the release itself."""
    release = root / "emodb"
    for number, name in enumerate(names):
        write_wav(release / folder / name, tone_like_speech(seconds, name[5:6], name[:2], number))
    _write(release / folder / f"._{names[0]}", APPLE_DOUBLE)
    _write(release / "erkennung.txt", b"Satz\terkannt\n")
    _write(release / "labsilb/03a01Fa.labsilb", b"separator ;\n")
    return release


# Paths in the releases whose file names say everything, with what has misled readers: folders in
# folders, copies in another folder or form, songs and films, names with a mistake, other cases.
NAMED_RELEASES: dict[str, tuple[str, ...]] = {
    "emodb": (
        *("wav/03a01Wa.wav", "wav/08b02L.wav", "wav/16c10Fb.wav", "wav/03a01Nc.wav"),
        *("copy/wav/03a01Wa.wav", "erkennung.txt"),
    ),
    "ravdess": (
        *("Actor_01/03-01-01-01-01-01-01.wav", "Actor_01/03-01-05-02-02-01-01.wav"),
        *("Actor_02/03-01-08-01-02-02-02.wav", "Actor_02/03-01-06-01-01-01-02.wav"),
        "Actor_02/03-02-06-01-01-01-02.wav",  # sung
        "Actor_02/01-01-06-01-01-01-02.mp4",  # a film
        "audio_speech_actors_01-24/Actor_01/03-01-01-01-01-01-01.wav",
        "audio_speech_actors_01-24/Actor_02/03-01-08-01-02-02-02.wav",
    ),
    "cremad": (
        *("AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1001_IEO_HAP_HI.wav"),
        *("AudioWAV/1002_DFA_NEU_XX.wav", "AudioWAV/1040_ITH_SAD_X.wav"),
        *("AudioMP3/1001_DFA_ANG_XX.mp3", "VideoFlash/1001_DFA_ANG_XX.flv"),
    ),
    "tess": (
        *("OAF_angry/OAF_back_angry.wav", "OAF_neutral/OA_bite_neutral.wav"),
        *("YAF_pleasant_surprised/YAF_back_ps.wav", "OAF_Sad/OAF_bite_sad.wav"),
        "TESS Toronto emotional speech set data/OAF_angry/OAF_back_angry.wav",
    ),
    "savee": (
        *("AudioData/DC/a01.wav", "AudioData/DC/sa01.wav", "AudioData/JE/su15.wav"),
        *("AudioData/KL/n30.wav", "AudioData/Info.txt"),
    ),
    "esd": (
        *("0001/Neutral/train/0001_000021.wav", "0001/Angry/test/0001_000371.wav"),
        *("0011/Neutral/evaluation/0011_000001.wav", "0011/Surprise/train/0011_001750.wav"),
        *("0011/0011.txt", "0011/Neutral/0011_000350.wav"),
    ),
    "casia": (
        *("liuchanhg/angry/201.wav", "liuchanhg/sad/201.wav", "ZhaoZuoxiang/fear/250.wav"),
        "wangzhe/surprise/202.wav",
    ),
    "shemo": ("female/F01A05.wav", "male/M02N01.wav", "male/M02W110.wav", "female/F01F01.wav"),
}


def write_named(root: Path, corpus: str) -> Path:
    """Writes a release of `NAMED_RELEASES` with empty files, as an archive tool of macOS does."""
    release = root / "download" / corpus
    for number, path in enumerate(NAMED_RELEASES[corpus]):
        folder, _, name = path.rpartition("/")
        _write(release / path, b"")
        if not number:
            _write(release / folder / f"._{name}", APPLE_DOUBLE)
            _write(root / "download/__MACOSX" / corpus / path, APPLE_DOUBLE)
    if corpus == "cremad":
        people = "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n"
        _write(release / "VideoDemographics.csv", people.encode())
    return release


def write_meld(root: Path) -> Path:
    """Writes a MELD release with empty clips: a folder per part, a clip that every copy lacks."""
    release = root / "MELD.Raw"
    clips = {
        "train": ("train_splits", "dia0_utt0", "dia0_utt1", "dia125_utt3"),
        "dev": ("dev_splits_complete", "dia0_utt0", "dia1_utt0"),
        "test": ("output_repeated_splits_test", "dia0_utt0", "dia1_utt0"),
    }
    columns = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,StartTime"
    for part, (folder, *names) in clips.items():
        text = f"{columns}\n"
        for number, name in enumerate(names):
            dialogue, utterance = name.removeprefix("dia").split("_utt")
            emotion = ("joy", "neutral", "sadness")[number]
            said = '"Oh, it\x92s\u00e9, well"'
            text += f'{number},{said},Joey,{emotion},x,{dialogue},{utterance},"00:16:16,059"\n'
            if name != "dia125_utt3":
                _write(release / folder / f"{name}.mp4", b"")
        _write(release / f"{part}_sent_emo.csv", text.encode("latin-1"))
    _write(release / "train_splits/._dia0_utt0.mp4", APPLE_DOUBLE)
    _write(release / "output_repeated_splits_test/final_videos_testdia0_utt0.mp4", b"")
    _write(release / "train_splits/dia0_utt1.wav", b"")
    return release


def write_msp_podcast(root: Path) -> Path:
    """Writes an MSP-Podcast release with empty recordings."""
    release = root / "MSP-PODCAST-Publish-1.11"
    rows = (
        *("0001,A,1,Female,Train", "0002,X,Unknown,Unknown,Train", "0003,O,2,Male,Development"),
        *("0004,N,3,Male,Development", "0005,H,4,Female,Test1", "0006,S,5,Male,Test2"),
        "0007,Q,5,Male,Test1",
    )
    text = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
    for row in rows:
        number, emotion, speaker, gender, split = row.split(",")
        name = f"MSP-PODCAST_{number}_0001.wav"
        text += f"{name},{emotion},4.2,3.8,5,{speaker},{gender},{split}\n"
        _write(release / "Audios" / name, b"")
    _write(release / "Labels/labels_consensus.csv", text.encode())
    return release


def manifest_rows(speakers: int = 4, per_label: int = 2) -> list[dict[str, str]]:
    """Returns rows of every speaker with every canonical class `per_label` times."""
    return [
        {"file": f"audio/s{speaker}/{label}{number}.wav", "label": label, "speaker": f"s{speaker}"}
        for speaker in range(speakers)
        for label in ("angry", "happy", "neutral", "sad")
        for number in range(per_label)
    ]


def write_manifest(
    root: Path,
    rows: Sequence[Mapping[str, str]],
    *,
    name: str = "manifest.csv",
    delimiter: str = ",",
    columns: Sequence[str] | None = None,
    encoding: str = "utf-8",
    seconds: float | Sequence[float] | None = 0.75,
) -> Path:
    """Writes a manifest and, unless `seconds` is None, its recordings; returns its path.

    `seconds`: of every recording, or of each.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / name
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    if seconds is None:
        return path
    lengths = np.broadcast_to(seconds, len(rows)).tolist()
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        target = root / row["file"]
        if not target.exists():
            speaker = row.get("speaker", "")
            write_wav(target, tone_like_speech(length, row["label"], speaker, number))
    return path


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
