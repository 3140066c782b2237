//! Loops that are gone before the compiler optimises.

/// Repeats a block with the index 0, 1 and so on below a constant count:
/// `unroll!(up to 14: pixel < PIXELS { ... })`.
///
/// Accumulators stay in registers only where every index into them is a constant, and below
/// optimisation level 2, at which the tests are built, the compiler unrolls no loop of its own.
macro_rules! unroll {
    (up to 2: $index:ident < $count:ident $body:block) => {
        unroll!(@ 0 1: $index < $count $body)
    };
    (up to 4: $index:ident < $count:ident $body:block) => {
        unroll!(@ 0 1 2 3: $index < $count $body)
    };
    (up to 6: $index:ident < $count:ident $body:block) => {
        unroll!(@ 0 1 2 3 4 5: $index < $count $body)
    };
    (up to 14: $index:ident < $count:ident $body:block) => {
        unroll!(@ 0 1 2 3 4 5 6 7 8 9 10 11 12 13: $index < $count $body)
    };
    (@ $($value:literal)*: $index:ident < $count:ident $body:block) => { $(
        if $value < $count {
            let $index = $value;
            $body
        }
    )* };
}

pub(super) use unroll;
