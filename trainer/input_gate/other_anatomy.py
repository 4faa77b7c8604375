"""Draw x-rays of other parts of the body, and of the chest from the side.

Every function draws one picture, float (side, side), about 0 to 1, from a random generator.
"""

import numpy as np

from trainer.input_gate.drawing import (
    Plane,
    Rng,
    bone_shaft,
    ellipse,
    fractal_noise,
    gaussian_blur,
    pixel_grid,
    polar_offset,
    soft_tissue,
)


def _exposed(tissue: Plane, bone: Plane, rng: Rng) -> Plane:
    """Simulate the x-ray image of what lies in the beam, with its grain."""
    shadow = rng.uniform(0.5, 1.2) * tissue + rng.uniform(0.7, 1.6) * bone
    shadow = shadow * (1 + 0.15 * (fractal_noise(rng, len(shadow), 1.2) - 0.5))
    image = 1 - np.exp(-rng.uniform(0.8, 1.8) * shadow)
    return (image + rng.normal(0, rng.uniform(0.005, 0.03), image.shape)).astype(np.float32)


def hand(rng: Rng, side: int) -> Plane:
    wrist, size, lean = (rng.uniform(0.4, 0.6), rng.uniform(0.75, 0.95)), rng.uniform(0.3, 0.45), rng.normal(0, 0.3)
    palm = polar_offset(wrist, lean, 0.45 * size)
    tissue = [
        ellipse(side, palm, (0.42 * size, 0.5 * size), lean),
        soft_tissue(side, wrist, polar_offset(wrist, lean + np.pi, 0.5), 0.1),
    ]
    bones = [bone_shaft(side, wrist, polar_offset(wrist, lean + np.pi + turn, 0.5), 0.03) for turn in (-0.12, 0.12)]
    for finger, long in zip((-0.75, -0.3, -0.05, 0.2, 0.45), (0.8, 1.05, 1.15, 1.05, 0.85), strict=True):
        at = polar_offset(wrist, lean + finger, 0.15 * size)
        for share in (0.45, 0.3, 0.2, 0.15):
            tip = polar_offset(at, lean + finger * 0.9, share * long * size)
            bones.append(bone_shaft(side, at, tip, 0.035 * size))
            tissue.append(soft_tissue(side, at, tip, 0.085 * size))
            at = polar_offset(tip, lean + finger, 0.02 * size)
    return _exposed(np.maximum.reduce(tissue), np.maximum.reduce(bones), rng)


def limb(rng: Rng, side: int) -> Plane:
    """Draw long bones that meet at a joint: knee, elbow, ankle or shoulder, or between two of them."""
    joint, lean = (rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.9)), rng.uniform(0, np.pi)
    bend, thick = rng.normal(0, 0.5), rng.uniform(0.1, 0.25)
    tissue, bones = [], []
    for way, pair in ((lean, rng.random() < 0.4), (lean + np.pi + bend, rng.random() < 0.7)):
        tissue.append(soft_tissue(side, joint, polar_offset(joint, way, 1.2), thick))
        for off in (-0.35, 0.35) if pair else (0.0,):
            start = polar_offset(polar_offset(joint, way, 0.03), way + np.pi / 2, off * thick)
            bones.append(
                bone_shaft(
                    side, start, polar_offset(start, way, rng.uniform(0.5, 1.2)), thick * (0.22 if pair else 0.33), 1.8
                )
            )
    return _exposed(np.maximum.reduce(tissue), np.maximum.reduce(bones), rng)


def foot(rng: Rng, side: int) -> Plane:
    """Draw a foot from the side: heel, arch, toes, and the leg above."""
    heel, way = (rng.uniform(0.2, 0.3), rng.uniform(0.65, 0.8)), rng.choice([-1.0, 1.0])
    ankle, toes = (heel[0] + 0.12, heel[1] - 0.15), (heel[0] + rng.uniform(0.5, 0.65), heel[1] + 0.05)
    tissue = [
        soft_tissue(side, heel, toes, 0.1),
        soft_tissue(side, ankle, (ankle[0], -0.2), 0.12),
        ellipse(side, heel, (0.13, 0.11)),
    ]
    bones = [
        bone_shaft(side, (ankle[0] + off, ankle[1] - 0.05), (ankle[0] + off, -0.2), 0.045) for off in (-0.04, 0.03)
    ]
    bones += [ellipse(side, heel, (0.12, 0.08)), ellipse(side, (ankle[0] + 0.04, ankle[1] + 0.04), (0.1, 0.06), 0.4)]
    bones += [
        bone_shaft(side, (ankle[0] + 0.15, ankle[1] + 0.1 + off), (toes[0], toes[1] + off / 2), 0.02)
        for off in (0, 0.05)
    ]
    image = _exposed(np.maximum.reduce(tissue), np.maximum.reduce(bones), rng)
    return image if way > 0 else image[:, ::-1]


def skull(rng: Rng, side: int) -> Plane:
    """Draw a skull from the front or from the side: vault, orbits or base, jaw, teeth."""
    at, wide, high = (0.5, rng.uniform(0.38, 0.45)), rng.uniform(0.26, 0.38), rng.uniform(0.3, 0.38)
    outer, inner = ellipse(side, at, (wide, high)), ellipse(side, at, (wide * 0.93, high * 0.93))
    bone = outer - 0.65 * inner + 0.2 * ellipse(side, (0.5, at[1] + 0.3), (wide * 0.65, 0.2))
    for left in (-1, 1):
        bone = bone - 0.25 * ellipse(side, (0.5 + left * 0.4 * wide, at[1] + 0.12), (0.3 * wide, 0.07))
    bone = bone + 0.5 * bone_shaft(side, (0.5 - wide * 0.5, at[1] + 0.38), (0.5 + wide * 0.5, at[1] + 0.38), 0.03)
    x, y = pixel_grid(side)
    teeth = (np.sin(x * 120) > -0.3) * (np.abs(y - at[1] - 0.32) < 0.03) * (np.abs(x - 0.5) < wide * 0.4)
    neck = soft_tissue(side, (0.5, 0.8), (0.5, 1.2), 0.2)
    return _exposed(np.maximum(0.5 * outer, 0.6 * neck), np.clip(bone + 0.4 * teeth, 0, None), rng)


def pelvis(rng: Rng, side: int) -> Plane:
    """Draw a pelvis: iliac wings, sacrum, the pelvic ring, and the heads of the femurs."""
    top, x, y = rng.uniform(0.1, 0.3), *pixel_grid(side)
    bone = 0.6 * bone_shaft(side, (0.5, -0.1), (0.5, top + 0.3), 0.06)
    for left in (-1, 1):
        bone = np.maximum(bone, ellipse(side, (0.5 + left * 0.22, top + 0.2), (0.12, 0.22), left * 0.5) * 0.8)
        outline = ellipse(side, (0.5 + left * 0.12, top + 0.52), (0.1, 0.13), left * 0.4)
        bone = np.maximum(
            bone, outline - 0.8 * ellipse(side, (0.5 + left * 0.12, top + 0.52), (0.06, 0.08), left * 0.4)
        )
        hip = (0.5 + left * 0.28, top + 0.43)
        bone = np.maximum(bone, ellipse(side, hip, (0.065, 0.065)))
        bone = np.maximum(
            bone, bone_shaft(side, (hip[0] + left * 0.05, hip[1] + 0.06), (hip[0] + left * 0.02, 1.3), 0.05)
        )
    tissue = np.clip(1.1 - np.abs(x - 0.5) * rng.uniform(1, 2), 0, 1)
    return _exposed(tissue, bone - 0.15 * (fractal_noise(rng, side, 1.5) > 0.75) * (y < 0.6), rng)


def abdomen(rng: Rng, side: int) -> Plane:
    """Draw a trunk without lungs: spine, gas in the bowel, the top of the pelvis, the lowest ribs."""
    x, y = pixel_grid(side)
    tissue = np.clip(1.2 - (np.abs(x - 0.5) / rng.uniform(0.4, 0.6)) ** 4, 0, 1)
    bone = 0.7 * bone_shaft(side, (0.5, -0.2), (0.5, rng.uniform(0.7, 0.9)), 0.05, 1) * (0.7 + 0.3 * np.sin(y * 60))
    for left in (-1, 1):
        bone = np.maximum(bone, 0.7 * ellipse(side, (0.5 + left * 0.27, 0.9), (0.15, 0.2), left * 0.6))
        for rib in range(int(rng.integers(0, 4))):
            bone = np.maximum(
                bone, 0.4 * bone_shaft(side, (0.5, 0.08 * rib), (0.5 + left * 0.4, 0.1 + 0.1 * rib), 0.012)
            )
    gas = np.zeros((side, side), np.float32)
    for _ in range(rng.integers(2, 18)):
        at = rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.8)
        gas = np.maximum(gas, ellipse(side, at, (rng.uniform(0.02, 0.1), rng.uniform(0.02, 0.07)), rng.uniform(0, 3)))
    return _exposed(tissue * (1 - rng.uniform(0.3, 0.7) * gas), bone, rng)


def spine(rng: Rng, side: int) -> Plane:
    """Draw a column of vertebrae with discs between them, from the side."""
    x, y = pixel_grid(side)
    middle = 0.5 + rng.normal(0, 0.15) * np.sin((y - rng.random()) * rng.uniform(2, 5))
    wide, tall = rng.uniform(0.07, 0.14), rng.uniform(0.09, 0.18)
    bodies = (np.abs(x - middle) < wide) * ((y % tall) > 0.2 * tall)
    spikes = 0.5 * (x - middle > wide * 1.3) * (x - middle < wide * 2.5) * (((y + 0.3 * x) % tall) > 0.55 * tall)
    bone = gaussian_blur((bodies + spikes).astype(np.float32), 1.5)
    return _exposed(np.clip(1.2 - np.abs(x - 0.45) * 1.6, 0, 1), bone, rng)


def lateral(rng: Rng, side: int) -> Plane:
    """Draw a chest from the side: one lung field between spine and sternum, heart in front, no symmetry."""
    x, y = pixel_grid(side)
    back = 0.75 + 0.08 * np.sin(3 * y) + rng.normal(0, 0.02)
    tissue = ellipse(side, (0.5, 0.6), (rng.uniform(0.36, 0.48), 0.62)) * rng.uniform(0.8, 1)
    lung = ellipse(side, (0.53, 0.45), (rng.uniform(0.22, 0.28), rng.uniform(0.3, 0.38)), rng.uniform(-0.2, 0.2), 0.05)
    dome = gaussian_blur((y > rng.uniform(0.65, 0.75) + 0.5 * (x - 0.5) ** 2 + 0.15 * (x - 0.3)).astype(np.float32), 2)
    heart = ellipse(side, (rng.uniform(0.36, 0.42), 0.58), (0.13, 0.17), 0.5, 0.06)
    column = gaussian_blur(((np.abs(x - back) < 0.06) * ((y % 0.09) > 0.02)).astype(np.float32), 1.5)
    ribs = 0.25 * (np.sin((y + 0.35 * x) * 70) > 0.7) * tissue
    shadow = tissue * (1 - 0.75 * lung * (1 - dome)) + 0.4 * heart
    image = _exposed(shadow, 0.45 * column + gaussian_blur(ribs.astype(np.float32), 1), rng)
    return image if rng.random() < 0.5 else image[:, ::-1]
