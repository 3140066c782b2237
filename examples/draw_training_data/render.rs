//! The camera, the lights and the marching of rays.

use image::RgbImage;
use rayon::prelude::*;

use crate::field::{Vec3, smoothstep, vec3};
use crate::fruits::{Fruit, Skin};

/// How the fruit is held before the camera, and the size of the picture.
pub struct Pose {
    /// Turn around the fruit's own axis, in degrees: the motor shaft.
    pub spin: f64,
    /// Lean of that axis in the image plane, in degrees, positive to the left.
    pub lean: f64,
    /// Tilt of the top towards the camera, in degrees.
    pub tilt: f64,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

/// Distance of the camera from the origin; the fruits are about two units high.
const CAMERA_DISTANCE: f64 = 7.0;
/// The square in the plane through the origin where the fruit is looked for: from -1.6 to 1.6.
const REACH: f64 = 1.6;
/// Share of the picture's width or height, whichever is tighter, that the fruit fills.
const FILL: f64 = 0.95;
/// Rays along each side of a pixel.
const SUPERSAMPLING: u32 = 3;
/// Part of the distance that a step may go: the shapes are bent, so their distances overstate.
const STEP: f64 = 0.7;

/// A fruit turned by a pose.
struct Scene<'a> {
    fruit: &'a dyn Fruit,
    /// The axes of the camera in the coordinates of the fruit.
    right: Vec3,
    up: Vec3,
    back: Vec3,
}

/// The part of the plane through the origin that the picture shows.
struct Window {
    centre: (f64, f64),
    /// Side of a pixel in scene units.
    pixel: f64,
}

/// Draws the fruit on pure white, framed tightly.
pub fn render(fruit: &dyn Fruit, pose: &Pose) -> RgbImage {
    let scene = Scene::new(fruit, pose);
    let (width, height) = pose.size;
    let window = scene.frame(width, height);
    let mut picture = RgbImage::new(width, height);
    picture
        .par_chunks_exact_mut(3 * width as usize)
        .enumerate()
        .for_each(|(row, pixels)| {
            for (column, pixel) in pixels.chunks_exact_mut(3).enumerate() {
                let mut sum = vec3(0.0, 0.0, 0.0);
                for sample in 0..SUPERSAMPLING * SUPERSAMPLING {
                    let inside = |index: u32| (f64::from(index) + 0.5) / f64::from(SUPERSAMPLING);
                    let column = column as f64 + inside(sample % SUPERSAMPLING);
                    let row = row as f64 + inside(sample / SUPERSAMPLING);
                    let x = window.centre.0 + (column - 0.5 * f64::from(width)) * window.pixel;
                    let y = window.centre.1 - (row - 0.5 * f64::from(height)) * window.pixel;
                    sum = sum + scene.look(x, y);
                }
                let mean = sum * (1.0 / f64::from(SUPERSAMPLING * SUPERSAMPLING));
                for (value, light) in pixel.iter_mut().zip([mean.x, mean.y, mean.z]) {
                    *value = (255.0 * light.powf(1.0 / 2.2)).round() as u8;
                }
            }
        });
    picture
}

impl<'a> Scene<'a> {
    fn new(fruit: &'a dyn Fruit, pose: &Pose) -> Self {
        let (spin, lean, tilt) = (
            pose.spin.to_radians(),
            pose.lean.to_radians(),
            pose.tilt.to_radians(),
        );
        // Camera to fruit: undo the tilt (around x), the lean (around z), the spin (around y).
        let to_fruit = |p: Vec3| {
            let (sin, cos) = tilt.sin_cos();
            let p = vec3(p.x, cos * p.y + sin * p.z, cos * p.z - sin * p.y);
            let (sin, cos) = lean.sin_cos();
            let p = vec3(cos * p.x + sin * p.y, cos * p.y - sin * p.x, p.z);
            let (sin, cos) = spin.sin_cos();
            vec3(cos * p.x - sin * p.z, p.y, sin * p.x + cos * p.z)
        };
        Scene {
            fruit,
            right: to_fruit(vec3(1.0, 0.0, 0.0)),
            up: to_fruit(vec3(0.0, 1.0, 0.0)),
            back: to_fruit(vec3(0.0, 0.0, 1.0)),
        }
    }

    /// A direction given in the camera's axes, in those of the fruit.
    fn turned(&self, v: Vec3) -> Vec3 {
        self.right * v.x + self.up * v.y + self.back * v.z
    }

    /// Finds the fruit with a coarse grid of rays and fits the picture around it.
    fn frame(&self, width: u32, height: u32) -> Window {
        const CELLS: i32 = 160;
        let (mut low, mut high) = ((REACH, REACH), (-REACH, -REACH));
        for cell in 0..CELLS * CELLS {
            let place = |index: i32| REACH * (f64::from(2 * index + 1) / f64::from(CELLS) - 1.0);
            let (x, y) = (place(cell % CELLS), place(cell / CELLS));
            let (origin, direction) = self.ray(x, y);
            if self.hit(origin, direction).is_some() {
                low = (low.0.min(x), low.1.min(y));
                high = (high.0.max(x), high.1.max(y));
            }
        }
        let by_width = (high.0 - low.0) / f64::from(width);
        let by_height = (high.1 - low.1) / f64::from(height);
        Window {
            centre: (0.5 * (low.0 + high.0), 0.5 * (low.1 + high.1)),
            pixel: by_width.max(by_height) / FILL,
        }
    }

    /// The origin and the direction of the ray through a point of the plane.
    fn ray(&self, x: f64, y: f64) -> (Vec3, Vec3) {
        let direction = self.turned(vec3(x, y, -CAMERA_DISTANCE).normalized());
        (self.back * CAMERA_DISTANCE, direction)
    }

    /// Sphere tracing (Hart, 1996): a step as long as the distance cannot pass the surface.
    fn hit(&self, origin: Vec3, direction: Vec3) -> Option<Vec3> {
        let mut travelled = CAMERA_DISTANCE - REACH;
        while travelled < CAMERA_DISTANCE + REACH {
            let p = origin + direction * travelled;
            let distance = self.fruit.distance(p);
            if distance < 2e-4 {
                return Some(p);
            }
            travelled += STEP * distance;
        }
        None
    }

    /// The linear colour seen through a point of the plane, each channel in 0 to 1.
    fn look(&self, x: f64, y: f64) -> Vec3 {
        let (origin, direction) = self.ray(x, y);
        match self.hit(origin, direction) {
            Some(p) => self.shade(p, -direction).map(shoulder),
            None => vec3(1.0, 1.0, 1.0),
        }
    }

    /// The outward normal of the surface with its relief, from four distances around the point.
    fn normal(&self, p: Vec3) -> Vec3 {
        let mut sum = vec3(0.0, 0.0, 0.0);
        for (x, y, z) in [
            (1.0, -1.0, -1.0),
            (-1.0, -1.0, 1.0),
            (-1.0, 1.0, -1.0),
            (1.0, 1.0, 1.0),
        ] {
            let corner = vec3(x, y, z);
            let at = p + corner * 1e-3;
            sum = sum + corner * (self.fruit.distance(at) - self.fruit.relief(at));
        }
        sum.normalized()
    }

    /// The share of the surroundings that nearby surface leaves open, after Quilez's five samples.
    fn openness(&self, p: Vec3, normal: Vec3) -> f64 {
        let mut blocked = 0.0;
        let mut weight = 1.0;
        for sample in 1..=5 {
            let height = 0.06 * f64::from(sample);
            blocked += weight * (height - self.fruit.distance(p + normal * height)).max(0.0);
            weight *= 0.75;
        }
        (1.0 - 2.2 * blocked).clamp(0.0, 1.0)
    }

    /// The share of a wide light that is seen from the point, by how closely its ray passes.
    fn visibility(&self, p: Vec3, light: Vec3) -> f64 {
        let mut open = 1.0_f64;
        let mut travelled = 0.03;
        while travelled < REACH && open > 0.0 {
            let distance = self.fruit.distance(p + light * travelled);
            open = open.min(0.5 + 4.0 * distance / travelled);
            travelled += distance.abs().clamp(0.03, 0.25);
        }
        smoothstep(0.0, 1.0, open)
    }

    fn shade(&self, p: Vec3, view: Vec3) -> Vec3 {
        let skin = self.fruit.skin(p);
        let normal = self.normal(p);
        let open = self.openness(p, normal);
        let key = self.turned(vec3(-0.50, 0.68, 0.62).normalized());
        let fill = self.turned(vec3(0.85, 0.10, 0.45).normalized());
        let visible = self.visibility(p + normal * 0.01, key);

        let sky = 0.5 + 0.5 * normal.dot(self.up);
        let around = vec3(0.24, 0.22, 0.20).mix(vec3(0.40, 0.42, 0.45), sky) * open;
        let light = vec3(1.22, 1.17, 1.09);
        let diffuse = wrapped(normal.dot(key), &skin) * light * (0.15 + 0.85 * visible)
            + wrapped(normal.dot(fill), &skin) * 0.22 * open
            + around;

        let facing = normal.dot(view).clamp(0.0, 1.0);
        let fresnel = 0.04 + 0.96 * (1.0 - facing).powi(5);
        let mirrored = normal * (2.0 * normal.dot(view)) - view;
        let boxes = self.softbox(mirrored, key, &skin) * 13.0 * visible
            + self.softbox(mirrored, fill, &skin) * 2.0 * open;
        let room = 0.35 * open * (1.0 - skin.roughness);
        let reflected = skin.gloss * fresnel.min(0.35) * (boxes + room);
        skin.albedo * diffuse + vec3(1.0, 1.0, 1.0) * reflected
    }

    /// The brightness of a square lamp in a direction, blurred as the skin is rough.
    fn softbox(&self, direction: Vec3, lamp: Vec3, skin: &Skin) -> f64 {
        let depth = direction.dot(lamp);
        if depth <= 0.0 {
            return 0.0;
        }
        let across = self.up.cross(lamp).normalized();
        let along = lamp.cross(across);
        let blur = 0.04 + 0.9 * skin.roughness;
        let within = |axis: Vec3, half: f64| {
            let off = (direction.dot(axis) / depth).abs();
            1.0 - smoothstep(half - 0.4 * blur, half + blur, off)
        };
        // A wider blur spreads the same light.
        within(across, 0.26) * within(along, 0.34) * 0.34 / (0.34 + 0.6 * blur)
    }
}

/// Diffuse light that wraps past the terminator, most in the channels that the flesh lets through.
fn wrapped(cosine: f64, skin: &Skin) -> Vec3 {
    skin.albedo.map(|channel| {
        let wrap = skin.scatter * (0.4 + 0.6 * channel);
        ((cosine + wrap) / (1.0 + wrap))
            .max(0.0)
            .powf(1.0 + 0.4 * wrap)
    })
}

/// Compresses light above 0.7 smoothly into what is left below 1.
fn shoulder(light: f64) -> f64 {
    let light = light.max(0.0);
    if light < 0.7 {
        light
    } else {
        1.0 - 0.3 * (-(light - 0.7) / 0.3).exp()
    }
}
