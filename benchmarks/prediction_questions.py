"""What the prediction experiments ask: surveys, losses, and questions, as overrides of the four scripts."""

from __future__ import annotations

from typing import NamedTuple

from loss_experiments import DEMO, MODEL, Settings
from loss_experiments import VARIANTS as LOSSES

BY_LOSS = {name: LOSSES[name] for name in ("ce", "combined", "combined_1", "proper_1", "smoothed_1", "mixed_3")}
# One part of the program each, on or off, with the loss of ``mixed_3``; every other part as in SETTINGS.
PARTS = {
    "documented": (
        "sequence=random",
        "sequence.questions=[]",
        "model.values=null",
    ),  # tokens by name, any order: what all this began with
    "random": ("sequence=random", "sequence.questions=[]"),
    "unnamed": ("sequence.questions=[]",),
    "names": ("model.values=null",),
    "periodic": ("model.values.scalar=periodic",),
    "head": ("model.values.head=true",),
    "errors": ("model.values.errors=true",),
    "redraw": ("sequence.redraw=1.0",),
    "dropout": ("model.dropout=0.1",),
    "by_object": ("loss.balance=object",),
}
VARIANTS = BY_LOSS | {name: (*LOSSES["mixed_3"], *overrides) for name, overrides in PARTS.items()}
SPLITS = ("data.splits.val_fraction=0.1", "data.splits.test_fraction=0.2")
BANDS = ("u", "J0378", "J0395", "J0410", "J0430", "g", "J0515", "r", "J0660", "i", "J0861", "z")
MAGNITUDES = tuple(f"mag_pstotal_{band}" for band in BANDS)
NEAR_INFRARED = tuple(f"mag_auto_{band}" for band in ("u", "g", "r", "i", "Z", "Y", "J", "H", "Ks"))

SKY = (
    *DEMO,
    *SPLITS,
    "data.synthetic.n_objects_per_field=750",
    "data.synthetic.image_fraction=0.15",
    "data.synthetic.spectrum_fraction=0.3",
)
CPU = ("hardware=cpu", "hardware.n_threads=1", "tracking=off", *SPLITS)
# The survey's photometric redshift is a column of its own here. Hot stars are brighter than the range in which the
# survey's own magnitudes can be trusted; their synthetic ones can.
SPLUS = (
    "data=splus",
    *CPU,
    "+data.scalars={photz_z:{min:0.0,max:2.0}}",
    *(f"data.scalars.{name}.fit_min=8" for name in MAGNITUDES),
)
KIDS = ("data=kids_viking", *CPU)


def named(*questions: tuple[tuple[str, ...], str | None, float]) -> str:
    """``sequence.questions`` of what is predicted, what is given, and the share of each.

    >>> named((("z",), "[scalar]", 0.5))
    'sequence.questions=[{predict: [z], given: [scalar], share: 0.5}]'
    """
    parts = [f"{{predict: [{','.join(p)}], given: {g or 'null'}, share: {share}}}" for p, g, share in questions]
    return f"sequence.questions=[{', '.join(parts)}]".replace(",", ", ").replace(",  ", ", ")


ASKED = ("mag_pstotal_u", "mag_pstotal_g", "mag_pstotal_r", "mag_pstotal_z")  # of the 12: boosting takes its time
ALL = f"[{','.join(MAGNITUDES)}]"
XP = "[gaiaxp_bp,gaiaxp_rp]"
# Asked order. A share is of the sequences of all objects; those that lack what is asked, or given, have a drawn one.
ASK = ("sequence=ask", "training.epochs=1000")
NAMED = {
    "synthetic": named(
        *(((column,), "[scalar]", 0.06) for column in ASKED),
        *(((column,), None, 0.03) for column in ASKED),
        (("specz_z",), "[scalar]", 0.1),
        (("specz_z",), None, 0.1),
        (ASKED, "[image]", 0.1),
        (ASKED, "[spectrum]", 0.1),
        (ASKED, XP, 0.1),
    ),
    "splus": named((("photz_z",), ALL, 0.4), (ASKED, "[gaiaxp]", 0.3), (("gaiaxp",), ALL, 0.3)),
    "kids": named((NEAR_INFRARED, "[image]", 0.7)),
}
TINY = (*MODEL, "optimizer.learning_rate=4e-3")  # 1e-3 and 1e-2 were worse
CODEC = "tokenizer.image.codec"

# Models that answer any question, in about two CPU-minutes each. Spectra have few tokens: what is short is time.
SETTINGS: Settings = {
    "synthetic": {
        "train_tokenizers": (*SKY, "tokenizer.spectrum.patch_size=64", f"{CODEC}.training.epochs=40"),
        "encode": SKY,
        "train_lm": (
            *SKY,
            *ASK,
            NAMED["synthetic"],
            *TINY,
            "training.max_steps=500",
            "training.batch_size=8",
            "training.val_every=250",
        ),
    },
    "splus": {
        "train_tokenizers": (
            *SPLUS,
            "tokenizer=recommended",
            "tokenizer.image=null",
            "tokenizer.scalar.n_bins=256",
            "tokenizer.spectrum.groups=[gaiaxp]",
            "tokenizer.spectrum.patch_size=16",
            "tokenizer.spectrum.quantizer.n_codes=256",
        ),
        "encode": SPLUS,
        "train_lm": (
            *SPLUS,
            *ASK,
            NAMED["splus"],
            *TINY,
            "sequence.modalities=[scalar,spectrum]",
            "training.max_steps=750",
            "training.batch_size=32",
            "training.val_every=375",
        ),
    },
    "kids": {
        "train_tokenizers": (
            *KIDS,
            "tokenizer=recommended",
            "tokenizer.scalar.n_bins=64",
            f"{CODEC}.width=32",
            f"{CODEC}.training.batch_size=16",
            f"{CODEC}.training.epochs=30",
            "tokenizer.image.quantizer.n_codes=256",
        ),
        "encode": KIDS,
        "train_lm": (
            *KIDS,
            *ASK,
            NAMED["kids"],
            *TINY,
            "training.max_steps=280",
            "training.batch_size=4",
            "training.val_every=140",
        ),
    },
}
REFERENCE_SEED = 0  # of the model beside which baselines are judged
MARGINAL = "evaluate.judge.baselines=[marginal]"
ALL_BASELINES = "evaluate.judge.baselines=[marginal,neighbours,boosting,boosting_colours,network]"


class Question(NamedTuple):
    """One run of ``evaluate.py`` for every model.

    ``fields``: those in which the asked quantity is; elsewhere the marginal would be that of other objects.
    Boosting of the thousands of numbers of all spectra takes many minutes per column. So in the run with baselines
    fewer columns may be asked, ``against``, or all are given less, ``against_given``, the model too.
    """

    text: str
    given: str | None  # null: everything else
    predict: tuple[str, ...]
    fields: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    against_given: str | None = None
    spectrum: bool = False

    def overrides(self, *, baselines: bool = False) -> tuple[str, ...]:
        """Of ``evaluate.py``; with ``baselines`` those of the run that judges them too."""
        asked = self.against if baselines and self.against else self.predict
        chosen = [f"evaluate.predict=[{','.join(asked)}]", "evaluate.splits=[test]"]
        given = self.against_given if baselines and self.against_given else self.given
        chosen += [f"evaluate.given={given}"] if given else []
        chosen += [f"data.fields=[{','.join(self.fields)}]"] if self.fields else []
        if self.spectrum:
            return *chosen, "evaluate.n_samples=8", "evaluate.judge=null"
        chosen += ["evaluate.judge.calibrate=false"]
        # intervals of single models are not read: those of the comparison are made by object, over the seeds
        return *chosen, *((ALL_BASELINES,) if baselines else (MARGINAL, "evaluate.judge.n_resamples=20"))


R = ("mag_pstotal_r",)
MATRIX = (
    *ASKED,
    "vista_japermag6",
    "gaia_parallax",
    "gaia_teff_gspphot",
    "specz_z",
    "a_pixel_det",
    "ellipticity_det",
    "theta_det",
    "fwhm_n_det",
)
QUESTIONS: dict[str, dict[str, Question]] = {
    "synthetic": {
        "magnitudes": Question("magnitudes u, g, r, z, from everything else", None, ASKED, against_given="[scalar]"),
        "redshift": Question("redshift, from everything else", None, ("specz_z",), against_given="[scalar]"),
        "images": Question("magnitudes u, g, r, z, from images alone", "[image]", ASKED),
        "spectra": Question("magnitudes u, g, r, z, from spectra alone", "[spectrum]", ASKED, against_given=XP),
    },
    "splus": {
        "from_xp": Question("magnitudes u, g, r, z of hot stars, from Gaia XP", "[gaiaxp]", ASKED, ("GAIAXP",), R),
        "to_xp": Question("Gaia XP of hot stars, from 12 magnitudes", ALL, ("gaiaxp",), ("GAIAXP",), spectrum=True),
        "photo_z": Question(
            "the survey's photometric redshift of galaxies, from 12 magnitudes", ALL, ("photz_z",), ("SPLUSDR4",)
        ),
        "redshift": Question("spectroscopic redshift, from everything else", None, ("specz_z",), ("BOSS3655", "DESI")),
    },
    "kids": {
        "cutouts": Question("9 magnitudes, from cutouts alone", "[image]", NEAR_INFRARED),
    },
}
