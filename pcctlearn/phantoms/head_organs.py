"""The organs of a head as solids; paired organs are those of the left side."""

from math import cos, radians, sin

from pcctlearn.phantoms.organs import Solid

GAS, FAT, CSF, SKIN, MUSCLE = -980.0, -95.0, 8.0, 25.0, 55.0  # HU
WHITE, GREY, DURA, SPONGY, CORTICAL, DENSE = 27.0, 38.0, 58.0, 450.0, 1000.0, 1600.0

# A head of average size, 19 cm long and 15 cm wide; the origin is the middle of the brain and the
# vertex is at z = 9 cm.
SCALP = Solid(SKIN, 0, 0, -0.3, 7.5, 9.5, 9.4, power=2.2)
FACE = Solid(SKIN, 0, 3.7, -5.0, 6.7, 5.9, 7.8, power=3)
NECK = Solid(SKIN, 0, -1.6, -30, 6.2, 6.4, 34, power=2.6)
VAULT = Solid(CORTICAL, 0, 0, 0.2, 7.0, 8.95, 8.2, power=2.2)

NOSE_TIP = [
    Solid(SKIN, 0, 9.0, -5.0, 1.5, 1.9, 1.2),
    Solid(SKIN, 0, 9.2, -3.7, 0.9, 1.1, 2.3, 0, 20),
]
EARS = [
    Solid(SKIN, 7.3, -1.5, -2.8, 0.35, 1.5, 2.9, -25, 12),
    Solid(GAS, 7.6, -1.0, -2.8, 0.3, 0.8, 1.7, -25, 12),
]
ORBIT = [
    Solid(CORTICAL, 3.3, 6.3, -2.7, 2.1, 2.9, 2.1, -20),
    Solid(FAT, 3.3, 6.6, -2.7, 1.85, 2.9, 1.85, -20),
    Solid(48, 2.2, 5.6, -2.7, 0.17, 1.8, 0.5, -5), Solid(48, 4.3, 5.9, -2.7, 0.17, 1.7, 0.5, -35),
    Solid(48, 3.1, 5.8, -1.4, 0.5, 1.7, 0.17, -20), Solid(48, 3.1, 5.8, -4.0, 0.5, 1.7, 0.17, -20),
    Solid(33, 2.6, 5.2, -2.7, 0.2, 1.8, 0.2, -20),
]  # fmt: skip
EYE = [Solid(SKIN, 3.35, 8.0, -2.7, 1.5, 1.25, 1.3), Solid(50, 3.3, 7.6, -2.7, 1.25, 1.25, 1.25),
       Solid(10, 3.3, 7.6, -2.7, 1.12, 1.12, 1.12),
       Solid(75, 3.35, 8.4, -2.7, 0.45, 0.22, 0.45)]  # fmt: skip
FACE_BONES = {
    "zygoma": [Solid(CORTICAL, 5.0, 6.6, -4.2, 0.42, 1.3, 1.3, 35),
               Solid(CORTICAL, 5.3, 6.2, -2.6, 0.35, 0.5, 1.4, 35),
               Solid(CORTICAL, 6.0, 3.2, -4.4, 0.28, 3.0, 0.4, 8)],
    "maxilla": [Solid(CORTICAL, 2.8, 6.3, -5.9, 1.5, 2.2, 1.9, 38, power=3),
                Solid(GAS, 2.8, 6.3, -5.9, 1.33, 2.03, 1.73, 38, power=3)],
    "pterygoid": [Solid(CORTICAL, 1.5, 2.9, -5.2, 0.13, 0.9, 1.6, 12),
                  Solid(CORTICAL, 2.1, 2.8, -5.2, 0.13, 0.8, 1.5, -25)],
    "jaw": [Solid(CORTICAL, 4.6, 1.5, -7.6, 0.4, 1.4, 3.4, 8, 0, 5),
            Solid(SPONGY, 4.6, 1.5, -7.6, 0.18, 1.1, 3.0, 8, 0, 5),
            Solid(CORTICAL, 5.2, 0.7, -4.4, 0.9, 0.45, 0.7, 12),
            Solid(SPONGY, 5.2, 0.7, -4.4, 0.65, 0.25, 0.5, 12)],
    "buccal fat": [Solid(FAT, 4.6, 4.7, -5.6, 0.8, 1.5, 1.8, 20),
                         Solid(-30, 6.0, -0.2, -6.6, 0.7, 1.2, 2.0, -15)],
    "nasal bone": [Solid(CORTICAL, 0.42, 8.9, -2.6, 0.13, 0.7, 1.2, 25, 18)],
}  # fmt: skip
NOSE = [Solid(GAS, 0.75, 6.2, -5.3, 0.55, 2.9, 2.0, power=3),
        Solid(GAS, 0.7, 8.6, -5.9, 0.42, 1.1, 0.5, 0, -20),
        Solid(45, 0.95, 6.0, -6.4, 0.36, 2.2, 0.6),
        Solid(60, 0.9, 5.6, -4.7, 0.3, 1.9, 0.7)]  # fmt: skip
MIDLINE = {
    "palate": [Solid(CORTICAL, 0, 6.0, -7.7, 2.5, 2.5, 0.3),
               Solid(MUSCLE, 0, 3.0, -7.6, 2.0, 1.6, 0.4)],
    "tongue": [Solid(MUSCLE, 0, 4.8, -9.4, 2.4, 3.2, 1.5)],
    "pharynx": [Solid(GAS, 0, 2.0, -5.8, 1.2, 0.9, 1.4), Solid(GAS, 0, 1.1, -8.8, 1.1, 0.5, 2.6)],
    "larynx": [Solid(MUSCLE, 0, 1.8, -16, 1.5, 1.5, 5), Solid(GAS, 0, 1.8, -16, 0.85, 0.85, 6)],
}  # fmt: skip
SPINE = {
    "condyle": [Solid(CORTICAL, 1.8, -1.8, -6.3, 0.7, 1.1, 0.6, -25),
                Solid(SPONGY, 1.8, -1.8, -6.3, 0.5, 0.9, 0.4, -25)],
    "atlas": [Solid(CORTICAL, 2.2, -1.9, -7.4, 0.8, 0.95, 0.6, -15),
              Solid(SPONGY, 2.2, -1.9, -7.4, 0.55, 0.7, 0.4, -15),
              Solid(CORTICAL, 3.4, -2.3, -7.5, 0.8, 0.4, 0.4, -12),
              Solid(CORTICAL, 1.3, -4.4, -7.5, 1.5, 0.3, 0.45, 32),
              Solid(CORTICAL, 0.8, -0.7, -7.4, 1.1, 0.28, 0.5, -18)],
}  # fmt: skip

BRAIN = {
    "nuclei": [Solid(GREY, 2.3, 1.2, 0.9, 0.8, 2.0, 1.4, -16),
               Solid(GREY, 1.0, -0.9, 0.9, 0.85, 1.5, 0.9, -20),
               Solid(GREY, 1.6, 2.8, 1.8, 0.5, 1.0, 0.9, -10)],
    "sylvian fissure": [Solid(GREY, 4.0, 1.2, 0.0, 0.5, 2.0, 1.6, -10),
                        Solid(CSF, 4.45, 1.6, 0.1, 0.18, 1.9, 1.2, -10),
                        Solid(CSF, 5.2, 2.2, -0.6, 1.3, 0.2, 1.2, -12)],
    "cisterns": [Solid(CSF, 0.9, 1.8, -1.2, 1.3, 0.9, 0.5, -20),
                 Solid(CSF, 1.5, -0.6, -1.2, 0.25, 1.5, 0.7, 20),
                 Solid(CSF, 1.6, -0.9, -3.3, 1.5, 0.4, 0.5, -30)],
    "temporal horn": [Solid(CSF, 3.0, 0.4, -1.7, 0.22, 1.3, 0.3, -12)],
}  # fmt: skip
STEM = [Solid(CSF, 0, 0.5, -2.6, 1.5, 1.0, 1.6, 0, -15), Solid(CSF, 0, -2.9, -5.6, 1.4, 1.6, 1.2),
        Solid(WHITE, 0, -0.4, -1.2, 1.6, 1.1, 1.2), Solid(31, 0, -0.5, -2.7, 1.6, 1.3, 1.3, 0, -15),
        Solid(31, 0, -1.5, -4.5, 0.85, 0.8, 2.0, 0, -25), Solid(CSF, 0, -2.2, -2.9, 0.8, 0.4, 0.9),
        Solid(CSF, 0, -2.2, -0.6, 0.8, 0.35, 0.5)]  # fmt: skip
VENTRICLE = [
    Solid(CSF, 1.1, 0.2, 2.3, 0.6, 2.8, 0.7, 8), Solid(CSF, 1.35, 2.7, 1.7, 0.45, 1.6, 1.0, -22),
    Solid(CSF, 2.5, -3.1, 1.5, 0.7, 1.4, 1.1, 28), Solid(CSF, 2.7, -4.8, 1.1, 0.3, 1.5, 0.5, 10),
    Solid(CSF, 0.0, 0.6, 0.5, 0.22, 1.5, 0.8),
]  # fmt: skip
PINEAL = [Solid(280, 0, -1.8, 0.4, 0.25, 0.25, 0.2)]
CHOROID = [Solid(240, 2.5, -3.3, 1.4, 0.3, 0.5, 0.4, 25)]

BASE = {
    "petrous bone": [Solid(CORTICAL, 3.3, -0.5, -3.1, 3.0, 0.9, 0.85, -33),
                     Solid(DENSE, 3.5, -0.7, -3.1, 1.2, 0.6, 0.55, -33),
                     Solid(CSF, 2.3, -0.6, -3.0, 0.6, 0.2, 0.2, -10),
                     Solid(GAS, 4.9, -0.6, -3.2, 0.25, 0.6, 0.4)],
    "sphenoid ridge": [Solid(CORTICAL, 3.6, 3.8, -1.3, 3.0, 0.3, 0.35, 14),
                       Solid(CORTICAL, 4.9, 4.3, -2.6, 0.5, 1.2, 1.6, 50)],
    "sella": [Solid(CORTICAL, 0.3, 0.6, -1.8, 0.6, 0.15, 0.5),
              Solid(CORTICAL, 1.1, 2.9, -1.3, 0.2, 0.5, 0.2)],
}  # fmt: skip
MASTOID = [Solid(CORTICAL, 5.4, -2.2, -4.2, 1.15, 1.7, 2.0, -25)]
SPHENOID = [Solid(CORTICAL, 0, 2.4, -3.0, 2.0, 1.7, 1.2, power=2.6)]
CLIVUS = [
    Solid(CORTICAL, 0, 0.0, -4.0, 1.5, 0.55, 2.1, 0, -30),
    Solid(SPONGY, 0, 0.0, -4.0, 1.25, 0.35, 1.8, 0, -30),
]
SINUS = [Solid(GAS, 0.85, 2.6, -2.9, 0.78, 1.2, 0.9, power=2.6)]
ETHMOID = [Solid(CORTICAL, 0.75, 5.9, -2.4, 0.75, 2.4, 1.25, -6, power=3)]
EAR_CANAL = [Solid(GAS, 6.5, -0.5, -3.4, 1.5, 0.32, 0.32, -5)]


def vertebrae() -> list[Solid]:
    """The dens and the seven vertebrae below the atlas, with discs, spinal canal and cord."""
    bones = [
        Solid(CORTICAL, 0, -1.5, -7.5, 0.6, 0.55, 1.2),
        Solid(SPONGY, 0, -1.5, -7.5, 0.4, 0.35, 1.0),
    ]
    for level in range(7):
        z, y = -9.2 - 1.9 * level, -1.6 + 0.15 * level
        bones += [
            Solid(CORTICAL, 0, y, z, 1.2, 0.9, 0.85, power=3),
            Solid(SPONGY, 0, y, z, 1.05, 0.75, 0.7, power=3),
            Solid(90, 0, y, z - 0.95, 1.1, 0.8, 0.15),
        ]
        for side in (1, -1):
            bones += [
                Solid(CORTICAL, side * 2.0, y - 0.9, z, 0.75, 0.8, 0.7, -20 * side),
                Solid(SPONGY, side * 2.0, y - 0.9, z, 0.5, 0.55, 0.45, -20 * side),
                Solid(CORTICAL, side * 1.1, y - 2.6, z - 0.3, 1.3, 0.25, 0.6, 35 * side),
            ]
        bones.append(Solid(CORTICAL, 0, y - 4.0, z - 0.6, 0.35, 1.2, 0.4))
    canal = [
        Solid(CSF, 0, -2.9, -18, 1.15, 0.85, 12.6, end_power=20),
        Solid(35, 0, -2.9, -18, 0.6, 0.45, 13, end_power=20),
    ]
    return bones + canal


def teeth_and_jaw() -> list[Solid]:
    """Two rows of teeth along the dental arch, with alveolar bone and the body of the jaw."""
    teeth = []
    for degree in range(-10, 191, 12):
        x, y = 2.7 * cos(radians(degree)), 4.9 + 3.2 * sin(radians(degree))
        teeth += [
            Solid(SPONGY, x, y, -8.0, 0.5, 0.5, 0.6),
            Solid(SPONGY, 1.15 * x, y, -11.3, 0.6, 0.6, 1.2),
        ]
        teeth += [Solid(DENSE, x, y, z, 0.3, 0.3, 0.75) for z in (-8.7, -10.2)]
    return teeth
