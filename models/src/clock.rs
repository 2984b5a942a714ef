//! Date and time as text: for `strftime_now`, which some templates call to tell the model the date, and for reports.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `time` in UTC as `format` says: the letters of C's strftime that name parts of date and time.
/// Others come out as they are.
pub fn strftime(format: &str, time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let month_name = MONTHS[month as usize - 1];
    // 1970 began on a Thursday.
    let day_name = DAYS[(days + 4) as usize % 7];

    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let _ = match rest.next() {
            Some('Y') => write!(out, "{year}"),
            Some('y') => write!(out, "{:02}", year % 100),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('e') => write!(out, "{day:2}"),
            Some('H') => write!(out, "{hour:02}"),
            Some('I') => write!(out, "{:02}", (hour + 11) % 12 + 1),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{:02}", second % 60),
            Some('p') => out.write_str(if hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.write_str(month_name),
            Some('b' | 'h') => out.write_str(&month_name[..3]),
            Some('A') => out.write_str(day_name),
            Some('a') => out.write_str(&day_name[..3]),
            Some('F') => write!(out, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{:02}", second % 60),
            Some('%') | None => out.write_char('%'),
            Some(other) => write!(out, "%{other}"),
        };
    }
    out
}

/// Year, month (1 to 12) and day of a number of days since 1970-01-01.
///
/// Counts from 1 March of the year 0, so that leap days end the years, in eras of 400 years.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected texts are Python's `datetime.fromtimestamp(t, timezone.utc).strftime`.
    #[test]
    fn known_dates() {
        let at = |seconds, format| strftime(format, UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0, "%d %b %Y"), "01 Jan 1970");
        assert_eq!(at(951_782_400, "%A, %F %T"), "Tuesday, 2000-02-29 00:00:00");
        assert_eq!(at(1_721_995_199, "%a %e %B %y, %I:%M:%S %p"), "Fri 26 July 24, 11:59:59 AM");
        assert_eq!(at(1_735_689_599, "%Y-%m-%d %H:%M"), "2024-12-31 23:59");
        assert_eq!(at(1_735_689_600, "%Y-%m-%d 100%% %Q %"), "2025-01-01 100% %Q %");
        assert_eq!(at(4_107_542_400, "%F"), "2100-03-01");
    }
}
