//! Stored element types as `f32`.

use half::{bf16, f16};

/// A floating-point element type of a weights file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

/// Little-endian values as singles: halves are widened exactly, doubles rounded to nearest.
pub(super) fn to_f32(element: Element, bytes: &[u8]) -> Vec<f32> {
    match element {
        Element::F16 => map(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Element::Bf16 => map(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Element::F32 => map(bytes, f32::from_le_bytes),
        Element::F64 => map(bytes, |b| f64::from_le_bytes(b) as f32),
    }
}

fn map<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().map(|chunk| value(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_widen_exactly_and_doubles_round_to_nearest() {
        // 0x3555 is 1365/4096 in half precision; 0x3eab is 171/512 as bfloat16.
        assert_eq!(to_f32(Element::F16, &[0x55, 0x35]), [1365.0 / 4096.0]);
        assert_eq!(to_f32(Element::Bf16, &[0xab, 0x3e]), [171.0 / 512.0]);
        // The smallest subnormal half is 2^-24.
        assert_eq!(to_f32(Element::F16, &[1, 0]), [2f32.powi(-24)]);
        assert_eq!(to_f32(Element::F32, &[0, 0, 0x80, 0xbf]), [-1.0]);
        let above_half_way = 1.0 + 2f64.powi(-24) + 2f64.powi(-40);
        assert_eq!(
            to_f32(Element::F64, &above_half_way.to_le_bytes()),
            [1.0 + 2f32.powi(-23)]
        );
    }
}
