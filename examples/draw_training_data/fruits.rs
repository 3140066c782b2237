//! The three fruits: where the surface is, and what it looks like there.
//!
//! A fruit stands upright around the y axis, about two units high. Shapes are distance functions in
//! the sense of Quilez's collection, bent and tapered; bending makes them slightly wrong as
//! distances, which the renderer allows for with shorter steps.

use std::f64::consts::TAU;

use crate::field::{
    Vec3, dots, fractal_noise, noise, rod, smooth_max, smooth_min, smoothstep, srgb, vec3,
};

/// How the surface at a point answers light.
pub struct Skin {
    /// Diffuse reflectance, linear RGB.
    pub albedo: Vec3,
    /// Strength of the mirror-like reflection, 0 to 1.
    pub gloss: f64,
    /// Width of the reflection, 0 (polished) to 1.
    pub roughness: f64,
    /// How far light that enters the flesh leaks past the edge of the shadow.
    pub scatter: f64,
}

pub trait Fruit: Sync {
    /// Distance from the smooth surface, negative inside.
    fn distance(&self, p: Vec3) -> f64;

    /// Height of pores and wrinkles above the smooth surface; it bends normals only.
    fn relief(&self, p: Vec3) -> f64;

    fn skin(&self, p: Vec3) -> Skin;
}

fn wood(p: Vec3, colour: Vec3) -> Skin {
    let grain = 1.0 + 0.5 * fractal_noise(vec3(p.x * 22.0, p.y * 7.0, p.z * 22.0), 3);
    Skin {
        albedo: colour * grain,
        gloss: 0.15,
        roughness: 0.8,
        scatter: 0.05,
    }
}

/// A red apple: a spindle torus, wider at the shoulders, with five low bumps around the calyx.
pub struct Apple;

impl Apple {
    fn body(p: Vec3) -> f64 {
        let around = p.z.atan2(p.x);
        let lobes = 0.022 * (5.0 * around).cos() * smoothstep(0.1, -0.6, p.y)
            + 0.012 * (2.0 * around + 0.7).cos()
            + 0.012 * (5.0 * around + 0.4).cos() * smoothstep(0.2, 0.6, p.y);
        let taper = 1.0 + 0.13 * p.y - 0.06 * p.y * p.y;
        let radius = p.x.hypot(p.z) / taper - lobes;
        let torus = (radius - 0.34).hypot(p.y * 0.80 + 0.03 * p.x) - 0.60;
        let cavity = (-(radius / 0.15).powi(2)).exp() * if p.y > 0.0 { 0.17 } else { 0.10 };
        torus + cavity
    }

    fn stem(p: Vec3) -> f64 {
        let bent = p - vec3(0.22 * (p.y - 0.2).max(0.0).powi(2), 0.0, 0.0);
        rod(
            bent,
            vec3(0.0, 0.1, 0.0),
            vec3(0.05, 0.98, 0.03),
            0.024,
            0.036,
        )
        .0
    }
}

impl Fruit for Apple {
    fn distance(&self, p: Vec3) -> f64 {
        smooth_min(Self::body(p), Self::stem(p), 0.03)
    }

    fn relief(&self, p: Vec3) -> f64 {
        0.005 * noise(p * 3.0) + 0.00012 * noise(p * 60.0)
    }

    fn skin(&self, p: Vec3) -> Skin {
        if Self::stem(p) < Self::body(p) {
            return wood(
                p,
                srgb(0x6b4a2c).mix(srgb(0x77803a), smoothstep(0.75, 0.4, p.y)),
            );
        }
        let radius = p.x.hypot(p.z).max(1e-6);
        let (east, north) = (p.x / radius, p.z / radius);
        // Stretched along the meridians, noise turns into the streaks of the skin.
        let streaks = |count: f64| {
            fractal_noise(
                vec3(east * count, 0.8 * p.y + 0.5 * radius, north * count),
                3,
            )
        };
        let sunny = 0.5 + 0.5 * (0.8 * east + 0.6 * north);
        let near_stem = smoothstep(0.50, 0.06, radius) * smoothstep(0.0, 0.4, p.y);
        let near_calyx = smoothstep(0.55, 0.15, radius) * smoothstep(0.0, -0.4, p.y);
        let red = 0.70
            + 0.45 * sunny
            + 0.34 * streaks(6.0)
            + 0.24 * streaks(17.0)
            + 0.45 * fractal_noise(p * 1.8, 3)
            - 0.95 * near_stem
            - 0.5 * near_calyx;
        let ground = srgb(0xd8b850).mix(srgb(0xb5b64a), 0.5 + 0.5 * noise(p * 2.0));
        let light_red = srgb(0xc03222);
        let deep_red = srgb(0x8c1119);
        let mut albedo = ground
            .mix(light_red, smoothstep(0.05, 0.70, red))
            .mix(deep_red, smoothstep(0.6, 1.25, red));
        let lenticels = dots(p * 17.0, 0.45, 0.22);
        albedo = albedo.mix(srgb(0xe6c98c), 0.42 * lenticels);
        let russet = smoothstep(0.26, 0.06, radius + 0.09 * fractal_noise(p * 9.0, 3));
        albedo = albedo.mix(srgb(0x8f7440), 0.75 * russet);
        Skin {
            albedo,
            gloss: 0.85 - 0.6 * russet,
            roughness: 0.20,
            scatter: 0.25,
        }
    }
}

/// A banana: a tube around an arc, five-sided in section, tapered into a tip and a stalk.
pub struct Banana;

/// A point in the coordinates of the bent tube.
struct AlongBanana {
    /// Arc length from the middle, positive towards the stalk.
    s: f64,
    /// Across the tube, in the plane of the arc, positive on the outer side.
    u: f64,
    /// Across the tube, out of that plane.
    v: f64,
}

impl Banana {
    const ARC_RADIUS: f64 = 1.02;
    const TIP: f64 = -1.10;
    const STALK_END: f64 = 1.32;

    fn along(p: Vec3) -> AlongBanana {
        let to_centre = Self::ARC_RADIUS - p.x;
        let s = Self::ARC_RADIUS * p.y.atan2(to_centre);
        // The stalk end straightens, the blossom end hooks a little.
        let drift = 0.10 * (s - 0.45).max(0.0).powi(2) - 0.05 * (-s - 0.5).max(0.0).powi(2);
        AlongBanana {
            s,
            u: to_centre.hypot(p.y) - Self::ARC_RADIUS - drift,
            v: p.z,
        }
    }

    /// How far the skin is towards a ridge, -1 in the middle of a face to 1 on the edge.
    fn ridge(at: &AlongBanana) -> f64 {
        -(5.0 * at.v.atan2(at.u)).cos()
    }
}

impl Fruit for Banana {
    fn distance(&self, p: Vec3) -> f64 {
        let at = Self::along(p);
        let body = 1.0 - 0.06 * at.s * at.s;
        let neck = 1.0 - 0.74 * smoothstep(0.42, 1.05, at.s);
        let blossom = 1.0 - 0.72 * smoothstep(0.45, 1.12, -at.s);
        let flare = 0.014 * smoothstep(1.1, 1.32, at.s);
        let radius = 0.225 * body * neck * blossom + flare;
        let mut flat = f64::NEG_INFINITY;
        for side in 0..5 {
            let (sin, cos) = (f64::from(side) * TAU / 5.0).sin_cos();
            let face = at.u * cos + at.v * sin - radius;
            flat = if side == 0 {
                face
            } else {
                smooth_max(flat, face, 0.22 * radius)
            };
        }
        let round = at.u.hypot(at.v) - 1.05 * radius;
        let side = flat + (round - flat) * 0.42;
        let ends = (at.s - Self::STALK_END).max(Self::TIP - at.s);
        smooth_max(side, ends, 0.05)
    }

    fn relief(&self, p: Vec3) -> f64 {
        let at = Self::along(p);
        let fibres = noise(vec3(at.s * 3.0, at.u * 34.0, at.v * 34.0));
        let dents = fractal_noise(vec3(at.s * 3.0, at.u * 6.0, at.v * 6.0), 2);
        0.0012 * fibres + 0.006 * dents
    }

    fn skin(&self, p: Vec3) -> Skin {
        let at = Self::along(p);
        let mottle = fractal_noise(vec3(at.s * 2.5, at.u * 6.0, at.v * 6.0), 4);
        let fibres = fractal_noise(vec3(at.s * 2.0, at.u * 40.0, at.v * 40.0), 2);
        let mut albedo = srgb(0xf3c623).mix(srgb(0xe3a91a), 0.5 + 0.6 * mottle);
        let green = 0.85 * smoothstep(0.45, 1.0, at.s + 0.15 * mottle)
            + 0.45 * smoothstep(0.65, 1.0, -at.s + 0.15 * mottle);
        albedo = albedo.mix(srgb(0xa7ae38), green.min(1.0));
        albedo = albedo * (1.0 + 0.10 * fibres);
        let edge = smoothstep(0.86, 1.0, Self::ridge(&at) + 0.10 * mottle)
            * smoothstep(
                -0.15,
                0.35,
                fractal_noise(vec3(at.s * 4.0, at.u * 5.0, at.v * 5.0), 3),
            );
        albedo = albedo.mix(srgb(0x8a6420), 0.75 * edge);
        let stretched = vec3(at.s * 9.0, at.u * 14.0, at.v * 14.0);
        let freckles = dots(stretched, 0.16, 0.42).max(dots(stretched * 2.3, 0.10, 0.5));
        let ripe = smoothstep(1.0, 0.3, at.s.abs());
        albedo = albedo.mix(srgb(0x6a4115), 0.75 * freckles * ripe);
        let bruise = smoothstep(
            0.38,
            0.75,
            fractal_noise(vec3(at.s * 3.0, at.u * 9.0, at.v * 9.0), 4),
        );
        albedo = albedo.mix(srgb(0x7a5018), 0.6 * bruise);
        let ragged = 0.05 * fractal_noise(p * 14.0, 3);
        let tip = smoothstep(-1.00, -1.06, at.s + ragged);
        let cut = smoothstep(1.20, 1.30, at.s + ragged);
        albedo = albedo.mix(srgb(0x2a1c12), tip).mix(srgb(0x5a4426), cut);
        let dry = tip.max(cut);
        Skin {
            albedo,
            gloss: 0.38 - 0.25 * dry,
            roughness: 0.5,
            scatter: 0.3 * (1.0 - dry),
        }
    }
}

/// A pear: two spheres grown together and leaned over, with a woody stem.
pub struct Pear;

impl Pear {
    fn lean(p: Vec3) -> Vec3 {
        let bend = 0.07 * smoothstep(-0.2, 1.1, p.y);
        vec3(p.x - bend, p.y, p.z + 0.5 * bend)
    }

    fn body(p: Vec3) -> f64 {
        let p = Self::lean(p);
        let around = p.z.atan2(p.x);
        let lower = vec3(p.x, (p.y + 0.36) * 1.04, p.z).length() - 0.64;
        let upper = (p - vec3(0.0, 0.48, 0.0)).length() - 0.27;
        let grown = smooth_min(lower, upper, 0.62);
        let radius = p.x.hypot(p.z);
        let calyx = 0.13 * (-(radius / 0.14).powi(2)).exp() * smoothstep(-0.5, -0.8, p.y);
        let socket = 0.05 * (-(radius / 0.07).powi(2)).exp() * smoothstep(0.4, 0.6, p.y);
        grown
            + calyx
            + socket
            + 0.010 * (3.0 * around + 2.0 * p.y).cos() * smoothstep(0.05, 0.3, radius)
    }

    fn stem(p: Vec3) -> f64 {
        let bent = Self::lean(p) - vec3(0.35 * (p.y - 0.6).max(0.0).powi(2), 0.0, 0.0);
        rod(
            bent,
            vec3(0.0, 0.55, 0.0),
            vec3(0.04, 1.04, 0.0),
            0.034,
            0.042,
        )
        .0
    }
}

impl Fruit for Pear {
    fn distance(&self, p: Vec3) -> f64 {
        smooth_min(Self::body(p), Self::stem(p), 0.06)
    }

    fn relief(&self, p: Vec3) -> f64 {
        0.012 * noise(p * 3.2) + 0.003 * noise(p * 9.0) + 0.0008 * noise(p * 40.0)
    }

    fn skin(&self, p: Vec3) -> Skin {
        if Self::stem(p) < Self::body(p) {
            return wood(p, srgb(0x5e4326));
        }
        let upright = Self::lean(p);
        let radius = upright.x.hypot(upright.z).max(1e-6);
        let mottle = fractal_noise(p * 3.0, 4);
        let mut albedo = srgb(0xcfc24a).mix(srgb(0xa3ad38), 0.5 + 0.7 * mottle);
        let sunny = (upright.x * 0.5 + upright.z * 0.86) / radius;
        let blush = smoothstep(0.2, 1.5, sunny + 0.9 * fractal_noise(p * 1.9, 4));
        albedo = albedo.mix(srgb(0xc4672f), 0.75 * blush);
        let lenticels = dots(p * 26.0, 0.6, 0.32);
        albedo = albedo.mix(srgb(0x80612a), 0.55 * lenticels);
        let ragged = 0.12 * fractal_noise(p * 7.0, 4);
        let crown = smoothstep(0.58, 0.74, p.y + ragged);
        let calyx = smoothstep(0.30, 0.10, radius + ragged) * smoothstep(-0.7, -0.9, p.y);
        let patches = smoothstep(0.45, 0.95, fractal_noise(p * 5.0 + vec3(3.0, 1.0, 4.0), 5));
        let russet = (0.7 * crown).max(0.9 * calyx).max(0.55 * patches);
        albedo = albedo.mix(srgb(0x8c6632), russet);
        Skin {
            albedo,
            gloss: 0.5 - 0.3 * russet,
            roughness: 0.34,
            scatter: 0.3,
        }
    }
}
