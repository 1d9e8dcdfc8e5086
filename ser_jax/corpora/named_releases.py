"""The published corpora whose file names say everything: a row each, and no other code.

Sources of names, labels and counts: Burkhardt et al., "A Database of German Emotional Speech"
(Interspeech 2005); Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech
and Song" (PLoS ONE 2018); Cao et al., "CREMA-D" (IEEE Trans. Affective Computing 2014);
Pichora-Fuller and Dupuis, "Toronto emotional speech set" (2020); Haq and Jackson, "Multimodal
Emotion Recognition" (2010); Zhou et al., "Emotional Voice Conversion: Theory, Databases and ESD"
(Speech Communication 2022); Mohamad Nezami et al., "ShEMO" (Language Resources and Evaluation
2019).
"""

from ser_jax.corpora.file_names import Fields, Release

_EMODB_AGES = {"03": 31, "08": 34, "09": 21, "10": 32, "11": 26, "12": 30, "13": 32, "14": 35}
_EMODB_AGES |= {"15": 25, "16": 31}
_FEMALE = {"08", "09", "13", "14", "16"}  # of EMO-DB


def _emodb(fields: Fields) -> Fields:
    speaker = fields["speaker"]
    gender = "female" if speaker in _FEMALE else "male"
    age = {"age": str(_EMODB_AGES[speaker])} if speaker in _EMODB_AGES else {}
    return {"language": "German", "gender": gender, **age}


def _ravdess(fields: Fields) -> Fields:
    return {
        "language": "English",
        "gender": "male" if int(fields["speaker"]) % 2 else "female",
        "intensity": {"01": "normal", "02": "strong"}[fields["intensity"]],
    }


_CREMAD_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}


def _cremad(fields: Fields) -> Fields:
    level = _CREMAD_LEVELS.get(fields["level"].upper(), "unspecified")
    return {"language": "English", "intensity": level}


def _tess(fields: Fields) -> Fields:
    young = fields["speaker"].upper() == "YAF"
    return {
        **{"language": "English", "gender": "female", "text": fields["text"].lower()},
        **{"speaker": "YAF" if young else "OAF", "age": "26" if young else "64"},
    }


def _esd(fields: Fields) -> Fields:
    chinese = int(fields["speaker"]) <= 10
    number = (int(fields["number"]) - 1) % 350 + 1
    parts = {"evaluation": "devel", "test": "test", "train": "train", "": ""}
    return {
        "language": "Mandarin" if chinese else "English",
        "text": f"{'zh' if chinese else 'en'}{number:03}",
        "split": parts[fields["split"]],
    }


def _shemo(fields: Fields) -> Fields:
    gender = {"F": "female", "M": "male"}[fields["speaker"][0].upper()]
    return {"language": "Persian", "gender": gender, "speaker": fields["speaker"].upper()}


RELEASES: dict[str, Release] = {
    "emodb": Release(
        title="EMO-DB",
        pattern=r"(?P<speaker>\d\d)(?P<text>[abc]\d\d)(?P<label>[WLEAFTN])(?P<version>[a-f]?)",
        example="wav/03a01Fa.wav",
        labels={
            **{"W": "angry", "L": "boredom", "E": "disgust", "A": "fear"},
            **{"F": "happy", "T": "sad", "N": "neutral"},
        },
        counts={
            **{"angry": 127, "boredom": 81, "disgust": 46, "fear": 69},
            **{"happy": 71, "neutral": 79, "sad": 62},
        },
        speakers=10,
        texts=10,
        licence="CC0-1.0",
        source="audb: emodb 1.4.1",
        also=_emodb,
        id="",
        inside="wav",
        protocol="emodb4-speaker10",
        larger=(
            "emodb4-v2-speaker10",
            "more than 535 recordings: this is version 2.0.0, whose 281 others are those that"
            " listeners did not agree on; scores do not compare with those of version 1",
        ),
    ),
    "ravdess": Release(
        title="RAVDESS (speech)",
        pattern=(
            r"03-01-(?P<label>0[1-8])-(?P<intensity>0[12])-(?P<text>0[12])-(?P<repetition>0[12])"
            r"-(?P<speaker>\d\d)"
        ),
        others=r"0[1-3]-0[12]-0\d-0\d-0\d-0\d-\d\d",
        example="Actor_01/03-01-06-01-02-01-01.wav",
        labels={
            **{"01": "neutral", "02": "calm", "03": "happy", "04": "sad"},
            **{"05": "angry", "06": "fear", "07": "disgust", "08": "surprise"},
        },
        counts={
            **dict.fromkeys(("angry", "calm", "disgust", "fear", "happy", "sad", "surprise"), 192),
            "neutral": 96,
        },
        speakers=24,
        texts=2,
        licence="CC BY-NC-SA 4.0",
        source="zenodo.org/records/1188976 (Audio_Speech_Actors_01-24.zip)",
        also=_ravdess,
    ),
    "cremad": Release(
        title="CREMA-D",
        pattern=(
            r"(?P<speaker>1\d{3})_(?P<text>[A-Z]{3})_(?P<label>ANG|DIS|FEA|HAP|NEU|SAD)"
            r"_(?P<level>LO|MD|HI|XX?)"
        ),
        example="AudioWAV/1001_DFA_ANG_XX.wav",
        labels={
            **{"ANG": "angry", "DIS": "disgust", "FEA": "fear"},
            **{"HAP": "happy", "NEU": "neutral", "SAD": "sad"},
        },
        counts={
            **dict.fromkeys(("angry", "disgust", "fear", "happy", "sad"), 1271),
            "neutral": 1087,
        },
        speakers=91,
        texts=12,
        licence="ODbL",
        source="github.com/CheyneyComputerScience/CREMA-D",
        also=_cremad,
        people="VideoDemographics.csv",
    ),
    "tess": Release(
        title="TESS",
        # One file of the release has lost a letter of its speaker: OA_bite_neutral.wav.
        pattern=(
            r"(?P<speaker>(?i:OAF?|YAF))_(?P<text>(?i:[a-z-]+))"
            r"_(?P<label>(?i:angry|disgust|fear|happy|neutral|ps|sad))"
        ),
        example="OAF_angry/OAF_back_angry.wav",
        labels={
            **{"angry": "angry", "disgust": "disgust", "fear": "fear", "happy": "happy"},
            **{"neutral": "neutral", "ps": "surprise", "sad": "sad"},
        },
        counts=dict.fromkeys(
            ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"), 400
        ),
        speakers=2,
        texts=200,
        licence="CC BY-NC-ND 4.0",
        source="doi.org/10.5683/SP2/E8H2MF",
        also=_tess,
    ),
    "savee": Release(
        title="SAVEE",
        pattern=r"(?P<speaker>DC|JE|JK|KL)[/_](?P<label>a|d|f|h|n|sa|su)(?P<number>\d\d)",
        example="AudioData/DC/a01.wav",
        labels={
            **{"a": "angry", "d": "disgust", "f": "fear", "h": "happy"},
            **{"n": "neutral", "sa": "sad", "su": "surprise"},
        },
        counts={
            **dict.fromkeys(("angry", "disgust", "fear", "happy", "sad", "surprise"), 60),
            "neutral": 120,
        },
        speakers=4,
        texts=0,  # the numbers of neutral sentences do not say which emotion shares them
        licence="research only",
        source="kahlan.eps.surrey.ac.uk/savee (registration)",
        also=lambda fields: {"language": "English", "gender": "male"},
        id="{speaker}_{label}{number}",
    ),
    "esd": Release(
        title="ESD",
        pattern=(
            r"(?P<label>Angry|Happy|Neutral|Sad|Surprise)/(?:(?P<split>train|evaluation|test)/)?"
            r"(?P<speaker>00[01]\d|0020)_(?P<number>\d{6})"
        ),
        example="0011/Angry/train/0011_000351.wav",
        labels={
            **{"Angry": "angry", "Happy": "happy", "Neutral": "neutral"},
            **{"Sad": "sad", "Surprise": "surprise"},
        },
        counts=dict.fromkeys(("angry", "happy", "neutral", "sad", "surprise"), 7000),
        speakers=20,
        texts=700,
        licence="research only",
        source="github.com/HLTSingapore/Emotional-Speech-Data",
        also=_esd,
    ),
    "casia": Release(
        title="CASIA (open part)",
        pattern=(
            r"(?P<speaker>(?i:liuchanhg|wangzhe|zhaoquanyin|zhaozuoxiang))"
            r"/(?P<label>(?i:angry|fear|happy|neutral|sad|surprise))/(?P<text>\d{3})"
        ),
        example="liuchanhg/angry/201.wav",
        labels={name: name for name in ("angry", "fear", "happy", "neutral", "sad", "surprise")},
        counts=dict.fromkeys(("angry", "fear", "happy", "neutral", "sad", "surprise"), 200),
        speakers=4,
        texts=50,
        licence="licensed",
        source="Chinese LDC (CASIA Mandarin emotional corpus)",
        also=lambda fields: {"language": "Mandarin", "speaker": fields["speaker"].lower()},
        id="{speaker}/{label}/{text}",
    ),
    "shemo": Release(
        title="ShEMO",
        pattern=r"(?P<speaker>(?i:[FM])\d\d)(?P<label>(?i:[AHNSWF]))(?P<number>\d{2,3})",
        example="female/F01A05.wav",
        labels={
            **{"A": "angry", "F": "fear", "H": "happy", "N": "neutral", "S": "sad"},
            **{"W": "surprise"},
        },
        counts={
            **{"angry": 1059, "fear": 38, "happy": 201},
            **{"neutral": 1028, "sad": 449, "surprise": 225},
        },
        speakers=87,
        texts=0,
        licence="research only",
        source="github.com/pariajm/sharif-emotional-speech-database",
        also=_shemo,
    ),
}
