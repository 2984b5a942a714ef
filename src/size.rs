//! Numbers as people read them.

use std::fmt;

/// A number of bytes: `3.2 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let power = (self.0.ilog2() / 10).max(1) as usize;
        let value = self.0 as f64 / 1024f64.powi(power as i32);
        write!(f, "{value:.1} {}", UNITS[power - 1])
    }
}

/// A number of things: `8.03 B`, `12.9 M`.
#[derive(Clone, Copy, Debug)]
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{}", self.0),
            1_000..1_000_000 => write!(f, "{:.2} K", n / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.2} M", n / 1e6),
            _ => write!(f, "{:.2} B", n / 1e9),
        }
    }
}

/// `N thing` or `N things`.
pub struct Count(pub usize, pub &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{s}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_powers_of_1024() {
        for (n, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(Bytes(n).to_string(), text);
        }
    }

    #[test]
    fn amounts_are_in_powers_of_1000() {
        for (n, text) in [(7, "7"), (12_960_000, "12.96 M"), (8_030_261_248, "8.03 B")] {
            assert_eq!(Amount(n).to_string(), text);
        }
    }
}
