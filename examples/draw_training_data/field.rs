//! What the fruits are made of: vectors, distance functions and noise.
//!
//! The noise hashes lattice points instead of reading a table or a random generator, so that a
//! point has the same value in every run and on every thread.

use std::ops::{Add, Mul, Neg, Sub};

/// A point, a direction, or a linear RGB colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vec3 {
    pub x: f64,
    pub y: f64,
    pub z: f64,
}

pub const fn vec3(x: f64, y: f64, z: f64) -> Vec3 {
    Vec3 { x, y, z }
}

impl Vec3 {
    pub fn dot(self, other: Vec3) -> f64 {
        self.x * other.x + self.y * other.y + self.z * other.z
    }

    pub fn cross(self, other: Vec3) -> Vec3 {
        vec3(
            self.y * other.z - self.z * other.y,
            self.z * other.x - self.x * other.z,
            self.x * other.y - self.y * other.x,
        )
    }

    pub fn length(self) -> f64 {
        self.dot(self).sqrt()
    }

    pub fn normalized(self) -> Vec3 {
        self * (1.0 / self.length())
    }

    pub fn map(self, f: impl Fn(f64) -> f64) -> Vec3 {
        vec3(f(self.x), f(self.y), f(self.z))
    }

    /// This vector at `t` = 0, `other` at `t` = 1.
    pub fn mix(self, other: Vec3, t: f64) -> Vec3 {
        self + (other - self) * t
    }
}

impl Add for Vec3 {
    type Output = Vec3;
    fn add(self, other: Vec3) -> Vec3 {
        vec3(self.x + other.x, self.y + other.y, self.z + other.z)
    }
}

impl Sub for Vec3 {
    type Output = Vec3;
    fn sub(self, other: Vec3) -> Vec3 {
        vec3(self.x - other.x, self.y - other.y, self.z - other.z)
    }
}

impl Neg for Vec3 {
    type Output = Vec3;
    fn neg(self) -> Vec3 {
        self * -1.0
    }
}

impl Mul<f64> for Vec3 {
    type Output = Vec3;
    fn mul(self, factor: f64) -> Vec3 {
        self.map(|value| value * factor)
    }
}

/// The product by component: light times reflectance.
impl Mul for Vec3 {
    type Output = Vec3;
    fn mul(self, other: Vec3) -> Vec3 {
        vec3(self.x * other.x, self.y * other.y, self.z * other.z)
    }
}

/// The linear colour of an sRGB triple written as in a style sheet, such as `0xf2c230`.
pub fn srgb(hex: u32) -> Vec3 {
    let linear = |shift: u32| (f64::from((hex >> shift) & 0xff) / 255.0).powf(2.2);
    vec3(linear(16), linear(8), linear(0))
}

/// 0 at and before `from`, 1 at and after `to`, and a cubic between them.
pub fn smoothstep(from: f64, to: f64, x: f64) -> f64 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// The union of two distances with a fillet of radius about `k` (Quilez's polynomial form).
pub fn smooth_min(a: f64, b: f64, k: f64) -> f64 {
    let h = (k - (a - b).abs()).max(0.0) / k;
    a.min(b) - h * h * k * 0.25
}

/// The intersection of two distances with a rounded edge of radius about `k`.
pub fn smooth_max(a: f64, b: f64, k: f64) -> f64 {
    -smooth_min(-a, -b, k)
}

/// The distance to a rod from `a` to `b`, and the place along it: 0 at `a`, 1 at `b`.
pub fn rod(p: Vec3, a: Vec3, b: Vec3, radius_a: f64, radius_b: f64) -> (f64, f64) {
    let axis = b - a;
    let along = ((p - a).dot(axis) / axis.dot(axis)).clamp(0.0, 1.0);
    let radius = radius_a + (radius_b - radius_a) * along;
    ((p - a - axis * along).length() - radius, along)
}

fn hash(cell: [i64; 3], salt: u32) -> u32 {
    let mut state = salt.wrapping_mul(0x9e37_79b9);
    for coordinate in cell {
        // Truncation keeps the low bits, negative coordinates included, and those differ.
        state = (state ^ coordinate as u32).wrapping_mul(0x85eb_ca6b);
        state ^= state >> 15;
        state = state.wrapping_mul(0xc2b2_ae35);
        state ^= state >> 13;
    }
    state
}

/// A hash of a cell in 0 to 1.
fn unit_hash(cell: [i64; 3], salt: u32) -> f64 {
    f64::from(hash(cell, salt)) / f64::from(u32::MAX)
}

/// Gradient noise in about -1 to 1, zero at the lattice points (Perlin, 1985), with the quintic
/// fade and the twelve edge gradients of his 2002 revision.
pub fn noise(p: Vec3) -> f64 {
    let cell = [p.x.floor(), p.y.floor(), p.z.floor()];
    let at = [p.x - cell[0], p.y - cell[1], p.z - cell[2]];
    let fade = at.map(|t| t * t * t * (t * (t * 6.0 - 15.0) + 10.0));
    let mut sum = 0.0;
    for corner in 0..8usize {
        let offset = [corner & 1, corner >> 1 & 1, corner >> 2 & 1];
        let lattice = std::array::from_fn(|axis| cell[axis] as i64 + offset[axis] as i64);
        let to = std::array::from_fn::<f64, 3, _>(|axis| at[axis] - offset[axis] as f64);
        let weight: f64 = (0..3)
            .map(|axis| {
                if offset[axis] == 1 {
                    fade[axis]
                } else {
                    1.0 - fade[axis]
                }
            })
            .product();
        let gradient = hash(lattice, 0) % 12;
        let (a, b) = match gradient / 4 {
            0 => (to[0], to[1]),
            1 => (to[0], to[2]),
            _ => (to[1], to[2]),
        };
        let a = if gradient & 1 == 0 { a } else { -a };
        let b = if gradient & 2 == 0 { b } else { -b };
        sum += weight * (a + b);
    }
    sum
}

/// Octaves of [`noise`], each of twice the frequency and half the height, in about -1 to 1.
pub fn fractal_noise(p: Vec3, octaves: u32) -> f64 {
    let mut sum = 0.0;
    let mut scale = 1.0;
    for _ in 0..octaves {
        // The shift keeps the zeros of the octaves from falling on each other.
        sum += noise(p * scale + vec3(17.3, 5.1, 9.7) * scale) / scale;
        scale *= 2.0;
    }
    sum
}

/// Scattered dots, one in a `share` of the unit cells: 1 in the middle of a dot, 0 outside.
///
/// This is cellular noise (Worley, 1996) with a random radius of at most `radius` for each dot.
pub fn dots(p: Vec3, share: f64, radius: f64) -> f64 {
    let home = [p.x.floor() as i64, p.y.floor() as i64, p.z.floor() as i64];
    let mut deepest = 0.0_f64;
    for neighbour in 0..27 {
        let cell = [
            home[0] + neighbour % 3 - 1,
            home[1] + neighbour / 3 % 3 - 1,
            home[2] + neighbour / 9 - 1,
        ];
        if unit_hash(cell, 1) > share {
            continue;
        }
        let place = |axis: usize| cell[axis] as f64 + unit_hash(cell, 2 + axis as u32);
        let away = (p - vec3(place(0), place(1), place(2))).length();
        let reach = radius * (0.4 + 0.6 * unit_hash(cell, 5));
        deepest = deepest.max(1.0 - smoothstep(0.5 * reach, reach, away));
    }
    deepest
}
