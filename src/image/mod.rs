//! Bytes of a file to the pixels that the network sees.
//!
//! Three steps, each a pure function: [`decode()`] turns the bytes of a file into 8-bit RGB, [`prepare()`]
//! resizes and crops them to 224x224 as the weights expect, [`normalize()`] turns the
//! pixels into 32-bit floats. Every step does integer arithmetic or single roundings of `f32`, so that the result
//! is the same on every CPU.

mod decode;
mod exif;
mod format;
#[cfg(test)]
mod golden;
mod jpeg;
mod normalize;
mod prepare;
mod resize;
mod thumbnail;

pub use decode::{DecodeError, Decoded, Limits, decode, dimensions, is_decoding};
pub use exif::Exif;
pub use format::{EXTENSIONS, Format, looks_like_image};
pub use normalize::{ChannelOrder, Normalization, normalize};
pub use prepare::{Preprocess, SIDE, prepare};
pub use resize::{Filter, resize};
pub use thumbnail::{THUMBNAIL_SIDE, decode_thumbnail, encode_jpeg, thumbnail};

/// An image of 8 bits a channel: rows from the top, pixels from the left, channels in the order red,
/// green, blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels in a row.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
    /// `height * width * 3` levels.
    pub pixels: Vec<u8>,
}
