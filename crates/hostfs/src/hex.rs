//! Hexadecimal digits.

use std::fmt::Write as _;

/// Returns the digits of all `bytes`, in small letters.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Every byte the same.
const fn each(byte: u8) -> u64 {
    u64::from_be_bytes([byte; 8])
}

/// Returns a number's eight digits in small letters. All at once: a newc archive has twelve fields in every record.
pub fn digits(number: u32) -> [u8; 8] {
    let mut x = u64::from(number);
    x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    x = (x | x << 4) & each(0x0f);
    // Where a value is above 9, plus 6 reaches the next bit.
    let letters = ((x + each(6)) >> 4) & each(1);
    (x + each(b'0') + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// Returns the numbers that eight digits each stand for; `None` if one of them is no digit. Bytes that are left over are ignored.
pub fn numbers<const N: usize>(digits: &[u8]) -> Option<[u32; N]> {
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits.as_chunks().0) {
        *number = number_of(*digits)?;
    }
    Some(numbers)
}

fn number_of(digits: [u8; 8]) -> Option<u32> {
    const HIGH: u64 = each(0x80);
    let mut x = u64::from_be_bytes(digits);
    if x & HIGH != 0 {
        return None;
    }
    // Sets a byte's high bit where it is at least `least`; no byte has it set before.
    let from = |x: u64, least: u8| (x + each(0x80 - least)) & HIGH;
    let small = x | each(0x20);
    let digit = from(x, b'0') & !from(x, b'9' + 1);
    let letter = from(small, b'a') & !from(small, b'f' + 1);
    if digit | letter != HIGH {
        return None;
    }
    x = (x & each(0x0f)) + (letter >> 7) * 9;
    x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
    x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    Some((x | x >> 16) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_the_digits_that_everybody_writes() {
        let mut number = 1_u32;
        for _ in 0..100_000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            assert_eq!(super::digits(number), format!("{number:08x}").as_bytes());
            assert_eq!(number_of(super::digits(number)), Some(number));
        }
    }

    #[test]
    fn each_byte_at_each_place_is_a_digit_or_none() {
        for place in 0..8 {
            for byte in 0..=u8::MAX {
                let mut digits = *b"1fA90Fa0";
                digits[place] = byte;
                let each = digits.map(|byte| char::from(byte).to_digit(16));
                let number = each
                    .into_iter()
                    .try_fold(0, |number, digit| Some(number << 4 | digit?));
                assert_eq!(number_of(digits), number, "{digits:?}");
            }
        }
    }
}
