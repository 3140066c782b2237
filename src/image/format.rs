//! What kind of file it is, told from its content and never from its name.

use ::image::ImageFormat;

/// Every extension of a file that p8 can decode, in lower case.
pub const EXTENSIONS: &[&str] = &[
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
];

/// A format that p8 decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG: baseline or progressive; grey, YCbCr, RGB, CMYK or YCCK.
    Jpeg,
    /// PNG, 1 to 16 bits a channel.
    Png,
    /// WebP, lossy or lossless; the first frame of an animation.
    WebP,
    /// GIF; the first frame of an animation.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF and BigTIFF; the first page.
    Tiff,
}

impl Format {
    /// The usual name of the format.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
            Format::Gif => "GIF",
            Format::Bmp => "BMP",
            Format::Tiff => "TIFF",
        }
    }

    /// The same format as the `image` crate names it.
    pub(super) fn of_image_crate(self) -> ImageFormat {
        match self {
            Format::Jpeg => ImageFormat::Jpeg,
            Format::Png => ImageFormat::Png,
            Format::WebP => ImageFormat::WebP,
            Format::Gif => ImageFormat::Gif,
            Format::Bmp => ImageFormat::Bmp,
            Format::Tiff => ImageFormat::Tiff,
        }
    }
}

/// What the first bytes of a file say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    /// A format that p8 decodes.
    Known(Format),
    /// An image in a format that p8 does not decode, with its name.
    Foreign(&'static str),
}

/// Whether the first bytes are those of an image, in a format that p8 decodes or in another one.
pub fn looks_like_image(bytes: &[u8]) -> bool {
    signature(bytes).is_some()
}

/// Reads the signature of a file; `None` when it is not that of an image.
pub(super) fn signature(bytes: &[u8]) -> Option<Signature> {
    const STARTS: &[(&[u8], Signature)] = &[
        (b"\xff\xd8\xff", Signature::Known(Format::Jpeg)),
        (b"\x89PNG\r\n\x1a\n", Signature::Known(Format::Png)),
        (b"GIF87a", Signature::Known(Format::Gif)),
        (b"GIF89a", Signature::Known(Format::Gif)),
        (b"II*\0", Signature::Known(Format::Tiff)),
        (b"MM\0*", Signature::Known(Format::Tiff)),
        (b"II+\0", Signature::Known(Format::Tiff)),
        (b"MM\0+", Signature::Known(Format::Tiff)),
        (b"\0\0\0\x0cjP  \r\n", Signature::Foreign("JPEG 2000")),
        (b"\0\0\0\x0cJXL \r\n", Signature::Foreign("JPEG XL")),
        (b"8BPS\0", Signature::Foreign("Photoshop")),
        (b"qoif", Signature::Foreign("QOI")),
        (b"v/1\x01", Signature::Foreign("OpenEXR")),
        (b"DDS |\0\0\0", Signature::Foreign("DDS")),
    ];
    if let Some((_, found)) = STARTS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some(*found);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Some(Signature::Known(Format::WebP));
    }
    if bytes.starts_with(b"BM") {
        // Two letters are too few to tell a bitmap from a text: the size of the second header counts as well.
        let header: [u8; 4] = bytes.get(14..18)?.try_into().ok()?;
        return matches!(
            u32::from_le_bytes(header),
            12 | 16 | 40 | 52 | 56 | 64 | 108 | 124
        )
        .then_some(Signature::Known(Format::Bmp));
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return match bytes.get(8..12)? {
            b"avif" | b"avis" => Some(Signature::Foreign("AVIF")),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"mif1" | b"msf1" => {
                Some(Signature::Foreign("HEIC"))
            }
            _ => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_decides() {
        let known = |format| Some(Signature::Known(format));
        assert_eq!(signature(b"\xff\xd8\xff\xe0"), known(Format::Jpeg));
        assert_eq!(signature(b"RIFF\x10\0\0\0WEBPVP8 "), known(Format::WebP));
        assert_eq!(signature(b"MM\0*\0\0\0\x08"), known(Format::Tiff));
        let bitmap = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0";
        assert_eq!(signature(bitmap), known(Format::Bmp));
    }

    #[test]
    fn images_of_other_formats_are_named() {
        let heic = b"\0\0\0\x18ftypheic\0\0\0\0";
        assert_eq!(signature(heic), Some(Signature::Foreign("HEIC")));
        assert!(looks_like_image(heic));
    }

    #[test]
    fn texts_and_other_containers_are_no_images() {
        let others: [&[u8]; 7] = [
            b"",
            b"B",
            b"BMW is a maker of cars and motorcycles",
            b"RIFF\x10\0\0\0WAVEfmt ",
            b"\0\0\0\x18ftypmp42\0\0\0\0",
            b"This file is text.",
            b"\xff\xd8",
        ];
        for bytes in others {
            assert!(!looks_like_image(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn extensions_are_lower_case_and_without_a_dot() {
        for extension in EXTENSIONS {
            assert!(
                extension.bytes().all(|b| b.is_ascii_lowercase()),
                "{extension}"
            );
        }
    }
}
